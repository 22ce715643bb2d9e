"""The machine that figures belong to, and what rlparse uses of it."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch

from rlparse import compiled

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
        "compiled": not isinstance(compiled.load(), str),
    }


def _cpuinfo() -> dict[str, str]:
    """What Linux says about the first processor; empty elsewhere."""
    file = Path("/proc/cpuinfo")
    if not file.is_file():
        return {}
    first = file.read_text(encoding="utf-8").split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
