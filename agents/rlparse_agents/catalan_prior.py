"""The prior under which a policy without preferences is uniform over binary trees."""

from __future__ import annotations

import torch
from torch import Tensor

from rlparse import lockstep


def with_catalan_prior(logits: Tensor, stack_sizes: Tensor, buffer_sizes: Tensor) -> Tensor:
    """Add the log-odds of `lockstep.catalan_logits` to those of REDUCE.

    Args:
        logits: [..., A] float, of SHIFT and REDUCE.
        stack_sizes: [...] int64.
        buffer_sizes: [...] int64.

    Returns:
        [..., A] float.
    """
    odds = lockstep.catalan_logits(stack_sizes, buffer_sizes).to(logits.dtype)
    return logits + torch.stack((torch.zeros_like(odds), odds), dim=-1)
