"""Read the parses to compare, from run folders and files, and match their sentences. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rlparse.errors import ConfigError, CorpusError
from rlparse.trees import escape_brackets
from rlparse_experiments.parse_files import ParseFile, Phrase, read_parses
from rlparse_experiments.run_folder import RunFolder


class Source(NamedTuple):
    """One set of parses to compare.

    Attributes:
        name: Short and unique among the sources.
        path: The file.
        derivations: The parses, in the order of the sentences compared.
    """

    name: str
    path: Path
    derivations: list[tuple[int, ...]]


class Sentences(NamedTuple):
    """What is compared: the same sentences, parsed by several sources.

    Attributes:
        words: Tokens of every sentence.
        sources: Who parsed them.
        gold: Gold derivation of every sentence, None where there is none.
        phrases: Labelled gold phrases, likewise.
    """

    words: list[tuple[str, ...]]
    sources: list[Source]
    gold: list[tuple[int, ...] | None]
    phrases: list[tuple[Phrase, ...] | None]


def read_sources(paths: Sequence[Path], *, gold: Path | None = None, split: str = "dev") -> Sentences:
    """Read run folders and files of parses, and match their sentences: by id where both have ids, else by order.

    Args:
        paths: Run folders or files.
        gold: File of gold trees. Of a JSONL line the ``gold`` tree is taken, or ``parse`` where there is
            none.
        split: Which parses of a run folder.

    Raises:
        ConfigError: There are no paths, or a folder has no such parses.
        CorpusError: A file is malformed, or the files are not of the same sentences; says which and where.
    """
    if not paths:
        raise ConfigError("expected run folders or files of parses to compare, got none")
    found = [read_parses(parses_of(path, split)) for path in paths]
    guide = next((file for file in found if file.has_ids), found[0])
    orders = [_match(file, guide) for file in found]
    names = _names(paths, found)
    sources = [
        Source(name, file.path, [file.records[i].transitions for i in order])
        for name, file, order in zip(names, found, orders, strict=True)
    ]
    if gold is not None:
        file = read_parses(parses_of(gold, split))
        records = [file.records[i] for i in _match(file, guide, more_allowed=True)]
        gold_trees: list[tuple[int, ...] | None] = [r.gold or r.transitions for r in records]
        found, orders = [file, *found], [_match(file, guide, more_allowed=True), *orders]
    else:
        gold_trees = _gold_inside(found, orders)
    phrases = [
        next(
            (p for file, order in zip(found, orders, strict=True) if (p := file.records[order[i]].phrases)),
            None,
        )
        for i in range(len(guide.records))
    ]
    return Sentences([record.tokens for record in guide.records], sources, gold_trees, phrases)


def parses_of(path: Path, split: str) -> Path:
    """Return the file of parses that a path stands for."""
    if not path.is_dir():
        return path
    folder = path / "parses" if (path / "parses").is_dir() else path
    file = parses_there(path, split)
    if file is None:
        there = sorted(found.stem for found in folder.glob("*.jsonl"))
        hint = f"; there are {', '.join(there)}: choose one with --split" if there else ""
        hint = hint or "; a run writes its parses when it ends"
        raise ConfigError(f"{path} has no parses '{split}': expected {folder / f'{split}.jsonl'}{hint}")
    return file


def parses_there(path: Path, split: str) -> Path | None:
    """Return the file of parses in a folder, if there is one: of a run, ``SPLIT/parses.jsonl`` goes first."""
    folder = path / "parses" if (path / "parses").is_dir() else path
    files = [folder / f"{split}.jsonl"]
    if split != "dev":
        files.insert(0, RunFolder(path).measured(split) / "parses.jsonl")
    return next((file for file in files if file.is_file()), None)


def _names(paths: Sequence[Path], files: Sequence[ParseFile]) -> list[str]:
    """Name every source by its folder or file, and by the whole path where that is not enough."""
    short = [path.resolve().name if path.is_dir() else path.stem for path in paths]
    names = [s if short.count(s) == 1 else str(p) for s, p in zip(short, paths, strict=True)]
    repeated = [file.path for name, file in zip(names, files, strict=True) if names.count(name) > 1]
    if repeated:
        raise ConfigError(f"{repeated[0]} is given {len(repeated)} times, expected different parses")
    return names


def _match(file: ParseFile, guide: ParseFile, *, more_allowed: bool = False) -> list[int]:
    """For every sentence of the guide, find its position in another file; check that the tokens are the same."""
    if file.has_ids and guide.has_ids:
        places = {record.sentence_id: i for i, record in enumerate(file.records)}
        wanted = {record.sentence_id: i for i, record in enumerate(guide.records)}
        missing = [i for name, i in wanted.items() if name not in places]
        surplus = [i for name, i in places.items() if name not in wanted]
        for a, b, only in ((guide, file, missing), (file, guide, [] if more_allowed else surplus)):
            if only:
                raise CorpusError(
                    f"{len(only)} sentences of {a.path} are not in {b.path}, the first is "
                    f"{a.records[only[0]].sentence_id!r} in line {a.lines[only[0]]}; expected the same sentences"
                )
        order = [places[record.sentence_id] for record in guide.records]
    else:
        if len(file.records) != len(guide.records):
            raise CorpusError(
                f"{file.path} has {len(file.records)} sentences, {guide.path} has {len(guide.records)}; "
                "expected the same sentences"
            )
        order = list(range(len(guide.records)))
    for i, place in enumerate(order):
        if escape_brackets(file.records[place].tokens) != escape_brackets(guide.records[i].tokens):
            raise CorpusError(
                f"{file.where(place)}: expected the sentence of {guide.where(i)}, "
                f"{_quoted(guide.records[i].tokens)}, found {_quoted(file.records[place].tokens)}"
            )
    return order


def _gold_inside(files: Sequence[ParseFile], orders: Sequence[Sequence[int]]) -> list[tuple[int, ...] | None]:
    """Collect the gold trees that the files hold; where several do, they have to agree."""
    collected: list[tuple[int, ...] | None] = []
    for i in range(len(orders[0])):
        gold: tuple[int, ...] | None = None
        origin = ""
        for file, order in zip(files, orders, strict=True):
            other = file.records[order[i]].gold
            if other is None:
                continue
            if gold is not None and other != gold:
                raise CorpusError(
                    f"{file.where(order[i])}: expected the gold tree of {origin}, found another one; "
                    "say with --gold FILE which trees to compare with"
                )
            gold, origin = other, file.where(order[i])
        collected.append(gold)
    return collected


def _quoted(tokens: Sequence[str]) -> str:
    text = " ".join(tokens)
    return repr(text if len(text) <= 60 else text[:60] + "…")
