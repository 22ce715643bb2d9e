"""A corpus as flat arrays, from which padded batches are gathered without a Python loop over sentences.

The arrays can live in memory or be mapped from a file (``cache.py``): a corpus of half a million pairs is
then a few hundred megabytes on disk and next to nothing as Python objects. The corpus keeps its own full list
of types, so that text can always be shown; ``with_vocabulary`` binds it to the indices of a model.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from rlparse import PAD
from rlparse.corpora.batching import Batch
from rlparse.corpora.examples import Example, Sentence, label_order
from rlparse.errors import CorpusError
from rlparse.vocabulary import Vocabulary

IntArray = npt.NDArray[np.int64]


class CorpusArrays(NamedTuple):
    """The content of a corpus of M sentences; sentence s of example i is number ``i * S + s``.

    The 2n - 1 transitions of sentence m, which has n tokens, start at ``2 * token_offsets[m] - m``.

    Attributes:
        tokens: [sum of n] int32. Type of every token.
        token_offsets: [M + 1] int64. Where each sentence starts in ``tokens``.
        transitions: [sum of 2n - 1] uint8. Gold derivations, PAD in sentences without one.
        has_gold: [M] bool.
        labels: [examples] int32. Class of every example.
        spans: [all labelled spans, 3] int32. Start, end and span label.
        span_offsets: [M + 1] int64. Where each sentence starts in ``spans``.
        has_spans: [M] bool. False where no labelled tree is known.
        type_text: [bytes] uint8. The types, one after the other, in UTF-8.
        type_offsets: [types + 1] int64. Where each type starts in ``type_text``.
    """

    tokens: npt.NDArray[np.int32]
    token_offsets: npt.NDArray[np.int64]
    transitions: npt.NDArray[np.uint8]
    has_gold: npt.NDArray[np.bool_]
    labels: npt.NDArray[np.int32]
    spans: npt.NDArray[np.int32]
    span_offsets: npt.NDArray[np.int64]
    has_spans: npt.NDArray[np.bool_]
    type_text: npt.NDArray[np.uint8]
    type_offsets: npt.NDArray[np.int64]


class CorpusNames(NamedTuple):
    """What the integers of ``CorpusArrays`` stand for, as far as it is short.

    Attributes:
        name: Of the corpus, for messages and tables.
        n_sides: S, sentences per example.
        labels: The classes.
        span_labels: The constituent labels.
    """

    name: str
    n_sides: int
    labels: tuple[str, ...]
    span_labels: tuple[str, ...]


class Corpus:
    """Examples to train on or evaluate; made by ``from_examples``, ``CorpusBuilder`` or ``load_corpus``."""

    def __init__(
        self,
        arrays: CorpusArrays,
        names: CorpusNames,
        *,
        selected: IntArray | None = None,
        vocabulary: Vocabulary | None = None,
        types: tuple[str, ...] | None = None,
    ) -> None:
        self._arrays = arrays
        self._names = names
        self._selected = selected
        self._types = types
        self.vocabulary = vocabulary
        self._remap: IntArray | None = None
        if vocabulary is not None:
            types = self.types
            self._remap = np.fromiter((vocabulary.index(token) for token in types), np.int64, len(types))

    @classmethod
    def from_examples(
        cls, examples: Iterable[Example], *, labels: Sequence[str] | None = None, name: str = "corpus"
    ) -> Corpus:
        """Flatten examples.

        Args:
            examples: All with the same number of sentences.
            labels: The classes in order; by default the known label set that fits, else those found, sorted.
            name: For messages and tables.

        Raises:
            CorpusError: No examples, a sentence without tokens, derivations of the wrong length, spans
                outside the sentence, a label that is not one of ``labels``, or examples that differ in their
                number of sentences.
        """
        builder = CorpusBuilder()
        for example in examples:
            builder.add(example)
        return builder.build(labels=labels, name=name)

    @property
    def name(self) -> str:
        """Name for messages and tables."""
        return self._names.name

    @property
    def n_sides(self) -> int:
        """S, the sentences of each example: 1 or 2."""
        return self._names.n_sides

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, in the order of their indices."""
        return self._names.labels

    @property
    def arrays(self) -> CorpusArrays:
        """The stored content; of a subset, the content of the whole corpus that it was taken from."""
        return self._arrays

    @property
    def is_subset(self) -> bool:
        """Whether this is a view of some examples of ``arrays`` only."""
        return self._selected is not None

    @property
    def names(self) -> CorpusNames:
        """What the integers of ``arrays`` stand for."""
        return self._names

    @property
    def types(self) -> tuple[str, ...]:
        """Every different token of the stored arrays, in the order of first appearance."""
        if self._types is None:
            text = self._arrays.type_text.tobytes()
            bounds = pairwise(self._arrays.type_offsets.tolist())
            self._types = tuple(text[start:end].decode("utf-8") for start, end in bounds)
        return self._types

    def __len__(self) -> int:
        return len(self._arrays.labels) if self._selected is None else len(self._selected)

    def __repr__(self) -> str:
        return (
            f"Corpus({self.name!r}, {len(self)} examples of {self.n_sides} sentences, labels {self.labels})"
        )

    def _examples(self, indices: IntArray) -> IntArray:
        """Stored example numbers of positions in this corpus; raises IndexError outside it."""
        if len(indices) and not (indices.min() >= 0 and indices.max() < len(self)):
            raise IndexError(
                f"corpus {self.name!r} has examples 0 to {len(self) - 1}, "
                f"asked for {indices.min()} to {indices.max()}"
            )
        return indices if self._selected is None else self._selected[indices]

    def _sentences(self) -> IntArray:
        """Stored sentence numbers of the whole (sub)corpus, [n, S]."""
        chosen = np.arange(len(self)) if self._selected is None else self._selected
        return chosen[:, None] * self.n_sides + np.arange(self.n_sides)

    @property
    def lengths(self) -> IntArray:
        """[n, S] int64. Tokens of every sentence."""
        offsets = self._arrays.token_offsets
        sentences = self._sentences()
        return offsets[sentences + 1] - offsets[sentences]

    @property
    def has_gold(self) -> npt.NDArray[np.bool_]:
        """[n, S] bool. True where a sentence has a gold parse."""
        has_gold: npt.NDArray[np.bool_] = self._arrays.has_gold[self._sentences()]
        return has_gold

    @property
    def label_indices(self) -> IntArray:
        """[n] int64. Class of every example."""
        labels = self._arrays.labels if self._selected is None else self._arrays.labels[self._selected]
        return labels.astype(np.int64)

    def label_counts(self) -> dict[str, int]:
        """How many examples have each label, in the order of ``labels``."""
        counts = np.bincount(self.label_indices, minlength=len(self.labels))
        return dict(zip(self.labels, counts.tolist(), strict=True))

    def token_counts(self) -> dict[str, int]:
        """How often each token occurs, for ``Vocabulary.build``; types that do not occur are left out."""
        if self._selected is None:
            counts = np.bincount(self._arrays.tokens, minlength=len(self.types))
        else:
            sentences = self._sentences().ravel()
            counts = np.bincount(self._gather_flat(sentences), minlength=len(self.types))
        return {token: count for token, count in zip(self.types, counts.tolist(), strict=True) if count}

    def _gather_flat(self, sentences: IntArray) -> npt.NDArray[np.int32]:
        """All tokens of the given stored sentences, one after the other."""
        offsets = self._arrays.token_offsets
        lengths = offsets[sentences + 1] - offsets[sentences]
        ends = np.cumsum(lengths)
        flat: npt.NDArray[np.int32] = self._arrays.tokens[
            np.arange(lengths.sum()) + np.repeat(offsets[sentences] - ends + lengths, lengths)
        ]
        return flat

    def sentence(self, index: int, side: int) -> Sentence:
        """One sentence as text, with what is known of its gold parse.

        Raises:
            IndexError: No such example or side.
        """
        if not 0 <= side < self.n_sides:
            raise IndexError(
                f"the examples of corpus {self.name!r} have sides 0 to {self.n_sides - 1}, asked for {side}"
            )
        arrays, types = self._arrays, self.types
        number = int(self._examples(np.array([index]))[0]) * self.n_sides + side
        start, end = arrays.token_offsets[number : number + 2].tolist()
        tokens = tuple(types[i] for i in arrays.tokens[start:end].tolist())
        transitions = spans = None
        if arrays.has_gold[number]:
            transitions = tuple(arrays.transitions[2 * start - number : 2 * end - number - 1].tolist())
        if arrays.has_spans[number]:
            first, last = arrays.span_offsets[number : number + 2].tolist()
            span_labels = self._names.span_labels
            spans = tuple((s, e, span_labels[label]) for s, e, label in arrays.spans[first:last].tolist())
        return Sentence(tokens, transitions, spans)

    def label(self, index: int) -> str:
        """Label of one example."""
        return self.labels[int(self._arrays.labels[self._examples(np.array([index]))[0]])]

    def example(self, index: int) -> Example:
        """One example as text."""
        return Example(tuple(self.sentence(index, side) for side in range(self.n_sides)), self.label(index))

    def subset(self, indices: Sequence[int] | npt.NDArray[np.integer], *, name: str | None = None) -> Corpus:
        """View some examples as a corpus of their own; nothing is copied.

        Args:
            indices: Positions in this corpus, in the order wanted.
            name: Of the subset; by default this corpus's.

        Raises:
            IndexError: No such example.
        """
        chosen = self._examples(np.asarray(indices, dtype=np.int64).reshape(-1))
        names = self._names if name is None else self._names._replace(name=name)
        part = Corpus(self._arrays, names, selected=chosen)
        part._types, part.vocabulary, part._remap = self._types, self.vocabulary, self._remap
        return part

    def with_labels(self, labels: Sequence[str]) -> Corpus:
        """The same examples with classes in another order, or with more of them; only the classes are copied.

        Raises:
            CorpusError: A label that occurs is missing from ``labels``.
        """
        if tuple(labels) == self.labels:
            return self
        missing = [label for label, count in self.label_counts().items() if count and label not in labels]
        if missing:
            raise CorpusError(f"corpus {self.name!r} has labels {missing}, expected one of {list(labels)}")
        order = [labels.index(label) if label in labels else -1 for label in self.labels]
        arrays = self._arrays._replace(labels=np.array(order, np.int32)[self._arrays.labels])
        names = self._names._replace(labels=tuple(labels))
        return Corpus(arrays, names, selected=self._selected, vocabulary=self.vocabulary, types=self._types)

    def with_vocabulary(self, vocabulary: Vocabulary) -> Corpus:
        """The same corpus bound to a model's vocabulary; nothing is copied."""
        return Corpus(
            self._arrays, self._names, selected=self._selected, vocabulary=vocabulary, types=self.types
        )

    def batch(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> Batch:
        """Gather examples into padded tensors.

        Args:
            indices: [B] positions in this corpus, at least one.

        Raises:
            ValueError: The corpus has no vocabulary, or there are no indices.
            IndexError: No such example.
        """
        if self._remap is None:
            raise ValueError(
                f"corpus {self.name!r} has no vocabulary yet: call with_vocabulary() before batch()"
            )
        positions = np.asarray(indices, dtype=np.int64).reshape(-1)
        if len(positions) == 0:
            raise ValueError("a batch needs at least one example, got no indices")
        arrays = self._arrays
        examples = self._examples(positions)
        sentences = (
            examples[None, :] * self.n_sides + np.arange(self.n_sides)[:, None]
        ).ravel()  # [R], side-major
        starts = arrays.token_offsets[sentences]
        lengths = arrays.token_offsets[sentences + 1] - starts
        n_max = int(lengths.max())

        # Every row reads on to its padded end, into the next sentences or the last token; that is masked then.
        columns = np.arange(2 * n_max - 1)
        token_mask = columns[:n_max] < lengths[:, None]  # [R, N]
        tokens = self._remap.take(
            arrays.tokens.take(starts[:, None] + columns[:n_max], mode="clip")
        )  # [R, N] int64
        tokens *= token_mask
        step_mask = columns < (2 * lengths - 1)[:, None]  # [R, T]
        first_steps = 2 * starts - sentences
        read = arrays.transitions.take(first_steps[:, None] + columns, mode="clip")
        gold = np.where(step_mask, read, PAD).astype(np.int64)  # [R, T]
        return Batch(
            tokens=torch.from_numpy(tokens),
            lengths=torch.from_numpy(lengths),
            labels=torch.from_numpy(arrays.labels[examples].astype(np.int64)),
            gold=torch.from_numpy(gold),
            has_gold=torch.from_numpy(arrays.has_gold[sentences]),
            indices=torch.from_numpy(positions.copy()),
        )


class _Numbering(dict[str, int]):
    """Numbers strings in the order of first appearance."""

    def __missing__(self, key: str) -> int:
        number = self[key] = len(self)
        return number


class CorpusBuilder:
    """Collects examples as flat arrays, so that reading half a million pairs keeps no Python objects."""

    def __init__(self) -> None:
        self._type_index = _Numbering()
        self._label_index = _Numbering()
        self._span_label_index = _Numbering()
        self._n_sides: int | None = None
        self._tokens = array("i")
        self._token_offsets = array("q", [0])
        self._transitions = bytearray()
        self._has_gold = bytearray()
        self._labels = array("i")
        self._spans = array("i")
        self._span_offsets = array("q", [0])
        self._has_spans = bytearray()

    def __len__(self) -> int:
        return len(self._labels)

    def add(self, example: Example) -> None:
        """Append one example.

        Raises:
            CorpusError: See ``Corpus.from_examples``; nothing has been appended then.
        """
        number = len(self._labels)
        if self._n_sides is None and example.sentences:
            self._n_sides = len(example.sentences)
        if len(example.sentences) != self._n_sides or not self._n_sides:
            raise CorpusError(
                f"example {number} has {len(example.sentences)} sentences, "
                f"expected {self._n_sides or 'at least 1'}"
            )
        for side, sentence in enumerate(example.sentences):
            _check(sentence, number, side)
        for sentence in example.sentences:
            self._append(sentence)
        self._labels.append(self._label_index[example.label])

    def _append(self, sentence: Sentence) -> None:
        tokens, transitions, spans = sentence
        self._tokens.extend(map(self._type_index.__getitem__, tokens))
        self._token_offsets.append(len(self._tokens))
        self._transitions += (
            bytes([PAD]) * (2 * len(tokens) - 1) if transitions is None else bytes(transitions)
        )
        self._has_gold.append(transitions is not None)
        if spans:
            span_index = self._span_label_index
            for start, end, label in spans:
                self._spans.extend((start, end, span_index[label]))
        self._span_offsets.append(len(self._spans) // 3)
        self._has_spans.append(spans is not None)

    def build(self, *, labels: Sequence[str] | None = None, name: str = "corpus") -> Corpus:
        """Make a corpus of what was added.

        Raises:
            CorpusError: Nothing was added, or a label is not one of ``labels``.
        """
        if self._n_sides is None or not self._labels:
            raise CorpusError(f"corpus {name!r} has no examples")
        order = label_order(self._label_index) if labels is None else tuple(labels)
        unknown = [label for label in self._label_index if label not in order]
        if unknown:
            raise CorpusError(f"corpus {name!r} has labels {unknown}, expected one of {list(order)}")
        # Stored in the order of first appearance until here.
        remap = np.array([order.index(label) for label in self._label_index], np.int32)
        encoded = [token.encode("utf-8") for token in self._type_index]
        arrays = CorpusArrays(
            tokens=np.array(self._tokens, np.int32),
            token_offsets=np.array(self._token_offsets, np.int64),
            transitions=np.frombuffer(bytes(self._transitions), np.uint8),
            has_gold=np.frombuffer(bytes(self._has_gold), np.bool_),
            labels=remap[np.array(self._labels, np.int32)],
            spans=np.array(self._spans, np.int32).reshape(-1, 3),
            span_offsets=np.array(self._span_offsets, np.int64),
            has_spans=np.frombuffer(bytes(self._has_spans), np.bool_),
            type_text=np.frombuffer(b"".join(encoded), np.uint8),
            type_offsets=np.cumsum([0, *map(len, encoded)], dtype=np.int64),
        )
        return Corpus(arrays, CorpusNames(name, self._n_sides, order, tuple(self._span_label_index)))


def _check(sentence: Sentence, number: int, side: int) -> None:
    """Reject what the arrays could not give back."""
    tokens, transitions, spans = sentence
    n = len(tokens)
    where = f"sentence {side} of example {number}"
    if n == 0:
        raise CorpusError(f"{where} has no tokens, expected at least 1")
    if "" in tokens:
        raise CorpusError(f"{where} has an empty token at position {tokens.index('')}")
    if transitions is not None and (
        len(transitions) != 2 * n - 1 or transitions.count(0) != n or transitions.count(1) != n - 1
    ):
        raise CorpusError(
            f"{where} has {n} tokens, so its derivation needs {n} SHIFT and {n - 1} REDUCE; found "
            f"{transitions.count(0)} and {transitions.count(1)} in {len(transitions)} transitions"
        )
    for start, end, label in spans or ():
        if not 0 <= start < end <= n:
            raise CorpusError(f"{where} has {n} tokens, but a span {label!r} from {start} to {end}")
