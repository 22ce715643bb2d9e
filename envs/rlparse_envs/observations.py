"""Observations: what an agent sees of the parser between two transitions, in spaces of fixed size."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from rlparse import PAD
from rlparse.transitions import ParserState, Transition
from rlparse_envs.parser_rows import count_dtype

if TYPE_CHECKING:
    from rlparse.models.nli_model import NLIModel

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

ObservationName = Literal["symbolic", "features"]


class GameSize(NamedTuple):
    """What fixes the shape of an observation for the whole life of an environment.

    Attributes:
        max_tokens: N, tokens of the longest sentence that may come.
        n_sides: S, sentences per example.
        n_types: Entries of the vocabulary, padding and the unknown token included.
    """

    max_tokens: int
    n_sides: int
    n_types: int


class Situation(NamedTuple):
    """All that an observation may be made of: where the parser of the current sentence stands.

    Attributes:
        parser: Stack, buffer and history.
        tokens: The words of the sentence.
        token_ids: [n] int64. Their indices in the vocabulary.
        side: Which sentence of the example this is, from 0.
    """

    parser: ParserState
    tokens: tuple[str, ...]
    token_ids: IntArray
    side: int


class Observer(Protocol):
    """Makes observations; the environment announces ``space`` as its own."""

    @property
    def space(self) -> spaces.Space[Any]:
        """The space that every observation lies in."""
        ...

    def observe(self, situation: Situation) -> Any:
        """Describe a situation in arrays that nobody else holds."""
        ...


def action_mask(parser: ParserState) -> npt.NDArray[np.int8]:
    """Tell which transitions are legal: [A] int8, 1 where legal, in the order of `Transition`."""
    return np.array(parser.legal, dtype=np.int8)


class SymbolicObserver:
    """Show the parser as it is: a flat ``Dict`` of integer arrays, for policies with an encoder of their own.

    Every array is one-dimensional, as Stable-Baselines3 asks:

        tokens         [N]   int32  vocabulary index of every token of the sentence, 0 after its end
        length         [1]   int16  n, tokens of the sentence
        transitions    [T]   int8   transitions of this sentence so far, PAD (2) after them; T = 2N - 1
        stack_spans    [2N]  int16  (start, end) of every stack item, bottom first, then zeros; reshape to [N, 2]
        stack_size     [1]   int16  items on the stack
        buffer_front   [1]   int16  position of the next token to shift; n when the buffer is empty
        side           [1]   int16  which sentence of the example this is: 0 premise, 1 hypothesis
        action_mask    [2]   int8   1 where SHIFT, REDUCE is legal; all 0 once the episode has ended

    The long arrays are narrow and the stack stands bottom first, so that a step changes three cells and a batch of
    observations is quickly copied. Beyond 32,767 tokens
    int16 becomes int32.
    """

    def __init__(self, size: GameSize) -> None:
        n, steps = size.max_tokens, 2 * size.max_tokens - 1
        self._max_tokens = n

        self._count = count_dtype(n)

        def counts(width: int) -> spaces.Box:
            return spaces.Box(0, n, (width,), self._count)

        self.space: spaces.Dict = spaces.Dict(
            {
                "tokens": spaces.Box(0, size.n_types - 1, (n,), np.int32),
                "length": counts(1),
                "transitions": spaces.Box(0, PAD, (steps,), np.int8),
                "stack_spans": counts(2 * n),
                "stack_size": counts(1),
                "buffer_front": counts(1),
                "side": spaces.Box(0, max(1, size.n_sides - 1), (1,), self._count),
                "action_mask": spaces.Box(0, 1, (len(Transition),), np.int8),
            }
        )

    def observe(self, situation: Situation) -> dict[str, npt.NDArray[Any]]:
        """Describe a situation; see the class."""
        parser, n = situation.parser, self._max_tokens
        tokens = np.zeros(n, np.int32)
        tokens[: len(situation.token_ids)] = situation.token_ids
        transitions = np.full(2 * n - 1, PAD, np.int8)
        transitions[: parser.step] = parser.transitions
        stack_spans = np.zeros((n, 2), self._count)
        stack = parser.stack
        if stack:
            stack_spans[: len(stack)] = [parser.spans[node] for node in stack]
        return {
            "tokens": tokens,
            "length": np.array([parser.n_tokens], self._count),
            "transitions": transitions,
            "stack_spans": stack_spans.reshape(-1),
            "stack_size": np.array([len(stack)], self._count),
            "buffer_front": np.array([parser.buffer_front], self._count),
            "side": np.array([situation.side], self._count),
            "action_mask": action_mask(parser),
        }


class TokenVectors(Protocol):
    """Gives tokens as vectors in [-1, 1]."""

    @property
    def size(self) -> int:
        """E, numbers per token."""
        ...

    def __call__(self, tokens: Sequence[str], token_ids: IntArray) -> FloatArray:
        """Look tokens up: [n, E] float32."""
        ...


class HashedVectors:
    """Give every word E signs of its own, +1 or -1, taken from a hash of its letters: no table, no training.

    A word has the same vector in every run and process; two words agree in about half of their signs.

    Args:
        size: E; 0 leaves the words out.

    Raises:
        ValueError: ``size`` < 0.
    """

    def __init__(self, size: int = 16) -> None:
        if size < 0:
            raise ValueError(f"the size of token vectors must be 0 or more, got {size}")
        self.size = size
        self._known: dict[str, FloatArray] = {}

    def __call__(self, tokens: Sequence[str], token_ids: IntArray) -> FloatArray:
        """Look tokens up: [n, E] float32."""
        for token in tokens:
            if token not in self._known:
                self._known[token] = self._signs(token)
        return np.stack([self._known[token] for token in tokens])

    def _signs(self, token: str) -> FloatArray:
        digest = hashlib.shake_128(token.encode("utf-8")).digest((self.size + 7) // 8)
        bits = np.unpackbits(np.frombuffer(digest, np.uint8))[: self.size]
        return np.where(bits == 1, np.float32(1), np.float32(-1))


class TableVectors:
    """Look words up in a table of embeddings, scaled so that its largest entry is 1 in absolute value.

    The table is copied: the observation stays what it was while a model that owns the table learns.

    Args:
        table: [V, E] float. One row per vocabulary index.

    Raises:
        ValueError: The table is not two-dimensional, or holds NaN or infinity.
    """

    def __init__(self, table: npt.ArrayLike) -> None:
        values = np.array(table, dtype=np.float32)
        if values.ndim != 2 or not values.size:
            raise ValueError(f"a table of token vectors must be [V, E], got shape {values.shape}")
        if not np.isfinite(values).all():
            row = int(np.argwhere(~np.isfinite(values))[0, 0])
            raise ValueError(f"a table of token vectors must be finite, row {row} is not")
        largest = float(np.abs(values).max())
        self._table: FloatArray = values / np.float32(largest or 1.0)
        self.size: int = values.shape[1]

    def __call__(self, tokens: Sequence[str], token_ids: IntArray) -> FloatArray:
        """Look tokens up: [n, E] float32."""
        rows: FloatArray = self._table[token_ids]
        return rows


class FeatureObserver:
    """Describe the parser in one float vector of fixed size, for a plain multi-layer perceptron.

    Every number lies in [0, 1], those of token vectors in [-1, 1]; `names` says which is which. With n
    tokens in the sentence, N in the longest one that may come, and E numbers per token vector:

        side                          0 premise, 1 hypothesis
        length                        n / N
        progress                      share of the sentence's 2n - 1 transitions that are done
        stack_size, buffer_size       items / n
        may_shift, may_reduce         1 where legal
        last_shift, last_reduce       the transition before this one; both 0 at the start of a sentence
        stack0.* (the top), stack1.*, ...
            present                   1 if there is such an item; all its other numbers are 0 if not start,
            size               first token and number of tokens, / n height                    of its tree
            above its deepest leaf, / (n - 1) first[e], last[e], mean[e]  vector of its first and of its
            last token, and the mean over its tokens
        buffer0.* (the front), buffer1.*, ...
            present                   1 if there is such a token
            vector[e]                 its vector

    Args:
        size: Of the game.
        stack_items: Items described, from the top.
        buffer_items: Tokens described, from the front.
        vectors: How words are seen; by default 16 signs from a hash of the word.

    Raises:
        ValueError: A negative number of items.
    """

    def __init__(
        self,
        size: GameSize,
        *,
        stack_items: int = 3,
        buffer_items: int = 2,
        vectors: TokenVectors | None = None,
    ) -> None:
        if stack_items < 0 or buffer_items < 0:
            raise ValueError(
                f"stack_items and buffer_items must be 0 or more, got {stack_items} and {buffer_items}"
            )
        self.size = size
        self.stack_items = stack_items
        self.buffer_items = buffer_items
        self.vectors: TokenVectors = HashedVectors() if vectors is None else vectors
        self.names: tuple[str, ...] = self._name_components()
        low = np.array([-1.0 if name.endswith("]") else 0.0 for name in self.names], np.float32)
        self.space: spaces.Box = spaces.Box(low, np.ones_like(low), dtype=np.float32)

    def _name_components(self) -> tuple[str, ...]:
        """Name every component, in order."""

        def numbered(name: str) -> list[str]:
            return [f"{name}[{e}]" for e in range(self.vectors.size)]

        names = ["side", "length", "progress", "stack_size", "buffer_size"]
        names += ["may_shift", "may_reduce", "last_shift", "last_reduce"]
        for k in range(self.stack_items):
            parts = [
                "present",
                "start",
                "size",
                "height",
                *numbered("first"),
                *numbered("last"),
                *numbered("mean"),
            ]
            names += [f"stack{k}.{part}" for part in parts]
        for k in range(self.buffer_items):
            names += [f"buffer{k}.{part}" for part in ("present", *numbered("vector"))]
        return tuple(names)

    def observe(self, situation: Situation) -> FloatArray:
        """Describe a situation; see the class."""
        parser, n = situation.parser, situation.parser.n_tokens
        last = parser.transitions[-1] if parser.step else None
        vectors = self.vectors(situation.tokens, situation.token_ids)  # [n, E]
        values = np.zeros(len(self.names), np.float32)
        values[:9] = (
            situation.side / max(1, self.size.n_sides - 1),
            n / self.size.max_tokens,
            parser.step / (2 * n - 1),
            len(parser.stack) / n,
            parser.buffer_size / n,
            *parser.legal,
            last == Transition.SHIFT,
            last == Transition.REDUCE,
        )
        at, width = 9, 4 + 3 * self.vectors.size
        heights = node_heights(parser)
        for node in reversed(parser.stack[-self.stack_items :] if self.stack_items else ()):
            start, end = parser.spans[node]
            values[at : at + 4] = (1.0, start / n, (end - start) / n, heights[node] / max(1, n - 1))
            inside = vectors[start:end]
            values[at + 4 : at + width] = np.concatenate(
                (inside[0], inside[-1], inside.mean(axis=0, dtype=np.float64))
            )
            at += width
        at, width = 9 + self.stack_items * width, 1 + self.vectors.size
        for position in range(parser.buffer_front, min(n, parser.buffer_front + self.buffer_items)):
            values[at] = 1.0
            values[at + 1 : at + width] = vectors[position]
            at += width
        return values


def node_heights(parser: ParserState) -> list[int]:
    """Give the height of every node above its deepest leaf: 0 for leaves, in the order of node ids."""
    heights = [0] * parser.n_tokens
    for left, right in parser.children:
        heights.append(1 + max(heights[left], heights[right]))
    return heights


def model_vectors(model: NLIModel) -> TableVectors:
    """Take a model's word embeddings as they are now."""
    return TableVectors(model.embedding.weight.detach().float().cpu().numpy())


ObserverFactory = Callable[[GameSize], Observer]
"""How an environment is given an observer of one's own: it calls this once, with its size."""


def make_observer(
    observation: ObservationName | str | ObserverFactory, size: GameSize, model: NLIModel | None = None
) -> Observer:
    """Look up an observation by its name, or build one's own.

    Args:
        observation: "symbolic", "features", or what makes an observer of the game's size, such as
            ``functools.partial(FeatureObserver, stack_items=5)``.
        size: Of the game.
        model: Its embeddings are the token vectors of "features".

    Raises:
        ValueError: Unknown name.
    """
    if not isinstance(observation, str):
        return observation(size)
    if observation == "symbolic":
        return SymbolicObserver(size)
    if observation == "features":
        return FeatureObserver(size, vectors=None if model is None else model_vectors(model))
    raise ValueError(
        f"observation must be symbolic, features or a callable that makes an observer, got {observation!r}"
    )
