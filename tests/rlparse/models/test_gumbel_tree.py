"""Straight-through Gumbel trees: values and gradients are those of the published layers, at a fraction of the work."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from rlparse import lockstep
from rlparse.merges import derivations
from rlparse.models.composition import COMPOSITIONS, BinaryTreeLSTM, Composition, build_composition
from rlparse.models.gumbel_tree import gumbel_noise, gumbel_trees
from rlparse.models.stack_machine import StackMachine
from slow_merges import straight_through

LENGTHS = torch.tensor([3, 6, 1, 2, 6, 4, 5])
N_WORDS = 5


def build(
    name: str = "tree_lstm", seed: int = 0, dtype: torch.dtype = torch.float64, **options
) -> tuple[Composition, Tensor, Tensor, Tensor]:
    """A composition, a query, embeddings and words, in double precision with large random weights."""
    torch.manual_seed(seed)
    composition = build_composition(name, 3, 4, **options).to(dtype)
    for parameter in composition.parameters():
        nn.init.normal_(parameter, std=0.6)
    query = torch.randn(4, dtype=dtype).requires_grad_()
    embeddings = torch.randn(N_WORDS, 3, dtype=dtype).requires_grad_()
    return composition, query, embeddings, torch.randint(N_WORDS, (len(LENGTHS), 6))


class Noise:
    """The same noise for both: [R, M, A] random numbers, handed out in the order of falling length."""

    def __init__(self) -> None:
        self.numbers = torch.randn(len(LENGTHS), 5, 5, dtype=torch.float64)
        self.order = LENGTHS.argsort(descending=True, stable=True)
        self.step = 0

    def __call__(self, scores: Tensor) -> Tensor:
        rows = self.order[: len(scores)]
        self.step += 1
        return self.numbers[rows, self.step - 1, : scores.shape[1]].to(scores.dtype)


def slow(composition, query, embeddings, words, numbers, temperature=1.0) -> tuple[Tensor, list[list[int]]]:
    rows = [
        straight_through(
            composition, query, embeddings[words[row, :n]], lambda k, row=row: numbers[row, k], temperature
        )
        for row, n in enumerate(LENGTHS.tolist())
    ]
    return torch.stack([root for root, _ in rows]), [merges for _, merges in rows]


@pytest.mark.parametrize(
    ("name", "layer_norm"), [(name, norm) for name in COMPOSITIONS for norm in (False, True)]
)
@pytest.mark.parametrize("temperature", [0.6, 1.0])
def test_values_and_gradients_are_the_published_ones(name, layer_norm, temperature):
    composition, query, embeddings, words = build(name, layer_norm=layer_norm)
    noise = Noise()
    trees = gumbel_trees(composition, query, embeddings, LENGTHS, words, temperature=temperature, noise=noise)
    roots, merges = slow(composition, query, embeddings, words, noise.numbers, temperature)
    torch.testing.assert_close(trees.roots, roots, rtol=0, atol=1e-10)
    for found, expected in zip(trees.merges.tolist(), merges, strict=True):
        assert found == [*expected, *[5] * (5 - len(expected))]
    weights = torch.randn_like(roots)
    wanted = [query, embeddings, *composition.parameters()]
    fast, exact = (torch.autograd.grad((x * weights).sum(), wanted) for x in (trees.roots, roots))
    torch.testing.assert_close(fast, exact, rtol=1e-9, atol=1e-10)
    assert all(gradient.any() for gradient in exact)


def test_single_precision_gives_the_same():
    """Where other kernels compute the gates."""
    exact, query, embeddings, words = build(seed=3)
    single = build(dtype=torch.float32)[0]
    single.load_state_dict(exact.state_dict())
    noise, found = Noise(), []
    for composition, dtype in ((single, torch.float32), (exact, torch.float64)):
        noise.step = 0
        inputs = [tensor.detach().to(dtype).requires_grad_() for tensor in (query, embeddings)]
        trees = gumbel_trees(composition, *inputs, LENGTHS, words, noise=noise)
        gradients = torch.autograd.grad(trees.roots.sum(), [*inputs, *composition.parameters()])
        found.append([tensor.double() for tensor in (trees.roots, *gradients)])
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-4)


def test_without_noise_the_best_are_merged():
    composition, query, embeddings, words = build(seed=1)
    trees = gumbel_trees(composition, query, embeddings, LENGTHS, words)
    roots, merges = slow(composition, query, embeddings, words, torch.zeros(len(LENGTHS), 5, 5))
    torch.testing.assert_close(trees.roots, roots, rtol=0, atol=1e-12)
    assert [row[: len(m)] for row, m in zip(trees.merges.tolist(), merges, strict=True)] == merges


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_the_stack_machine_gives_the_same_vectors_for_the_same_trees(name):
    composition, query, embeddings, words = build(name, seed=2)
    trees = gumbel_trees(
        composition, query, embeddings, LENGTHS, words, noise=gumbel_noise(torch.Generator().manual_seed(0))
    )
    trace = lockstep.trace(derivations(trees.merges, LENGTHS), LENGTHS)
    roots = StackMachine(composition)(embeddings, trace, words).roots
    torch.testing.assert_close(trees.roots, roots, rtol=0, atol=1e-12)


def test_noise_makes_merges_as_likely_as_the_softmax_says():
    composition, query, embeddings, _ = build(seed=5)
    with torch.no_grad():
        query.mul_(0.6)
    words, n = torch.tensor([[0, 1, 2, 3]]), 4000
    pairs = composition(
        composition.leaf(embeddings[words[0, :-1]]), composition.leaf(embeddings[words[0, 1:]])
    )
    expected = torch.softmax(composition.hidden(pairs) @ query, 0)
    assert expected.min() > 0.05
    for temperature in (0.3, 1.0):  # which only the gradient knows
        merges = gumbel_trees(
            composition,
            query,
            embeddings,
            torch.full((n,), 4),
            words.expand(n, 4),
            temperature=temperature,
            noise=gumbel_noise(torch.Generator().manual_seed(1)),
        ).merges
        share = torch.bincount(merges[:, 0], minlength=3) / n
        assert (share - expected).abs().max() < 4 * math.sqrt(0.25 / n)


def test_a_batch_of_single_words_is_encoded_and_learns():
    composition, query, embeddings, _ = build()
    words = torch.tensor([[1], [3]])
    trees = gumbel_trees(composition, query, embeddings, torch.tensor([1, 1]), words, noise=gumbel_noise())
    expected = composition.hidden(composition.leaf(embeddings[words[:, 0]]))
    torch.testing.assert_close(trees.roots, expected)
    assert trees.merges.shape == (2, 0)
    fast, exact = (torch.autograd.grad(x.pow(2).sum(), embeddings)[0] for x in (trees.roots, expected))
    torch.testing.assert_close(fast, exact)


def test_backward_can_be_asked_for_twice_and_after_a_change_is_refused():
    composition, query, embeddings, words = build()
    trees = gumbel_trees(composition, query, embeddings, LENGTHS, words, noise=Noise())
    wanted = [query, embeddings, *composition.parameters()]
    first, second = (torch.autograd.grad(trees.roots.sum(), wanted, retain_graph=True) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    with pytest.raises(NotImplementedError, match="second derivatives"):
        torch.autograd.grad(trees.roots.sum(), query, create_graph=True)
    with torch.no_grad():
        query.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        trees.roots.sum().backward()


def test_frozen_weights_get_no_gradient():
    composition, query, embeddings, words = build()
    exact, found = [], []
    for gradients in (exact, found):
        noise = Noise()
        noise.numbers.zero_()
        trees = gumbel_trees(composition, query, embeddings, LENGTHS, words, noise=noise)
        composition.zero_grad()
        query.grad = None
        trees.roots.sum().backward()
        gradients += [query.grad, composition.combine.weight.grad]
        composition.project.requires_grad_(False)
    torch.testing.assert_close(found, exact)
    assert composition.project.weight.grad is None


class Doubled(BinaryTreeLSTM):
    """A composition of one's own."""

    def forward(self, left: Tensor, right: Tensor, tracker: Tensor | None = None) -> Tensor:
        return super().forward(2 * left, right, tracker)


def test_compositions_of_ones_own_work():
    _, query, embeddings, words = build()
    composition = Doubled(3, 4).double()
    trees = gumbel_trees(composition, query, embeddings, LENGTHS, words)
    trace = lockstep.trace(derivations(trees.merges, LENGTHS), LENGTHS)
    roots = StackMachine(composition)(embeddings, trace, words).roots
    torch.testing.assert_close(trees.roots, roots)
    trees.roots.sum().backward()
    assert composition.combine.weight.grad.any()


def test_what_cannot_be_composed_is_refused():
    composition, query, embeddings, words = build(tracker_size=2)
    with pytest.raises(ValueError, match="the composition has tracker_size=2, use tracker_size=0"):
        gumbel_trees(composition, query, embeddings, LENGTHS, words)
    composition, *_ = build()
    for temperature in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="temperature must be positive"):
            gumbel_trees(composition, query, embeddings, LENGTHS, words, temperature=temperature)
