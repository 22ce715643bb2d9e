"""Normalisers: what they divide by, and what they leave alone."""

from __future__ import annotations

import statistics

import pytest
import torch

from rlparse.errors import CheckpointError
from rlparse_agents.normalisers import (
    NORMALISER_NAMES,
    NORMALISERS,
    RunningSd,
    batch_sd,
    group_sd,
    leave_as_they_are,
)


def random_advantages(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_none_changes_nothing():
    advantages = random_advantages(3, 4)
    assert torch.equal(leave_as_they_are(advantages), advantages)


@pytest.mark.parametrize("shape", [(3, 4), (12,), (2, 3, 2)])
def test_batch_sd_divides_by_one_number(shape):
    advantages = random_advantages(*shape)
    divisor = statistics.pstdev(advantages.flatten().tolist())
    torch.testing.assert_close(batch_sd(advantages), advantages / divisor)


def test_group_sd_divides_every_group_by_its_own():
    advantages = random_advantages(3, 4) * torch.tensor([[1.0], [10.0], [0.1]])
    normalised = group_sd(advantages)
    for g in range(3):
        divisor = statistics.stdev(advantages[g].tolist()) + 1e-4
        torch.testing.assert_close(normalised[g], advantages[g] / divisor)


@pytest.mark.parametrize("name", ["batch_sd", "group_sd"])
def test_the_scale_of_rewards_does_not_matter(name):
    one, ten = (NORMALISERS[name](random_advantages(5, 4, scale=scale)) for scale in (1.0, 10.0))
    torch.testing.assert_close(one, ten, rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", NORMALISERS)
def test_parses_that_are_equally_good_stay_at_zero(name):
    assert not NORMALISERS[name](torch.zeros(3, 4)).any()


@pytest.mark.parametrize("value", [1.0, -0.3, 1e-5])
@pytest.mark.parametrize("name", ["none", "batch_sd"])
def test_parses_that_are_equally_far_from_the_baseline_are_not_blown_up(name, value):
    """As where every parse of a batch earns 1, and the average of earlier batches was less."""
    advantages = torch.ones(32, 4) - (1.0 - value)  # equal, but their mean is rounded
    assert torch.equal(NORMALISERS[name](advantages), advantages)


def test_batch_sd_takes_one_advantage_and_none():
    assert NORMALISERS["batch_sd"](torch.tensor([[3.0]])).tolist() == [[3.0]]
    assert NORMALISERS["batch_sd"](torch.zeros(0)).numel() == 0


def test_rounding_noise_is_not_blown_up_by_group_sd():
    assert group_sd(1e-7 * random_advantages(3, 4)).abs().max() < 1e-2


@pytest.mark.parametrize("name", NORMALISERS)
def test_normalised_advantages_carry_no_gradient_and_leave_theirs_alone(name):
    advantages = random_advantages(2, 3).requires_grad_()
    kept = advantages.detach().clone()
    assert not NORMALISERS[name](advantages).requires_grad
    assert torch.equal(advantages, kept)


def test_the_known_normalisers():
    assert set(NORMALISER_NAMES) == {*NORMALISERS, "running_sd"}


@pytest.mark.parametrize("shape", [(3, 1), (3,), (2, 2, 2)])
def test_group_sd_needs_groups(shape):
    with pytest.raises(ValueError, match=r"group_sd needs advantages \[G, K\] with K >= 2 .* use normaliser"):
        group_sd(torch.zeros(shape))


def test_running_sd_follows_the_variance_of_the_batches_before():
    running, variance = RunningSd(0.9), 1.0
    for k in range(5):
        advantages = random_advantages(2, 4, scale=3.0 + k)
        normalised = running.normalise(advantages)
        assert torch.equal(normalised, running.normalise(advantages))  # asking changes nothing
        torch.testing.assert_close(normalised, advantages / max(1.0, variance**0.5))
        running.update(advantages)
        variance = 0.9 * variance + 0.1 * statistics.variance(advantages.flatten().tolist())
    assert variance > 2
    assert float(running.variance) == pytest.approx(variance)


def test_running_sd_only_ever_shrinks():
    running = RunningSd(0.0)
    running.update(random_advantages(2, 4, scale=0.01))
    advantages = random_advantages(2, 4)
    assert torch.equal(running.normalise(advantages), advantages)
    running.update(random_advantages(2, 4, scale=100.0))
    assert running.normalise(advantages).abs().max() < 0.1


def test_running_sd_makes_nothing_of_a_single_advantage():
    running = RunningSd()
    running.update(torch.tensor([[5.0]]))
    assert running.state_dict() == {"variance": 1.0}


def test_running_sd_passes_no_gradient():
    running = RunningSd()
    advantages = random_advantages(2, 3).requires_grad_()
    running.update(advantages)
    assert not running.normalise(advantages).requires_grad
    assert not running.variance.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_running_sd_goes_on_where_it_was(dtype):
    one, other = RunningSd(), RunningSd()
    one.update(random_advantages(2, 4, scale=7.0).to(dtype))
    other.load_state_dict(one.state_dict())
    for k in range(2):
        advantages = random_advantages(2, 4, scale=5.0 + k).to(dtype)
        assert torch.equal(one.normalise(advantages), other.normalise(advantages))
        one.update(advantages)
        other.update(advantages)
    assert one.state_dict() == other.state_dict()


def test_running_sd_takes_its_own_state_only():
    with pytest.raises(CheckpointError, match="the state of a running sd has variance, found"):
        RunningSd().load_state_dict({"value": 1.0})


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_the_decay_of_running_sd_is_a_share_below_one(decay):
    with pytest.raises(ValueError, match=r"decay must be in \[0, 1\), got"):
        RunningSd(decay)
