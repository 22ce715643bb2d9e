"""The machine that figures belong to, and how many of its threads are used."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

TELLING_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")
"""Processor flags that decide how fast matrices are multiplied."""


def describe_machine() -> dict[str, Any]:
    """Describe what the figures belong to, with the load at the beginning."""
    cpuinfo = _cpuinfo()
    flags = set((cpuinfo.get("flags") or cpuinfo.get("Features") or "").split())
    return {
        "processor": cpuinfo.get("model name") or platform.processor() or platform.machine(),
        "flags": [flag for flag in TELLING_FLAGS if flag in flags],
        "cpus": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _cpuinfo() -> dict[str, str]:
    """What Linux says about the first processor; empty elsewhere."""
    file = Path("/proc/cpuinfo")
    if not file.is_file():
        return {}
    first = file.read_text(encoding="utf-8").split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Let torch use so many threads, for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
