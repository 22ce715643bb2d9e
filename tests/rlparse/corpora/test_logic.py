"""Logical pairs are drawn as published, and their relations hold in all worlds."""

from __future__ import annotations

from collections import Counter
from itertools import islice, product

import numpy as np
import pytest

from rlparse.corpora.corpus import Corpus
from rlparse.corpora.examples import RELATION_LABELS
from rlparse.corpora.logic import (
    VARIABLES,
    LogicPair,
    corpus_of,
    draw_bins,
    draw_pairs,
    embedded_logic,
    relation,
    sentence_of,
    write_logic,
)
from rlparse.corpora.nli_files import read_examples
from rlparse.errors import CorpusError
from rlparse.trees import check_derivation, format_brackets, parse_binary

WORLDS = [dict(zip(VARIABLES, values, strict=True)) for values in product([False, True], repeat=6)]


def nested(formula: str) -> object:
    """A formula as nested tuples."""
    stack: list[object] = []
    for piece in formula.split():
        if piece == ")":
            right, left, opening = stack.pop(), stack.pop(), stack.pop()
            assert opening == "("
            stack.append((left, right))
        else:
            stack.append(piece)
    (tree,) = stack
    return tree


def holds(tree: object, world: dict[str, bool]) -> bool:
    if isinstance(tree, str):
        return world[tree]
    left, right = tree
    if left == "not":
        return not holds(right, world)
    operator, argument = right
    if operator == "and":
        return holds(left, world) and holds(argument, world)
    assert operator == "or"
    return holds(left, world) or holds(argument, world)


def slow_relation(left: str, right: str) -> str:
    """MacCartney's definitions over the sets of worlds."""
    one = {i for i, world in enumerate(WORLDS) if holds(nested(left), world)}
    other = {i for i, world in enumerate(WORLDS) if holds(nested(right), world)}
    everything = set(range(64))
    assert one not in (set(), everything)
    assert other not in (set(), everything)
    disjoint, exhaustive = not one & other, one | other == everything
    for name, condition in (
        ("=", one == other),
        ("<", one < other),
        (">", one > other),
        ("^", disjoint and exhaustive),
        ("|", disjoint),
        ("v", exhaustive),
    ):
        if condition:
            return name
    return "#"


def n_operators(formula: str) -> int:
    return sum(piece in ("and", "or", "not") for piece in formula.split())


def binary_depth(tree: object) -> int:
    if isinstance(tree, str):
        return 0
    left, right = tree
    return binary_depth(right) if left == "not" else 1 + max(binary_depth(left), binary_depth(right[1]))


@pytest.fixture(scope="module")
def pairs() -> list[LogicPair]:
    return list(islice(draw_pairs(1), 60_000))


def test_relations_hold_in_all_worlds(pairs):
    seen = Counter()
    for pair in pairs:
        if seen[pair.relation] < 30:
            assert pair.relation == slow_relation(pair.left, pair.right), pair
            seen[pair.relation] += 1
    assert seen == dict.fromkeys(RELATION_LABELS, 30)


def test_relations_by_hand():
    everything = (1 << 16) - 1
    assert relation(0b0110, 0b0110) == "="
    assert relation(0b0010, 0b0110) == "<"
    assert relation(0b0110, 0b0010) == ">"
    assert relation(0b0110, everything ^ 0b0110) == "^"
    assert relation(0b0110, 0b1000) == "|"
    assert relation(everything ^ 0b0110, 0b0111) == "v"
    assert relation(0b0110, 0b1100) == "#"


def test_formulas_are_as_published(pairs):
    for pair in pairs[:3000]:
        assert pair.n_operators == max(n_operators(pair.left), n_operators(pair.right))
        assert len({v for v in (pair.left + pair.right).split() if v in VARIABLES}) <= 4
        for formula in (pair.left, pair.right):
            assert binary_depth(nested(formula)) <= 3
            assert "( not ( not" not in formula
    formulas = [formula for pair in pairs for formula in (pair.left, pair.right)]
    # Formulas that always or never hold are missing, most of them of two parts: fewer than 4/9 are left.
    trees = [nested(formula) for formula in formulas[:30_000]]
    negated = sum(not isinstance(tree, str) and tree[0] == "not" for tree in trees) / len(trees)
    binary = sum(binary_depth(tree) > 0 for tree in trees) / len(trees)
    words = Counter(word for formula in formulas for word in formula.split())
    assert negated == pytest.approx(1 / 3, abs=0.01)
    assert 0.38 < binary < 0.41
    assert words["and"] / (words["and"] + words["or"]) == pytest.approx(0.5, abs=0.01)
    assert max(words[v] for v in VARIABLES) / min(words[v] for v in VARIABLES) < 1.04


def test_half_a_million_draws_make_bins_of_the_published_sizes():
    """The published training bins 0 to 6, which are 85 % of what was drawn."""
    bins = draw_bins(500_000, seed=0)
    sizes = [int(0.85 * len(pairs)) for pairs in bins]
    np.testing.assert_allclose(sizes[:7], [30, 2319, 12451, 23252, 30373, 34152, 32952], rtol=0.03, atol=2)
    assert len(bins) == 13
    assert all(len(set(pairs)) == len(pairs) for pairs in bins)
    assert all(pair.n_operators >= 12 for pair in bins[12])
    assert {pair.n_operators for pair in bins[5]} == {5}
    for number in range(7, 13):
        majority = Counter(pair.relation for pair in bins[number]).most_common(1)[0]
        assert majority[0] == "#"
        assert 0.48 < majority[1] / len(bins[number]) < 0.535


def test_relations_are_as_frequent_as_in_the_published_files(shared_data):
    bins = draw_bins(80_000, seed=2)
    for number in (4, 5, 6):
        text = (shared_data / "logic" / f"train{number}").read_text(encoding="utf-8")
        published = Counter(line.split("\t")[0] for line in text.splitlines())
        drawn = Counter(pair.relation for pair in bins[number])
        for label in RELATION_LABELS:
            share = published[label] / published.total()
            assert drawn[label] / len(bins[number]) == pytest.approx(share, abs=0.02), (number, label)


def test_published_relations_follow_from_the_formulas(shared_data):
    """The same relation function on every 100th published pair."""
    with (shared_data / "logic" / "train5").open(encoding="utf-8") as lines:
        for line in islice(lines, 0, None, 100):
            label, left, right = line.rstrip("\n").split("\t")
            assert slow_relation(left, right) == label


def test_dropped_brackets_leave_the_tree_of_the_formula(pairs):
    for pair in pairs[:500]:
        sentence = sentence_of(pair.left)
        tree = parse_binary(pair.left)
        assert (sentence.tokens, sentence.transitions) == (tree.tokens, tree.transitions)
        assert format_brackets(sentence.tokens, sentence.transitions) == pair.left


def test_brackets_can_be_tokens(pairs):
    sentence = sentence_of("( a ( and b ) )", "tokens")
    assert sentence.tokens == ("(", "a", "(", "and", "b", ")", ")")
    assert sentence.transitions == (0, 0, 1, 0, 0, 1, 0, 1, 0, 1, 1, 0, 1)
    for pair in pairs[:500]:
        sentence = sentence_of(pair.right, "tokens")
        assert " ".join(sentence.tokens) == pair.right
        check_derivation(sentence.transitions, len(sentence.tokens))


def as_set(corpus: Corpus) -> set[tuple[tuple[str, ...], ...]]:
    return {
        tuple((sentence.tokens, sentence.transitions) for sentence in corpus.example(i).sentences)
        for i in range(len(corpus))
    }


@pytest.mark.parametrize(
    ("operators", "test_operators"), [((0, 6), None), ((2, 4), None), ((0, 3), (7, 12)), ((5, 5), (1, 2))]
)
@pytest.mark.parametrize("brackets", ["dropped", "tokens"])
def test_splits_are_disjoint_and_have_the_operators_asked_for(operators, test_operators, brackets):
    splits = embedded_logic(
        900, 60, 80, seed=3, operators=operators, test_operators=test_operators, brackets=brackets
    )
    assert [corpus.name for corpus in splits] == ["logic-train", "logic-dev", "logic-test"]
    sets = [as_set(corpus) for corpus in splits]
    assert [len(s) for s in sets] == [len(c) for c in splits] == [900, 60, 80]
    assert len(set.union(*sets)) == 1040
    for corpus, (low, high) in zip(splits, (operators, operators, test_operators or operators), strict=True):
        assert corpus.labels == RELATION_LABELS
        assert corpus.has_gold.all()
        assert ("(" in corpus.types) == (brackets == "tokens")
        found = bins_of(corpus)
        assert low <= min(found) <= max(found) <= high


def bins_of(corpus: Corpus) -> Counter[int]:
    """How many pairs there are of every published bin."""
    return Counter(
        min(12, max(n_operators(" ".join(s.tokens)) for s in corpus.example(i).sentences))
        for i in range(len(corpus))
    )


def test_a_test_on_other_bins_has_equally_many_of_each():
    test = embedded_logic(50, 5, 45, seed=6, operators=(0, 6), test_operators=(7, 12))[2]
    assert bins_of(test) == {7: 8, 8: 8, 9: 8, 10: 7, 11: 7, 12: 7}
    longest = [max(len(s.tokens) for s in test.example(i).sentences) for i in range(len(test))]
    assert longest != sorted(longest)  # the bins are mixed


def test_a_test_on_other_bins_leaves_training_alone():
    """It has the pairs that are drawn first, as often as they are drawn in its range."""
    drawn = {(p.left, p.right): p for p in islice(draw_pairs(8), 3000) if 1 <= p.n_operators <= 4}
    assert len(drawn) > 330
    first = {tuple((s.tokens, s.transitions) for s in map(sentence_of, sides)) for sides in list(drawn)[:330]}
    for bins, n_test in (((7, 12), 12), ((5, 6), 40), ((0, 0), 3)):
        splits = embedded_logic(300, 30, n_test, seed=8, operators=(1, 4), test_operators=bins)
        assert as_set(splits[0]) | as_set(splits[1]) == first
        assert as_set(splits[2]).isdisjoint(first)
        if bins == (7, 12):
            expected = [as_set(splits[0]), as_set(splits[1])]
        assert [as_set(splits[0]), as_set(splits[1])] == expected


def test_the_seed_decides_everything():
    first, again, other = (as_set(embedded_logic(50, 5, 5, seed=seed)[0]) for seed in (1, 1, 2))
    assert first == again != other


def test_official_files_read_back(tmp_path):
    paths = write_logic(tmp_path / "new", n_draws=3000, seed=5)
    assert {path.name for path in paths} == {f"{part}{n}" for part in ("train", "test") for n in range(13)}
    bins = draw_bins(3000, seed=5)
    for number in (0, 4, 12):
        found = []
        for part in ("train", "test"):
            examples, report = read_examples(tmp_path / "new" / f"{part}{number}")
            found.extend(examples)
            assert report.format == "logic"
            if part == "train":
                assert len(found) == int(0.85 * len(bins[number]))
        expected = corpus_of(bins[number], name="x")
        assert found == [expected.example(i) for i in range(len(expected))]


def test_impossible_wishes_are_refused(monkeypatch):
    monkeypatch.setattr("rlparse.corpora.logic._PATIENCE", 2000)
    with pytest.raises(CorpusError, match=r"0 <= least <= most, got \(3, 2\)"):
        embedded_logic(operators=(3, 2))
    with pytest.raises(
        CorpusError, match=r"training \(0, 6\) and test \(6, 12\) must be equal or not overlap"
    ):
        embedded_logic(test_operators=(6, 12))
    with pytest.raises(
        CorpusError, match=r"bins of the test must be at most 12, which takes .*; got \(7, 13\)"
    ):
        embedded_logic(test_operators=(7, 13))
    with pytest.raises(CorpusError, match=r"training \(13, 14\) and test \(7, 12\) must be equal or not"):
        embedded_logic(operators=(13, 14), test_operators=(7, 12))
    with pytest.raises(
        CorpusError, match="n_test must be at least 6, a pair for each bin from 7 to 12, got 5"
    ):
        embedded_logic(9, 5, 5, test_operators=(7, 12))
    with pytest.raises(
        CorpusError, match="found only 36 of 50 different pairs of bin 0 of the test, none in the last 2000"
    ):
        embedded_logic(30, 5, 100, operators=(2, 6), test_operators=(0, 1))
    with pytest.raises(CorpusError, match="found only 36 of 40 different pairs with 0 to 0 operators"):
        embedded_logic(30, 5, 5, operators=(0, 0))
    with pytest.raises(CorpusError, match="n_draws must be at least 1, got 0"):
        draw_bins(0, seed=1)
    with pytest.raises(CorpusError, match="corpus 'none' has no examples"):
        corpus_of([], name="none")
