"""Baselines: what is subtracted from a return never depends on the parse it judges."""

from __future__ import annotations

import pytest
import torch

from rlparse_agents.baselines import BASELINES, leave_one_out_advantages, no_baseline


def test_leave_one_out_subtracts_the_mean_of_the_others():
    torch.manual_seed(0)
    returns = torch.randn(5, 4, dtype=torch.float64)
    advantages = leave_one_out_advantages(returns)
    for b in range(5):
        for k in range(4):
            others = [returns[b, j].item() for j in range(4) if j != k]
            expected = returns[b, k].item() - sum(others) / 3
            assert advantages[b, k].item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("n_parses", [2, 3, 8])
def test_advantages_of_an_example_sum_to_zero(n_parses):
    torch.manual_seed(0)
    advantages = leave_one_out_advantages(torch.randn(6, n_parses, dtype=torch.float64))
    torch.testing.assert_close(advantages.sum(dim=1), torch.zeros(6, dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", BASELINES)
def test_the_baseline_does_not_depend_on_its_own_return(name):
    torch.manual_seed(0)
    returns = torch.randn(3, 4, dtype=torch.float64)
    before = returns - BASELINES[name](returns)
    for k in range(4):
        changed = returns.clone()
        changed[:, k] += torch.randn(3, dtype=torch.float64)
        after = changed - BASELINES[name](changed)
        torch.testing.assert_close(after[:, k], before[:, k], atol=1e-12, rtol=0)


def test_a_shift_of_all_returns_changes_no_advantage():
    torch.manual_seed(0)
    returns = torch.randn(3, 4, dtype=torch.float64)
    shifted = returns + torch.tensor([[5.0], [-2.0], [0.1]], dtype=torch.float64)
    torch.testing.assert_close(leave_one_out_advantages(shifted), leave_one_out_advantages(returns))


@pytest.mark.parametrize("name", BASELINES)
def test_advantages_carry_no_gradient_and_leave_the_returns_alone(name):
    returns = torch.randn(2, 3, requires_grad=True)
    kept = returns.detach().clone()
    assert not BASELINES[name](returns).requires_grad
    assert torch.equal(returns, kept)


def test_without_a_baseline_the_return_stands():
    returns = torch.tensor([[1.0, 0.0]])
    assert torch.equal(no_baseline(returns), returns)
    assert torch.equal(no_baseline(returns[:, :1]), returns[:, :1])


def test_the_known_baselines():
    assert list(BASELINES) == ["leave_one_out", "none"]


@pytest.mark.parametrize("shape", [(4, 1), (4,), (2, 2, 2), (3, 0)])
def test_leave_one_out_needs_two_parses(shape):
    with pytest.raises(ValueError, match=r"returns must be \[B, K\] with K >= 2 parses per example, got \("):
        leave_one_out_advantages(torch.zeros(shape))
