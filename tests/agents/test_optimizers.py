from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from rlparse_agents.optimizers import OPTIMIZERS, make_optimizer


def by_formula(name: str, weight: float, gradients: list[float], rate: float, decay: float) -> float:
    """The published rules, one number at a time."""
    first = second = moved = 0.0
    for t, gradient in enumerate(gradients, start=1):
        if name == "adam":
            weight -= rate * decay * weight  # decoupled: apart from the moments
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient**2
            weight -= rate * (first / (1 - 0.9**t)) / ((second / (1 - 0.999**t)) ** 0.5 + 1e-8)
            continue
        gradient += decay * weight
        if name == "adadelta":
            second = 0.9 * second + 0.1 * gradient**2
            step = ((moved + 1e-6) / (second + 1e-6)) ** 0.5 * gradient
            moved = 0.9 * moved + 0.1 * step**2
            weight -= rate * step
        elif name == "rmsprop":
            second = 0.99 * second + 0.01 * gradient**2
            weight -= rate * gradient / (second**0.5 + 1e-8)
        else:
            first = gradient if t == 1 else 0.9 * first + gradient
            weight -= rate * first
    return weight


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_follows_its_rule(name, decay):
    weight = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = make_optimizer(name, [weight], 0.05, decay)
    gradients = [0.5, -0.3, 0.8, 0.1]
    for gradient in gradients:
        weight.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
    assert weight.item() == pytest.approx(by_formula(name, 1.0, gradients, 0.05, decay), rel=1e-9)
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (0.05, decay)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_goes_on_from_its_state(name):
    """Three steps are two steps, a state that was saved and loaded, and one step."""

    def steps(optimizer: torch.optim.Optimizer, weight: nn.Parameter, gradients: list[Tensor]) -> None:
        for gradient in gradients:
            weight.grad = gradient.clone()
            optimizer.step()

    gradients = list(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).unbind())
    whole, stopped = (nn.Parameter(torch.ones(4)) for _ in range(2))
    steps(make_optimizer(name, [whole], 0.1, 0.01), whole, gradients)
    before = make_optimizer(name, [stopped], 0.1, 0.01)
    steps(before, stopped, gradients[:2])
    after = make_optimizer(name, [stopped], 0.7, 0.01)
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    steps(after, stopped, gradients[2:])
    assert torch.equal(stopped, whole)


def test_an_unknown_one_is_refused():
    with pytest.raises(ValueError, match="unknown optimizer 'adamax'; known: adam, adadelta, rmsprop, sgd"):
        make_optimizer("adamax", [nn.Parameter(torch.ones(1))], 0.1, 0.0)
