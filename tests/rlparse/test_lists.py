"""Lists: found where a reader of brackets finds them, looked up in trees as a loop over nodes would."""

from __future__ import annotations

import numpy as np
import pytest

from rlparse import trees
from rlparse.bracketings import Bracketings
from rlparse.corpora.listops import draw_expressions, example_of
from rlparse.lists import Lists, closing_ends, shows_brackets


def listops(n: int, *, seed: int = 0) -> list[tuple[tuple[str, ...], tuple[int, ...]]]:
    """Tokens and gold derivation of small expressions."""
    drawn = draw_expressions(n, seed=seed, max_tokens=30).expressions
    return [(s.tokens, s.transitions) for s in (example_of(e).sentences[0] for e in drawn)]


def slow_lists(tokens) -> list[tuple[int, int]]:
    """Every span whose brackets match inside it, and not before its end."""
    found = []
    for start, token in enumerate(tokens):
        if token[0] not in "[(":
            continue
        depth = 0
        for end in range(start, len(tokens)):
            depth += (tokens[end][0] in "[(") - (tokens[end] in ("]", ")"))
            if depth == 0:
                found.append((start, end + 1))
                break
    return found


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("3", [0]),
        ("[MAX 1 2 ]", [4, 0, 0, 0]),
        ("[MAX [SM 1 2 ] 3 ]", [7, 5, 0, 0, 0, 0, 0]),
        ("( a ( and b ) )", [7, 0, 6, 0, 0, 0, 0]),
        ("[MAX 1 [MIN 2 ]", [6, 0, 5, 0, 0]),  # never closed: after everything
        ("1 ] 2", [0, 0, 0]),
    ],
)
def test_where_lists_end(text, ends):
    assert closing_ends(text.split()) == ends


def test_lists_are_those_a_counter_of_brackets_finds():
    sentences = [tokens for tokens, _ in listops(60)]
    found = Lists.of(sentences)
    for number, tokens in enumerate(sentences):
        mine = found.sentences == number
        spans = list(zip(found.starts[mine].tolist(), found.ends[mine].tolist(), strict=True))
        assert spans == slow_lists(tokens)
    assert all(
        sentences[s][a] == o for s, a, o in zip(found.sentences, found.starts, found.openers, strict=True)
    )


def test_gold_trees_have_all_lists():
    tokens, gold = zip(*listops(40), strict=True)
    lists = Lists.of(tokens)
    found = lists.found(Bracketings(gold, tokens))
    assert found.all()
    for root in (True, False):
        assert (lists.scores(found, root=root) == 1.0).all()


def test_scores_are_those_of_a_loop_over_nodes():
    tokens = [tokens for tokens, _ in listops(80, seed=1)]
    rng = np.random.default_rng(0)
    derivations = [trees.uniform_tree(len(words), rng) for words in tokens]
    lists = Lists.of(tokens)
    found = lists.found(Bracketings(derivations, tokens))
    pooled: dict[str, list[bool]] = {}
    for root in (True, False):
        scores = lists.scores(found, root=root)
        for number, (words, derivation) in enumerate(zip(tokens, derivations, strict=True)):
            counted = [span for span in slow_lists(words) if root or span != (0, len(words))]
            nodes = set(trees.spans(derivation))
            share = sum(span in nodes for span in counted) / len(counted) if counted else 1.0
            assert scores[number] == pytest.approx(share)
            if not root:
                for span in counted:
                    pooled.setdefault(words[span[0]], []).append(span in nodes)
    by_opener = lists.found_by_opener(found)
    assert list(by_opener) == sorted(pooled)
    for opener, hits in pooled.items():
        assert by_opener[opener] == (pytest.approx(sum(hits) / len(hits)), len(hits))
    assert 0 < found[~lists.is_root].mean() < 1


def test_known_numbers():
    words = ["[MAX", "[SM", "1", "2", "]", "[MIN", "3", "4", "]", "5", "]"]
    right = trees.right_branching(len(words))
    lists = Lists.of([words, ["7"]])
    found = lists.found(Bracketings([right, [0]], [words, ["7"]]))
    assert found.tolist() == [True, False, False]
    assert lists.scores(found, root=True).tolist() == [pytest.approx(1 / 3), 1.0]
    assert lists.scores(found, root=False).tolist() == [0.0, 1.0]
    assert lists.found_by_opener(found) == {"[MIN": (0.0, 1), "[SM": (0.0, 1)}


def test_sentences_without_nodes_have_no_list_found():
    lists = Lists.of([["7"]])
    assert lists.found(Bracketings([[0]])).tolist() == []
    assert lists.found_by_opener(np.zeros(0, np.bool_)) == {}


def test_trees_over_other_sentences_are_refused():
    with pytest.raises(ValueError, match="got trees of 1 sentences to find the lists of 2 in"):
        Lists.of([["1"], ["2"]]).found(Bracketings([[0]]))


@pytest.mark.parametrize(
    ("types", "shown"),
    [
        (["[MAX", "1", "2", "]"], True),
        (["(", ")", "a", "not", "or"], True),
        (["a", "not", "or"], False),
        (["1", "2"], False),
        (["(", "laughs", ")", "the", "dog"], False),
        ([], False),
    ],
)
def test_which_corpora_show_their_brackets(types, shown):
    assert shows_brackets(types) == shown
