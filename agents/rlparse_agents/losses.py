"""Losses of the policy: pure functions of tensors, lower is better."""

from __future__ import annotations

from torch import Tensor


def policy_gradient_loss(log_probs: Tensor, advantages: Tensor, free: Tensor) -> Tensor:
    """Score-function surrogate: its gradient is minus the REINFORCE estimate, as a mean over free decisions.

        L = - 1/F * sum_{r, t free} A[r] log pi(a[r, t] | s[r, t]),   F = number of free decisions

    Forced transitions have probability 1 and no gradient; leaving them out of F makes the step size independent of how
    many there are. F scales the batch as a whole, so that relative to the sum over decisions the estimate is only
    rescaled (by a factor whose dependence on the sampled parses fades as 1/R).
    Reference: Williams 1992, "Simple Statistical Gradient-Following Algorithms for Connectionist RL".

    Args:
        log_probs: [R, T] float. Log-probabilities of the transitions taken.
        advantages: [R] float. One for each parse, without gradient.
        free: [R, T] bool. True where both transitions were legal.

    Returns:
        Scalar float.

    Raises:
        ValueError: Shapes do not fit each other.
    """
    if log_probs.dim() != 2 or free.shape != log_probs.shape or advantages.shape != log_probs.shape[:1]:
        raise ValueError(
            "log_probs and free must be [R, T] and advantages [R], got "
            f"{tuple(log_probs.shape)}, {tuple(free.shape)} and {tuple(advantages.shape)}"
        )
    weighted = log_probs * advantages.detach().unsqueeze(1)
    return -mean_over_free(weighted, free)


def mean_over_free(values: Tensor, free: Tensor) -> Tensor:
    """Average over free decisions only.

    Args:
        values: [R, T] float.
        free: [R, T] bool.

    Returns:
        Scalar float; 0 where no decision of the batch is free (sentences of one or two tokens).
    """
    return values.masked_fill(~free, 0.0).sum() / free.sum().clamp_min(1)
