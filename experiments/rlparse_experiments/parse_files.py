"""Files of parses: written by training and evaluation, read by ``rlparse compare``. No torch here.

Two formats. JSONL, one sentence a line, the position in the corpus as id (``12.1``: second sentence of
example 12):

    {"sentence_id": "12.1", "tokens": ["a", "b", "c"], "parse": "( ( a b ) c )", "gold": "( a ( b c ) )"}

``gold`` is null where there is none; ``phrases``, the labelled gold phrases as ``[start, end, label]``, may be
added. Tokens that are brackets themselves stand in the trees as -LRB- and -RRB-. And plain text: one bracketed
tree a line, as other parsers write them, with the line number for an id.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlparse.errors import CorpusError, MalformedTreeError
from rlparse.trees import BinaryTree, escape_brackets, format_brackets, parse_binary

__all__ = ["ParseFile", "ParseRecord", "read_parses", "replace_file", "write_parses"]

Phrase = tuple[int, int, str]

REQUIRED = ("sentence_id", "tokens", "parse")
OPTIONAL = ("gold", "phrases")


class ParseRecord(NamedTuple):
    """One parsed sentence.

    Attributes:
        sentence_id: Names the sentence, so that files can be matched.
        tokens: Its words.
        transitions: The parse, as a derivation.
        gold: The gold derivation, or None.
        phrases: Labelled gold phrases ``(start, end, label)``, or None.
    """

    sentence_id: str
    tokens: tuple[str, ...]
    transitions: tuple[int, ...]
    gold: tuple[int, ...] | None = None
    phrases: tuple[Phrase, ...] | None = None

    @classmethod
    def of(
        cls,
        sentence_id: str,
        tokens: Sequence[str],
        transitions: Sequence[int],
        gold: Sequence[int] | None = None,
        phrases: Sequence[Phrase] | None = None,
    ) -> ParseRecord:
        """Make a record of any sequences."""
        return cls(
            sentence_id,
            tuple(tokens),
            tuple(transitions),
            None if gold is None else tuple(gold),
            None if phrases is None else tuple(phrases),
        )


class ParseFile(NamedTuple):
    """What a file of parses holds.

    Attributes:
        path: The file.
        has_ids: Whether its sentences are named, or only numbered by line.
        records: The sentences, in the file's order.
        lines: The line number of each.
    """

    path: Path
    has_ids: bool
    records: list[ParseRecord]
    lines: list[int]

    def where(self, index: int) -> str:
        """Name the file and line of a sentence, for errors."""
        return f"{self.path}, line {self.lines[index]}"


def write_parses(path: Path, records: Iterable[ParseRecord]) -> None:
    """Write a JSONL file of parses, as a whole or not at all; its folder is made if need be.

    Raises:
        MalformedTreeError: A parse is not one over its tokens, or a token holds a space.
    """

    def lines() -> Iterator[str]:
        for record in records:
            written = escape_brackets(record.tokens)
            try:
                line: dict[str, Any] = {
                    "sentence_id": record.sentence_id,
                    "tokens": list(record.tokens),
                    "parse": format_brackets(written, record.transitions),
                    "gold": None if record.gold is None else format_brackets(written, record.gold),
                }
            except MalformedTreeError as error:
                raise MalformedTreeError(f"sentence {record.sentence_id}: {error}") from None
            if record.phrases is not None:
                line["phrases"] = [list(phrase) for phrase in record.phrases]
            yield json.dumps(line, ensure_ascii=False) + "\n"

    replace_file(path, lines())


def replace_file(path: Path, pieces: Iterable[str]) -> None:
    """Write a text file under a temporary name, bring it to the disk, then give it its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_parses(path: Path) -> ParseFile:
    """Read a file of parses, JSONL or bracketed text, whichever its first line is; empty lines are skipped.

    Raises:
        CorpusError: The file holds no parse, or a line is malformed; says file, line, what was expected and
            found.
        OSError: The file cannot be read.
    """
    records: list[ParseRecord] = []
    lines: list[int] = []
    seen: dict[str, int] = {}
    is_jsonl = path.suffix in (".jsonl", ".json")
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        where = f"{path}, line {number}"
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip(" \t\r\f\v")
        except UnicodeDecodeError as error:
            raise CorpusError(f"{where}: expected UTF-8, found byte {line[error.start]:#04x}") from None
        if not text:
            continue
        if not records:
            is_jsonl = is_jsonl or text.startswith("{")
        try:
            record = _json_record(text) if is_jsonl else _bracket_record(text, len(records))
        except (CorpusError, MalformedTreeError) as error:
            raise CorpusError(f"{where}: {error}") from None
        if record.sentence_id in seen:
            raise CorpusError(
                f"{where}: sentence_id {record.sentence_id!r} was given in line {seen[record.sentence_id]}; "
                "expected every sentence once"
            )
        seen[record.sentence_id] = number
        records.append(record)
        lines.append(number)
    if not records:
        raise CorpusError(f"{path}: expected parses, one a line, found none")
    return ParseFile(path, is_jsonl, records, lines)


def _bracket_record(text: str, index: int) -> ParseRecord:
    tree = parse_binary(text)
    return ParseRecord(str(index), tree.tokens, tree.transitions)


def _json_record(text: str) -> ParseRecord:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise CorpusError(f"expected a JSON object, found {_shown(text)}: {error}") from None
    if not isinstance(found, dict):
        raise CorpusError(f"expected a JSON object, found {_shown(text)}")
    missing = [key for key in REQUIRED if key not in found]
    if missing:
        raise CorpusError(
            f"expected the fields {', '.join(REQUIRED)} and perhaps {', '.join(OPTIONAL)}; "
            f"{', '.join(missing)} missing, found {', '.join(found) or 'none'}"
        )
    sentence_id, tokens, parse = (found[key] for key in REQUIRED)
    gold, phrases = (found.get(key) for key in OPTIONAL)
    if not isinstance(sentence_id, str):
        raise CorpusError(f"expected a text as sentence_id, found {_shown(sentence_id)}")
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise CorpusError(f"expected a list of texts as tokens, found {_shown(tokens)}")
    transitions = _tree("parse", parse, tokens).transitions
    return ParseRecord(
        sentence_id,
        tuple(tokens),
        transitions,
        None if gold is None else _tree("gold", gold, tokens).transitions,
        None if phrases is None else _phrases(phrases, len(tokens)),
    )


def _tree(field: str, text: Any, tokens: list[str]) -> BinaryTree:
    if not isinstance(text, str):
        raise CorpusError(f"expected a bracketed tree as {field}, found {_shown(text)}")
    try:
        tree = parse_binary(text)
    except MalformedTreeError as error:
        raise CorpusError(f"{field}: {error}") from None
    if tree.tokens != escape_brackets(tokens):
        raise CorpusError(
            f"expected the tree in {field} to be over the tokens {_shown(tokens)}, found one over "
            f"{_shown(list(tree.tokens))}"
        )
    return tree


def _phrases(phrases: Any, n_tokens: int) -> tuple[Phrase, ...]:
    found: list[Phrase] = []
    for phrase in phrases if isinstance(phrases, list) else [phrases]:
        match phrase:
            case [int(start), int(end), str(label)] if 0 <= start < end <= n_tokens:
                found.append((start, end, label))
            case _:
                raise CorpusError(
                    f"expected [start, end, label] inside the {n_tokens} tokens as phrases, found {_shown(phrase)}"
                )
    return tuple(found)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else text[:80] + "…"
