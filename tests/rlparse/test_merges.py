"""Orders of merges: the trees they build, and the candidates there are on the way."""

from __future__ import annotations

import itertools

import pytest
import torch

from rlparse.errors import IllegalTransitionError
from rlparse.merges import derivations, lay_out_chart, legal_merges, merges_of
from slow_merges import all_merges, derivation_of, tree_of
from slow_reference import PAD, all_derivations, padded

LENGTHS = [4, 1, 6, 2, 5, 6]


def random_merges(lengths: list[int], n_tokens: int, seed: int = 0) -> torch.Tensor:
    """Merges at random, and anything after a row's end."""
    rng = torch.Generator().manual_seed(seed)
    rows = []
    for n in lengths:
        places = [int(torch.randint(n - 1 - k, (1,), generator=rng)) for k in range(n - 1)]
        rows.append(places + [n_tokens - 1] * (n_tokens - n))
    return torch.tensor(rows, dtype=torch.int64).view(len(lengths), n_tokens - 1)


@pytest.mark.parametrize("n", range(1, 7))
def test_merges_build_their_trees(n):
    merges = all_merges(n)
    found = derivations(torch.tensor(merges).view(len(merges), n - 1), torch.full((len(merges),), n))
    assert found.tolist() == [list(derivation_of(tree_of(places, range(n)))) for places in merges]
    assert set(map(tuple, found.tolist())) == set(all_derivations(n))


@pytest.mark.parametrize("rest", [-1, 0, 99])
def test_what_follows_a_sentence_is_not_read(rest):
    lengths, merges = torch.tensor(LENGTHS), random_merges(LENGTHS, 8)
    after = torch.arange(7) >= lengths.unsqueeze(1) - 1
    found = derivations(torch.where(after, rest, merges), lengths)
    for row, n in enumerate(LENGTHS):
        expected = derivation_of(tree_of(merges[row, : n - 1].tolist(), range(n)))
        assert found[row].tolist() == [*expected, *[PAD] * (15 - len(expected))]


@pytest.mark.parametrize("n", range(1, 7))
def test_derivations_are_merged_in_the_order_of_their_reduces(n):
    transitions = padded(all_derivations(n), n + 1)
    merges = merges_of(transitions)
    assert merges.dtype == torch.int64
    assert torch.equal(derivations(merges, torch.full((len(transitions),), n)), transitions)
    assert (merges[:, n - 1 :] == n).all()
    # From left to right: no merge lies before the one before it by more than its own item.
    for places in merges[:, : n - 1].tolist():
        assert all(b >= a - 1 for a, b in itertools.pairwise(places))


def test_every_merge_but_those_past_the_end_is_legal():
    legal = legal_merges(torch.tensor(LENGTHS), 6)
    assert legal.shape == (6, 5, 5)
    for row, n in enumerate(LENGTHS):
        for k, p in itertools.product(range(5), range(5)):
            assert bool(legal[row, k, p]) == (p < n - 1 - k)


def test_merges_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match=r"merges must be \[R, N - 1\] and lengths \[R\], got \(2,\) and"):
        derivations(torch.tensor([0, 0]), torch.tensor([3]))
    for wrong in ([0, 4], [4, 0]):
        with pytest.raises(ValueError, match=r"2 merges are of sentences of 1 to 3 tokens, got lengths from"):
            derivations(torch.zeros(2, 2, dtype=torch.int64), torch.tensor(wrong))
    for place in (-1, 1):
        with pytest.raises(
            IllegalTransitionError, match=f"row 1: merge 1 must be at a position from 0 to 0, got {place}"
        ):
            derivations(torch.tensor([[0, 9], [0, place]]), torch.tensor([2, 3]))


def slow_chart(merges: list[int], leaves: list[int]) -> list[list[tuple]]:
    """The trees of all candidates before every merge; a tree's leaves are told apart where ``leaves`` does."""
    items, layers = list(leaves), []
    for place in merges:
        layers.append([tuple(pair) for pair in itertools.pairwise(items)])
        items[place : place + 2] = [layers[-1][place]]
    return layers


@pytest.mark.parametrize("shares", [False, True])
@pytest.mark.parametrize("n_tokens", [6, 8])
@pytest.mark.parametrize("rest", [-1, 99])
def test_the_chart_holds_every_candidate_where_it_says(shares, n_tokens, rest):
    lengths, n_leaves = torch.tensor(LENGTHS), 3 if shares else sum(LENGTHS)
    merges = random_merges(LENGTHS, n_tokens, seed=n_tokens)
    merges[torch.arange(n_tokens - 1) >= lengths.unsqueeze(1) - 1] = rest
    if shares:
        leaves = torch.randint(3, (len(LENGTHS), n_tokens), generator=torch.Generator().manual_seed(0))
        chart = lay_out_chart(merges, lengths, leaves, 3)
    else:
        first = lengths.cumsum(0) - lengths
        leaves = first.unsqueeze(1) + torch.arange(n_tokens)
        chart = lay_out_chart(merges, lengths)
    assert chart.n_leaves == n_leaves
    nodes: list[object] = list(range(n_leaves))
    start = 0
    for level, size in enumerate(chart.sizes):
        done = len(nodes)
        for left, right in chart.children[start : start + size].tolist():
            assert max(left, right) < done, f"level {level} reads what is composed with it"
            nodes.append((nodes[left], nodes[right]))
        start += size
    assert start == len(chart.children)
    nodes.append(None)
    for row, n in enumerate(LENGTHS):
        layers = slow_chart(merges[row, : n - 1].tolist(), leaves[row, :n].tolist())
        for k in range(n_tokens - 1):
            expected = layers[k] if k < len(layers) else []
            found = [nodes[place] for place in chart.candidates[row, k].tolist()]
            assert found == [*expected, *[None] * (n_tokens - 1 - len(expected))]
    # Each candidate is composed once: pairs of tokens, and at most two for every merge but the last.
    most = sum(max(3 * (n - 1) - 2, 0) for n in LENGTHS)
    assert len(chart.children) <= most
    if shares:
        assert chart.sizes[0] <= 9


def test_sentences_of_one_token_have_no_candidates():
    chart = lay_out_chart(torch.zeros(3, 0, dtype=torch.int64), torch.ones(3, dtype=torch.int64))
    assert chart.sizes == []
    assert chart.children.shape == (0, 2)
    assert chart.candidates.shape == (3, 0, 0)
