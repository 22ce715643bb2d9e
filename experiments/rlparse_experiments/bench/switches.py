"""Settings of torch and rlparse that are switched for a while."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from rlparse import compiled
from rlparse_experiments.bench.measuring import Unavailable, Work

KERNELS = "RLPARSE_KERNELS"
"""Environment variable that chooses between rlparse's compiled formulas and those in torch."""


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Let torch use so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def torch_kernels() -> Iterator[None]:
    """Let rlparse use nothing that it has compiled."""
    before = os.environ.get(KERNELS)
    os.environ[KERNELS] = "torch"
    try:
        yield
    finally:
        if before is None:
            del os.environ[KERNELS]
        else:
            os.environ[KERNELS] = before


def not_compiled(work: Work) -> Work:
    """Do work with formulas in torch only.

    Raises:
        Unavailable: There are no others, so that this is what is measured anyhow.
    """
    if isinstance(compiled.load(), str):
        raise Unavailable("nothing is compiled on this machine, all of rlparse's formulas are in torch")
    return under(torch_kernels, work)


def under(switch: Callable[[], AbstractContextManager[None]], work: Work) -> Work:
    """Do work under a setting."""

    def inside() -> float:
        with switch():
            return work()

    return inside
