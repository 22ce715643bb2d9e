"""Trees of a batch agree with those of one sentence, and their F1 with sets of spans."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlparse import trees
from rlparse.batched_trees import (
    balanced,
    bracketing_f1,
    left_branching,
    right_branching,
    shuffled_trees,
    span_keys,
)
from slow_reference import all_derivations, padded, random_derivations, slow_f1


@given(seed=st.integers(0, 2**32 - 1), lengths=st.lists(st.integers(1, 24), min_size=1, max_size=12))
@pytest.mark.parametrize("root", [True, False])
def test_f1_agrees_with_sets_of_spans(root, seed, lengths):
    rng = np.random.default_rng(seed)
    predicted, gold = random_derivations(rng, lengths), random_derivations(rng, lengths)
    n_steps = 2 * max(lengths) - 1 + 2 * int(rng.integers(3))  # padding wider than needed changes nothing
    scores = bracketing_f1(padded(predicted, (n_steps + 1) // 2), padded(gold, (n_steps + 1) // 2), root=root)
    assert scores.dtype == torch.float32
    expected = [slow_f1(p, g, root) for p, g in zip(predicted, gold, strict=True)]
    torch.testing.assert_close(scores, torch.tensor(expected, dtype=torch.float32))


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 40))
def test_span_keys_are_the_spans_in_order_of_creation(seed, n):
    derivation = trees.uniform_tree(n, np.random.default_rng(seed))
    keys = span_keys(torch.tensor([derivation]))[0]
    made = [(n - 1 - key % n, key // n) for key in keys[keys > 0].tolist()]
    assert made == trees.spans(derivation)
    assert keys[keys > 0].tolist() == sorted(keys[keys > 0].tolist())
    assert ((keys > 0) == (torch.tensor(derivation) == 1)).all()


def test_f1_of_all_pairs_of_trees_over_five_tokens():
    def derivations(stack, buffer):
        if not buffer and stack == 1:
            yield ()
        if buffer:
            yield from ((0, *rest) for rest in derivations(stack + 1, buffer - 1))
        if stack >= 2:
            yield from ((1, *rest) for rest in derivations(stack - 1, buffer))

    all_trees = list(derivations(0, 5))
    assert len(all_trees) == 14
    pairs = [(p, g) for p in all_trees for g in all_trees]
    scores = bracketing_f1(torch.tensor([p for p, _ in pairs]), torch.tensor([g for _, g in pairs]))
    assert scores.tolist() == pytest.approx([slow_f1(p, g) for p, g in pairs])
    assert all((score == 1.0) == (p == g) for score, (p, g) in zip(scores.tolist(), pairs, strict=True))


def test_f1_of_a_long_sentence_needs_no_quadratic_memory():
    n = 20_000
    left, right = torch.tensor([trees.left_branching(n)]), torch.tensor([trees.right_branching(n)])
    assert bracketing_f1(left, left).item() == 1.0
    assert bracketing_f1(left, right).item() == pytest.approx(1 / (n - 1))


def test_f1_of_trees_over_other_tokens():
    two, three = trees.left_branching(2), trees.left_branching(3)
    with pytest.raises(ValueError, match=r"row 1: the predicted tree has 1 spans, the gold tree 2"):
        bracketing_f1(padded([three, two], 3), padded([three, three]))
    with pytest.raises(ValueError, match=r"must both be \[R, T\], got \(1, 3\) and \(1, 5\)"):
        bracketing_f1(padded([two]), padded([three]))


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (right_branching, trees.right_branching),
        (left_branching, trees.left_branching),
        (balanced, lambda n: trees.balanced(n, "floor")),
    ],
)
def test_trivial_trees_agree_with_those_of_one_sentence(made, expected):
    lengths = torch.tensor([1, 2, 3, 8, 13, 5, 3])
    found = made(lengths, 27)
    assert torch.equal(found, padded([expected(n) for n in lengths.tolist()], 14))


# ----------------------------------------------------------------------------------------------------- random


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_every_order_of_keys_gives_a_tree_and_every_tree_comes_equally_often(n):
    keys = torch.tensor(list(permutations(range(2 * n - 1))))
    counts = Counter(map(tuple, shuffled_trees(keys, torch.full((len(keys),), n)).tolist()))
    assert set(counts) == set(all_derivations(n))
    assert len(set(counts.values())) == 1


def rotated_by_hand(keys: list[int], n: int) -> tuple[int, ...]:
    """Try every rotation of the shuffled transitions until one is a derivation."""
    ranks = sorted(range(2 * n - 1), key=lambda step: keys[step])
    shuffled = [0 if ranks.index(step) < n else 1 for step in range(2 * n - 1)]
    rotations = {tuple(shuffled[k:] + shuffled[:k]) for k in range(2 * n - 1)}
    (only,) = rotations & set(all_derivations(n))
    return only


def test_shuffled_trees_agree_with_trying_every_rotation():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 8, (60,), generator=generator)
    keys = torch.randint(-(2**63), 2**63 - 1, (60, 13), generator=generator)
    found = shuffled_trees(keys, lengths)
    expected = [rotated_by_hand(row, n) for row, n in zip(keys.tolist(), lengths.tolist(), strict=True)]
    assert torch.equal(found, padded(expected, 7))
    narrow = shuffled_trees(keys[:, :5], lengths.clamp_max(3))
    assert torch.equal(narrow[lengths <= 3], found[lengths <= 3][:, :5])


def test_shuffled_trees_of_long_sentences():
    lengths = torch.tensor([1000, 1, 999, 500])
    keys = torch.randint(2**62, (4, 1999), generator=torch.Generator().manual_seed(0))
    kept = keys.clone()
    for row, n in zip(shuffled_trees(keys, lengths).tolist(), lengths.tolist(), strict=True):
        assert row[2 * n - 1 :] == [2] * (1999 - (2 * n - 1))
        trees.spans(row[: 2 * n - 1])  # raises unless it is a derivation
    assert torch.equal(keys, kept)
