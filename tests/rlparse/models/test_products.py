"""Products follow the precision that torch was told to use, and say what autograd says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.nn import functional as F

from rlparse import lockstep
from rlparse.models import products
from rlparse.models.composition import COMPOSITIONS, build_composition
from rlparse.models.products import Product
from rlparse.models.stack_machine import StackMachine
from slow_reference import padded, random_derivation

TOLERANCE = {"highest": 2e-6, "high": 2e-6, "medium": 2e-2}


@pytest.fixture(params=["highest", "medium"])
def precision(request, monkeypatch) -> Iterator[str]:
    """Set torch's precision; bfloat16 products are taken whether or not this CPU is fast at them."""
    monkeypatch.setattr(products, "_cpu_has_bfloat16", lambda: True)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(request.param)
    yield request.param
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("biased", [False, True])
def test_a_product_and_its_gradients(precision, biased):
    rng = torch.Generator().manual_seed(0)
    x, grad = torch.randn(11, 7, generator=rng), torch.randn(11, 5, generator=rng)
    weight, bias = torch.randn(5, 7, generator=rng), torch.randn(5, generator=rng) if biased else None
    product = Product(weight, bias)
    assert (product.short is not None) == (precision == "medium")
    leaf, weights = x.double().requires_grad_(), weight.double().requires_grad_()
    wanted = F.linear(leaf, weights, None if bias is None else bias.double())
    wanted_x, wanted_weight = torch.autograd.grad((wanted * grad.double()).sum(), (leaf, weights))
    out, into = torch.full((11, 5), 9.0), torch.full((11, 7), 9.0)
    product.forward(x, out)
    tolerance = TOLERANCE[precision] * 7
    torch.testing.assert_close(out.double(), wanted.detach(), rtol=0, atol=tolerance)
    product.add(x, out)
    twice = 2 * wanted.detach() - (0.0 if bias is None else bias.double())
    torch.testing.assert_close(out.double(), twice, rtol=0, atol=2 * tolerance)
    product.backward(grad, into)
    torch.testing.assert_close(into.double(), wanted_x, rtol=0, atol=tolerance)
    assert torch.equal(product.backward(grad), into)
    found = product.weight_gradient(grad, x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), wanted_weight, rtol=0, atol=tolerance)


@pytest.mark.parametrize("precision", ["medium"], indirect=True)
def test_only_single_precision_is_shortened(precision):
    assert Product(torch.randn(3, 3, dtype=torch.float64), None).short is None
    assert Product(torch.randn(3, 3, device="meta"), None).short is None


@pytest.mark.parametrize("name", COMPOSITIONS)
@pytest.mark.parametrize("precision", ["medium"], indirect=True)
def test_trees_in_short_products_are_nearly_the_same(name, precision):
    """Within bfloat16's three decimal digits, values and gradients, of what single precision gives."""
    torch.manual_seed(0)
    machine = StackMachine(build_composition(name, 16, 16))
    derivations = [random_derivation(n, torch.Generator().manual_seed(n)) for n in (9, 4, 12, 1)]
    embeddings = torch.randn(4, 12, 16)
    trace = lockstep.trace(padded(derivations), torch.tensor([9, 4, 12, 1]))

    def run() -> tuple[torch.Tensor, ...]:
        leaf = embeddings.clone().requires_grad_()
        roots = machine(leaf, trace).roots
        return roots.detach(), *torch.autograd.grad(roots.square().sum(), (leaf, *machine.parameters()))

    short = run()
    torch.set_float32_matmul_precision("highest")
    for one, other in zip(short, run(), strict=True):
        difference = float((one - other).norm() / other.norm())
        assert 0 < difference < 0.03


def test_machines_without_such_units_keep_single_precision(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    torch.set_float32_matmul_precision("medium")
    try:
        assert Product(torch.randn(3, 3), None).short is None
    finally:
        torch.set_float32_matmul_precision("highest")
