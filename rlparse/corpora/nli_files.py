"""Readers for the official files of SNLI, MultiNLI, HANS, SICK, logical inference and ListOps.

A format turns one line into an example; ``read_examples`` finds out the format, counts, and says of a bad
line in which file it is, its number, what was expected and what was found.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from rlparse.corpora.examples import (
    LISTOPS_LABELS,
    NLI_LABELS,
    RELATION_LABELS,
    TWO_WAY_NLI_LABELS,
    Example,
    Sentence,
)
from rlparse.corpora.listops import is_listops, list_derivation, value
from rlparse.corpora.text_files import TextFile
from rlparse.corpora.tokenizer import tokenize
from rlparse.errors import CorpusError, MalformedTreeError
from rlparse.trees import parse_binary, parse_ptb

Format = Literal["auto", "jsonl", "tsv", "sick", "hans", "logic", "listops"]
Brackets = Literal["dropped", "tokens"]

MAX_LISTED_BAD_LINES = 10
_NO_LABEL = "-"


class BadLine(NamedTuple):
    """A line that was skipped, and why."""

    number: int
    message: str


@dataclass
class ReadingReport:
    """What came out of a file so far.

    Attributes:
        file: Where the lines came from.
        format: One of ``Format``.
        n_lines: Lines read, header and empty lines included.
        n_examples: Examples given.
        n_unlabelled: Examples dropped because their annotators did not agree (gold label ``-``).
        n_bad: Lines skipped because they are malformed.
        bad_lines: The first ten of them.
        n_parsed: Sentences with a gold parse.
        n_tokenized: Sentences without one, split by ``tokenize``.
    """

    file: str
    format: str
    n_lines: int = 0
    n_examples: int = 0
    n_unlabelled: int = 0
    n_bad: int = 0
    bad_lines: list[BadLine] = field(default_factory=list)
    n_parsed: int = 0
    n_tokenized: int = 0

    def __str__(self) -> str:
        text = f"{self.file}: {self.n_examples} examples ({self.format}"
        if self.n_parsed or self.n_tokenized:
            text += f", {self.n_parsed} sentences parsed, {self.n_tokenized} not"
        text += ")"
        if self.n_unlabelled:
            text += f", {self.n_unlabelled} dropped without gold label"
        if self.n_bad:
            text += f", {self.n_bad} malformed lines skipped"
        return text

    def at(self, file: str) -> ReadingReport:
        """The same report on a file that has moved since."""
        lines = [BadLine(number, message.replace(self.file, file, 1)) for number, message in self.bad_lines]
        return replace(self, file=file, bad_lines=lines)

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return asdict(self) | {"bad_lines": [list(line) for line in self.bad_lines]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ReadingReport:
        """Restore what ``to_json`` gave."""
        return cls(**{**data, "bad_lines": [BadLine(*line) for line in data["bad_lines"]]})


def read_examples(
    path: str | Path | TextFile,
    *,
    format: Format = "auto",
    skip_bad_lines: bool = False,
    require_labels: Sequence[str] | None = None,
    labelled_spans: bool = True,
    brackets: Brackets = "dropped",
) -> tuple[Iterator[Example], ReadingReport]:
    """Read one file line by line.

    Args:
        path: Plain, ``.gz``, or a member of a zip archive (``corpus.zip/member``).
        format: ``jsonl`` (SNLI, MultiNLI, HANS), ``tsv`` with a header that names its columns (their TXT
            files, SICK), ``sick`` (label, parse, parse), ``hans`` (label, heuristic, premise, hypothesis),
            ``logic`` or ``listops``; ``auto`` decides by the first line.
        skip_bad_lines: Skip and count malformed lines instead of raising.
        require_labels: The labels allowed; by default those of the format.
        labelled_spans: Also read the labelled trees, where the file has them.
        brackets: For ``logic``: drop the brackets, or make each a token (see ``rlparse.corpora.logic``).

    Returns:
        The examples, and a report that is complete when they have all been taken.

    Raises:
        CorpusError: The file is missing, its format cannot be told, or (while iterating) a line is malformed.
        ValueError: ``format`` or ``brackets`` is unknown.
    """
    if format not in get_args(Format):
        raise ValueError(f"format must be one of {get_args(Format)}, got {format!r}")
    if brackets not in get_args(Brackets):
        raise ValueError(f"brackets must be one of {get_args(Brackets)}, got {brackets!r}")
    file = path if isinstance(path, TextFile) else TextFile.find(path)
    first = _first_line(file)
    found = detect_format(first, str(file)) if format == "auto" else format
    try:
        parse_line, has_header = _line_parser(
            found, first, require_labels=require_labels, labelled_spans=labelled_spans, brackets=brackets
        )
    except CorpusError as error:
        raise CorpusError(f"{file}, line 1: {error}") from error
    report = ReadingReport(str(file), found)
    return _examples(file, parse_line, has_header, skip_bad_lines, report), report


def detect_format(first_line: str, file: str) -> Format:
    """Tell the format of a file by its first line.

    Raises:
        CorpusError: It is none of the known formats.
    """
    columns = first_line.split("\t")
    label = columns[0].strip().lower()
    if first_line.startswith("{"):
        return "jsonl"
    if _label_column(columns) is not None:
        return "tsv"
    if len(columns) == 2 and label in LISTOPS_LABELS and is_listops(columns[1].split()):
        return "listops"
    if len(columns) == 3 and label in RELATION_LABELS:
        return "logic"
    if len(columns) >= 3 and label in NLI_LABELS and columns[1].startswith("("):
        return "sick"
    if len(columns) == 4 and label in TWO_WAY_NLI_LABELS:
        return "hans"
    raise CorpusError(
        f"{file}, line 1: expected a JSON object, a header with a gold_label column, or a line of SICK, "
        f"HANS, logical inference or ListOps, found {_shortened(first_line)}"
    )


def _first_line(file: TextFile) -> str:
    """The first line that is not empty."""
    for _, line in file.lines():
        if line.strip():
            return line.decode("utf-8", errors="replace")
    raise CorpusError(f"{file}: expected examples, found an empty file")


def _examples(
    file: TextFile,
    parse_line: Callable[[str], Example | None],
    has_header: bool,
    skip_bad_lines: bool,
    report: ReadingReport,
) -> Iterator[Example]:
    lines = file.lines()
    header_to_come = has_header
    while True:
        try:
            number, raw = next(lines)
        except StopIteration:
            return
        except CorpusError as error:
            if not skip_bad_lines:
                raise
            _note(report, report.n_lines + 1, str(error))
            return
        report.n_lines = number
        if not raw.strip():
            continue
        if header_to_come:
            header_to_come = False
            continue
        try:
            example = parse_line(_decoded(raw))
        except (CorpusError, MalformedTreeError) as error:
            message = f"{file}, line {number}: {error}"
            if not skip_bad_lines:
                raise CorpusError(message) from error
            _note(report, number, message)
            continue
        if example is None:
            report.n_unlabelled += 1
            continue
        report.n_examples += 1
        for sentence in example.sentences:
            if sentence.transitions is None:
                report.n_tokenized += 1
            else:
                report.n_parsed += 1
        yield example


def _note(report: ReadingReport, number: int, message: str) -> None:
    report.n_bad += 1
    if len(report.bad_lines) < MAX_LISTED_BAD_LINES:
        report.bad_lines.append(BadLine(number, message))


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = raw[error.start : error.start + 1]
        raise CorpusError(f"expected UTF-8, found {byte!r} at byte {error.start}") from error


def _shortened(text: str, limit: int = 80) -> str:
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")


# One parser of lines per format


def _line_parser(
    format: Format,
    first_line: str,
    *,
    require_labels: Sequence[str] | None,
    labelled_spans: bool,
    brackets: Brackets,
) -> tuple[Callable[[str], Example | None], bool]:
    """The function that makes an example of a line, and whether the first line is a header."""
    columns = first_line.split("\t")
    if format in ("jsonl", "tsv"):
        labels = require_labels or (*NLI_LABELS, "non-entailment")
        if format == "jsonl":
            return lambda line: _from_fields(_json_object(line), _JSON_FIELDS, labels, labelled_spans), False
        fields = _tsv_fields(columns)
        names = [_column_name(column) for column in columns]
        return lambda line: _from_fields(_row(line, names), fields, labels, labelled_spans), True
    if format == "sick":
        labels = require_labels or NLI_LABELS
        return lambda line: _from_sick(line, labels), columns[0].startswith("%")
    if format == "hans":
        labels = require_labels or TWO_WAY_NLI_LABELS
        return lambda line: _from_hans(line, labels), False
    if format == "logic":
        labels = require_labels or RELATION_LABELS
        return lambda line: _from_logic(line, labels, brackets), False
    labels = require_labels or LISTOPS_LABELS
    return lambda line: _from_listops(line, labels), False


def _label(found: str, allowed: Sequence[str]) -> str:
    if found not in allowed:
        raise CorpusError(f"expected a label of {list(allowed)}, found {_shortened(found)}")
    return found


class _Fields(NamedTuple):
    """Names of the fields that hold the label, and of each sentence the text, binary and labelled parse."""

    label: str
    sentences: tuple[tuple[str, str, str], ...]


_JSON_FIELDS = _Fields(
    "gold_label",
    tuple((f"sentence{side}", f"sentence{side}_binary_parse", f"sentence{side}_parse") for side in (1, 2)),
)


def _column_name(column: str) -> str:
    return column.strip().lstrip("%")


def _label_column(columns: Sequence[str]) -> str | None:
    """The column that holds the label, where the columns are names."""
    names = [_column_name(column) for column in columns]
    return next(
        (name for name in ("gold_label", "entailment_label", "entailment_judgment") if name in names), None
    )


def _tsv_fields(columns: Sequence[str]) -> _Fields:
    names = {_column_name(column) for column in columns}
    label = _label_column(columns)
    if label is None:
        raise CorpusError(f"expected a header with a gold_label column, found {sorted(names)}")
    sentences = []
    for text in ("sentence1", "sentence2") if label == "gold_label" else ("sentence_A", "sentence_B"):
        fields = (text, f"{text}_binary_parse", f"{text}_parse")
        if fields[0] not in names and fields[1] not in names:
            raise CorpusError(f"expected a column {text} or {fields[1]}, found {sorted(names)}")
        sentences.append(fields)
    return _Fields(label, tuple(sentences))


def _row(line: str, names: Sequence[str]) -> dict[str, str]:
    values = line.split("\t")
    # MultiNLI leaves out trailing annotator labels in some rows; what is needed is checked by name.
    if len(values) > len(names):
        raise CorpusError(f"expected {len(names)} columns, found {len(values)}")
    return dict(zip(names, values, strict=False))


def _json_object(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except json.JSONDecodeError as error:
        raise CorpusError(
            f"expected a JSON object, found {_shortened(line)} ({error.msg} at character {error.pos})"
        ) from error
    if not isinstance(found, dict):
        raise CorpusError(f"expected a JSON object, found {_shortened(line)}")
    return found


def _from_fields(
    row: Mapping[str, Any], fields: _Fields, labels: Sequence[str], labelled_spans: bool
) -> Example | None:
    label = _text(row, fields.label)
    if label == _NO_LABEL:
        return None
    label = _label(label if fields.label == "gold_label" else label.lower(), labels)  # SICK has capitals
    sentences = []
    for text_field, binary_field, labelled_field in fields.sentences:
        if not row.get(binary_field):
            text = _text(row, text_field)
            # The parsed version of SICK has binary parses in the columns of the sentences.
            is_parse = text.startswith("( ") and text.endswith(" )")
            sentences.append(_sentence_of_parse(text) if is_parse else _sentence_of_text(text))
            continue
        sentence = _sentence_of_parse(_text(row, binary_field))
        if row.get(text_field):
            _check_same_text(sentence.tokens, _text(row, text_field))
        if labelled_spans and row.get(labelled_field):
            tokens, spans = parse_ptb(_text(row, labelled_field))
            if tokens != sentence.tokens:
                difference = _first_difference(sentence.tokens, tokens)
                raise CorpusError(f"expected the same tokens in both parses, found {difference}")
            sentence = sentence._replace(labelled_spans=spans)
        sentences.append(sentence)
    return Example(tuple(sentences), label)


def _text(row: Mapping[str, Any], name: str) -> str:
    found = row.get(name)
    if found is None:
        raise CorpusError(f"expected a field {name!r}, found {sorted(row)}")
    if not isinstance(found, str):
        raise CorpusError(f"expected text in the field {name!r}, found {found!r}")
    return found


def _columns(line: str, least: int, meaning: str) -> list[str]:
    columns = line.split("\t")
    if len(columns) < least:
        raise CorpusError(f"expected {least} columns ({meaning}), found {len(columns)} in {_shortened(line)}")
    return columns


def _from_sick(line: str, labels: Sequence[str]) -> Example:
    columns = _columns(line, 3, "label, parse, parse")
    label = _label(columns[0].strip().lower(), labels)
    return Example(tuple(_sentence_of_parse(column) for column in columns[1:3]), label)


def _from_hans(line: str, labels: Sequence[str]) -> Example:
    columns = _columns(line, 4, "label, heuristic, premise, hypothesis")
    return Example(tuple(_sentence_of_text(column) for column in columns[2:4]), _label(columns[0], labels))


def _from_logic(line: str, labels: Sequence[str], brackets: Brackets) -> Example:
    columns = _columns(line, 3, "relation, formula, formula")
    label = _label(columns[0].strip(), labels)
    sentences = []
    for column in columns[1:3]:
        sentence = _sentence_of_parse(column)
        if brackets == "tokens":
            pieces = tuple(column.split())
            sentence = Sentence(pieces, list_derivation(pieces))
        sentences.append(sentence)
    return Example(tuple(sentences), label)


def _from_listops(line: str, labels: Sequence[str]) -> Example:
    columns = _columns(line, 2, "label, expression")
    label = _label(columns[0].strip(), labels)
    pieces = columns[1].split()
    bracketed = "(" in pieces
    sentence = (
        _sentence_of_parse(columns[1]) if bracketed else Sentence(tuple(pieces), list_derivation(pieces))
    )
    if is_listops(sentence.tokens) and (expected := str(value(sentence.tokens))) != label:
        raise CorpusError(f"expected the value of the expression, {expected}, found the label {label}")
    return Example((sentence,), label)


def _sentence_of_text(text: str) -> Sentence:
    tokens = tuple(tokenize(text))
    if not tokens:
        raise CorpusError(f"expected a sentence, found {_shortened(text)}")
    return Sentence(tokens)


def _sentence_of_parse(text: str) -> Sentence:
    # Some tokens of parses, such as "1 1/2", have a no-break space inside, at which split() would part them.
    tree = parse_binary(text if text.isascii() else text.replace("\xa0", "_"))
    return Sentence(tree.tokens, tree.transitions)


# Do the tokens of a parse come from the sentence?

_ESCAPES = re.compile(r"-(?:[LR][RSC]B)-")
_NOT_ALPHANUMERIC = re.compile(r"[^0-9a-zA-Z]+")


def _check_same_text(tokens: Sequence[str], text: str) -> None:
    """Compare letters and digits; quotes, brackets and other signs are written differently in parses."""
    if not text.isascii():
        return  # parsers spell out what they do not know: cents, fractions, accents
    joined = "".join(tokens)
    if joined == text.replace(" ", ""):
        return
    if "&" in text:
        joined, text = html.unescape(joined), html.unescape(text)
    found = _NOT_ALPHANUMERIC.sub("", _ESCAPES.sub("", joined))
    expected = _NOT_ALPHANUMERIC.sub("", text)
    if found != expected:
        raise CorpusError(
            f"expected the tokens of {_shortened(text)}, found {_shortened(' '.join(tokens))} in the parse"
        )


def _first_difference(expected: Sequence[str], found: Sequence[str]) -> str:
    for position, (one, other) in enumerate(zip(expected, found, strict=False)):
        if one != other:
            return f"{other!r} instead of {one!r} at token {position}"
    return f"{len(found)} tokens instead of {len(expected)}"
