"""Losses of the policy and its critic: pure functions of tensors, lower is better.

Only free decisions count, those with more than one legal action: a forced one has probability 1 and no gradient. Every
loss takes how the decisions of a batch are averaged:

    decisions  1/F sum_r sum_m x[r, m]           F free decisions in the batch: every decision weighs the same
    parses     1/R' sum_r 1/F_r sum_m x[r, m]    F_r of them in row r, R' rows with any: every parse weighs the same
    constant   1/(R M) sum_r sum_m x[r, m]       M the padded number of decisions, which no sample changes
    sum        1/R sum_r sum_m x[r, m]           log-probabilities of whole parses, averaged over rows

``decisions`` is Williams et al. 2018's, ``parses`` GRPO's, ``constant`` Dr. GRPO's, ``sum`` that of REINFORCE as in the
textbook and of Havrylov et al. 2019. The last two follow the gradient of the expected return exactly, up to a factor:
1/S for examples of S sentences, and 1/M. The first two divide by numbers of free decisions, which depend on the sampled
parses: F less and less as the batch grows, but 1/F_r always weighs down the decisions of parses that have many.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from rlparse_agents.distribution import MaskedDistribution

Average = Literal["decisions", "parses", "constant", "sum"]
"""How the free decisions of a batch are averaged; the module's docstring has the formulas."""

Ratio = Literal["decision", "tree"]
"""Of what new and old probability are compared: of every decision, or of all decisions of a row together."""

AVERAGES: tuple[str, ...] = get_args(Average)
RATIOS: tuple[str, ...] = get_args(Ratio)


def policy_gradient_loss(
    log_probs: Tensor, advantages: Tensor, free: Tensor, *, average: Average = "decisions"
) -> Tensor:
    """Score-function surrogate: its gradient is minus the REINFORCE estimate.

        L = - average of A log pi(a[r, m] | s[r, m]) over free decisions

    Reference: Williams 1992, "Simple Statistical Gradient-Following Algorithms for Connectionist RL".

    Args:
        log_probs: [R, M] float. Log-probabilities of the decisions taken.
        advantages: [R] or [R, M] float. One for each parse or for each decision; without gradient.
        free: [R, M] bool. True where there was a choice.
        average: How decisions are averaged.

    Returns:
        Scalar float.

    Raises:
        ValueError: Shapes do not fit each other, or ``average`` is unknown.
    """
    weights = _of_decisions(advantages, log_probs, free)
    return -average_over_free(log_probs * weights, free, average=average)


def clipped_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    free: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    ratio: Ratio = "decision",
    average: Average = "decisions",
) -> Tensor:
    """PPO's surrogate: follow the advantage until the probability has changed enough, then stop.

        L = - average of min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A),     rho = pi(a | s) / pi_old(a | s)

    With ``ratio="tree"`` rho is the product over the free decisions of a row, which is clipped as one: the row's
    surrogate stands in for the sum over its decisions. Where new and old policy agree, rho = 1 and the gradient is that
    of `policy_gradient_loss` under the same ``average``, for either ratio.
    References: Schulman et al. 2017, "Proximal Policy Optimization Algorithms"; Havrylov et al. 2019, "Cooperative
    Learning of Disjoint Syntax and Semantics", for whole trees; Yu et al. 2025, "DAPO", for a clip that is higher above
    than below, which lets unlikely actions grow.

    Args:
        log_probs: [R, M] float. Of the decisions taken, under the policy of now.
        old_log_probs: [R, M] float. Under the policy that sampled them.
        advantages: [R] float, or [R, M] with ``ratio="decision"``; without gradient.
        free: [R, M] bool. True where there was a choice.
        clip_low: How far below 1 the ratio counts, in [0, 1]; 1 never clips.
        clip_high: How far above 1 it counts, >= 0; infinity never clips.
        ratio: ``decision`` or ``tree``.
        average: How decisions are averaged.

    Returns:
        Scalar float.

    Raises:
        ValueError: Shapes do not fit each other, an option is unknown or out of range, or advantages of single
            decisions meet ``ratio="tree"``.
    """
    if not (0.0 <= clip_low <= 1.0 and clip_high >= 0.0):
        raise ValueError(
            f"clip_low must be in [0, 1] and clip_high not negative, got {clip_low} and {clip_high}"
        )
    if ratio == "tree" and advantages.dim() != 1:
        raise ValueError(
            "ratio='tree' clips whole parses and needs one advantage for each, [R], got "
            f"{tuple(advantages.shape)}, as baseline='step_value' makes them; use ratio='decision' or another baseline"
        )
    rho = _ratios(log_probs, old_log_probs, free, ratio)  # [R, M], or [R, 1] of trees
    weights = _of_decisions(advantages, log_probs, free)
    surrogate = torch.minimum(rho * weights, rho.clamp(1.0 - clip_low, 1.0 + clip_high) * weights)
    if ratio == "tree":  # it stands in for a sum over the row's decisions, each of which gets its share
        surrogate = (surrogate / free.sum(1, keepdim=True).clamp_min(1)).expand_as(free)
    return -average_over_free(surrogate, free, average=average)


class RatioStatistics(NamedTuple):
    """How far the policy of now is from the one that sampled.

    Attributes:
        clip_fraction: Scalar float. Share of the ratios that are outside of the clip's bounds.
        approximate_kl: Scalar float. Mean of rho - 1 - log rho, an estimate of KL(pi_old || pi) that is never negative.
    """

    clip_fraction: Tensor
    approximate_kl: Tensor


@torch.no_grad()
def ratio_statistics(
    log_probs: Tensor,
    old_log_probs: Tensor,
    free: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    ratio: Ratio = "decision",
) -> RatioStatistics:
    """Tell what `clipped_loss` would clip, over free decisions, or over rows with any for ``ratio="tree"``.

    Reference for the estimate of KL: Schulman 2020, "Approximating KL Divergence".

    Args:
        log_probs: [R, M] float. Under the policy of now.
        old_log_probs: [R, M] float. Under the policy that sampled.
        free: [R, M] bool.
        clip_low: As in `clipped_loss`.
        clip_high: As in `clipped_loss`.
        ratio: ``decision`` or ``tree``.

    Raises:
        ValueError: Shapes do not fit each other, or ``ratio`` is unknown.
    """
    rho = _ratios(log_probs, old_log_probs, free, ratio)
    counted = free.any(1, keepdim=True) if ratio == "tree" else free
    outside = (rho < 1.0 - clip_low) | (rho > 1.0 + clip_high)
    return RatioStatistics(
        mean_over_free(outside.to(rho.dtype), counted), mean_over_free(rho - 1.0 - rho.log(), counted)
    )


def imitation_loss(log_probs: Tensor, free: Tensor, *, average: Average = "decisions") -> Tensor:
    """Cross-entropy of decisions that were given, by gold trees or another parser.

        L = - average of log pi(a[r, m] | s[r, m]) over free decisions

    Args:
        log_probs: [R, M] float. Of the decisions given.
        free: [R, M] bool. True where there was a choice; False in whole rows leaves out those that have no gold parse.
        average: How decisions are averaged; ``constant`` and ``sum`` divide by rows left out, too.

    Returns:
        Scalar float.

    Raises:
        ValueError: Shapes do not fit each other, or ``average`` is unknown.
    """
    return -average_over_free(log_probs, free, average=average)


def kl_penalty(
    distribution: MaskedDistribution, reference: MaskedDistribution, *, average: Average = "decisions"
) -> Tensor:
    """How far a policy has moved from a reference, at the states that the sampled parses went through.

        average of KL(pi(. | s[r, m]) || pi_ref(. | s[r, m])) over free decisions

    It is exact at each state; which states there are counts as given, so that the gradient is that of the
    distributions alone. Reference: Ziegler et al. 2019, "Fine-Tuning Language Models from Human Preferences", who put
    the same penalty into the reward.

    Args:
        distribution: Over [R, M] states, with gradient.
        reference: Over the same states, judged without gradient.
        average: How decisions are averaged.

    Returns:
        Scalar float.

    Raises:
        ValueError: ``average`` is unknown.
    """
    return average_over_free(distribution.kl(reference), distribution.free, average=average)


def value_loss(values: Tensor, targets: Tensor, counted: Tensor | None = None) -> Tensor:
    """Mean squared error of a critic.

    Args:
        values: [G] or [R, M] float, with gradient.
        targets: Float of the same shape, or [G, K] for ``values`` [G], whose every parse counts; without gradient.
        counted: [R, M] bool. The decisions that count; None takes all.

    Returns:
        Scalar float; 0 where nothing counts.

    Raises:
        ValueError: Shapes do not fit each other.
    """
    if values.dim() == 1 and targets.dim() == 2 and len(targets) == len(values):
        values = values.unsqueeze(1).expand_as(targets)
    if values.shape != targets.shape or (counted is not None and counted.shape != values.shape):
        raise ValueError(
            "values must be [G] with targets [G] or [G, K], or both and counted [R, M], got "
            f"{tuple(values.shape)}, {tuple(targets.shape)} and {None if counted is None else tuple(counted.shape)}"
        )
    errors = F.mse_loss(values, targets.detach(), reduction="none")
    return errors.mean() if counted is None else mean_over_free(errors, counted)


def average_over_free(values: Tensor, free: Tensor, *, average: Average = "decisions") -> Tensor:
    """Average over free decisions in one of the ways that the module's docstring lists.

    Args:
        values: [R, M] float.
        free: [R, M] bool. True where there was a choice.
        average: How.

    Returns:
        Scalar float; 0 where no decision of the batch is free.

    Raises:
        ValueError: Shapes do not fit each other, or ``average`` is unknown.
    """
    if values.dim() != 2 or values.shape != free.shape:
        raise ValueError(f"values and free must be [R, M], got {tuple(values.shape)} and {tuple(free.shape)}")
    if average == "decisions":
        return mean_over_free(values, free)
    sums = values.masked_fill(~free, 0.0).sum(1)  # [R]
    if average == "parses":
        counts = free.sum(1)
        return mean_over_free(sums / counts.clamp_min(1), counts > 0)
    if average == "constant":
        return sums.mean() / max(values.shape[1], 1)  # merges of single tokens: there are none
    if average == "sum":
        return sums.mean()
    raise ValueError(f"unknown average {average!r}; known: {', '.join(AVERAGES)}")


def mean_over_free(values: Tensor, free: Tensor) -> Tensor:
    """Average over free decisions only.

    Args:
        values: Float of any shape, usually [R, M].
        free: Bool of the same shape.

    Returns:
        Scalar float; 0 where no decision of the batch is free (sentences of one or two tokens).
    """
    return values.masked_fill(~free, 0.0).sum() / free.sum().clamp_min(1)


def _of_decisions(advantages: Tensor, log_probs: Tensor, free: Tensor) -> Tensor:
    """Advantages that broadcast to [R, M], without gradient."""
    if (
        log_probs.dim() != 2
        or free.shape != log_probs.shape
        or advantages.shape not in (log_probs.shape[:1], log_probs.shape)
    ):
        raise ValueError(
            "log_probs and free must be [R, M] and advantages [R] or [R, M], got "
            f"{tuple(log_probs.shape)}, {tuple(free.shape)} and {tuple(advantages.shape)}"
        )
    advantages = advantages.detach()
    return advantages if advantages.dim() == 2 else advantages.unsqueeze(1)


_LARGEST_LOG_RATIO = 20.0
"""Beyond it a ratio is held, without gradient: exp(20) is 5e8, far outside any clip, and exp of a long tree's sum could
be infinite, whose gradient would be undefined even where it is clipped."""


def _ratios(log_probs: Tensor, old_log_probs: Tensor, free: Tensor, ratio: Ratio) -> Tensor:
    """New over old probability of every decision, [R, M] and 1 where not free, or of every row, [R, 1]."""
    if log_probs.dim() != 2 or not log_probs.shape == old_log_probs.shape == free.shape:
        raise ValueError(
            "log_probs, old_log_probs and free must be [R, M], got "
            f"{tuple(log_probs.shape)}, {tuple(old_log_probs.shape)} and {tuple(free.shape)}"
        )
    if ratio not in RATIOS:
        raise ValueError(f"unknown ratio {ratio!r}; known: {', '.join(RATIOS)}")
    log_ratios = (log_probs - old_log_probs.detach()).masked_fill(~free, 0.0)
    if ratio == "tree":
        log_ratios = log_ratios.sum(1, keepdim=True)
    return log_ratios.clamp(-_LARGEST_LOG_RATIO, _LARGEST_LOG_RATIO).exp()
