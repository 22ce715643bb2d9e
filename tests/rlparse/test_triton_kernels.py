"""The fused gates on a GPU compute what the torch formulas do; Triton's interpreter can stand in for one."""

from __future__ import annotations

import os

import pytest
import torch

from rlparse import compiled

pytest.importorskip("triton", reason="needs Triton, which comes with PyTorch's CUDA builds")
if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs a CUDA device, or TRITON_INTERPRET=1", allow_module_level=True)

from rlparse.triton_kernels import TritonKernels  # after the skips: it needs Triton

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


def test_they_are_taken_on_a_gpu(monkeypatch):
    monkeypatch.delenv("RLPARSE_KERNELS", raising=False)
    if DEVICE == "cpu":
        pytest.skip("needs a CUDA device")
    assert isinstance(compiled.gate_kernels(torch.zeros(1, device="cuda")), TritonKernels)
