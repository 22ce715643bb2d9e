"""Baselines: numbers that do not depend on the parse they judge, subtracted from its return."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def leave_one_out_advantages(returns: Tensor) -> Tensor:
    """Subtract from every sampled parse the mean return of the other parses of its example.

        A[b, k] = R[b, k] - 1 / (K - 1) * sum_{j != k} R[b, j]

    The baseline of a sample never depends on that sample, so the policy gradient stays unbiased.
    Reference: Kool et al. 2019, "Buy 4 REINFORCE Samples, Get a Baseline for Free!".

    Args:
        returns: [B, K] float. Returns of K >= 2 parses for each of B examples.

    Returns:
        [B, K] float. Advantages, without gradient; each row sums to 0.

    Raises:
        ValueError: ``returns`` is not [B, K] or K < 2.
    """
    if returns.dim() != 2 or returns.shape[1] < 2:
        raise ValueError(f"returns must be [B, K] with K >= 2 parses per example, got {tuple(returns.shape)}")
    returns = returns.detach()
    K = returns.shape[1]
    # R - (sum - R) / (K - 1), which is the deviation from the mean stretched by K / (K - 1).
    return (returns - returns.mean(dim=1, keepdim=True)) * (K / (K - 1))


def no_baseline(returns: Tensor) -> Tensor:
    """Judge every parse by its bare return (Williams 1992): [B, K] float to [B, K] float, without gradient."""
    return returns.detach()


BASELINES: dict[str, Callable[[Tensor], Tensor]] = {
    "leave_one_out": leave_one_out_advantages,
    "none": no_baseline,
}
"""Advantage estimators by the name that configurations use: [B, K] returns to [B, K] advantages."""
