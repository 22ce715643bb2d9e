"""Normalisers: bring advantages to a scale at which one learning rate fits all rewards.

They act on [G, K] advantages, K parses in each of G groups; those that do not look at groups take any shape, such as
[R, M] advantages of single decisions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from rlparse.errors import CheckpointError

BATCH_EPSILON = 1e-6
"""A batch whose standard deviation is not above this share of its largest advantage is left as it is: its advantages
are all equal, up to rounding, and dividing would blow them up."""

GROUP_EPSILON = 1e-4
"""Added to a group's standard deviation, so that K rewards that differ by rounding alone are not blown up to size 1."""


def leave_as_they_are(advantages: Tensor) -> Tensor:
    """Normalise nothing."""
    return advantages.detach()


def batch_sd(advantages: Tensor) -> Tensor:
    """Divide by the standard deviation over the whole batch.

        A' = A / sd(A),   or A where all advantages are equal

    The mean is left alone: subtracting it would put a sample's own return into its baseline. One number divides the
    whole batch; it depends on the samples, but less and less as the batch grows.

    Args:
        advantages: Float of any shape.

    Returns:
        Float of the same shape, without gradient.
    """
    advantages = advantages.detach()
    if not advantages.numel():
        return advantages
    spread = advantages.std(correction=0)
    equal = spread <= BATCH_EPSILON * advantages.abs().max()
    return advantages / spread.masked_fill(equal, 1.0)


def group_sd(advantages: Tensor) -> Tensor:
    """Divide every group's advantages by their own standard deviation, as GRPO does.

        A'[g, k] = A[g, k] / (sd_k(A[g, :]) + 1e-4)

    with K - 1 in the standard deviation. Groups whose parses hardly differ count as much as those where they decide
    everything, and the divisor depends on the very samples it judges: the expected gradient points another way than
    the exact one. Reference: Shao et al. 2024, "DeepSeekMath"; Liu et al. 2025, "Understanding R1-Zero-Like Training",
    on what is wrong with it.

    Args:
        advantages: [G, K] float, K >= 2.

    Returns:
        [G, K] float, without gradient. Advantages should have been centred in every group (leave_one_out, group_mean):
        where all K are equal they are then 0, and stay 0.

    Raises:
        ValueError: ``advantages`` is not [G, K] or K < 2.
    """
    if advantages.dim() != 2 or advantages.shape[1] < 2:
        raise ValueError(
            f"group_sd needs advantages [G, K] with K >= 2 parses in a group, got {tuple(advantages.shape)}; "
            "use normaliser batch_sd or more parses"
        )
    advantages = advantages.detach()
    return advantages / (advantages.std(dim=1, keepdim=True) + GROUP_EPSILON)


class RunningSd:
    """Divide by a running standard deviation where it is above 1: the advantages only ever shrink.

        v <- decay v + (1 - decay) var(A),   v = 1 at the start;     A' = A / max(1, sqrt(v))

    A batch is divided by what the batches before it left, so that the divisor does not depend on its samples and the
    expected gradient is only scaled. `normalise` therefore changes nothing; call `update` with the same advantages once
    the batch has been used. Reference: Havrylov et al. 2019, "Cooperative Learning of Disjoint Syntax and Semantics";
    their code counts the batch itself before it divides.

    Args:
        decay: Of the variance's moving average, in [0, 1).

    Attributes:
        variance: v, a float or a scalar tensor.

    Raises:
        ValueError: ``decay`` is not in [0, 1).
    """

    def __init__(self, decay: float = 0.9) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"decay must be in [0, 1), got {decay}")
        self.decay = decay
        self.variance: Tensor | float = 1.0

    def normalise(self, advantages: Tensor) -> Tensor:
        """Shrink advantages: float of any shape to the same shape, without gradient."""
        advantages = advantages.detach()
        variance = torch.as_tensor(self.variance, dtype=advantages.dtype, device=advantages.device)
        return advantages / variance.sqrt().clamp_min(1.0)

    def update(self, advantages: Tensor) -> None:
        """Take a batch's advantages, float of any shape, into the running variance; a single one has none."""
        advantages = advantages.detach()
        if advantages.numel() > 1:
            own = advantages.var()
            before = torch.as_tensor(self.variance, dtype=own.dtype, device=own.device)
            self.variance = torch.lerp(own, before, self.decay)

    def state_dict(self) -> dict[str, float]:
        """Give what continuing needs, as plain numbers."""
        return {"variance": float(self.variance)}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Continue from where a state was taken.

        Raises:
            CheckpointError: It is not the state of a running standard deviation.
        """
        if set(state) != {"variance"}:
            raise CheckpointError(f"the state of a running sd has variance, found {sorted(state)}")
        self.variance = state["variance"]


NORMALISERS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": leave_as_they_are,
    "batch_sd": batch_sd,
    "group_sd": group_sd,
}
"""Normalisers that need nothing but the advantages."""

NORMALISER_NAMES = ("none", "batch_sd", "running_sd", "group_sd")
"""All normalisers by the names that configurations use; ``running_sd`` is `RunningSd`."""
