"""Memory for the tables of a pass over a batch, used again by the next one.

A C library hands large blocks back to the system as soon as they are freed, and the system clears every page anew when
they are asked for again: on a CPU that costs a large batch a third of its time. So what a pass is done with is kept for
the next. On GPUs torch's own allocator does that.
"""

from __future__ import annotations

import math
import threading

import torch
from torch import Tensor

LARGE = 2**24
"""Bytes from which on a table is kept; the C library keeps smaller blocks itself."""

MOST = 2**31
"""Bytes that are kept at most; what was given back first goes first."""

_lock = threading.Lock()
_free: list[Tensor] = []


def room(like: Tensor, *shape: int) -> Tensor:
    """Give a table with any contents, of ``like``'s dtype and device, that was given back or is new."""
    size = math.prod(shape)
    small = size * like.element_size() < LARGE
    if small or like.device.type != "cpu" or torch.is_inference_mode_enabled():
        return like.new_empty(shape)
    with _lock:
        fitting = [
            block for block in _free if block.dtype == like.dtype and size <= block.numel() <= 2 * size
        ]
        if fitting:
            block = min(fitting, key=Tensor.numel)
            _free[:] = [other for other in _free if other is not block]
            return block[:size].view(shape)
    # A little more than is asked for, so that a slightly larger batch fits too.
    return like.new_empty(size + size // 8)[:size].view(shape)


def give_back(*tables: Tensor) -> None:
    """Take tables that nobody will read again."""
    blocks = {
        table.untyped_storage().data_ptr(): torch.empty(0, dtype=table.dtype).set_(table.untyped_storage())
        for table in tables
        # A tensor made in inference mode cannot be written outside of it.
        if table.device.type == "cpu"
        and not table.is_inference()
        and table.untyped_storage().nbytes() >= LARGE
    }
    if not blocks:
        return
    with _lock:
        assert blocks.keys().isdisjoint(block.data_ptr() for block in _free), "a table was given back twice"
        _free.extend(blocks.values())
        kept = sum(block.nbytes for block in _free)
        while kept > MOST:
            kept -= _free.pop(0).nbytes


def forget() -> None:
    """Free all memory that is kept for the next pass."""
    with _lock:
        _free.clear()
