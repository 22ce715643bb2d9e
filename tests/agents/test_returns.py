"""Returns of single decisions, against a loop over one row."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rlparse_agents.returns import final_rewards, gae


def random_case(rows: int = 6, steps: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards, values and what was taken, with gaps anywhere and one row that takes nothing."""
    generator = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(2, rows, steps, generator=generator, dtype=torch.float64)
    taken = torch.rand(rows, steps, generator=generator) < 0.6
    taken[0] = True
    taken[1] = False
    taken[2, 0] = False
    return rewards, values, taken


def gae_of_one(rewards: list[float], values: list[float], taken: list[bool], gamma: float, lam: float):
    """A row on its own: list what it lived through, then go back through it."""
    lived: list[list[float]] = []
    where = []
    for m, (reward, value, did) in enumerate(zip(rewards, values, taken, strict=True)):
        if did:
            lived.append([reward, value])
            where.append(m)
        elif lived:
            lived[-1][0] += reward
    advantages = [0.0] * len(rewards)
    later, value_after = 0.0, 0.0
    for m, (reward, value) in zip(reversed(where), reversed(lived), strict=True):
        later = reward + gamma * value_after - value + gamma * lam * later
        value_after = value
        advantages[m] = later
    return advantages


@pytest.mark.parametrize("gamma", [1.0, 0.9, 0.0])
@pytest.mark.parametrize("lam", [1.0, 0.95, 0.5, 0.0])
def test_gae_is_its_recursion_on_every_row(gamma, lam):
    rewards, values, taken = random_case()
    advantages = gae(rewards, values, taken, gamma=gamma, lam=lam)
    slow = [
        gae_of_one(*(part[r].tolist() for part in (rewards, values, taken)), gamma, lam)
        for r in range(len(rewards))
    ]
    torch.testing.assert_close(advantages, torch.tensor(slow, dtype=torch.float64), rtol=0, atol=1e-12)


def test_with_lambda_one_it_is_the_return_less_the_value():
    _, values, taken = random_case()
    returns = torch.arange(6.0, dtype=torch.float64)
    advantages = gae(final_rewards(returns, taken), values, taken)
    expected = (returns.unsqueeze(1) - values).masked_fill(~taken, 0.0)
    torch.testing.assert_close(advantages, expected, rtol=0, atol=1e-12)


def test_with_lambda_zero_it_looks_one_decision_ahead():
    values = torch.tensor([[0.5, 0.7, 0.2]])
    advantages = gae(torch.tensor([[0.0, 0.0, 1.0]]), values, torch.ones(1, 3, dtype=torch.bool), lam=0.0)
    torch.testing.assert_close(advantages, torch.tensor([[0.2, -0.5, 0.8]]))


def test_a_critic_that_is_right_leaves_nothing_to_credit():
    rewards, _, taken = random_case()
    rewards = rewards.masked_fill(~taken, 0.0)
    to_go = rewards.flip(1).cumsum(1).flip(1)
    assert gae(rewards, to_go, taken, lam=0.3).abs().max() < 1e-12


def test_gaps_and_padding_change_nothing():
    rewards, values, _ = random_case()
    taken = torch.ones_like(rewards, dtype=torch.bool)
    dense = gae(rewards, values, taken, gamma=0.9, lam=0.8)

    def with_gaps(part: Tensor, filling: float) -> Tensor:
        gaps = torch.full_like(part, filling)
        return torch.stack((part, gaps), dim=2).flatten(1)

    sparse = gae(
        with_gaps(rewards, 0.0),
        with_gaps(values, float("nan")),
        with_gaps(taken.double(), 0.0).bool(),
        gamma=0.9,
        lam=0.8,
    )
    torch.testing.assert_close(sparse, with_gaps(dense, 0.0))


def test_gae_passes_no_gradient():
    rewards, values, taken = random_case()
    assert not gae(rewards.requires_grad_(), values.requires_grad_(), taken).requires_grad


def test_the_reward_falls_on_the_last_decision_taken():
    taken = torch.tensor([[True, False, True, False], [False] * 4, [True] * 4])
    rewards = final_rewards(torch.tensor([2.0, 3.0, 4.0], requires_grad=True), taken)
    assert rewards.tolist() == [[0, 0, 2, 0], [0] * 4, [0, 0, 0, 4]]
    assert not rewards.requires_grad


@pytest.mark.parametrize(("returns", "taken"), [((3,), (2, 4)), ((3, 4), (3, 4)), ((3,), (3,))])
def test_final_rewards_are_one_a_row(returns, taken):
    with pytest.raises(ValueError, match=r"returns must be \[R\] and taken \[R, M\], got \("):
        final_rewards(torch.zeros(returns), torch.zeros(taken, dtype=torch.bool))


@pytest.mark.parametrize(
    ("rewards", "values", "taken"), [((3, 4), (3, 5), (3, 4)), ((3, 4), (3, 4), (3,)), ((3,), (3,), (3,))]
)
def test_shapes_must_fit(rewards, values, taken):
    with pytest.raises(ValueError, match=r"rewards, values and taken must be \[R, M\], got \("):
        gae(torch.zeros(rewards), torch.zeros(values), torch.zeros(taken, dtype=torch.bool))


@pytest.mark.parametrize(("gamma", "lam"), [(1.1, 1.0), (-0.1, 1.0), (1.0, 2.0), (1.0, -1.0)])
def test_discounts_are_shares(gamma, lam):
    rewards, values, taken = random_case()
    with pytest.raises(ValueError, match=r"gamma and lam must be in \[0, 1\], got"):
        gae(rewards, values, taken, gamma=gamma, lam=lam)
