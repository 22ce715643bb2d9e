"""The fused gates on a GPU compute what the torch formulas do; Triton's interpreter can stand in for one."""

from __future__ import annotations

import os

import pytest
import torch

from rlparse import compiled

pytest.importorskip("triton", reason="needs Triton, which comes with PyTorch's CUDA builds")
if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs a CUDA device, or TRITON_INTERPRET=1", allow_module_level=True)

import triton  # after the skips, and so what needs it
import triton.language as tl

from rlparse import triton_kernels
from rlparse.triton_kernels import TritonKernels

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
M, D = 37, 19


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(DEVICE)


def test_the_gates_of_a_tree_lstm():
    pre, cells, to_h, to_c = drawn(M, 5 * D), drawn(M, 2 * D), drawn(M, D), drawn(M + 1, D)[1:].clone()
    bias = drawn(5 * D)
    exact, below = (pre + bias).requires_grad_(), cells.clone().requires_grad_()
    i, left, right, o, u = exact.sigmoid().chunk(5, dim=1)
    c = i * (2 * u - 1) + left * below[:, :D] + right * below[:, D:]
    h = o * torch.tanh(c)
    wanted = torch.autograd.grad((h * to_h).sum() + (c * to_c).sum(), (exact, below))
    gates, grad_cells = pre.clone(), torch.empty_like(cells)
    own_h, own_c, squashed = (torch.empty_like(to_h) for _ in range(3))
    kernels = TritonKernels()
    shuffled, rows = torch.randperm(2 * M).to(DEVICE), torch.randperm(M).to(DEVICE)
    table = torch.empty(2 * M, D, device=DEVICE).index_copy_(0, shuffled, cells.view(2 * M, D))
    kernels.tree_lstm_forward(gates, bias, table, shuffled, own_h, own_c, squashed)
    torch.testing.assert_close((own_h, own_c), (h.detach(), c.detach()), rtol=0, atol=2e-6)
    tables = [torch.empty_like(to_h).index_copy_(0, rows, grad) for grad in (to_h, to_c)]
    kernels.tree_lstm_backward(gates, table, shuffled, squashed, *tables, rows, grad_cells)
    torch.testing.assert_close((gates, grad_cells), wanted, rtol=0, atol=1e-5)


def test_the_gates_of_an_lstm():
    pre, before, to_h, to_c = (
        drawn(M, 4 * D),
        drawn(M, D),
        drawn(M + 2, D)[2:].clone(),
        drawn(M + 3, D)[3:].clone(),
    )
    exact, old = pre.clone().requires_grad_(), before.clone().requires_grad_()
    i, f, u, o = exact.sigmoid().chunk(4, dim=1)
    c = f * old + i * (2 * u - 1)
    h = o * torch.tanh(c)
    wanted = torch.autograd.grad((h * to_h).sum() + (c * to_c).sum(), (exact, old))
    gates, own_h, own_c, squashed = pre.clone(), *(torch.empty_like(to_h) for _ in range(3))
    kernels = TritonKernels()
    kernels.lstm_forward(gates, before, own_h, own_c, squashed)
    torch.testing.assert_close((own_h, own_c), (h.detach(), c.detach()), rtol=0, atol=2e-6)
    kernels.lstm_backward(gates, before, squashed, to_h, to_c)
    torch.testing.assert_close((gates, to_c), wanted, rtol=0, atol=1e-5)


def test_a_width_of_one_and_a_single_row():
    """Triton makes constants of ones."""
    pre, before = drawn(1, 4), drawn(1, 1)
    i, f, u, o = pre.sigmoid().chunk(4, dim=1)
    c = f * before + i * (2 * u - 1)
    gates, own_h, own_c, squashed = pre.clone(), *(torch.empty_like(before) for _ in range(3))
    TritonKernels().lstm_forward(gates, before, own_h, own_c, squashed)
    torch.testing.assert_close((own_h, own_c), (o * c.tanh(), c), rtol=0, atol=2e-6)


@triton.jit
def _places_of_one_program(at, rows, columns, width, block: tl.constexpr):
    here, row, d = triton_kernels._places(width, block)
    tl.static_assert(here.dtype == tl.int64)
    tl.static_assert(row.dtype == tl.int64)
    tl.store(at + here, here)
    tl.store(rows + here, row)
    tl.store(columns + here, d)


@pytest.mark.parametrize("width", [1, 7, 64, 300])
def test_offsets_have_64_bits(width):
    """[m, 5 D] gates may have more elements than 2^31; tables of that size do not fit into a test."""
    at, rows, columns = (torch.empty(5 * 64, dtype=torch.int64, device=DEVICE) for _ in range(3))
    _places_of_one_program[(5,)](at, rows, columns, width, 64)
    numbers = torch.arange(5 * 64, device=DEVICE)
    assert torch.equal(at, numbers)
    assert torch.equal(rows, numbers // width)
    assert torch.equal(columns, numbers % width)


def test_they_run_where_their_tables_are(monkeypatch):
    """Triton itself launches on the current device, whatever it is given."""
    seen = []

    class Recorded(torch.cuda.device_of):
        def __init__(self, table: torch.Tensor) -> None:
            seen.append(table)
            super().__init__(table)

    monkeypatch.setattr(torch.cuda, "device_of", Recorded)
    gates = [drawn(M, 5 * D), drawn(M, 5 * D), drawn(M, 4 * D), drawn(M, 4 * D)]
    a, b, c, d, e = (drawn(M, D) for _ in range(5))
    kernels, first, pairs = (
        TritonKernels(),
        *(torch.zeros(k * M, dtype=torch.int64).to(DEVICE) for k in (1, 2)),
    )
    kernels.tree_lstm_forward(gates[0], drawn(5 * D), a, pairs, b, c, d)
    kernels.tree_lstm_backward(gates[1], a, pairs, b, c, d, first, drawn(M, 2 * D))
    kernels.lstm_forward(gates[2], a, b, c, d)
    kernels.lstm_backward(gates[3], a, b, c, e)
    assert [id(table) for table in seen] == [id(table) for table in gates]


def test_they_are_tried_before_they_are_taken(monkeypatch):
    compiled.load_triton.cache_clear()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: compiled.OLDEST_GPU)
    assert isinstance(compiled.load_triton(torch.device(DEVICE)), TritonKernels)
    compiled.load_triton.cache_clear()


def test_they_are_taken_on_a_gpu(monkeypatch):
    monkeypatch.delenv("RLPARSE_KERNELS", raising=False)
    if DEVICE == "cpu":
        pytest.skip("needs a CUDA device")
    assert isinstance(compiled.gate_kernels(torch.zeros(1, device="cuda")), TritonKernels)
