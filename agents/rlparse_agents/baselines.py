"""Baselines: numbers that do not depend on the parse they judge, subtracted from its return.

Returns are [G, K]: K parses in each of G groups. A group is an example (G = B) where both its sentences share a reward,
and a sentence of an example (G = S * B, all first sentences, then all second ones) where pairs are scored crosswise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from rlparse.errors import CheckpointError


def leave_one_out_advantages(returns: Tensor) -> Tensor:
    """Subtract from every sampled parse the mean return of the other parses of its group.

        A[g, k] = R[g, k] - 1 / (K - 1) * sum_{j != k} R[g, j]

    The baseline of a sample never depends on that sample, so the policy gradient stays unbiased.
    Reference: Kool et al. 2019, "Buy 4 REINFORCE Samples, Get a Baseline for Free!".

    Args:
        returns: [G, K] float. Returns of K >= 2 parses for each of G groups.

    Returns:
        [G, K] float. Advantages, without gradient; each row sums to 0.

    Raises:
        ValueError: ``returns`` is not [G, K] or K < 2.
    """
    K = _several_parses(returns)
    # R - (sum - R) / (K - 1), which is the deviation from the mean stretched by K / (K - 1).
    return group_mean_advantages(returns) * (K / (K - 1))


def group_mean_advantages(returns: Tensor) -> Tensor:
    """Subtract from every sampled parse the mean return of its whole group, itself included.

        A[g, k] = R[g, k] - 1 / K * sum_j R[g, j]

    The baseline holds 1/K of the return it judges, which shrinks the expected gradient to (K - 1) / K of the exact one
    and leaves its direction alone. References: Shao et al. 2024, "DeepSeekMath" (GRPO, which also divides by the
    group's standard deviation); Liu et al. 2025, "Understanding R1-Zero-Like Training" (Dr. GRPO, which does not).

    Args:
        returns: [G, K] float. Returns of K >= 2 parses for each of G groups.

    Returns:
        [G, K] float. Advantages, without gradient; each row sums to 0.

    Raises:
        ValueError: ``returns`` is not [G, K] or K < 2.
    """
    _several_parses(returns)
    returns = returns.detach()
    return returns - returns.mean(dim=1, keepdim=True)


def no_baseline(returns: Tensor) -> Tensor:
    """Judge every parse by its bare return (Williams 1992): [G, K] float to [G, K] float, without gradient."""
    return returns.detach()


def greedy_advantages(returns: Tensor, greedy: Tensor) -> Tensor:
    """Subtract from every sampled parse the return of the likeliest one.

        A[g, k] = R[g, k] - R(greedy parse of g)

    The greedy parse depends on the weights but not on what was sampled, so the policy gradient stays unbiased. It costs
    an encoding more for each example.
    Reference: Rennie et al. 2016, "Self-critical Sequence Training for Image Captioning".

    Args:
        returns: [G, K] float.
        greedy: [G] float. Returns of the greedy parses.

    Returns:
        [G, K] float. Advantages, without gradient.

    Raises:
        ValueError: Shapes do not fit each other.
    """
    if returns.dim() != 2 or greedy.shape != returns.shape[:1]:
        raise ValueError(
            f"returns must be [G, K] and greedy [G], got {tuple(returns.shape)} and {tuple(greedy.shape)}"
        )
    return (returns - greedy.unsqueeze(1)).detach()


def value_advantages(returns: Tensor, values: Tensor) -> Tensor:
    """Subtract what a critic expected.

        A[g, k] = R[g, k] - V(g)

    A value that reads only the sentences leaves the policy gradient unbiased however wrong it is. Values before single
    decisions are for `rlparse_agents.returns.gae`. Reference: Sutton et al. 2000, "Policy Gradient Methods for
    Reinforcement Learning with Function Approximation".

    Args:
        returns: [G, K] float.
        values: [G] float, one for every group.

    Returns:
        [G, K] float. Advantages, without gradient.

    Raises:
        ValueError: Shapes do not fit each other.
    """
    if returns.dim() != 2 or values.shape != returns.shape[:1]:
        raise ValueError(
            f"returns must be [G, K] with values [G], got {tuple(returns.shape)} and {tuple(values.shape)}"
        )
    return (returns - values.unsqueeze(1)).detach()


class MovingAverage:
    """A baseline that is the same for all: an exponential moving average of the batches' mean returns.

        b <- (1 - mu) b + mu mean(R),   b = mean(R) after the first batch

    A batch is judged by the average of the batches before it (the first one by its bare returns), because an average
    that held the batch itself would depend on what was sampled. `advantages` therefore changes nothing; call `update`
    once the batch has been used.
    References: Williams 1992, "Simple Statistical Gradient-Following Algorithms for Connectionist RL"; mu = 0.1 is that
    of Williams et al. 2018, "Do latent tree learning models identify meaningful structure in sentences?".

    Args:
        rate: mu, in (0, 1].

    Attributes:
        value: The average so far, a float or a scalar tensor; None before the first batch.

    Raises:
        ValueError: ``rate`` is not in (0, 1].
    """

    def __init__(self, rate: float = 0.1) -> None:
        if not 0.0 < rate <= 1.0:
            raise ValueError(f"rate must be in (0, 1], got {rate}")
        self.rate = rate
        self.value: Tensor | float | None = None

    def advantages(self, returns: Tensor) -> Tensor:
        """Subtract the average of earlier batches: float of any shape to the same shape, without gradient."""
        returns = returns.detach()
        if self.value is None:
            return returns
        return returns - torch.as_tensor(self.value, dtype=returns.dtype, device=returns.device)

    def update(self, returns: Tensor) -> None:
        """Take a batch's returns, float of any shape, into the average."""
        mean = returns.detach().mean()
        if self.value is None:
            self.value = mean
        else:
            before = torch.as_tensor(self.value, dtype=mean.dtype, device=mean.device)
            self.value = torch.lerp(before, mean, self.rate)

    def state_dict(self) -> dict[str, float | None]:
        """Give what continuing needs, as plain numbers."""
        return {"value": None if self.value is None else float(self.value)}

    def load_state_dict(self, state: Mapping[str, float | None]) -> None:
        """Continue from where a state was taken.

        Raises:
            CheckpointError: It is not the state of a moving average.
        """
        if set(state) != {"value"}:
            raise CheckpointError(f"the state of a moving average has value, found {sorted(state)}")
        self.value = state["value"]


def crosswise_returns(rewards: Tensor) -> Tensor:
    """Turn the rewards of all pairs of parses into a return for every parse of either sentence.

        R_premise[b, i] = 1/K sum_j r[b, i, j],     R_hypothesis[b, j] = 1/K sum_i r[b, i, j]

    K parses of each sentence, scored crosswise, are K^2 samples of the reward for 2K encodings. Given its own parse, a
    row's return is an unbiased estimate of the expected reward. Leave-one-out on the returns is leave-one-out on rows
    and columns, because the mean over the other sentence's parses can be taken before or after:

        A_premise[b, i] = 1/K sum_j ( r[b, i, j] - 1 / (K - 1) sum_{i' != i} r[b, i', j] )

    and unbiased, because what it subtracts does not depend on parse i. So is every other baseline that is unbiased for
    one sentence.

    Args:
        rewards: [B, K, K] float. Of premise parse i with hypothesis parse j of example b.

    Returns:
        [2 B, K] float. All premises, then all hypotheses; without gradient.

    Raises:
        ValueError: ``rewards`` is not [B, K, K].
    """
    if rewards.dim() != 3 or rewards.shape[1] != rewards.shape[2]:
        raise ValueError(f"rewards of crosswise pairs must be [B, K, K], got {tuple(rewards.shape)}")
    rewards = rewards.detach()
    return torch.cat((rewards.mean(dim=2), rewards.mean(dim=1)))


def spread_over_rows(values: Tensor, n_rows: int) -> Tensor:
    """Give every row of a batch the value of its group's parse.

    Args:
        values: [G, K] float; G = B is shared by an example's sentences, G = S * B is one for each.
        n_rows: R = S * B * K.

    Returns:
        [R] float. Row s * B * K + b * K + k is sentence s of example b, parse k.

    Raises:
        ValueError: ``n_rows`` is no multiple of G * K.
    """
    if values.dim() != 2 or not values.numel() or n_rows % values.numel():
        raise ValueError(
            f"{n_rows} rows cannot share values that must be [G, K] and are {tuple(values.shape)}: "
            "the number of rows must be a multiple of G * K"
        )
    return values.flatten().repeat(n_rows // values.numel())


def _several_parses(returns: Tensor) -> int:
    """K, which must be at least 2."""
    if returns.dim() != 2 or returns.shape[1] < 2:
        raise ValueError(f"returns must be [B, K] with K >= 2 parses per example, got {tuple(returns.shape)}")
    return returns.shape[1]


BASELINES: dict[str, Callable[[Tensor], Tensor]] = {
    "leave_one_out": leave_one_out_advantages,
    "none": no_baseline,
    "group_mean": group_mean_advantages,
}
"""Advantage estimators that need nothing but the returns: [G, K] returns to [G, K] advantages."""

BASELINE_NAMES = ("none", "moving_average", "value", "step_value", "greedy", "leave_one_out", "group_mean")
"""All baselines by the names that configurations use.

``moving_average`` is `MovingAverage`; ``value`` is `value_advantages`, ``step_value`` `rlparse_agents.returns.gae`,
each with its critic of `rlparse_agents.critics`; ``greedy`` is `greedy_advantages`.
"""

NEEDS_SEVERAL_PARSES = frozenset({"leave_one_out", "group_mean"})
"""Baselines that compare the parses of one group, and so need K >= 2."""
