"""Large tables are used again by the next pass, and never by two at once."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from rlparse import lockstep
from rlparse.models import tables
from rlparse.models.composition import COMPOSITIONS, build_composition
from rlparse.models.stack_machine import StackMachine
from rlparse.models.tables import give_back, room
from slow_reference import padded, random_derivation


@pytest.fixture(autouse=True)
def _everything_is_large(monkeypatch):
    monkeypatch.setattr(tables, "LARGE", 1)
    monkeypatch.setattr(tables, "_free", [])


LIKE = torch.zeros(1)


def test_a_table_that_was_given_back_is_given_again():
    first = room(LIKE, 10, 4)
    where = first.data_ptr()
    assert first.shape == (10, 4)
    give_back(first)
    second = room(LIKE, 5, 6)
    assert second.data_ptr() == where
    assert room(LIKE, 5, 6).data_ptr() != where


def test_a_table_serves_only_its_own_kind_and_about_its_size():
    give_back(table := room(LIKE, 100))
    where = table.data_ptr()
    assert room(LIKE.double(), 50).data_ptr() != where
    assert room(LIKE, 20).data_ptr() != where  # less than half of it
    assert room(LIKE, 200).data_ptr() != where
    assert room(LIKE, 104).data_ptr() == where  # made a little larger than it was asked for


def test_only_so_much_is_kept_and_the_newest(monkeypatch):
    monkeypatch.setattr(tables, "MOST", 3000)
    large, *small = room(LIKE, 600), *(room(LIKE, 50) for _ in range(4))
    give_back(large)
    assert len(tables._free) == 1
    for table in small:
        give_back(table)
    assert [block.numel() for block in tables._free] == [56] * 4
    tables.forget()
    assert tables._free == []


def test_inference_mode_leaves_nothing_behind():
    """Its tensors cannot be written outside of it."""
    machine = StackMachine(build_composition("tree_lstm", 6, 6))
    trace = lockstep.trace(padded([[0, 0, 1]]), torch.tensor([2]))
    run(machine, 0)
    with torch.inference_mode():
        machine(torch.randn(1, 2, 6), trace)
        give_back(room(LIKE, 10))
    run(machine, 1)
    run(machine, 2)


def test_small_tables_are_left_to_the_c_library(monkeypatch):
    monkeypatch.setattr(tables, "LARGE", 2**20)
    give_back(room(LIKE, 100))
    assert tables._free == []


def run(machine: StackMachine, seed: int) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    lengths = [int(torch.randint(1, 9, (1,), generator=rng)) for _ in range(5)]
    trace = lockstep.trace(padded([random_derivation(n, rng) for n in lengths]), torch.tensor(lengths))
    embeddings = torch.randn(5, max(lengths), 6, generator=rng).requires_grad_()
    encoding = machine(embeddings, trace)
    loss = encoding.roots.square().sum() + encoding.table.sum()
    return [encoding.roots.detach().clone(), *torch.autograd.grad(loss, (embeddings, *machine.parameters()))]


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("name", COMPOSITIONS)
def test_memory_that_was_used_before_changes_nothing(name, layer_norm, monkeypatch):
    """Batch after batch, against the same in memory that is new every time."""
    torch.manual_seed(0)
    machine = StackMachine(build_composition(name, 6, 6, layer_norm=layer_norm))
    again = [run(machine, seed) for seed in range(6)]
    assert tables._free
    monkeypatch.setattr(tables, "LARGE", 2**40)
    assert all(
        torch.equal(a, b) for seed in range(6) for a, b in zip(again[seed], run(machine, seed), strict=True)
    )


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_two_graphs_at_once_have_tables_of_their_own(name):
    torch.manual_seed(0)
    machine = StackMachine(build_composition(name, 6, 6))
    run(machine, 0)  # so that there are tables to use again
    trace = lockstep.trace(padded([[0, 0, 1, 0, 1]] * 4), torch.tensor([3] * 4))
    one, two = (torch.randn(4, 3, 6, requires_grad=True) for _ in range(2))
    first, second = machine(one, trace).roots.sum(), machine(two, trace).roots.sum()
    of_first = torch.autograd.grad(first, one)[0]
    of_second = torch.autograd.grad(second, two)[0]
    assert torch.equal(of_first, torch.autograd.grad(machine(one, trace).roots.sum(), one)[0])
    assert torch.equal(of_second, torch.autograd.grad(machine(two, trace).roots.sum(), two)[0])


def test_without_gradient_tables_come_back_at_once():
    machine = StackMachine(build_composition("tree_lstm", 6, 6))
    trace = lockstep.trace(padded([[0, 0, 1]]), torch.tensor([2]))
    with torch.no_grad():
        machine(torch.randn(1, 2, 6), trace)
    assert tables._free


@pytest.mark.parametrize("backward", [False, True])
def test_a_graph_that_is_dropped_keeps_nothing(backward):
    machine = StackMachine(build_composition("tree_lstm", 6, 6))
    trace = lockstep.trace(padded([[0, 0, 1]]), torch.tensor([2]))
    gc.collect()
    gc.disable()
    try:
        encoding = machine(torch.randn(1, 2, 6), trace)
        watched = weakref.ref(encoding.table.grad_fn)
        if backward:
            encoding.roots.sum().backward()
        del encoding
        assert watched() is None
    finally:
        gc.enable()
