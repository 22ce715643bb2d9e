"""Baselines: what is subtracted from a return never depends on the parse it judges."""

from __future__ import annotations

import pytest
import torch

from rlparse.errors import CheckpointError
from rlparse_agents.baselines import (
    BASELINE_NAMES,
    BASELINES,
    NEEDS_SEVERAL_PARSES,
    MovingAverage,
    crosswise_returns,
    greedy_advantages,
    group_mean_advantages,
    leave_one_out_advantages,
    no_baseline,
    spread_over_rows,
    value_advantages,
)


def random_returns(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


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


@pytest.mark.parametrize("name", sorted(set(BASELINES) - {"group_mean"}))
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


def test_the_group_mean_is_the_mean_of_all_parses():
    returns = random_returns(3, 4)
    advantages = group_mean_advantages(returns)
    for g in range(3):
        for k in range(4):
            expected = returns[g, k].item() - sum(returns[g].tolist()) / 4
            assert advantages[g, k].item() == pytest.approx(expected, abs=1e-12)


def test_the_known_baselines():
    assert list(BASELINES) == ["leave_one_out", "none", "group_mean"]
    assert set(BASELINES) < set(BASELINE_NAMES)
    assert set(BASELINES) > NEEDS_SEVERAL_PARSES


@pytest.mark.parametrize("name", BASELINE_NAMES)
def test_baselines_that_compare_parses_are_known_as_such(name):
    if name in NEEDS_SEVERAL_PARSES:
        with pytest.raises(ValueError, match="K >= 2"):
            BASELINES[name](torch.zeros(3, 1))
    elif name in BASELINES:
        assert not BASELINES[name](torch.zeros(3, 1)).any()


@pytest.mark.parametrize("shape", [(4, 1), (4,), (2, 2, 2), (3, 0)])
@pytest.mark.parametrize("advantages", [leave_one_out_advantages, group_mean_advantages])
def test_a_group_needs_two_parses(advantages, shape):
    with pytest.raises(ValueError, match=r"returns must be \[B, K\] with K >= 2 parses per example, got \("):
        advantages(torch.zeros(shape))


# --------------------------------------------------------------------------------------------- greedy and values


def test_the_greedy_parse_is_the_baseline_of_all_parses_of_its_group():
    returns, greedy = random_returns(3, 4), random_returns(3) + 1
    advantages = greedy_advantages(returns.requires_grad_(), greedy.requires_grad_())
    assert not advantages.requires_grad
    for g in range(3):
        for k in range(4):
            assert advantages[g, k].item() == returns[g, k].item() - greedy[g].item()


@pytest.mark.parametrize(("returns", "greedy"), [((3, 4), (4,)), ((3, 4), (3, 1)), ((3,), (3,))])
def test_a_greedy_return_belongs_to_each_group(returns, greedy):
    with pytest.raises(ValueError, match=r"returns must be \[G, K\] and greedy \[G\], got \("):
        greedy_advantages(torch.zeros(returns), torch.zeros(greedy))


def test_values_are_subtracted_from_every_parse():
    of_groups = value_advantages(random_returns(3, 4), torch.tensor([1.0, 2.0, 3.0], requires_grad=True))
    assert not of_groups.requires_grad
    for g in range(3):
        for k in range(4):
            assert of_groups[g, k].item() == pytest.approx(random_returns(3, 4)[g, k].item() - (g + 1))


@pytest.mark.parametrize(("returns", "values"), [((3, 4), (4,)), ((3,), (3,)), ((3, 4), (3, 4))])
def test_values_must_fit_the_returns(returns, values):
    with pytest.raises(ValueError, match=r"returns must be \[G, K\] with values \[G\], got \("):
        value_advantages(torch.zeros(returns), torch.zeros(values))


# ------------------------------------------------------------------------------------------------ moving average


def test_a_batch_is_judged_by_the_batches_before_it():
    average = MovingAverage(0.1)
    batches = [random_returns(2, 3) + k for k in range(4)]
    held = None
    for returns in batches:
        advantages = average.advantages(returns)
        assert torch.equal(advantages, average.advantages(returns))  # asking changes nothing
        expected = returns if held is None else returns - held
        torch.testing.assert_close(advantages, expected, rtol=0, atol=1e-12)
        average.update(returns)
        mean = sum(returns.flatten().tolist()) / 6
        held = mean if held is None else 0.9 * held + 0.1 * mean
    assert float(average.value) == pytest.approx(held, abs=1e-12)


def test_a_moving_average_passes_no_gradient():
    average = MovingAverage()
    average.update(random_returns(2, 3).requires_grad_())
    assert not average.value.requires_grad
    assert not average.advantages(random_returns(2, 3).requires_grad_()).requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batches_before", [0, 1, 3])
def test_a_moving_average_goes_on_where_it_was(dtype, batches_before):
    one, other = MovingAverage(0.3), MovingAverage(0.3)
    for k in range(batches_before):
        one.update((random_returns(2, 3) + k).to(dtype))
    other.load_state_dict(one.state_dict())
    for k in range(2):
        returns = (random_returns(2, 3) - k).to(dtype)
        assert torch.equal(one.advantages(returns), other.advantages(returns))
        one.update(returns)
        other.update(returns)
    assert one.state_dict() == other.state_dict()


def test_a_moving_average_takes_its_own_state_only():
    with pytest.raises(CheckpointError, match="the state of a moving average has value, found"):
        MovingAverage().load_state_dict({"variance": 1.0})


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.5])
def test_the_rate_of_a_moving_average_is_a_share(rate):
    with pytest.raises(ValueError, match=r"rate must be in \(0, 1\], got"):
        MovingAverage(rate)


# -------------------------------------------------------------------------------------------------- crosswise


def test_crosswise_leave_one_out_is_that_of_rows_and_columns():
    """Against the obvious: for every pair the mean of the other rows (columns), then the mean over the pairs."""
    B, K = 2, 3
    rewards = random_returns(B, K, K)
    advantages = leave_one_out_advantages(crosswise_returns(rewards))
    assert advantages.shape == (2 * B, K)
    for b in range(B):
        r = rewards[b].tolist()
        for k in range(K):
            others = [i for i in range(K) if i != k]
            premise = sum(r[k][j] - sum(r[i][j] for i in others) / (K - 1) for j in range(K)) / K
            hypothesis = sum(r[i][k] - sum(r[i][j] for j in others) / (K - 1) for i in range(K)) / K
            assert advantages[b, k].item() == pytest.approx(premise, abs=1e-12)
            assert advantages[B + b, k].item() == pytest.approx(hypothesis, abs=1e-12)


def test_crosswise_returns_carry_no_gradient():
    assert not crosswise_returns(random_returns(1, 2, 2).requires_grad_()).requires_grad


@pytest.mark.parametrize("shape", [(2, 2), (2, 2, 3), (1, 2, 2, 2)])
def test_crosswise_rewards_are_those_of_all_pairs(shape):
    with pytest.raises(ValueError, match=r"rewards of crosswise pairs must be \[B, K, K\], got \("):
        crosswise_returns(torch.zeros(shape))


@pytest.mark.parametrize(("groups", "sides"), [(3, 1), (3, 2), (6, 2)])
def test_every_row_gets_the_value_of_its_parse(groups, sides):
    """Row s * B * K + b * K + k, of three examples of four parses; three groups are shared by the sentences."""
    values = torch.arange(groups * 4).view(groups, 4)
    rows = spread_over_rows(values, sides * 3 * 4)
    for s in range(sides):
        for b in range(3):
            for k in range(4):
                group = s * 3 + b if groups == 6 else b
                assert rows[s * 12 + b * 4 + k] == values[group, k]


@pytest.mark.parametrize(("shape", "rows"), [((3, 4), 18), ((3,), 3), ((0, 4), 8)])
def test_rows_must_be_a_multiple_of_the_values(shape, rows):
    with pytest.raises(ValueError, match=f"{rows} rows cannot share values that must be"):
        spread_over_rows(torch.zeros(shape), rows)
