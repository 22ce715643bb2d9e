"""Corpora on disk as they are in memory, so that the second start maps a file and reads no lines.

A cached corpus is one file named after its key: a JSON header, then the arrays, aligned and with a checksum
each. It is written under another name and renamed, so that a reader never sees half of it; a damaged one is
found by its checksums.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from rlparse.corpora.corpus import Corpus, CorpusArrays, CorpusNames
from rlparse.errors import CorpusError

FORMAT_VERSION = 1
"""Part of every key: a change of readers, generators, tokenizer or layout that changes content raises it."""

_MAGIC = b"rlparse corpus\n\0"
_ALIGNMENT = 64

Outcome = Literal["found", "built", "rebuilt", "not stored"]


class Cached(NamedTuple):
    """A corpus, what was stored beside it, and how it was had.

    Attributes:
        corpus: The corpus, mapped from the file where there is one.
        extra: JSON values that were stored with it.
        outcome: "found" in the cache, "built" and stored, "rebuilt" because the stored one was damaged, or
            "not stored" because there is no cache or it cannot be written.
    """

    corpus: Corpus
    extra: dict[str, Any]
    outcome: Outcome


def default_cache_dir() -> Path:
    """``$RLPARSE_CACHE``, else ``rlparse`` in the user's cache folder."""
    if chosen := os.environ.get("RLPARSE_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rlparse"


def cache_key(parts: Any) -> str:
    """Name of what is determined by ``parts``, which must be JSON values."""
    text = json.dumps([FORMAT_VERSION, parts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def get_or_build(
    cache_dir: Path | None, key: str, build: Callable[[], tuple[Corpus, dict[str, Any]]]
) -> Cached:
    """Take a corpus from the cache, or build and store it.

    Args:
        cache_dir: Folder of the cache, made where it does not exist; None to build always and store nothing.
        key: From ``cache_key``.
        build: Makes the corpus and the JSON values to store beside it.
    """
    if cache_dir is None:
        return Cached(*build(), "not stored")
    path = cache_dir / f"{key}.corpus"
    outcome: Outcome = "built"
    if path.exists():
        try:
            return Cached(*load(path), "found")
        except CorpusError:
            outcome = "rebuilt"
    corpus, extra = build()
    try:
        save(path, corpus, extra)
    except OSError:  # a full or read-only disk must not stop training
        return Cached(corpus, extra, "not stored")
    return Cached(*load(path), outcome)


def save(path: Path, corpus: Corpus, extra: dict[str, Any]) -> None:
    """Write a whole corpus (not a subset) in one piece.

    Raises:
        ValueError: ``corpus`` is a subset.
        OSError: The file cannot be written; nothing of it is left then.
    """
    if corpus.is_subset:
        raise ValueError(f"only whole corpora are stored, got a subset of {len(corpus)} examples")
    arrays = {name: np.ascontiguousarray(value) for name, value in corpus.arrays._asdict().items()}
    header = json.dumps(
        {
            "names": corpus.names._asdict(),
            "extra": extra,
            "arrays": {
                name: {"dtype": value.dtype.str, "shape": value.shape, "crc32": zlib.crc32(_bytes(value))}
                for name, value in arrays.items()
            },
        }
    ).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}-{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        with temporary.open("xb") as file:
            file.write(_MAGIC + len(header).to_bytes(8, "little") + zlib.crc32(header).to_bytes(8, "little"))
            file.write(header)
            for value in arrays.values():
                file.write(b"\0" * (-file.tell() % _ALIGNMENT))
                file.write(_bytes(value))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _bytes(array: npt.NDArray[Any]) -> memoryview | bytes:
    return array.data.cast("B") if array.size else b""  # a view of nothing cannot be cast


def load(path: Path) -> tuple[Corpus, dict[str, Any]]:
    """Map a stored corpus, after checking that every byte is as it was written.

    The file stays mapped, and on Windows cannot be removed, as long as one of its arrays is used.

    Raises:
        CorpusError: The file is missing, of another kind, truncated or changed.
    """
    try:
        raw = np.asarray(np.memmap(path, np.uint8, "r"))
    except (OSError, ValueError) as error:
        raise CorpusError(f"{path}: expected a stored corpus, found {error}") from error
    start = len(_MAGIC) + 16
    if raw[: len(_MAGIC)].tobytes() != _MAGIC:
        raise CorpusError(f"{path}: expected a stored corpus, found something else")
    size, checksum = (int.from_bytes(raw[at : at + 8].tobytes(), "little") for at in (start - 16, start - 8))
    text = raw[start : start + size].tobytes()
    if not size or len(text) != size or zlib.crc32(text) != checksum:
        raise CorpusError(f"{path}: expected the header of a stored corpus, found it damaged")
    header = json.loads(text)
    position = start + size
    arrays = {}
    for name, entry in header["arrays"].items():
        dtype, shape = np.dtype(entry["dtype"]), tuple(entry["shape"])
        position += -position % _ALIGNMENT
        n_bytes = dtype.itemsize * int(np.prod(shape))
        content = raw[position : position + n_bytes]
        if len(content) != n_bytes:
            raise CorpusError(
                f"{path}: expected {n_bytes} bytes of {name!r}, found {len(content)}: the file has been cut off"
            )
        if n_bytes and zlib.crc32(content.data) != entry["crc32"]:
            raise CorpusError(f"{path}: expected {name!r} as it was written, found it damaged")
        arrays[name] = content.view(dtype).reshape(shape)
        position += n_bytes
    names = header["names"]
    return (
        Corpus(
            CorpusArrays(**arrays),
            CorpusNames(names["name"], names["n_sides"], tuple(names["labels"]), tuple(names["span_labels"])),
        ),
        header["extra"],
    )
