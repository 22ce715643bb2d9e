"""Dead units and sizes of updates: of weights set by hand, and as a loop over nodes counts them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from rlparse import lockstep
from rlparse.models.nli_model import NLIModel
from rlparse.models.stack_machine import distinct_words
from rlparse_experiments.diagnosis.plasticity import EncoderUnits, UnitCount, copies, update_size


def test_units_are_dead_or_linear_over_all_batches():
    count = UnitCount()
    assert count.units() is None
    count.add(torch.tensor([[1.0, -1.0, 0.0, 2.0], [1.0, -2.0, -1.0, -1.0]]))
    assert count.units() == (4, 0.5, 0.25)
    count.add(torch.tensor([[3.0, -1.0, 1.0, 1.0]]))
    assert count.units() == (4, 0.25, 0.25)
    count.add(torch.tensor([[-1.0, -1.0, 1.0, 1.0]]))
    assert count.units() == (4, 0.25, 0.0)


def watched(model: NLIModel, batch, transitions) -> EncoderUnits:
    units = EncoderUnits(model)
    with torch.no_grad():
        types, words = distinct_words(batch.tokens, model.embedding.num_embeddings)
        trace = lockstep.trace(transitions, batch.lengths)
        encoding = model.machine(model.embedding(types), trace, words)
        units.add(encoding.roots, encoding)
    return units


@pytest.mark.parametrize("schedule", ["by_level", "by_step"])
def test_units_of_the_gated_cell_are_those_of_a_loop_over_nodes(listops, schedule):
    torch.manual_seed(0)
    sizes = {"embedding_size": 4, "hidden_size": 3, "mlp_size": 5, "schedule": schedule}
    model = NLIModel(len(listops.vocabulary), 10, n_sides=1, composition="gated", **sizes)
    batch = listops.batch([0, 1, 2])
    with torch.no_grad():
        model.machine.composition.widen.bias[:4] = torch.tensor([-50.0, -50.0, 50.0, 0.0])
        model.head.widen.bias[:3] = torch.tensor([-50.0, 50.0, 50.0])
    found = watched(model, batch, batch.gold).units()
    cell, before, roots = model.machine.composition, [], []
    with torch.no_grad():
        for row, n in enumerate(batch.lengths.tolist()):
            stack, position = [], 0
            for transition in batch.gold[row, : 2 * n - 1].tolist():
                if transition == 0:
                    stack.append(cell.leaf(model.embedding(batch.tokens[row, position : position + 1])))
                    position += 1
                else:
                    right, left = stack.pop(), stack.pop()
                    before.append(cell.widen(torch.cat((left, right), dim=1)))
                    stack.append(cell(left, right))
            roots.append(model.head.widen(stack[0]))
    for layer, inputs in (("composition", torch.cat(before)), ("classifier", torch.cat(roots))):
        n = inputs.shape[1]
        dead = sum(bool((inputs[:, unit] <= 0).all()) for unit in range(n)) / n
        linear = sum(bool((inputs[:, unit] > 0).all()) for unit in range(n)) / n
        assert found[layer] == pytest.approx((n, dead, linear))
        assert dead > 0
        assert linear > 0


@pytest.mark.parametrize(
    "options", [{"composition": "tree_lstm"}, {"composition": "gated", "tracker_size": 3}]
)
def test_other_compositions_are_not_looked_at(make_logic, options):
    corpus = make_logic("dropped")
    sizes = {"embedding_size": 4, "hidden_size": 3, "mlp_size": 5} | options
    model = NLIModel(len(corpus.vocabulary), len(corpus.labels), **sizes)
    batch = corpus.batch([0, 1])
    assert set(watched(model, batch, batch.gold).units()) == {"classifier"}


def test_the_classifier_is_watched_no_longer_than_asked(listops):
    model = NLIModel(len(listops.vocabulary), 10, n_sides=1, embedding_size=4, hidden_size=3, mlp_size=5)
    watched(model, listops.batch([0]), listops.batch([0]).gold)
    assert not model.head.widen._forward_hooks


def test_the_size_of_an_update_is_relative():
    module = nn.Linear(2, 1)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[3.0, 4.0]]))
        module.bias.zero_()
        before = copies(module)
        module.weight.add_(torch.tensor([[0.3, 0.0]]))
        module.bias.add_(0.4)
    assert update_size(before, module) == pytest.approx(math.hypot(0.3, 0.4) / 5)
    assert update_size(copies(module), module) == 0.0


def test_modules_without_weights_have_no_size():
    assert update_size([], nn.ReLU()) is None
    empty = nn.Linear(1, 1)
    with torch.no_grad():
        empty.weight.zero_()
        empty.bias.zero_()
    assert update_size(copies(empty), empty) is None
