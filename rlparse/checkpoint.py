"""Checkpoints: complete or not there at all, checked when loaded, and never executed.

A checkpoint is a folder ``NNNNNNNN`` with safetensors weights, a JSON state, optimiser and generator states that
``torch.load(weights_only=True)`` reads, and a manifest with the SHA-256 of each file. It is written under a
temporary name, flushed to disk, and renamed when it is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlparse.errors import CheckpointError

MANIFEST = "manifest.json"


class Checkpoint(NamedTuple):
    """What one checkpoint holds.

    Attributes:
        step: Number it was saved under.
        weights: Tensors of each named module.
        states: Optimiser and generator states, by name.
        facts: Counters and whatever else is plain JSON.
        damaged: One message for every newer checkpoint that could not be used.
    """

    step: int
    weights: dict[str, dict[str, Tensor]]
    states: dict[str, Any]
    facts: dict[str, Any]
    damaged: tuple[str, ...] = ()


def save_checkpoint(
    folder: Path,
    step: int,
    *,
    weights: Mapping[str, Mapping[str, Tensor]],
    states: Mapping[str, Any],
    facts: Mapping[str, Any],
    keep: int = 2,
) -> Path:
    """Write one checkpoint and drop the oldest ones.

    Args:
        folder: Folder of all checkpoints of a run.
        step: Number of this one; a later one must be larger.
        weights: ``state_dict`` of each named module.
        states: Anything that ``torch.load(weights_only=True)`` can read back.
        facts: Plain JSON.
        keep: Newest checkpoints to leave, this one included. Later ones, which can only be damaged ones that loading
            passed over, are left alone and do not count.

    Returns:
        The checkpoint's folder.

    Raises:
        ValueError: ``keep`` < 1.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, got {keep}")
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"{step:08d}"
    draft = folder / f".{final.name}.{os.getpid()}.tmp"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    for name, tensors in weights.items():
        flat = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        save_file(flat, str(draft / f"{name}.safetensors"))
    torch.save(dict(states), draft / "states.pt")
    (draft / "facts.json").write_text(json.dumps(dict(facts), indent=1, sort_keys=True), encoding="utf-8")
    digests = {path.name: _digest(path) for path in sorted(draft.iterdir())}
    (draft / MANIFEST).write_text(json.dumps({"step": step, "sha256": digests}, indent=1), encoding="utf-8")
    for path in draft.iterdir():
        _sync(path)
    _sync(draft)
    if final.exists():
        shutil.rmtree(final)
    draft.rename(final)
    _sync(folder)
    earlier = [path for path in _numbered(folder) if int(path.name) < step]
    for old in earlier[keep - 1 :]:
        shutil.rmtree(old)
    for left_over in folder.glob(".*.tmp"):
        shutil.rmtree(left_over)
    return final


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read the newest checkpoint that is whole, passing over damaged ones.

    Args:
        folder: Folder of all checkpoints of a run.

    Raises:
        CheckpointError: There is none, or none is whole; the message says what is wrong with each.
    """
    damaged: list[str] = []
    for path in _numbered(folder):
        try:
            checkpoint = _read(path)
        except CheckpointError as error:
            damaged.append(str(error))
            continue
        return checkpoint._replace(damaged=tuple(damaged))
    if damaged:
        raise CheckpointError(f"no checkpoint in {folder} can be used: " + "; ".join(damaged))
    raise CheckpointError(f"there is no checkpoint in {folder}")


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file as a whole: temporary name, flush, rename."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    draft.write_text(json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")
    _sync(draft)
    draft.replace(path)
    _sync(path.parent)


def _read(path: Path) -> Checkpoint:
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        digests = dict[str, str](manifest["sha256"])
        step = int(manifest["step"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path / MANIFEST} cannot be read ({error})") from error
    if step != int(path.name):
        raise CheckpointError(f"{path / MANIFEST} is of another checkpoint, step {step}")
    unlisted = {"states.pt", "facts.json"} - digests.keys()
    if unlisted:
        raise CheckpointError(f"{path / MANIFEST} lists no {' and no '.join(sorted(unlisted))}")
    for name, digest in digests.items():
        file = path / name
        if not file.is_file():
            raise CheckpointError(f"{file} is missing")
        found = _digest(file)
        if found != digest:
            raise CheckpointError(
                f"{file} is damaged: its SHA-256 should begin {digest[:12]}, found {found[:12]}"
            )
    try:
        weights = {Path(n).stem: load_file(str(path / n)) for n in digests if n.endswith(".safetensors")}
        states = torch.load(path / "states.pt", weights_only=True, map_location="cpu")
        facts = json.loads((path / "facts.json").read_text(encoding="utf-8"))
    except (pickle.UnpicklingError, EOFError) as error:
        # torch's own message tells the reader to execute the file.
        raise CheckpointError(
            f"{path / 'states.pt'} cannot be read, or holds more than plain data"
        ) from error
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read ({error})") from error
    return Checkpoint(step, weights, states, facts)


def _numbered(folder: Path) -> list[Path]:
    """Checkpoints of a run, newest first."""
    if not folder.is_dir():
        return []
    found: Iterable[Path] = (p for p in folder.iterdir() if p.is_dir() and p.name.isdigit())
    return sorted(found, key=lambda p: int(p.name), reverse=True)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Flush a file or folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
