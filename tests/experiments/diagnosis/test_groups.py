"""Groups: every example where a reader of its sentences would put it."""

from __future__ import annotations

import numpy as np
import pytest

from rlparse import trees
from rlparse.corpora.corpus import Corpus
from rlparse.corpora.examples import Example
from rlparse.corpora.logic import sentence_of
from rlparse_experiments.diagnosis.groups import Groups, binned, groups_of, nesting


def sentences_of(corpus: Corpus) -> list:
    return [corpus.sentence(i, side) for i in range(len(corpus)) for side in range(corpus.n_sides)]


def members(groups: Groups, by: str) -> dict[str, list[int]]:
    return {group.name: np.flatnonzero(group.members).tolist() for group in groups[by]}


def expected(values, name_of) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for number, value in enumerate(values):
        found.setdefault(name_of(value), []).append(number)
    return found


def bin_of_length(n: int) -> str:
    for low, high in ((0, 10), (11, 25), (26, 50), (51, 100), (101, 300)):
        if n <= high:
            return f"{low}-{high}"
    return "301+"


def bin_of_depth(n: int) -> str:
    for low, high in ((0, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 15), (16, 20), (21, 30), (31, 50)):
        if n <= high:
            return f"{low}-{high}"
    return "51+"


@pytest.mark.parametrize(
    ("value", "name"),
    [(0, "0-10"), (10, "0-10"), (11, "11-25"), (25, "11-25"), (300, "101-300"), (301, "301+"), (900, "301+")],
)
def test_which_bin_a_length_belongs_to(value, name):
    from rlparse_experiments.diagnosis.groups import LENGTHS

    assert [group.name for group in binned(np.array([value]), LENGTHS)] == [name]
    assert bin_of_length(value) == name


def test_listops_is_grouped_in_every_way(listops):
    words = [s.tokens for s in sentences_of(listops)]
    groups = groups_of(listops, sentences_of(listops))
    assert members(groups, "length") == expected(map(len, words), bin_of_length)
    depths = [trees.depth(s.transitions) for s in sentences_of(listops)]
    assert members(groups, "depth") == expected(depths, bin_of_depth)
    assert members(groups, "nesting") == expected(map(nesting, words), str)
    first = [w[0] if w[0].startswith("[") else "none" for w in words]
    assert members(groups, "outermost operator") == expected(first, str)
    for operator in ("[MIN", "[MAX", "[MED", "[SM"):
        has = members(groups, "operators present")[f"with {operator}"]
        assert has == [i for i, w in enumerate(words) if operator in w]
        lacks = members(groups, "operators present")[f"without {operator}"]
        assert sorted(has + lacks) == list(range(len(words)))
    assert "operators" not in groups


def test_lengths_up_to_a_bound_add_up(listops):
    lengths = [len(s.tokens) for s in sentences_of(listops)]
    found = members(groups_of(listops, sentences_of(listops)), "length, up to")
    assert set(found) == {"≤ 10", "≤ 25", "≤ 50"}  # 30 tokens are the most: nothing is added by 100
    for name, numbers in found.items():
        assert numbers == [i for i, n in enumerate(lengths) if n <= int(name[2:])]


@pytest.mark.parametrize("brackets", ["tokens", "dropped"])
def test_logic_is_grouped_by_operators_of_the_longer_side(make_logic, brackets):
    corpus = make_logic(brackets)
    groups = groups_of(corpus, sentences_of(corpus))
    counts = []
    for i in range(len(corpus)):
        sides = [corpus.sentence(i, side).tokens for side in (0, 1)]
        counts.append(max(sum(w in ("and", "or", "not") for w in side) for side in sides))
    assert members(groups, "operators") == expected(counts, str)
    assert "nesting" not in groups
    assert sum(len(group.members.nonzero()[0]) for group in groups["length"]) == len(corpus)


def test_the_last_bin_of_logic_takes_longer_formulas_too():
    formulas = ["a"]
    for _ in range(14):
        formulas.append(f"( {formulas[-1]} ( or b ) )")
    sides = [(formulas[n], formulas[m]) for n, m in ((11, 2), (3, 12), (13, 1), (0, 14))]
    corpus = Corpus.from_examples([Example(tuple(map(sentence_of, pair)), "#") for pair in sides])
    groups = groups_of(corpus, sentences_of(corpus))
    assert members(groups, "operators") == {"11": [0], "12+": [1, 2, 3]}


def test_depth_needs_a_gold_tree_of_every_sentence(half_parsed):
    assert set(groups_of(half_parsed, sentences_of(half_parsed))) == {"length", "length, up to"}


@pytest.mark.parametrize(
    ("text", "depth"),
    [("7", 0), ("[MAX 1 2 ]", 1), ("[MAX [SM 1 2 ] [MIN 3 [MED 4 5 ] ] ]", 3), ("( a )", 1)],
)
def test_nesting_counts_lists_inside_lists(text, depth):
    assert nesting(text.split()) == depth
