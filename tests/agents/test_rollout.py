"""What rollouts are made of: orders by length, sizes of the parser, random trees."""

from __future__ import annotations

import pytest
import torch

from rlparse.trees import check_derivation
from rlparse_agents.rollout import longest_first, parser_sizes, uniform_trees
from slow_reference import PAD, REDUCE, SHIFT, all_derivations, padded, random_derivation

CHI_SQUARE_999 = {4: 18.47, 13: 34.53, 41: 74.74}
"""99.9 % points of the chi-square distribution."""


def chi_square(counts: list[int]) -> float:
    """Distance of counts from being all equal."""
    expected = sum(counts) / len(counts)
    return sum((count - expected) ** 2 / expected for count in counts)


def test_the_longest_come_first_and_go_back():
    lengths = torch.tensor([3, 7, 1, 7, 5])
    order, back = longest_first(lengths)
    assert lengths[order].tolist() == [7, 7, 5, 3, 1]
    assert order.tolist() == [1, 3, 4, 0, 2]  # ties keep their order
    assert torch.equal(lengths[order][back], lengths)


@pytest.mark.parametrize("n", [4, 5, 6])
def test_random_trees_are_uniform(n):
    """Unlike fair coins, under which some of the trees are several times likelier than others."""
    trees = all_derivations(n)
    n_samples = 200 * len(trees)
    sampled = uniform_trees(torch.full((n_samples,), n), n, torch.Generator().manual_seed(n))
    counts = [int((sampled == torch.tensor(tree)).all(dim=1).sum()) for tree in trees]
    assert sum(counts) == n_samples
    assert chi_square(counts) < CHI_SQUARE_999[len(trees) - 1]


def test_coins_are_not_uniform():
    """The chi-square test above can tell: the same samples from fair coins fail it."""
    rng = torch.Generator().manual_seed(0)
    trees = all_derivations(5)
    sampled = [tuple(random_derivation(5, rng)) for _ in range(100 * len(trees))]
    assert chi_square([sampled.count(tree) for tree in trees]) > 3 * CHI_SQUARE_999[13]


def test_random_trees_of_any_lengths_in_any_order():
    lengths = torch.tensor([2, 9, 1, 5, 9, 3])
    sampled = uniform_trees(lengths, 11, torch.Generator().manual_seed(0))
    assert sampled.shape == (6, 21)
    for row, n in zip(sampled.tolist(), lengths.tolist(), strict=True):
        check_derivation(row[: 2 * n - 1], n)
        assert set(row[2 * n - 1 :]) <= {PAD}
    again = uniform_trees(lengths, 11, torch.Generator().manual_seed(0))
    assert torch.equal(sampled, again)
    assert not torch.equal(sampled, uniform_trees(lengths, 11, torch.Generator().manual_seed(1)))


def test_rows_are_drawn_independently():
    sampled = uniform_trees(torch.full((64,), 8), 8, torch.Generator().manual_seed(0))
    assert len(set(map(tuple, sampled.tolist()))) > 40


def test_parser_sizes_are_counted_before_every_step():
    rng = torch.Generator().manual_seed(0)
    lengths = [1, 2, 5, 7]
    transitions = padded([random_derivation(n, rng) for n in lengths])
    shifted, stack_sizes = parser_sizes(transitions)
    for row, n in enumerate(lengths):
        tokens = size = 0
        for step, transition in enumerate(transitions[row].tolist()):
            assert (int(shifted[row, step]), int(stack_sizes[row, step])) == (tokens, size)
            tokens += transition == SHIFT
            size += {SHIFT: 1, REDUCE: -1, PAD: 0}[transition]
        assert (tokens, size) == (n, 1)
