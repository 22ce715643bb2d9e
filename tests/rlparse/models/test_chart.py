"""Candidates composed by height, once each, against one sentence at a time."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from rlparse.merges import lay_out_chart
from rlparse.models.chart import compose_chart, merge
from rlparse.models.composition import COMPOSITIONS, Composition, build_composition
from slow_merges import merge_distributions
from slow_reference import compose_formula, leaf_formula

LENGTHS = torch.tensor([3, 6, 1, 2, 5])
MERGES = torch.tensor([[1, 0, 9, 9, 9], [2, 0, 2, 1, 0], [5, 5, 5, 5, 5], [0, 0, 0, 0, 0], [3, 2, 1, 0, 7]])
N_WORDS = 4


def build(name: str = "tree_lstm", dtype: torch.dtype = torch.float64) -> tuple[Composition, Tensor, Tensor]:
    torch.manual_seed(0)
    composition = build_composition(name, 3, 4).to(dtype)
    for parameter in composition.parameters():
        nn.init.normal_(parameter, std=0.6)
    embeddings = torch.randn(N_WORDS, 3, dtype=dtype).requires_grad_()
    return composition, embeddings, torch.randint(N_WORDS, (len(LENGTHS), 6))


def slow_candidates(composition: Composition, embeddings: Tensor, words: Tensor) -> list[list[list[Tensor]]]:
    """Hidden vectors of all candidates, by row and merge."""
    found = []
    for row, n in enumerate(LENGTHS.tolist()):
        items = [leaf_formula(composition, embeddings[word]) for word in words[row, :n].tolist()]
        layers = []
        for place in MERGES[row, : n - 1].tolist():
            pairs = [compose_formula(composition, left, right) for left, right in itertools.pairwise(items)]
            layers.append([pair[: composition.hidden_size] for pair in pairs])
            items[place : place + 2] = [pairs[place]]
        found.append(layers)
    return found


@pytest.mark.parametrize("name", COMPOSITIONS)
@pytest.mark.parametrize("shares", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_candidates_and_gradients_are_those_of_one_sentence_at_a_time(name, shares, dtype, tolerance):
    composition, embeddings, words = build(name, dtype)
    if shares:
        chart = lay_out_chart(MERGES, LENGTHS, words, N_WORDS)
        table = compose_chart(composition, chart, embeddings)
    else:
        chart = lay_out_chart(MERGES, LENGTHS)
        is_token = torch.arange(6) < LENGTHS.unsqueeze(1)
        table = compose_chart(composition, chart, embeddings[words[is_token]])
    exact = slow_candidates(composition, embeddings, words)
    pairs = [
        (table[chart.candidates[row, k, p]], vector)
        for row, layers in enumerate(exact)
        for k, layer in enumerate(layers)
        for p, vector in enumerate(layer)
    ]
    fast, slow = (torch.stack(vectors) for vectors in zip(*pairs, strict=True))
    torch.testing.assert_close(fast, slow, rtol=0, atol=tolerance)
    weights, wanted = torch.randn_like(slow), [embeddings, *composition.parameters()]
    for_fast, for_slow = (torch.autograd.grad((x * weights).sum(), wanted) for x in (fast, slow))
    torch.testing.assert_close(for_fast, for_slow, rtol=tolerance, atol=tolerance)
    assert not table[-1].any()


def test_backward_can_be_asked_for_twice_but_not_for_its_own():
    composition, embeddings, words = build()
    chart = lay_out_chart(MERGES, LENGTHS, words, N_WORDS)
    table = compose_chart(composition, chart, embeddings)
    wanted = [embeddings, *composition.parameters()]
    first, second = (torch.autograd.grad(table.sum(), wanted, retain_graph=True) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    with pytest.raises(NotImplementedError, match="second derivatives"):
        torch.autograd.grad(table.sum(), embeddings, create_graph=True)
    with torch.no_grad():
        assert torch.equal(compose_chart(composition, chart, embeddings), table)


def test_autocast_changes_nothing():
    composition, embeddings, words = build(dtype=torch.float32)
    chart, query = lay_out_chart(MERGES, LENGTHS, words, N_WORDS), torch.ones(4)

    def compute() -> tuple[Tensor, ...]:
        table = compose_chart(composition, chart, embeddings)
        merged = merge(composition, query, embeddings, LENGTHS, words, lambda scores: scores)
        return table, *torch.autograd.grad(table.sum(), embeddings), merged.padded(merged.scores)

    expected = compute()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = compute()
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_the_best_are_merged_until_one_is_left(name):
    composition, embeddings, words = build(name)
    query = torch.randn(4, dtype=torch.float64)
    merged = merge(composition, query, embeddings, LENGTHS, words, lambda scores: scores)
    merges, scores = merged.in_batch(merged.merges), merged.padded(merged.scores)
    roots = merged.in_batch(merged.planes[0][merged.roots])
    for row, n in enumerate(LENGTHS.tolist()):
        places = merges[row].tolist()
        assert places[n - 1 :] == [5] * (6 - n)
        steps = merge_distributions(composition, query, embeddings[words[row, :n]], places[: n - 1])
        for k, log_probs in enumerate(steps):
            assert places[k] == int(log_probs.argmax())
            found = scores[row, k, : len(log_probs)].log_softmax(0)
            torch.testing.assert_close(found, log_probs.detach(), rtol=0, atol=1e-12)
        items = [leaf_formula(composition, embeddings[word]) for word in words[row, :n].tolist()]
        for place in places[: n - 1]:
            items[place : place + 2] = [compose_formula(composition, items[place], items[place + 1])]
        torch.testing.assert_close(roots[row], items[0][:4].detach(), rtol=0, atol=1e-12)
