"""Bracketings: all trees at once have the spans that they have one by one, with and without punctuation."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlparse import trees
from rlparse.bracketings import Bracketings, Nodes, is_punctuation, key
from rlparse.errors import MalformedTreeError

WORDS = st.sampled_from(["a", "b", ".", ","])
NESTED = st.recursive(WORDS, lambda sub: st.tuples(sub, sub), max_leaves=12)


def words_of(tree):
    return [tree] if isinstance(tree, str) else words_of(tree[0]) + words_of(tree[1])


def derivation_of(tree):
    return [0] if isinstance(tree, str) else derivation_of(tree[0]) + derivation_of(tree[1]) + [1]


def spans_of(tree, start=0):
    if tree is None or isinstance(tree, str):
        return set()
    middle = start + len(words_of(tree[0]))
    whole = {(start, start + len(words_of(tree)))}
    return spans_of(tree[0], start) | spans_of(tree[1], middle) | whole


def without_punctuation(tree):
    """The tree with its punctuation leaves plucked; None when nothing is left."""
    if isinstance(tree, str):
        return None if tree in ".," else tree
    left, right = (without_punctuation(child) for child in tree)
    return right if left is None else left if right is None else (left, right)


@given(st.lists(NESTED, max_size=6))
def test_spans_are_those_of_every_single_tree(nested):
    found = Bracketings([derivation_of(tree) for tree in nested], [words_of(tree) for tree in nested])
    assert found.n_tokens == [len(words_of(tree)) for tree in nested]
    assert len(found) == len(nested)
    assert found.spans() == [spans_of(tree) for tree in nested]
    plucked = [without_punctuation(tree) for tree in nested]
    assert found.spans(punctuation=False) == [spans_of(tree) for tree in plucked]
    n_left = found.nodes(punctuation=False).n_tokens.tolist()
    assert n_left == [0 if tree is None else len(words_of(tree)) for tree in plucked]
    for punctuation in (True, False):
        nodes = found.nodes(punctuation=punctuation)
        # A binary tree over n tokens has n - 1 nodes, and so it has where tokens were cut out.
        counts = np.bincount(nodes.sentences, minlength=len(nested))
        assert counts.tolist() == [max(n - 1, 0) for n in nodes.n_tokens.tolist()]


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 10**6)), min_size=1, max_size=6))
def test_shared_nodes_are_counted_per_sentence(sizes):
    first = [trees.uniform_tree(n, np.random.default_rng(seed)) for n, seed in sizes]
    other = [trees.random_merges(n, np.random.default_rng(seed)) for n, seed in sizes]
    shared = Bracketings(first).nodes(punctuation=True).n_shared(Bracketings(other).nodes(punctuation=True))
    expected = [len({*trees.spans(a)} & {*trees.spans(b)}) for a, b in zip(first, other, strict=True)]
    assert shared.tolist() == expected


def test_nodes_are_laid_out_sentence_after_sentence():
    # ((ab)c), one token, (de): positions 0-3, 3-4, 4-6
    nodes = Bracketings([[0, 0, 1, 0, 1], [0], [0, 0, 1]]).nodes(punctuation=True)
    assert nodes.keys.tolist() == [key(0, 2), key(0, 3), key(4, 6)]
    assert nodes.sentences.tolist() == [0, 0, 2]
    assert nodes.n_tokens.tolist() == [3, 1, 2]
    assert nodes.offsets.tolist() == [0, 3, 4]
    assert nodes.lengths().tolist() == [2, 3, 2]


def test_no_nodes_share_nothing():
    nothing = Nodes.of(np.array([], np.int64), np.array([], np.int64), np.array([1, 1]))
    assert nothing.n_shared(nothing).tolist() == [0, 0]


def test_selected_sentences_come_in_the_order_given():
    found = Bracketings([[0], [0, 0, 1], [0, 0, 1, 0, 1]], [["a"], ["b", "."], ["c", "d", "e"]]).select(
        [2, 1]
    )
    assert found.n_tokens == [3, 2]
    assert found.tokens == [["c", "d", "e"], ["b", "."]]
    assert found.spans() == [{(0, 2), (0, 3)}, {(0, 2)}]
    assert found.spans(punctuation=False) == [{(0, 2), (0, 3)}, set()]
    assert Bracketings([[0], [0, 0, 1]]).select([0]).tokens is None


@pytest.mark.parametrize(
    ("derivations", "message"),
    [
        ([[0], [0, 1]], "sentence 1: REDUCE at step 1 needs 2 items on the stack, found 1"),
        ([[0], [0, 0]], "sentence 1: expected one tree at the end of 2 transitions, found 2 items"),
        # What one sentence has too many, the next has too few: both wrong, the first is named.
        ([[0, 0], [1, 0]], "sentence 0: expected one tree at the end of 2 transitions, found 2 items"),
        ([[0], []], "sentence 1: expected one tree at the end of 0 transitions, found 0 items"),
        ([[], [0]], "sentence 0: expected one tree at the end of 0 transitions, found 0 items"),
        ([[0, 0, 1, 2]], r"sentence 0: expected SHIFT \(0\) or REDUCE \(1\) at step 3, got 2 \(padding"),
        ([[0, -1, 1]], r"sentence 0: expected SHIFT \(0\) or REDUCE \(1\) at step 1, got -1"),
    ],
)
def test_malformed_derivation_is_named_by_its_sentence(derivations, message):
    with pytest.raises(MalformedTreeError, match=message):
        Bracketings(derivations)


def test_tokens_have_to_fit():
    with pytest.raises(MalformedTreeError, match="sentence 1 has 3 tokens, but its derivation has 2"):
        Bracketings([[0], [0, 0, 1]], [["a"], ["a", "b", "c"]])
    with pytest.raises(ValueError, match="got 1 derivations, but the tokens of 2 sentences"):
        Bracketings([[0]], [["a"], ["b"]])


@pytest.mark.parametrize("method", ["nodes", "places", "spans"])
def test_removing_punctuation_needs_tokens(method):
    with pytest.raises(
        ValueError, match="removing punctuation needs the tokens of the sentences: pass tokens="
    ):
        getattr(Bracketings([[0]]), method)(punctuation=False)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (". , : ; ? ! ... … -- – — - `` '' ` ' \" “ ” ‘ ’ « » -LRB- -RRB- -LSB- -RCB- ?!", True),
        ("a The 's n't -4 5.0 U.S. & % $ # @ \\/ * + = C++ [MAX [SM ] [ ) ( LRB é 猫", False),
    ],
)
def test_punctuation_is_told_from_words_and_signs(tokens, expected):
    for token in tokens.split():
        assert is_punctuation(token) is expected, token


def test_long_and_deep_trees_take_linear_time():
    n = 10_000
    derivations = [trees.left_branching(n), trees.right_branching(n)] * 10
    started = time.process_time()
    found = Bracketings(derivations)
    assert time.process_time() - started < 3
    assert found.spans()[0] == {(0, end) for end in range(2, n + 1)}
