"""Lines of a text file, be it plain, gzipped or inside a zip archive, with their numbers and sound errors."""

from __future__ import annotations

import gzip
import hashlib
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rlparse.errors import CorpusError

_DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile)


@dataclass(frozen=True)
class TextFile:
    """A file, or a member of a zip archive, that exists.

    Attributes:
        path: The file or the archive.
        member: Name inside the archive, or None.
    """

    path: Path
    member: str | None = None

    @classmethod
    def find(cls, path: str | Path) -> TextFile:
        """Look a path up; ``snli_1.0.zip/snli_1.0/snli_1.0_dev.jsonl`` names a member of an archive.

        The folders inside the archive can be left out where the file name is unique.

        Raises:
            CorpusError: There is no such file or member.
        """
        path = Path(path)
        if path.is_file():
            return cls(path)
        for archive in path.parents:
            if archive.is_file() and zipfile.is_zipfile(archive):
                wanted = path.relative_to(archive).as_posix()
                members = zip_members(archive)
                matching = [name for name in members if name == wanted]
                matching = matching or [name for name in members if name.endswith("/" + wanted)]
                if len(matching) == 1:
                    return cls(archive, matching[0])
                raise CorpusError(
                    f"{archive}: expected one member {wanted!r}, found {matching or members[:20]}"
                )
        if path.is_dir():
            raise CorpusError(f"{path}: expected a file, found a folder")
        raise CorpusError(f"{path}: expected a file, found nothing there")

    @property
    def name(self) -> str:
        """File name without folders and without ``.gz``."""
        return (self.member or self.path.name).rsplit("/", 1)[-1].removesuffix(".gz")

    def __str__(self) -> str:
        return str(self.path) if self.member is None else f"{self.path}/{self.member}"

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Open for reading bytes, unpacked."""
        if self.member is not None:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as packed:
                if self.member.endswith(".gz"):
                    with gzip.open(packed) as unpacked:
                        yield unpacked  # type: ignore[misc]  # typeshed does not call a GzipFile an IO[bytes]
                else:
                    yield packed
        elif self.path.suffix == ".gz":
            with gzip.open(self.path) as unpacked:
                yield unpacked  # type: ignore[misc]
        else:
            with self.path.open("rb") as plain:
                yield plain

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """All lines with their numbers from 1 on, without line ends and without a byte-order mark.

        Raises:
            CorpusError: The packed file is truncated or damaged; the lines before that have been given.
        """
        number = 0
        try:
            with self.open() as file:
                for line in file:
                    number += 1
                    if number == 1:
                        line = line.removeprefix(b"\xef\xbb\xbf")
                    yield number, line.rstrip(b"\r\n")
        except _DAMAGED as error:
            raise CorpusError(
                f"{self}, after line {number}: expected more, found a truncated or damaged file ({error})"
            ) from error

    def digest(self) -> str:
        """Hash of the bytes as they are stored, and of the member's name."""
        with self.path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        return content if self.member is None else f"{content}:{self.member}"


def zip_members(archive: Path) -> list[str]:
    """Names of the files in a zip archive, without what macOS adds.

    Raises:
        CorpusError: The archive cannot be read.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            names = opened.namelist()
    except zipfile.BadZipFile as error:
        raise CorpusError(f"{archive}: expected a zip archive, found a damaged file ({error})") from error
    return [name for name in names if not name.endswith("/") and not _is_hidden(name)]


def _is_hidden(name: str) -> bool:
    return name.startswith("__MACOSX/") or name.rsplit("/", 1)[-1].startswith(".")
