"""What users do to a stack machine beside encoding: odd dtypes, changed modules, broken and repeated backwards."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from rlparse import lockstep
from rlparse.lockstep import Trace
from rlparse.models.composition import COMPOSITIONS, BinaryTreeLSTM, Composition, TreeRNN, build_composition
from rlparse.models.products import Product
from rlparse.models.recomputing_cell import RecomputingCell
from rlparse.models.stack_machine import StackMachine, distinct_words
from rlparse.models.tracker import Tracker
from slow_reference import padded, random_derivation

pytestmark = pytest.mark.usefixtures("kernels")

E, D, H = 5, 4, 3
LENGTHS = (4, 1, 6, 2)


def trace_of(lengths: Tensor | None = None) -> Trace:
    derivations = [random_derivation(n, torch.Generator().manual_seed(n)) for n in LENGTHS]
    return lockstep.trace(padded(derivations), torch.tensor(LENGTHS) if lengths is None else lengths)


def embeddings_of(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(4, 6, E, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()


def machine_of(name: str = "tree_lstm", tracker_size: int = 0) -> StackMachine:
    torch.manual_seed(0)
    cell = build_composition(name, E, D, tracker_size=tracker_size)
    return StackMachine(cell, Tracker(D, tracker_size) if tracker_size else None)


def forced(hidden: Tensor, stack_sizes: Tensor, buffer_sizes: Tensor) -> Tensor:
    """Shift everything, then reduce."""
    return (buffer_sizes == 0).long()


# ---------------------------------------------------------------------------------------------------- odd inputs


@pytest.mark.parametrize("kind", [torch.int32, torch.int16, torch.uint8])
@pytest.mark.parametrize("tracker_size", [0, H])
def test_numbers_of_any_integer_type_will_do(kind, tracker_size):
    machine, tokens = machine_of(tracker_size=tracker_size), torch.randint(1, 9, (4, 6))
    weights = torch.randn(9, E)
    types, words = distinct_words(tokens, 9)
    wanted = machine(weights[types], trace_of(), words).roots
    narrow = trace_of(torch.tensor(LENGTHS).to(kind))
    assert torch.equal(machine(weights[types], narrow, words.int()).roots, wanted)
    if tracker_size:
        lengths = torch.tensor(LENGTHS)
        one, _ = machine.sample(weights[types], lengths, forced, words)
        other, _ = machine.sample(weights[types], lengths.to(kind), forced, words.int())
        assert torch.equal(one.roots, other.roots)


def test_lengths_are_a_vector():
    with pytest.raises(ValueError, match=r"and lengths \[R\], got \(1, 3\) and \(1, 1\)"):
        lockstep.trace(torch.tensor([[0, 0, 1]]), torch.tensor([[2]]))


@pytest.mark.parametrize("bad", [-1, 7])
@pytest.mark.parametrize("tracker_size", [0, H])
def test_words_must_be_rows_of_the_embeddings(bad, tracker_size):
    machine, words = machine_of(tracker_size=tracker_size), torch.zeros(4, 6, dtype=torch.int64)
    words[2, 1] = bad
    with pytest.raises(
        ValueError, match=r"words must be from 0 to 6, the rows of embeddings, got words from"
    ):
        machine(torch.randn(7, E), trace_of(), words)


def test_a_tracker_needs_a_sentence():
    machine = machine_of(tracker_size=H)
    nothing = torch.zeros(0, dtype=torch.int64)
    with pytest.raises(ValueError, match="a batch with a tracker needs at least one sentence, got none"):
        machine.sample(torch.zeros(0, 3, E), nothing, forced)


@pytest.mark.parametrize("given", [torch.tensor(0), torch.zeros(1), torch.zeros(4, 1)])
def test_choose_must_give_one_transition_a_row(given):
    with pytest.raises(
        ValueError, match=r"one transition for each of the 4 rows still running at step 0, got"
    ):
        machine_of(tracker_size=H).sample(
            embeddings_of(), torch.tensor([6, 4, 3, 2]), lambda *_: given.long()
        )


@pytest.mark.parametrize("tracker_size", [0, H])
@pytest.mark.parametrize("name", COMPOSITIONS)
def test_autocast_changes_nothing(name, tracker_size):
    machine, before = machine_of(name, tracker_size), nn.Linear(E, E)
    trace, given = trace_of(), embeddings_of()

    def run() -> tuple[Tensor, ...]:
        encoding = machine(before(given), trace)
        return encoding.roots.detach(), *torch.autograd.grad(
            encoding.roots.sum(), tuple(machine.parameters())
        )

    plain = run()
    with torch.autocast("cpu", torch.bfloat16):
        cast = run()
    for one, other in zip(plain, cast, strict=True):
        assert other.dtype == torch.float32
        # The linear map before it was rounded.
        assert float((one - other).norm() / one.norm().clamp_min(1e-2)) < 0.03


# ------------------------------------------------------------------------------------------- changed compositions


class Twice(BinaryTreeLSTM):
    """A subclass with a formula of its own."""

    def forward(self, left: Tensor, right: Tensor, tracker: Tensor | None = None) -> Tensor:
        return 2 * super().forward(left, right, tracker)


class Noisy(TreeRNN):
    """With dropout inside."""

    def forward(self, left: Tensor, right: Tensor, tracker: Tensor | None = None) -> Tensor:
        return nn.functional.dropout(super().forward(left, right, tracker), 0.5)


def by_hand(composition: Composition) -> bool:
    return not isinstance(composition.cell(1, torch.zeros(1)), RecomputingCell)


def test_a_subclass_keeps_its_own_formula():
    torch.manual_seed(0)
    cell = Twice(E, D)
    assert not by_hand(cell)
    left, right = torch.randn(2, 1, E)
    trace = lockstep.trace(torch.tensor([[0, 0, 1]]), torch.tensor([2]))
    roots = StackMachine(cell)(torch.stack((left, right), dim=1), trace).roots
    torch.testing.assert_close(roots, cell(cell.leaf(left), cell.leaf(right))[:, :D])


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_parametrised_weights_get_their_gradients(name):
    cell = build_composition(name, E, D)
    assert by_hand(cell)
    nn.utils.parametrizations.weight_norm(cell.combine)
    assert not by_hand(cell)
    StackMachine(cell)(embeddings_of(), trace_of()).roots.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in cell.parameters())


def test_shared_weights_a_missing_bias_and_hooks_go_another_way():
    tied, without, hooked = (build_composition("tree_rnn", D, D) for _ in range(3))
    tied.combine.bias = tied.project.bias
    without.combine = nn.Linear(2 * D, D, bias=False)
    hooked.combine.register_forward_hook(lambda module, inputs, output: 2 * output)
    assert not any(map(by_hand, (tied, without, hooked)))
    StackMachine(without)(torch.randn(4, 6, D), trace_of()).roots.sum().backward()


def test_noise_inside_of_a_composition_is_the_same_in_backward():
    """Against finite differences with the same seed."""
    torch.manual_seed(0)
    machine = StackMachine(Noisy(E, D)).double()
    given, trace = embeddings_of(torch.float64), trace_of()

    def loss(x: Tensor) -> Tensor:
        torch.manual_seed(3)
        return machine(x, trace).roots.square().sum()

    (gradient,) = torch.autograd.grad(loss(given), given)
    state = torch.get_rng_state()
    direction, step = torch.randn_like(given), 1e-6
    torch.set_rng_state(state)
    with torch.no_grad():
        slope = (loss(given + step * direction) - loss(given - step * direction)) / (2 * step)
    assert math.isclose(float(slope), float((gradient * direction).sum()), rel_tol=1e-5)


def test_backward_leaves_the_generators_alone():
    machine, given = StackMachine(Noisy(E, D)), embeddings_of()
    roots = machine(given, trace_of()).roots
    state = torch.get_rng_state()
    roots.sum().backward()
    assert torch.equal(torch.get_rng_state(), state)


class OfOnesOwn(Composition):
    """Not one of ours."""

    def __init__(self) -> None:
        super().__init__(E, D, tracker_size=H)
        self.project, self.combine = nn.Linear(E, D), nn.Linear(2 * D + H, D)

    def leaf(self, embeddings: Tensor) -> Tensor:
        return self.project(embeddings)

    def forward(self, left: Tensor, right: Tensor, tracker: Tensor | None = None) -> Tensor:
        assert tracker is not None
        return self.combine(torch.cat((left, right, tracker), dim=1)).sin()


def test_gradients_of_a_composition_of_ones_own_are_new_every_time():
    torch.manual_seed(0)
    machine = StackMachine(OfOnesOwn(), Tracker(D, H))
    roots, weights = machine(embeddings_of(), trace_of()).roots, list(machine.parameters())
    first = torch.autograd.grad(roots.sum(), weights, retain_graph=True)
    kept = [gradient.clone() for gradient in first]
    second = torch.autograd.grad(roots.sum(), weights)
    torch.testing.assert_close(second, tuple(kept))
    assert all(torch.equal(a, b) for a, b in zip(first, kept, strict=True))


# -------------------------------------------------------------------------------------- between forward and backward


@pytest.mark.parametrize("tracker_size", [0, H])
@pytest.mark.parametrize("name", COMPOSITIONS)
def test_weights_that_changed_meanwhile_are_noticed(name, tracker_size):
    machine = machine_of(name, tracker_size)
    roots = machine(embeddings_of(), trace_of()).roots
    with torch.no_grad():
        machine.composition.combine.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        roots.sum().backward()


@pytest.mark.parametrize("tracker_size", [0, H])
def test_a_backward_that_broke_can_be_done_again(tracker_size, monkeypatch):
    machine, given = machine_of(tracker_size=tracker_size), embeddings_of()
    roots = machine(given, trace_of()).roots
    (wanted,) = torch.autograd.grad(machine(given, trace_of()).roots.sum(), given)
    whole, calls = Product.backward, 0

    def breaking(self: Product, grad: Tensor, out: Tensor | None = None) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise MemoryError("no more")
        return whole(self, grad, out)

    monkeypatch.setattr(Product, "backward", breaking)
    with pytest.raises(MemoryError, match="no more"):
        roots.sum().backward(retain_graph=True)
    monkeypatch.setattr(Product, "backward", whole)
    torch.testing.assert_close(torch.autograd.grad(roots.sum(), given)[0], wanted)
