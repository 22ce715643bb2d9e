"""Products of many vectors with one weight, in the precision that torch was told to use."""

from __future__ import annotations

import torch
from torch import Tensor


class Product:
    """x W^T (+ b), forward and backward, with results written where they belong.

    Args:
        weight: [outputs, inputs] float.
        bias: [outputs] float, or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight = weight
        self.transposed = weight.t()
        self.bias = bias

    def forward(self, x: Tensor, out: Tensor) -> None:
        """Write x W^T + b: [m, inputs] to [m, outputs]."""
        if self.bias is None:
            torch.mm(x, self.transposed, out=out)
        else:
            torch.addmm(self.bias, x, self.transposed, out=out)

    def add(self, x: Tensor, out: Tensor) -> None:
        """Add x W^T to what is there."""
        out.addmm_(x, self.transposed)

    def backward(self, grad: Tensor, out: Tensor | None = None) -> Tensor:
        """Give the gradient of x, [m, inputs], from that of the outputs, [m, outputs]."""
        return torch.mm(grad, self.weight, out=out)

    def weight_gradient(self, grad: Tensor, x: Tensor) -> Tensor:
        """Give the gradient of the weight: [outputs, inputs]."""
        return torch.mm(grad.t(), x)
