"""Figures of groups: those that a loop over their sentences gives."""

from __future__ import annotations

import numpy as np
import pytest

from rlparse import trees
from rlparse.bracketings import Bracketings
from rlparse.lists import Lists
from rlparse_experiments.diagnosis.breakdown import SCORES, ParseFigures, break_down, overall, row
from rlparse_experiments.diagnosis.groups import Group


def lists_in(tokens) -> set[tuple[int, int]]:
    found, starts = set(), []
    for position, token in enumerate(tokens):
        if token[0] in "[(":
            starts.append(position)
        elif token in ("]", ")"):
            found.add((starts.pop(), position + 1))
    return found


def share(predicted: set, gold: set) -> float:
    return len(predicted & gold) / len(gold) if gold else 1.0


def slow_scores(tokens, derivation, gold) -> dict[str, float]:
    """Every score of one sentence, by sets of spans."""
    predicted, right, root = set(trees.spans(derivation)), set(trees.spans(gold)), {(0, len(tokens))}
    lists = lists_in(tokens)
    return {
        "f1_nyu": share(predicted, right),
        "f1_nyu_root_out": share(predicted, right - root),
        "f1_lists_nyu": share(predicted, lists),
        "f1_lists_nyu_root_out": share(predicted, lists - root),
        "exact": float(predicted == right),
    }


def figures_of(sentences, derivations, n_sides: int) -> ParseFigures:
    words = [s.tokens for s in sentences]
    parses = Bracketings(derivations, words)
    lists = Lists.of(words)
    gold = Bracketings([s.transitions for s in sentences], words)
    return ParseFigures.of(parses, gold, np.arange(len(sentences)) // n_sides, lists, lists.found(parses))


@pytest.mark.parametrize("which", ["listops", "logic"])
def test_groups_have_the_means_of_their_sentences(request, which):
    corpus = (
        request.getfixturevalue("listops")
        if which == "listops"
        else request.getfixturevalue("make_logic")("tokens")
    )
    sentences = [corpus.sentence(i, side) for i in range(len(corpus)) for side in range(corpus.n_sides)]
    rng = np.random.default_rng(0)
    derivations = [trees.uniform_tree(len(s.tokens), rng) for s in sentences]
    figures = figures_of(sentences, derivations, corpus.n_sides)
    correct = rng.random(len(corpus)) < 0.5
    chosen = rng.random(len(corpus)) < 0.4
    found = break_down({"any": [Group("some", chosen)]}, correct, figures)["any"][0]
    slow = [
        slow_scores(s.tokens, d, s.transitions)
        for number, (s, d) in enumerate(zip(sentences, derivations, strict=True))
        if chosen[number // corpus.n_sides]
    ]
    assert (found.name, found.n) == ("some", chosen.sum())
    assert found.accuracy == pytest.approx(sum(correct[chosen].tolist()) / chosen.sum())
    assert tuple(found.scores) == SCORES
    for score in SCORES:
        assert found.scores[score] == pytest.approx(sum(s[score] for s in slow) / len(slow)), score
    whole = overall(correct, figures)
    assert (whole.name, whole.n, whole.accuracy) == ("all", len(corpus), pytest.approx(correct.mean()))


def test_known_numbers():
    words = ["[MAX", "[SM", "1", "2", "]", "3", "]"]
    # Right-branching but for the inner list, which is a node.
    derivation = trees.derivation_from_spans([(1, 5), (2, 5), (3, 5), (1, 7), (5, 7), (0, 7)], 7)
    gold = trees.derivation_from_spans([(0, 7), (0, 6), (0, 5), (1, 5), (1, 4), (1, 3)], 7)
    lists = Lists.of([words])
    parses, right = Bracketings([derivation], [words]), Bracketings([gold], [words])
    figures = ParseFigures.of(parses, right, np.zeros(1, np.int64), lists, lists.found(parses))
    assert {name: values.tolist() for name, values in figures.scores.items()} == {
        "f1_nyu": [2 / 6],
        "f1_nyu_root_out": [1 / 5],
        "f1_lists_nyu": [1.0],
        "f1_lists_nyu_root_out": [1.0],
        "exact": [0.0],
    }


def test_without_lists_there_is_no_score_of_them():
    parses = Bracketings([[0, 0, 1]], [["a", "b"]])
    figures = ParseFigures.of(parses, parses, np.zeros(1, np.int64), None, None)
    assert set(figures.scores) == {"f1_nyu", "f1_nyu_root_out", "exact"}


def test_groups_without_gold_have_no_scores():
    parses = Bracketings([[0, 0, 1]], [["a", "b"]])
    figures = ParseFigures.of(parses, parses, np.ones(1, np.int64), None, None)  # of the second example
    correct = np.array([True, False])
    assert row("first", np.array([True, False]), correct, figures).scores == {}
    assert row("second", np.array([False, True]), correct, figures).scores["exact"] == 1.0
    assert row("first", np.array([True, False]), correct, None) == ("first", 1, 1.0, {})


def test_a_group_without_examples_is_refused():
    with pytest.raises(ValueError, match="group 'none' has no examples to give figures of"):
        row("none", np.array([False]), np.array([True]), None)
