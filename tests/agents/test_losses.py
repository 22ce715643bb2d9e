"""Losses of the policy: formulas, scaling, what passes a gradient, and shapes."""

from __future__ import annotations

import pytest
import torch

from rlparse_agents.losses import mean_over_free, policy_gradient_loss


def random_case(rows: int = 4, steps: int = 5):
    torch.manual_seed(0)
    log_probs = -torch.rand(rows, steps, dtype=torch.float64)
    advantages = torch.randn(rows, dtype=torch.float64)
    free = torch.rand(rows, steps) < 0.6
    return log_probs.masked_fill(~free, 0.0), advantages, free


def test_the_loss_is_its_formula():
    log_probs, advantages, free = random_case()
    total, count = 0.0, 0
    for r in range(4):
        for t in range(5):
            if free[r, t]:
                total += advantages[r].item() * log_probs[r, t].item()
                count += 1
    assert policy_gradient_loss(log_probs, advantages, free).item() == pytest.approx(-total / count)


def test_it_is_divided_by_the_number_of_free_decisions():
    """A batch and the same batch twice have the same loss; forced decisions change nothing."""
    log_probs, advantages, free = random_case()
    loss = policy_gradient_loss(log_probs, advantages, free)
    twice = policy_gradient_loss(log_probs.repeat(2, 1), advantages.repeat(2), free.repeat(2, 1))
    torch.testing.assert_close(twice, loss)
    forced = torch.zeros(4, 3)
    more = policy_gradient_loss(
        torch.cat((log_probs, forced), dim=1), advantages, torch.cat((free, forced.bool()), dim=1)
    )
    torch.testing.assert_close(more, loss)
    whole = loss * free.sum()
    rows = [
        policy_gradient_loss(log_probs[r : r + 1], advantages[r : r + 1], free[r : r + 1]) * free[r].sum()
        for r in range(4)
    ]
    torch.testing.assert_close(torch.stack(rows).sum(), whole)


def test_the_gradient_raises_what_was_better_than_expected():
    log_probs = torch.full((2, 1), -0.7, requires_grad=True)
    policy_gradient_loss(log_probs, torch.tensor([1.0, -2.0]), torch.ones(2, 1, dtype=torch.bool)).backward()
    assert log_probs.grad is not None
    assert log_probs.grad.flatten().tolist() == [-0.5, 1.0]  # minus the advantage, over two free decisions


def test_advantages_get_no_gradient():
    log_probs, advantages, free = random_case()
    log_probs.requires_grad_()
    advantages.requires_grad_()
    policy_gradient_loss(log_probs, advantages, free).backward()
    assert log_probs.grad is not None
    assert not log_probs.grad[~free].any()
    assert advantages.grad is None


def test_without_a_free_decision_the_loss_is_zero():
    log_probs = torch.zeros(3, 1, requires_grad=True)
    loss = policy_gradient_loss(log_probs, torch.randn(3), torch.zeros(3, 1, dtype=torch.bool))
    assert loss.item() == 0.0
    loss.backward()
    assert log_probs.grad is not None
    assert not log_probs.grad.any()


def test_the_mean_is_over_free_decisions_only():
    values = torch.tensor([[1.0, float("nan"), 3.0], [float("inf"), 5.0, 7.0]])
    free = torch.tensor([[True, False, True], [False, True, False]])
    assert mean_over_free(values, free).item() == 3.0
    assert mean_over_free(values, torch.zeros_like(free)).item() == 0.0


@pytest.mark.parametrize(
    ("log_probs", "advantages", "free"),
    [((3, 5), (3,), (3, 4)), ((3, 5), (2,), (3, 5)), ((3, 5), (3, 1), (3, 5)), ((3,), (3,), (3,))],
)
def test_shapes_must_fit(log_probs, advantages, free):
    message = r"log_probs and free must be \[R, T\] and advantages \[R\], got \(.*\), \(.*\) and \("
    with pytest.raises(ValueError, match=message):
        policy_gradient_loss(
            torch.zeros(log_probs), torch.zeros(advantages), torch.ones(free, dtype=torch.bool)
        )
