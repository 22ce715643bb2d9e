"""A subtree that recurs is composed once, and has the values and gradients of a node for each time that it occurs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from rlparse import lockstep
from rlparse.lockstep import Trace
from rlparse.models.composition import COMPOSITIONS, BinaryTreeLSTM, Composition, TreeRNN, build_composition
from rlparse.models.stack_machine import SCHEDULES, Encoding, StackMachine, distinct_words
from slow_reference import encode_one, padded, random_derivation

pytestmark = pytest.mark.usefixtures("kernels")

E, D, V = 4, 5, 4
LENGTHS = (6, 1, 9, 2, 3)
N_PARSES = 3


class Twice(BinaryTreeLSTM):
    """A subclass with a formula of its own, which autograd differentiates."""

    def forward(self, left: Tensor, right: Tensor, tracker: Tensor | None = None) -> Tensor:
        return 2 * super().forward(left, right, tracker)


CELLS = {
    **{f"{name}, {norm}": (name, norm) for name in COMPOSITIONS for norm in (False, True)},
    "of one's own": None,
}


def cell_of(kind: str) -> Composition:
    torch.manual_seed(1)
    if CELLS[kind] is None:
        cell: Composition = Twice(E, D)
    else:
        name, layer_norm = CELLS[kind]
        cell = build_composition(name, E, D, layer_norm=layer_norm)
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.normal_(std=0.4)
    return cell.double()


def batch() -> tuple[list[list[int]], Tensor, Trace]:
    """Several parses of each sentence of a few words, two of them the same."""
    rng = torch.Generator().manual_seed(0)
    derivations, rows = [], []
    for n in LENGTHS:
        parses = [random_derivation(n, rng) for _ in range(N_PARSES - 1)]
        words = torch.zeros(max(LENGTHS), dtype=torch.int64)
        words[:n] = torch.randint(1, V, (n,), generator=rng)
        derivations += [*parses, parses[0]]
        rows += [words] * N_PARSES
    lengths = torch.tensor(LENGTHS).repeat_interleave(N_PARSES)
    return derivations, torch.stack(rows), lockstep.trace(padded(derivations), lengths)


def encode(cell: Composition, schedule: str, weights: Tensor) -> Encoding:
    _, tokens, trace = batch()
    types, words = distinct_words(tokens, V)
    encoding: Encoding = StackMachine(cell, schedule=schedule)(weights[types], trace, words)
    return encoding


def nodes_of(encoding: Encoding) -> list[Tensor]:
    """Hidden vectors of all nodes of each row, as often as they occur."""
    trace, position = encoding.trace, encoding.layout.position
    width = (position.shape[1] + 1) // 2
    return [
        encoding.table[position[r, [*range(n), *range(width, width + n - 1)]]]
        for r, n in enumerate(trace.lengths.tolist())
    ]


def gradients(values: list[Tensor], weights: Tensor, cell: Composition) -> tuple[Tensor, ...]:
    """Of a random sum of all values."""
    rng = torch.Generator().manual_seed(5)
    total = sum((v * torch.randn(v.shape, generator=rng, dtype=v.dtype)).sum() for v in values)
    return torch.autograd.grad(total, (weights, *cell.parameters()))


def drawn_weights() -> Tensor:
    rng = torch.Generator().manual_seed(2)
    return torch.randn(V, E, dtype=torch.float64, generator=rng).requires_grad_()


def assert_same(one: object, other: object, tolerance: float = 1e-11) -> None:
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("read", ["roots", "nodes", "both"])
def test_shared_nodes_have_the_gradients_of_all_their_occurrences(kind, read):
    """By step every occurrence is a node of its own."""
    cell, weights = cell_of(kind), drawn_weights()
    found = []
    for schedule in SCHEDULES:
        encoding = encode(cell, schedule, weights)
        values = [encoding.roots] if read != "nodes" else []
        values += nodes_of(encoding) if read != "roots" else []
        found.append((values, gradients(values, weights, cell), len(encoding.layout.children)))
    (by_step, slow, n_nodes), (by_level, fast, n_distinct) = found
    assert n_distinct < n_nodes == N_PARSES * (sum(LENGTHS) - len(LENGTHS))
    assert_same(by_level, by_step)
    assert_same(fast, slow)


@pytest.mark.parametrize("kind", [kind for kind in CELLS if CELLS[kind] is not None])
def test_shared_nodes_agree_with_one_sentence_at_a_time(kind):
    cell, weights = cell_of(kind), drawn_weights()
    encoding = encode(cell, "by_level", weights)
    fast = [encoding.roots, *nodes_of(encoding)]
    derivations, tokens, _ = batch()
    slow = [
        cell.hidden(encode_one(cell, weights[own[: (len(d) + 1) // 2]], d, None)[0])
        for own, d in zip(tokens, derivations, strict=True)
    ]
    slow = [torch.stack([nodes[-1] for nodes in slow]), *slow]
    assert_same(fast, slow)
    assert_same(gradients(fast, weights, cell), gradients(slow, weights, cell))


@pytest.mark.parametrize("kind", CELLS)
def test_the_gradient_of_the_table_counts_once_a_row(kind):
    """Against by step, of whose equal nodes only the first is read."""
    cell, weights = cell_of(kind), drawn_weights()
    by_level = encode(cell, "by_level", weights)
    rows = by_level.layout.position.flatten()
    seen: dict[int, int] = {}
    for at, row in enumerate(rows.tolist()):
        seen.setdefault(row, at)
    del seen[len(by_level.table) - 1]
    by_step = encode(cell, "by_step", weights)
    twin = by_step.layout.position.flatten()[[seen[row] for row in sorted(seen)]]
    fast, slow = by_level.table[sorted(seen)], by_step.table[twin]
    assert_same(fast, slow)
    one, other = [fast, by_level.roots], [slow, by_step.roots]
    assert_same(gradients(one, weights, cell), gradients(other, weights, cell))


@pytest.mark.parametrize("kind", CELLS)
def test_gradients_of_shared_nodes_agree_with_finite_differences(kind):
    cell = cell_of(kind)
    names = [name for name, _ in cell.named_parameters()]
    trace = lockstep.trace(padded([[0, 0, 1, 0, 0, 1, 1], [0, 0, 1, 0, 1]]), torch.tensor([4, 3]))
    words = torch.tensor([[0, 1, 0, 1], [0, 1, 1, 0]])
    machine = StackMachine(cell)

    def run(weights: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        given = {f"composition.{name}": p for name, p in zip(names, parameters, strict=True)}
        encoding = torch.func.functional_call(machine, given, (weights, trace, words))
        return encoding.roots, encoding.table

    weights = drawn_weights()[:2].detach().requires_grad_()
    assert torch.autograd.gradcheck(run, (weights, *cell.parameters()), fast_mode=True)


@pytest.mark.parametrize("kind", CELLS)
def test_a_sentence_that_is_repeated_is_composed_once(kind):
    cell, words = cell_of(kind), torch.tensor([[0, 1, 2, 1]] * 7)
    machine, weights = StackMachine(cell), drawn_weights()
    derivations = [random_derivation(4, torch.Generator().manual_seed(0))] * 7
    alone, together = (
        machine(weights, lockstep.trace(padded(derivations[:k]), torch.tensor([4] * k)), words[:k])
        for k in (1, 7)
    )
    assert len(together.table) == len(alone.table)
    assert_same(together.roots, alone.roots.expand(7, D))
    of_one = torch.autograd.grad(alone.roots.sum(), (weights, *cell.parameters()))
    of_all = torch.autograd.grad(together.roots.sum(), (weights, *cell.parameters()))
    assert_same(of_all, tuple(7 * gradient for gradient in of_one))


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("n_rows", [0, 3])
def test_single_tokens_and_empty_batches_compose_nothing(kind, n_rows):
    cell, weights = cell_of(kind), drawn_weights()
    trace = lockstep.trace(torch.zeros(n_rows, 1).long(), torch.ones(n_rows).long())
    encoding = StackMachine(cell)(weights, trace, torch.full((n_rows, 1), 2))
    assert encoding.layout.sizes == []
    assert encoding.roots.shape == (n_rows, D)
    (gradient,) = torch.autograd.grad(encoding.roots.sum(), weights)
    assert gradient[2].any() == bool(n_rows)
    assert not gradient[[0, 1, 3]].any()


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_single_precision(name):
    torch.manual_seed(0)
    cell = build_composition(name, 16, 16)
    rng = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, 40, (30,), generator=rng).repeat_interleave(4)
    trace = lockstep.trace(padded([random_derivation(n, rng) for n in lengths.tolist()]), lengths)
    tokens = torch.randint(0, 6, (30, int(lengths.max())), generator=rng).repeat_interleave(4, dim=0)
    weights = torch.randn(6, 16)
    found = []
    for dtype, schedule in ((torch.float32, "by_level"), (torch.float64, "by_step")):
        own, leaf = cell.to(dtype), weights.to(dtype).requires_grad_()
        roots = StackMachine(own, schedule=schedule)(leaf, trace, tokens).roots
        grads = torch.autograd.grad((roots * roots.detach().cos()).sum(), (leaf, *own.parameters()))
        found.append((roots.double(), *(gradient.double() for gradient in grads)))
    for fast, slow in zip(*found, strict=True):
        scale = max(1.0, float(slow.detach().abs().max()))
        torch.testing.assert_close(fast, slow, rtol=0, atol=1e-4 * scale)


class Noisy(TreeRNN):
    """With dropout inside."""

    def forward(self, left: Tensor, right: Tensor, tracker: Tensor | None = None) -> Tensor:
        return nn.functional.dropout(super().forward(left, right, tracker), 0.5)


def test_noise_inside_of_a_composition_is_drawn_once_a_shared_node():
    torch.manual_seed(0)
    machine, weights = StackMachine(Noisy(E, D)).double(), drawn_weights()
    _, tokens, trace = batch()

    def roots(x: Tensor) -> Tensor:
        torch.manual_seed(3)
        encoded: Tensor = machine(x, trace, tokens).roots
        return encoded

    found = roots(weights).view(len(LENGTHS), N_PARSES, D)
    assert torch.equal(found[:, 0], found[:, -1])  # two parses that are the same
    (gradient,) = torch.autograd.grad(found.square().sum(), weights)
    direction, step = torch.randn_like(weights), 1e-6
    with torch.no_grad():
        there, back = (roots(weights + sign * step * direction).square().sum() for sign in (1, -1))
    slope = float(there - back) / (2 * step)
    assert math.isclose(slope, float((gradient * direction).sum()), rel_tol=1e-5)
