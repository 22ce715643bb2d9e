"""Layer norm of the last dimension without gain and bias, forward and backward by hand."""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-5
"""Added to a variance before its root, as `torch.nn.functional.layer_norm` does."""


def normalise(x: Tensor, out: Tensor, scale: Tensor) -> None:
    """Write layer norm of the last dimension without gain and bias, and 1 / sd: [..., D] and [..., 1]."""
    normed, _, spread = torch.native_layer_norm(x, x.shape[-1:], None, None, EPSILON)
    out.copy_(normed)
    scale.copy_(spread)


def normalise_backward(grad: Tensor, normed: Tensor, scale: Tensor) -> Tensor:
    """Go backward through `normalise`: (g - mean(g) - x mean(g x)) / sd."""
    centred = grad - grad.mean(-1, keepdim=True)
    along = (grad * normed).mean(-1, keepdim=True)
    return centred.addcmul_(normed, along, value=-1).mul_(scale)
