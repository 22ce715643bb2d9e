"""The functions of `rlparse.compiled.Kernels` on a GPU, one launch each: gates forward and backward, fused.

Import this only where there is Triton, which comes with PyTorch's CUDA builds.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 256
"""Elements that one program works on."""


@triton.jit
def _places(D, BLOCK: tl.constexpr):
    """Give the elements that a program works on: which they are, their rows (both may exceed 32 bits) and columns."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    # One long division for all of them, as those are slow.
    within = (start % D).to(tl.int32) + tl.arange(0, BLOCK)
    return start + tl.arange(0, BLOCK), start // D + within // D, within % D


@triton.jit
def _tree_lstm_forward(gates, bias, cells, pairs, h, c, squashed, n, D, BLOCK: tl.constexpr):
    at, row, d = _places(D, BLOCK)
    inside = at < n
    gate, b = gates + row * 5 * D + d, bias + d
    left_cell = tl.load(cells + tl.load(pairs + 2 * row, inside) * D + d, inside)
    right_cell = tl.load(cells + tl.load(pairs + 2 * row + 1, inside) * D + d, inside)
    i = tl.sigmoid(tl.load(gate, inside) + tl.load(b, inside))
    left = tl.sigmoid(tl.load(gate + D, inside) + tl.load(b + D, inside))
    right = tl.sigmoid(tl.load(gate + 2 * D, inside) + tl.load(b + 2 * D, inside))
    o = tl.sigmoid(tl.load(gate + 3 * D, inside) + tl.load(b + 3 * D, inside))
    u = tl.sigmoid(tl.load(gate + 4 * D, inside) + tl.load(b + 4 * D, inside))
    cell = i * (2.0 * u - 1.0) + left * left_cell + right * right_cell
    s = 2.0 * tl.sigmoid(2.0 * cell) - 1.0
    tl.store(gate, i, inside)
    tl.store(gate + D, left, inside)
    tl.store(gate + 2 * D, right, inside)
    tl.store(gate + 3 * D, o, inside)
    tl.store(gate + 4 * D, u, inside)
    tl.store(c + at, cell, inside)
    tl.store(squashed + at, s, inside)
    tl.store(h + at, o * s, inside)


@triton.jit
def _tree_lstm_backward(
    gates, cells, pairs, squashed, grad_h, grad_c, rows, grad_cells, n, D, BLOCK: tl.constexpr
):
    at, row, d = _places(D, BLOCK)
    inside = at < n
    gate, pair = gates + row * 5 * D + d, row * 2 * D + d
    i = tl.load(gate, inside)
    left = tl.load(gate + D, inside)
    right = tl.load(gate + 2 * D, inside)
    o = tl.load(gate + 3 * D, inside)
    u = tl.load(gate + 4 * D, inside)
    left_cell = tl.load(cells + tl.load(pairs + 2 * row, inside) * D + d, inside)
    right_cell = tl.load(cells + tl.load(pairs + 2 * row + 1, inside) * D + d, inside)
    given = tl.load(rows + row, inside) * D + d
    s, to_h = tl.load(squashed + at, inside), tl.load(grad_h + given, inside)
    cell = tl.load(grad_c + given, inside) + to_h * o * (1.0 - s * s)
    tl.store(grad_cells + pair, cell * left, inside)
    tl.store(grad_cells + pair + D, cell * right, inside)
    tl.store(gate, cell * (2.0 * u - 1.0) * i * (1.0 - i), inside)
    tl.store(gate + D, cell * left_cell * left * (1.0 - left), inside)
    tl.store(gate + 2 * D, cell * right_cell * right * (1.0 - right), inside)
    tl.store(gate + 3 * D, to_h * s * o * (1.0 - o), inside)
    tl.store(gate + 4 * D, cell * 2.0 * i * u * (1.0 - u), inside)


@triton.jit
def _lstm_forward(gates, before, h, c, squashed, n, H, BLOCK: tl.constexpr):
    at, row, d = _places(H, BLOCK)
    inside = at < n
    gate = gates + row * 4 * H + d
    i = tl.sigmoid(tl.load(gate, inside))
    f = tl.sigmoid(tl.load(gate + H, inside))
    u = tl.sigmoid(tl.load(gate + 2 * H, inside))
    o = tl.sigmoid(tl.load(gate + 3 * H, inside))
    cell = f * tl.load(before + at, inside) + i * (2.0 * u - 1.0)
    s = 2.0 * tl.sigmoid(2.0 * cell) - 1.0
    tl.store(gate, i, inside)
    tl.store(gate + H, f, inside)
    tl.store(gate + 2 * H, u, inside)
    tl.store(gate + 3 * H, o, inside)
    tl.store(c + at, cell, inside)
    tl.store(squashed + at, s, inside)
    tl.store(h + at, o * s, inside)


@triton.jit
def _lstm_backward(gates, before, squashed, grad_h, grad_c, n, H, BLOCK: tl.constexpr):
    at, row, d = _places(H, BLOCK)
    inside = at < n
    gate = gates + row * 4 * H + d
    i = tl.load(gate, inside)
    f = tl.load(gate + H, inside)
    u = tl.load(gate + 2 * H, inside)
    o = tl.load(gate + 3 * H, inside)
    s, to_h = tl.load(squashed + at, inside), tl.load(grad_h + at, inside)
    cell = tl.load(grad_c + at, inside) + to_h * o * (1.0 - s * s)
    tl.store(grad_c + at, cell * f, inside)
    tl.store(gate, cell * (2.0 * u - 1.0) * i * (1.0 - i), inside)
    tl.store(gate + H, cell * tl.load(before + at, inside) * f * (1.0 - f), inside)
    tl.store(gate + 2 * H, cell * 2.0 * i * u * (1.0 - u), inside)
    tl.store(gate + 3 * H, to_h * s * o * (1.0 - o), inside)


class TritonKernels:
    """The fused gates, on contiguous tensors of a GPU; `rlparse.compiled.Kernels` says what each does."""

    def tree_lstm_forward(
        self,
        gates: Tensor,
        bias: Tensor,
        cells: Tensor,
        pairs: Tensor,
        h: Tensor,
        c: Tensor,
        squashed: Tensor,
    ) -> None:
        """See `rlparse.compiled.Kernels.tree_lstm_forward`."""
        n, D = h.numel(), h.shape[1]
        with torch.cuda.device_of(gates):  # Triton launches on the current device
            _tree_lstm_forward[(triton.cdiv(n, BLOCK),)](
                gates, bias, cells, pairs, h, c, squashed, n, D, BLOCK
            )

    def tree_lstm_backward(
        self,
        gates: Tensor,
        cells: Tensor,
        pairs: Tensor,
        squashed: Tensor,
        grad_h: Tensor,
        grad_c: Tensor,
        rows: Tensor,
        grad_cells: Tensor,
    ) -> None:
        """See `rlparse.compiled.Kernels.tree_lstm_backward`."""
        n, D = squashed.numel(), squashed.shape[1]
        with torch.cuda.device_of(gates):  # Triton launches on the current device
            _tree_lstm_backward[(triton.cdiv(n, BLOCK),)](
                gates, cells, pairs, squashed, grad_h, grad_c, rows, grad_cells, n, D, BLOCK
            )

    def lstm_forward(self, gates: Tensor, before: Tensor, h: Tensor, c: Tensor, squashed: Tensor) -> None:
        """See `rlparse.compiled.Kernels.lstm_forward`."""
        n, H = h.numel(), h.shape[1]
        with torch.cuda.device_of(gates):  # Triton launches on the current device
            _lstm_forward[(triton.cdiv(n, BLOCK),)](gates, before, h, c, squashed, n, H, BLOCK)

    def lstm_backward(
        self, gates: Tensor, before: Tensor, squashed: Tensor, grad_h: Tensor, grad_c: Tensor
    ) -> None:
        """See `rlparse.compiled.Kernels.lstm_backward`."""
        n, H = grad_h.numel(), grad_h.shape[1]
        with torch.cuda.device_of(gates):  # Triton launches on the current device
            _lstm_backward[(triton.cdiv(n, BLOCK),)](gates, before, squashed, grad_h, grad_c, n, H, BLOCK)
