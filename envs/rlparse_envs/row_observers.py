"""Observations of many parsers at once, each equal to what its observer says of one."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.vector.utils import concatenate, create_empty_array

from rlparse.transitions import ParserState, Transition
from rlparse_envs.observations import FeatureObserver, Observer, Situation, SymbolicObserver
from rlparse_envs.parser_rows import IntArray, ParserRows
from rlparse_envs.sentence_table import SentenceTable, WordArray


class RowObserver(Protocol):
    """Makes observations of some or all rows of a `ParserRows`."""

    def start(self, rows: IntArray, numbers: IntArray) -> None:
        """Take note that rows [k] begin sentences [k], as `SentenceTable` numbers them."""
        ...

    def observe(self, rows: IntArray | None = None) -> Any:
        """Describe rows, by default all, in arrays that nobody else holds."""
        ...


class SymbolicRows:
    """`SymbolicObserver` of many parsers: a copy of what they are."""

    def __init__(self, parsers: ParserRows) -> None:
        self._parsers = parsers

    def start(self, rows: IntArray, numbers: IntArray) -> None:
        """Nothing to note: the parsers have it all."""

    def observe(self, rows: IntArray | None = None) -> dict[str, npt.NDArray[Any]]:
        """Copy rows; see `RowObserver`."""
        if rows is None:
            return self._parsers.snapshot()
        return {name: field[rows] for name, field in self._parsers.fields.items()}


class FeatureRows:
    """`FeatureObserver` of many parsers; means over words come from running sums along each sentence.

    Args:
        observer: Of one parser.
        parsers: Which follow their heights.
        table: Whose words the rows hold.
    """

    def __init__(self, observer: FeatureObserver, parsers: ParserRows, table: SentenceTable) -> None:
        self._observer, self._parsers, self._table = observer, parsers, table
        width = observer.vectors.size
        self._vectors = np.zeros((0, width), np.float32)  # of every word of the table
        self._words: WordArray = np.zeros((parsers.n_rows, parsers.n_tokens), np.int32)
        self._sums = np.zeros((parsers.n_rows, parsers.n_tokens + 1, width))  # of all words before

    def start(self, rows: IntArray, numbers: IntArray) -> None:
        """See `RowObserver`."""
        known = len(self._vectors)
        if known < len(self._table.words):
            new = self._observer.vectors(
                self._table.words[known:], self._table.token_ids[known:].astype(np.int64)
            )
            self._vectors = np.concatenate((self._vectors, new))
        self._words[rows] = words = self._table.word_rows(numbers)
        self._sums[rows, 1:] = self._vectors[words].cumsum(axis=1, dtype=np.float64)

    def observe(self, rows: IntArray | None = None) -> npt.NDArray[np.float32]:
        """Describe rows; see `RowObserver` and `FeatureObserver`."""
        parsers, observer = self._parsers, self._observer
        assert parsers.heights is not None
        rows = np.arange(parsers.n_rows) if rows is None else rows
        n, sizes, fronts, steps = (
            # Twice a position does not always fit into the integers that hold positions.
            x[rows].astype(np.int64)
            for x in (parsers.lengths, parsers.sizes, parsers.fronts, parsers.steps)
        )
        last = parsers.fields["transitions"][rows, np.maximum(steps - 1, 0)]
        begun = steps > 0
        width = observer.vectors.size
        values = np.zeros((len(rows), len(observer.names)), np.float32)
        for at, column in enumerate(
            (
                parsers.sides[rows] / max(1, observer.size.n_sides - 1),
                n / observer.size.max_tokens,
                steps / (2 * n - 1),
                sizes / n,
                (n - fronts) / n,
                parsers.may_shift[rows],
                parsers.may_reduce[rows],
                begun & (last == Transition.SHIFT),
                begun & (last == Transition.REDUCE),
            )
        ):
            values[:, at] = column
        at = 9
        for item in range(observer.stack_items):
            there = np.flatnonzero(sizes > item)
            row, place = rows[there], sizes[there] - 1 - item
            spans = parsers.fields["stack_spans"]
            start, end = (spans[row, 2 * place + side].astype(np.int64) for side in (0, 1))
            length = n[there]
            values[there, at] = 1.0
            values[there, at + 1] = start / length
            values[there, at + 2] = (end - start) / length
            values[there, at + 3] = parsers.heights[row, place] / np.maximum(1, length - 1)
            first, latest, mean = (slice(at + 4 + k * width, at + 4 + (k + 1) * width) for k in range(3))
            values[there, first] = self._vectors[self._words[row, start]]
            values[there, latest] = self._vectors[self._words[row, end - 1]]
            values[there, mean] = (self._sums[row, end] - self._sums[row, start]) / (end - start)[:, None]
            at += 4 + 3 * width
        for item in range(observer.buffer_items):
            there = np.flatnonzero(fronts + item < n)
            values[there, at] = 1.0
            values[there, at + 1 : at + 1 + width] = self._vectors[
                self._words[rows[there], fronts[there] + item]
            ]
            at += 1 + width
        return values


class RowsOneByOne:
    """Any other observer, asked about one parser after the other."""

    def __init__(
        self, observer: Observer, space: spaces.Space[Any], parsers: ParserRows, table: SentenceTable
    ) -> None:
        self._observer, self._space, self._parsers, self._table = observer, space, parsers, table
        self._words: WordArray = np.zeros((parsers.n_rows, parsers.n_tokens), np.int32)

    def start(self, rows: IntArray, numbers: IntArray) -> None:
        """See `RowObserver`."""
        self._words[rows] = self._table.word_rows(numbers)

    def observe(self, rows: IntArray | None = None) -> Any:
        """Describe rows; see `RowObserver`."""
        chosen = range(self._parsers.n_rows) if rows is None else rows.tolist()
        seen = [self._observer.observe(self._situation(row)) for row in chosen]
        empty: Any = create_empty_array(self._space, len(seen))
        return concatenate(self._space, seen, empty)

    def _situation(self, row: int) -> Situation:
        """Replay one row's history."""
        parsers = self._parsers
        n, step = int(parsers.lengths[row]), int(parsers.steps[row])
        parser = ParserState(n)
        for transition in parsers.fields["transitions"][row, :step].tolist():
            parser.apply(transition)
        tokens = tuple(self._table.words[word] for word in self._words[row, :n].tolist())
        ids = parsers.fields["tokens"][row, :n].astype(np.int64)
        return Situation(parser, tokens, ids, int(parsers.sides[row]))


def observe_rows(observer: Observer, parsers: ParserRows, table: SentenceTable) -> RowObserver:
    """Find the fastest way to observe many parsers that says the same as ``observer`` does of one."""
    if type(observer) is SymbolicObserver:
        return SymbolicRows(parsers)
    if type(observer) is FeatureObserver:
        return FeatureRows(observer, parsers, table)
    return RowsOneByOne(observer, observer.space, parsers, table)
