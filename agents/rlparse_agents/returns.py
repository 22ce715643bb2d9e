"""Returns of single decisions: where a parse's reward falls, and what of it each decision is credited with.

Time passes at the decisions that are *taken* and nowhere else: forced decisions and those after the end of a row are
left out of every sum, and a reward that falls there belongs to the taken decision before it.
"""

from __future__ import annotations

import torch
from torch import Tensor


def final_rewards(returns: Tensor, taken: Tensor) -> Tensor:
    """Give every row's reward to its last taken decision.

    Args:
        returns: [R] float. What each parse earned at its end.
        taken: [R, M] bool. True where a decision was taken.

    Returns:
        [R, M] float, without gradient; zeros where nothing was taken, and in rows that took no decision.

    Raises:
        ValueError: Shapes do not fit each other.
    """
    if taken.dim() != 2 or returns.shape != taken.shape[:1]:
        raise ValueError(
            f"returns must be [R] and taken [R, M], got {tuple(returns.shape)} and {tuple(taken.shape)}"
        )
    last = taken & (taken.flip(1).cumsum(1).flip(1) == 1)
    return torch.where(last, returns.detach().unsqueeze(1), 0.0)


def gae(rewards: Tensor, values: Tensor, taken: Tensor, *, gamma: float = 1.0, lam: float = 1.0) -> Tensor:
    """Estimate the advantage of every decision from a critic's values before and after it.

        delta[m] = r[m] + gamma V[m + 1] - V[m],      A[m] = sum_{l >= 0} (gamma lam)^l delta[m + l]

    over the decisions taken; after the last one the value is 0, because the parse is complete. With gamma = lam = 1 it
    is the return less the value, unbiased whatever the values are; lam < 1 trades variance for the bias of the critic.
    Targets for the critic are ``advantages + values``.
    Reference: Schulman et al. 2015, "High-Dimensional Continuous Control Using Generalized Advantage Estimation".

    Args:
        rewards: [R, M] float, such as `final_rewards` gives. Those before a row's first taken decision depend on none
            and are left out.
        values: [R, M] float. The critic's, before each decision.
        taken: [R, M] bool. True where a decision was taken.
        gamma: Discount, in [0, 1].
        lam: In [0, 1].

    Returns:
        [R, M] float. Advantages, without gradient, 0 where nothing was taken.

    Raises:
        ValueError: Shapes do not fit each other, or ``gamma`` or ``lam`` is not in [0, 1].
    """
    if rewards.dim() != 2 or values.shape != rewards.shape or taken.shape != rewards.shape:
        raise ValueError(
            "rewards, values and taken must be [R, M], "
            f"got {tuple(rewards.shape)}, {tuple(values.shape)} and {tuple(taken.shape)}"
        )
    if not (0.0 <= gamma <= 1.0 and 0.0 <= lam <= 1.0):
        raise ValueError(f"gamma and lam must be in [0, 1], got {gamma} and {lam}")
    rewards, values = rewards.detach(), values.detach()
    M = rewards.shape[1]
    # The taken decisions move together: the first of a row to column 1, the second to 2; column 0 is before them all.
    column = taken.cumsum(1)
    gathered = rewards.new_zeros(2, len(rewards), M + 2)
    gathered[0].scatter_add_(1, column, rewards)
    gathered[1].scatter_add_(1, column, values.masked_fill(~taken, 0.0))
    r, v = gathered[:, :, 1:]
    deltas = r[:, :-1] + gamma * v[:, 1:] - v[:, :-1]  # [R, M]
    apart = torch.arange(M, device=rewards.device)
    apart = apart.unsqueeze(1) - apart  # entry [m + l, m] is l
    weights = torch.pow(gamma * lam, apart.clamp_min(0).to(deltas.dtype)).tril()
    advantages: Tensor = deltas @ weights
    return advantages.gather(1, (column - 1).clamp_min(0)).masked_fill(~taken, 0.0)
