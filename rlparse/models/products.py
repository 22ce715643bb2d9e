"""Products of many vectors with one weight, in the precision that torch was told to use."""

from __future__ import annotations

import torch
from torch import Tensor


class Product:
    """x W^T (+ b), forward and backward, with results written where they belong.

    ``torch.set_float32_matmul_precision("medium")`` allows bfloat16 inside of float32 products. On a CPU torch makes
    use of that only where there are matrix tiles (AMX), and on a GPU not at all. Here both factors are rounded to
    bfloat16 wherever the machine multiplies such numbers, which is about twice as fast on CPUs with AVX512-BF16.
    Sums are float32 inside the product; results are rounded to bfloat16 once.

    Args:
        weight: [outputs, inputs] float.
        bias: [outputs] float, or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight = weight
        self.bias = bias
        self.short = weight.bfloat16() if _rounds(weight) else None
        self.transposed = weight.t() if self.short is None else self.short.t()

    def forward(self, x: Tensor, out: Tensor) -> None:
        """Write x W^T + b: [m, inputs] to [m, outputs]."""
        if self.short is None and self.bias is None:
            torch.mm(x, self.transposed, out=out)
        elif self.short is None:
            assert self.bias is not None
            torch.addmm(self.bias, x, self.transposed, out=out)
        else:
            found = torch.mm(x.bfloat16(), self.transposed)
            if self.bias is None:
                out.copy_(found)
            else:
                torch.add(found, self.bias, out=out)

    def add(self, x: Tensor, out: Tensor) -> None:
        """Add x W^T to what is there."""
        if self.short is None:
            out.addmm_(x, self.transposed)
        else:
            out.add_(torch.mm(x.bfloat16(), self.transposed))

    def backward(self, grad: Tensor, out: Tensor | None = None) -> Tensor:
        """Give the gradient of x, [m, inputs], from that of the outputs, [m, outputs]."""
        if self.short is None:
            return torch.mm(grad, self.weight, out=out)
        found = torch.mm(grad.bfloat16(), self.short)
        return found.to(grad.dtype) if out is None else out.copy_(found)

    def weight_gradient(self, grad: Tensor, x: Tensor) -> Tensor:
        """Give the gradient of the weight: [outputs, inputs]."""
        if self.short is None:
            return torch.mm(grad.t(), x)
        return torch.mm(grad.bfloat16().t(), x.bfloat16()).to(grad.dtype)


def _rounds(weight: Tensor) -> bool:
    """Tell whether products with this weight are to be of bfloat16 numbers."""
    if weight.dtype != torch.float32 or not _medium():
        return False
    if weight.device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return weight.device.type == "cpu" and _cpu_has_bfloat16()


def _medium() -> bool:
    """Tell whether bfloat16 is allowed inside of float32 products."""
    try:
        return torch.get_float32_matmul_precision() == "medium"
    except RuntimeError:  # it was set by torch's newer switches, a backend at a time
        matmul = getattr(torch.backends.mkldnn, "matmul", None)
        return str(getattr(matmul, "fp32_precision", "none")) == "bf16"


def _cpu_has_bfloat16() -> bool:
    """Tell whether this CPU multiplies bfloat16 numbers itself: otherwise rounding only costs."""
    tests = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # torch names no public ones
    return any(bool(test()) for name in tests if (test := getattr(torch.cpu, name, None)) is not None)
