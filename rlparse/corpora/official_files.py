"""Finds the training, development and test files of a data set by their official names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from rlparse.corpora.text_files import TextFile, zip_members
from rlparse.errors import CorpusError

Paths = str | Path | Sequence[str | Path]


class DataFiles(NamedTuple):
    """The files of one data set.

    Attributes:
        name: Of the data set.
        train: At least one.
        dev: May be none.
        test: May be none.
        notes: What is not obvious about the choice.
    """

    name: str
    train: tuple[TextFile, ...]
    dev: tuple[TextFile, ...]
    test: tuple[TextFile, ...]
    notes: tuple[str, ...] = ()


class _Family(NamedTuple):
    """How the files of a data set are called, without ``.gz``."""

    name: str
    train: str
    dev: str
    test: str
    note: str = ""


_NOTHING = r"(?!)"
_FAMILIES = (
    _Family("snli", r"snli_1\.0_train.*", r"snli_1\.0_dev.*", r"snli_1\.0_test.*"),
    _Family(
        "multinli",
        r"multinli_\d\.\d_train.*",
        r"multinli_\d\.\d_dev_matched.*",
        r"multinli_\d\.\d_dev_mismatched.*",
        "MultiNLI's mismatched development set serves as the test, as its test sets have no labels",
    ),
    _Family("sick", r"SICK_train.*", r"SICK_trial.*", r"SICK_test_(annotated|parsed).*"),
    _Family("hans", r"hans_train\.tsv|heuristics_train_set.*", _NOTHING, r"heuristics_evaluation_set.*"),
    _Family(
        "logic",
        r"train[0-6]",
        _NOTHING,
        r"test([7-9]|1[0-2])",
        "training on bins 0 to 6, test on bins 7 to 12",
    ),
    _Family("listops", r"train.*\.tsv", r"(dev|val).*\.tsv", r"test.*\.tsv"),
)
_SUFFIXES = (".jsonl", ".txt", ".tsv", "")
_ROLES = (("train", r"train"), ("dev", r"dev|trial|valid"), ("test", r"test"))


def find_files(data: Paths) -> DataFiles:
    """Find the files of a data set.

    Args:
        data: A folder or zip archive with the official files of one data set (or with one folder or archive
            that has them), or a list of files, of which those with "dev", "trial", "valid" or "test" in their
            names are for development and test.

    Raises:
        CorpusError: Nothing fits, or more than one data set does.
    """
    if not isinstance(data, str | Path) and len(data) == 1:
        data = data[0]
    if isinstance(data, str | Path):
        path = Path(data)
        if not path.exists():
            return _by_role([TextFile.find(path)])  # a member of an archive, or an error
        files = _files_in(path)
        if files is None:
            return _by_role([TextFile.find(path)])
        found = _by_family(files, path)
        if found is None and path.is_dir():
            inner = [entry for entry in sorted(path.iterdir()) if _files_in(entry) is not None]
            matches = [match for entry in inner if (match := _by_family(_files_in(entry) or [], entry))]
            if len(matches) > 1:
                names = ", ".join(match.name for match in matches)
                raise CorpusError(f"{path}: expected one data set, found {names}; name one of them")
            found = matches[0] if matches else None
        if found is None:
            raise CorpusError(
                f"{path}: expected the official files of {', '.join(family.name for family in _FAMILIES)}, "
                f"found {[file.name for file in files][:20] or 'no files'}"
            )
        return found
    return _by_role([TextFile.find(path) for path in data])


def as_files(paths: Paths) -> tuple[TextFile, ...]:
    """One path or several as existing files."""
    return tuple(TextFile.find(path) for path in ([paths] if isinstance(paths, str | Path) else paths))


def _files_in(path: Path) -> list[TextFile] | None:
    """Visible files in a folder or zip archive, None where it is neither."""
    if path.is_dir():
        return [
            TextFile(entry) for entry in sorted(path.iterdir()) if entry.is_file() and entry.name[0] != "."
        ]
    if path.suffix == ".zip":
        return [TextFile(path, member) for member in sorted(zip_members(path))]
    return None


def _by_family(files: list[TextFile], where: Path) -> DataFiles | None:
    matches = []
    for family in _FAMILIES:
        train, dev, test = (_matching(files, pattern) for pattern in family[1:4])
        if train:
            note = (family.note,) if family.note else ()
            matches.append(DataFiles(family.name, train, dev, test, note))
    if len(matches) > 1:
        found = ", ".join(f"{match.name} ({match.train[0].name})" for match in matches)
        raise CorpusError(f"{where}: expected one data set, found {found}; give the files one by one")
    return matches[0] if matches else None


def _matching(files: Iterable[TextFile], pattern: str) -> tuple[TextFile, ...]:
    """Files that fit the pattern, each once where it is there as JSONL and TXT, or packed and unpacked."""
    chosen: dict[str, tuple[tuple[int, bool], TextFile]] = {}
    for file in files:
        suffix = next(suffix for suffix in _SUFFIXES if file.name.endswith(suffix))
        if not re.fullmatch(pattern, file.name) or not _is_text(file.name):
            continue
        rank = (_SUFFIXES.index(suffix), str(file).endswith(".gz"))
        stem = file.name.removesuffix(suffix)
        if stem not in chosen or rank < chosen[stem][0]:
            chosen[stem] = rank, file
    return tuple(chosen[stem][1] for stem in sorted(chosen, key=_natural))


def _is_text(name: str) -> bool:
    return name.endswith((".jsonl", ".txt", ".tsv")) or "." not in name


def _natural(name: str) -> list[str | tuple[int, str]]:
    """Sort train10 after train9."""
    return [piece.zfill(9) if piece.isdigit() else piece for piece in re.split(r"(\d+)", name)]


def _by_role(files: Sequence[TextFile]) -> DataFiles:
    """Sort given files by what their names say; a name that says nothing is training."""
    chosen: dict[str, list[TextFile]] = {"train": [], "dev": [], "test": []}
    for file in files:
        roles = [role for role, pattern in _ROLES if re.search(pattern, file.name, re.IGNORECASE)]
        if len(roles) > 1:
            raise CorpusError(
                f"{file}: expected a name that says train, dev or test, found {' and '.join(roles)} in it"
            )
        chosen[roles[0] if roles else "train"].append(file)
    if not chosen["train"]:
        raise CorpusError(f"expected at least one training file, found {[str(file) for file in files]}")
    name = re.split(r"[_.]", chosen["train"][0].name)[0].lower() or "corpus"
    return DataFiles(name, tuple(chosen["train"]), tuple(chosen["dev"]), tuple(chosen["test"]))
