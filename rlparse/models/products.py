"""Products of many vectors with one weight, in the precision that torch was told to use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from rlparse.models.cells import Gradients, Planes


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


class Affine(Product):
    """W [x; tracker] + b, whose two parts have a product each."""

    def __init__(self, weight: Tensor, bias: Tensor | None, width: int) -> None:
        super().__init__(weight[:, :width], bias)
        self.tracker = Product(weight[:, width:], None) if weight.shape[1] > width else None

    def write(self, x: Tensor, tracker: Tensor | None, out: Tensor) -> None:
        """Write it: [m, width] and [m, H] to [m, outputs]."""
        self.forward(x, out)
        if self.tracker is not None and tracker is not None:
            self.tracker.add(tracker, out)

    def tracker_gradient(self, grad: Tensor) -> Tensor | None:
        """Give the gradient of the tracker's vectors, [m, H], from that of the outputs, [m, outputs]."""
        return None if self.tracker is None else self.tracker.backward(grad)

    def gradient(self, grad: Tensor, x: Tensor, tracker: Tensor | None) -> Tensor:
        """Give the gradient of the whole weight, [outputs, width + H]."""
        own = self.weight_gradient(grad, x)
        if self.tracker is None or tracker is None:
            return own
        return torch.cat((own, self.tracker.weight_gradient(grad, tracker)), dim=1)


class Projection:
    """The linear map from embeddings to leaves, a product for each plane."""

    def __init__(self, project: nn.Linear, n_planes: int) -> None:
        blocks = zip(project.weight.chunk(n_planes), project.bias.chunk(n_planes), strict=True)
        self.products = [Product(weight, bias) for weight, bias in blocks]

    def write(self, embeddings: Tensor, out: Planes) -> None:
        """Write the planes of the leaves: [U, E] to [U, D] each."""
        for product, plane in zip(self.products, out, strict=True):
            product.forward(embeddings, plane)

    def backward(self, embeddings: Tensor, grads: Planes) -> tuple[Tensor, Gradients]:
        """Give the gradients of the embeddings, [U, E], and of the weights, from those of the planes, [U, D] each."""
        pairs = list(zip(self.products, grads, strict=True))
        grad_embeddings = pairs[0][0].backward(pairs[0][1])
        for product, grad in pairs[1:]:
            grad_embeddings += product.backward(grad)
        weight = torch.cat([product.weight_gradient(grad, embeddings) for product, grad in pairs])
        return grad_embeddings, {
            "project.weight": weight,
            "project.bias": torch.cat([grad.sum(0) for grad in grads]),
        }


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
