"""Many shift-reduce parsers in numpy arrays, each at its own step of its own sentence."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rlparse import PAD
from rlparse.transitions import Transition

IntArray = npt.NDArray[np.int64]
CountArray = npt.NDArray[np.signedinteger[Any]]
BoolArray = npt.NDArray[np.bool_]

_ALIGNMENT = 64


def count_dtype(n_tokens: int) -> type[np.signedinteger[Any]]:
    """Choose the integers that hold positions and numbers of tokens."""
    return np.int16 if n_tokens <= np.iinfo(np.int16).max else np.int32


class Advance(NamedTuple):
    """What one step did to every row.

    Attributes:
        illegal: [R] bool. The action was replaced.
        reduced: [R] bool. The transition was a REDUCE.
        starts: [R]. First token of the item that is on top now; it ends before the buffer's front.
    """

    illegal: BoolArray
    reduced: BoolArray
    starts: CountArray


class ParserRows:
    """R parsers over sentences of at most N tokens, advanced together without a loop over them.

    All that an observation shows stands in one block of memory, so that giving it away costs one copy. A
    transition changes three cells of a row: the history, the span on top, and the one that a REDUCE frees. The
    twin of `rlparse.lockstep`, in which all rows are at the same step.

    Args:
        n_rows: R.
        n_tokens: N.
        heights: Follow the heights of the items on the stack too.

    Attributes:
        fields: Views of the block by name, each [R, width]: what `SymbolicObserver` describes.
        heights: [R, N] int64. Height of every stack item above its deepest leaf, bottom first, or None.
        may_shift: [R] bool.
        may_reduce: [R] bool.
    """

    def __init__(self, n_rows: int, n_tokens: int, *, heights: bool = False) -> None:
        self.n_rows, self.n_tokens, self.n_steps = n_rows, n_tokens, 2 * n_tokens - 1
        count = np.dtype(count_dtype(n_tokens))
        self._layout: dict[str, tuple[np.dtype[Any], int, int]] = {}
        size = 0
        for name, dtype, width in (
            ("tokens", np.dtype(np.int32), n_tokens),
            ("length", count, 1),
            ("transitions", np.dtype(np.int8), self.n_steps),
            ("stack_spans", count, 2 * n_tokens),
            ("stack_size", count, 1),
            ("buffer_front", count, 1),
            ("side", count, 1),
            ("action_mask", np.dtype(np.int8), len(Transition)),
        ):
            self._layout[name] = (dtype, width, size)
            # Rows that are parked write behind the last row: one transition, one span.
            size += -(-(n_rows * width + 2) * dtype.itemsize // _ALIGNMENT) * _ALIGNMENT
        self._block = np.zeros(size, np.uint8)
        self.fields = self._views(self._block)
        self._length, self._size, self._front, self._side = (
            self.fields[name].reshape(-1) for name in ("length", "stack_size", "buffer_front", "side")
        )
        self._history = self._flat("transitions", np.dtype(np.int8), n_rows * self.n_steps + 1)
        pair = np.dtype(f"i{2 * count.itemsize}")  # (start, end) as one integer
        self._spans = self._flat("stack_spans", pair, n_rows * n_tokens + 1)
        self._count_dtype = count
        self._whole = {  # one item a row, which numpy copies faster than many
            name: self._flat(name, np.dtype(f"V{width * dtype.itemsize}"), n_rows)
            for name, (dtype, width, _) in self._layout.items()
        }
        self._empty_history = np.full(self.n_steps, PAD, np.int8).view(self._whole["transitions"].dtype)
        self._empty_stack = np.zeros(2 * n_tokens, count).view(self._whole["stack_spans"].dtype)
        self.heights: IntArray | None = np.zeros((n_rows, n_tokens), np.int64) if heights else None
        self.may_shift: BoolArray = np.zeros(n_rows, np.bool_)
        self.may_reduce: BoolArray = np.zeros(n_rows, np.bool_)
        self._top: IntArray = np.zeros(n_rows, np.int64)  # cell of `_spans` on top of each stack
        self._next: IntArray = np.zeros(n_rows, np.int64)  # cell of `_history` to write next

    def _views(self, block: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]:
        return {
            name: np.ndarray((self.n_rows, width), dtype, block, offset)
            for name, (dtype, width, offset) in self._layout.items()
        }

    def _flat(self, name: str, dtype: np.dtype[Any], size: int) -> npt.NDArray[Any]:
        """View a field, and the cell behind its last row, as one row of ``dtype``."""
        return np.ndarray((size,), dtype, self._block, self._layout[name][2])

    @property
    def lengths(self) -> CountArray:
        """[R]. Tokens of each sentence."""
        return self._length

    @property
    def fronts(self) -> CountArray:
        """[R]. Tokens shifted so far."""
        return self._front

    @property
    def sizes(self) -> CountArray:
        """[R]. Items on the stack."""
        return self._size

    @property
    def sides(self) -> CountArray:
        """[R]. Which sentence of the example is parsed."""
        return self._side

    @property
    def steps(self) -> IntArray:
        """[R] int64. Transitions of this sentence so far."""
        return self._next - np.arange(self.n_rows) * self.n_steps

    def snapshot(self) -> dict[str, npt.NDArray[Any]]:
        """Copy all fields at once."""
        return self._views(self._block.copy())

    def histories(self, rows: IntArray) -> npt.NDArray[np.int8]:
        """[k, T] int8. Transitions of some rows' sentences so far, PAD after them."""
        histories: npt.NDArray[np.int8] = (
            self._whole["transitions"][rows].view(np.int8).reshape(len(rows), self.n_steps)
        )
        return histories

    def start(
        self, rows: IntArray, tokens: npt.NDArray[np.int32], lengths: IntArray, sides: IntArray
    ) -> None:
        """Put new sentences into some rows: everything in the buffer, nothing on the stack.

        Args:
            rows: [k] which.
            tokens: [k, N] vocabulary indices, 0 after the end.
            lengths: [k], from 1 to N.
            sides: [k].
        """
        self.fields["tokens"][rows] = tokens
        self._whole["transitions"][rows] = self._empty_history
        self._whole["stack_spans"][rows] = self._empty_stack
        self.fields["action_mask"][rows] = (1, 0)
        self._length[rows], self._side[rows] = lengths, sides
        self._size[rows] = self._front[rows] = 0
        self.may_shift[rows], self.may_reduce[rows] = True, False
        self._top[rows] = rows * self.n_tokens - 1
        self._next[rows] = rows * self.n_steps

    def advance(self, actions: npt.NDArray[np.integer], parked: IntArray) -> Advance:
        """Take one transition in every row, the legal one where the action is not.

        Args:
            actions: [R] 0 or 1.
            parked: Finished rows that take none; they have to be started again before they are looked at.
        """
        asked = actions.astype(np.bool_)
        illegal = ~((asked & self.may_reduce) | (~asked & self.may_shift))
        reduced = asked ^ illegal
        if len(parked):
            illegal[parked] = reduced[parked] = False
            self._top[parked] = len(self._spans) - 2
            self._next[parked] = len(self._history) - 1
        self._history[self._next] = reduced.view(np.int8)
        self._next += 1
        shifted = ~reduced
        moved = shifted.astype(np.int64)
        freed = self._top + moved  # the old top of a REDUCE, the new one of a SHIFT
        self._top = freed + moved
        self._top -= 1
        count = shifted.astype(self._count_dtype)
        self._front += count
        self._size += 2 * count - 1
        # What a REDUCE leaves on top begins where it did; a SHIFT fills an empty cell. Both end at the front.
        top = self._spans[self._top]
        span = top.view(self._count_dtype).reshape(-1, 2)
        starts: CountArray = span[:, 0] + (self._front - 1) * count
        span[:, 0], span[:, 1] = starts, self._front
        if self.heights is not None:
            self._grow(reduced)
        self._spans[freed] = 0
        self._spans[self._top] = top
        np.less(self._front, self._length, out=self.may_shift)
        np.greater_equal(self._size, 2, out=self.may_reduce)
        mask = self.fields["action_mask"]
        mask[:, 0], mask[:, 1] = self.may_shift, self.may_reduce
        return Advance(illegal, reduced, starts)

    def _grow(self, reduced: BoolArray) -> None:
        """Follow the heights: a leaf has 0, a node one more than the taller of its children."""
        assert self.heights is not None
        rows = np.arange(self.n_rows)
        top = np.clip(self._size.astype(np.int64) - 1, 0, self.n_tokens - 1)
        right = self.heights[rows, np.minimum(top + 1, self.n_tokens - 1)]
        self.heights[rows, top] = np.where(reduced, 1 + np.maximum(self.heights[rows, top], right), 0)
