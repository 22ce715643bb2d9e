"""Compositions agree with their formulas, gate by gate, with every option."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rlparse.models.composition import COMPOSITIONS, Composition, build_composition
from slow_reference import compose_formula, leaf_formula

E, D = 5, 4


def build(name: str, *, layer_norm: bool | None = None, tracker_size: int = 0, seed: int = 0) -> Composition:
    """A composition in double precision whose every parameter is random, gains and biases too."""
    torch.manual_seed(seed)
    cell = build_composition(name, E, D, tracker_size=tracker_size, layer_norm=layer_norm).double()
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.normal_()
    return cell


def pair(cell: Composition, rows: int = 6) -> tuple[Tensor, Tensor]:
    left, right = torch.randn(2, rows, cell.state_size, dtype=torch.float64)
    return left, right


@pytest.mark.parametrize("name", COMPOSITIONS)
@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("tracker_size", [0, 3])
def test_composition_is_its_formula(name, layer_norm, tracker_size):
    cell = build(name, layer_norm=layer_norm, tracker_size=tracker_size)
    left, right = pair(cell)
    tracker = torch.randn(6, tracker_size, dtype=torch.float64) if tracker_size else None
    composed = cell(left, right, tracker)
    for row in range(6):
        fed = () if tracker is None else (tracker[row],)
        expected = compose_formula(cell, left[row], right[row], *fed)
        torch.testing.assert_close(composed[row], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", COMPOSITIONS)
@pytest.mark.parametrize("layer_norm", [False, True])
def test_leaf_is_its_formula(name, layer_norm):
    cell = build(name, layer_norm=layer_norm)
    embeddings = torch.randn(2, 3, E, dtype=torch.float64)
    leaves = cell.leaf(embeddings)
    assert leaves.shape == (2, 3, cell.state_size)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(leaves[i, j], leaf_formula(cell, embeddings[i, j]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_left_and_right_are_not_the_same(name):
    cell = build(name)
    left, right = pair(cell)
    assert not torch.allclose(cell(left, right), cell(right, left))


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_every_input_and_parameter_matters(name):
    cell = build(name, layer_norm=True, tracker_size=3)
    inputs = [*pair(cell), torch.randn(6, 3, dtype=torch.float64)]
    for x in inputs:
        x.requires_grad_()
    embeddings = torch.randn(6, E, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 6, cell.state_size, dtype=torch.float64)
    ((cell(*inputs) * weights[0]).sum() + (cell.leaf(embeddings) * weights[1]).sum()).backward()
    for x in (*inputs, embeddings, *cell.parameters()):
        assert x.grad is not None
        assert (x.grad.abs() > 0).any()


@pytest.mark.parametrize(("name", "width"), [("tree_rnn", D), ("tree_lstm", 2 * D), ("gated", D)])
def test_hidden_is_the_front_of_the_state(name, width):
    cell = build(name)
    assert cell.state_size == width
    state = torch.randn(2, 3, width)
    assert torch.equal(cell.hidden(state), state[:, :, :D])


@pytest.mark.parametrize(("name", "default"), [("tree_rnn", False), ("tree_lstm", False), ("gated", True)])
def test_each_composition_has_its_own_default_of_layer_norm(name, default):
    assert build_composition(name, E, D).layer_norm is default
    for wanted in (False, True):
        assert build_composition(name, E, D, layer_norm=wanted).layer_norm is wanted


@pytest.mark.parametrize("layer_norm", [False, True])
def test_forget_gates_of_a_new_tree_lstm_are_biased_open(layer_norm):
    bias = build_composition("tree_lstm", E, D, layer_norm=layer_norm).combine.bias
    assert torch.equal(bias[D : 3 * D], torch.ones(2 * D))
    assert not (bias[:D] == 1).any()
    assert not (bias[3 * D :] == 1).any()


def test_the_gated_cell_keeps_deep_trees_in_size():
    """Its norm holds every node's vector to mean 0 and variance 1; TreeRNN and gated cell without norm do not."""
    cell = build("gated", seed=1)
    state = cell.leaf(torch.randn(3, E, dtype=torch.float64))
    for _ in range(50):
        state = cell(state, state)
    torch.testing.assert_close(state.mean(-1), torch.zeros(3, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(
        state.var(-1, correction=0), torch.ones(3, dtype=torch.float64), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_a_tracker_state_comes_exactly_when_due(name):
    with_tracker, without = build(name, tracker_size=3), build(name)
    with pytest.raises(ValueError, match="built with tracker_size=3, got no tracker state"):
        with_tracker(*pair(with_tracker))
    with pytest.raises(ValueError, match=r"built with tracker_size=0, got a tracker state \(6, 3\)"):
        without(*pair(without), torch.randn(6, 3))


def test_unknown_composition():
    with pytest.raises(ValueError, match="unknown composition 'lstm'; known: tree_rnn, tree_lstm, gated"):
        build_composition("lstm", E, D)
