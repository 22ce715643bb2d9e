"""Many sentences as flat arrays, from which whole batches of parsers are started and their spans looked up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rlparse import PAD
from rlparse.corpora.corpus import Corpus
from rlparse.corpora.examples import Sentence
from rlparse.transitions import Transition
from rlparse.vocabulary import Vocabulary
from rlparse_envs.parser_rows import CountArray, IntArray, count_dtype

WordArray = npt.NDArray[np.int32]

CHUNK = 4096
"""Examples that are read from the corpus together."""


class SentenceTable:
    """The sentences of a game: sentence s of example i is number ``i * S + s``; typed ones follow the corpus.

    Reading takes about 2 s for half a million pairs, and 16 bytes a token stay in memory.

    Args:
        corpus: Bound to a vocabulary.
        eligible: Positions of the examples to read; no others can be started.
        max_tokens: N, the longest sentence.

    Attributes:
        lengths: [M] int64. Tokens of every sentence, 0 where it was not read.
        has_gold: [M] bool.
        starts: [M] int64. Where each sentence stands among all tokens.
        widest: Of all tokens, what `widest_spans` says, in one row: that of token t at 2t and 2t + 1.
        words: Every different word, padding first.
        token_ids: [words] int32. Index of each word in the corpus's vocabulary.
    """

    def __init__(self, corpus: Corpus, eligible: IntArray, max_tokens: int) -> None:
        assert corpus.vocabulary is not None
        self._vocabulary = corpus.vocabulary
        self._max_tokens = max_tokens
        self._count = count_dtype(max_tokens)
        self._columns = np.arange(max_tokens)
        self.n_sides = corpus.n_sides
        # Every word by itself, where the corpus's vocabulary may take several for one or for unknown.
        own = Vocabulary.build(corpus.token_counts())
        self._words = list(own.tokens)
        self._number = {word: number for number, word in enumerate(own.tokens)}
        self.token_ids: WordArray = self._vocabulary.encode(self._words).astype(np.int32)
        self._corpus_sentences = len(corpus) * self.n_sides
        self.starts: IntArray = np.zeros(self._corpus_sentences, np.int64)
        self.lengths: IntArray = np.zeros(self._corpus_sentences, np.int64)
        self.has_gold: npt.NDArray[np.bool_] = np.zeros(self._corpus_sentences, np.bool_)
        by_length = eligible[np.argsort(corpus.lengths[eligible].max(axis=1), kind="stable")]
        named = corpus.with_vocabulary(own)
        words: list[WordArray] = []
        trees: list[CountArray] = []
        used = 0
        for first in range(0, len(by_length), CHUNK):
            chosen = by_length[first : first + CHUNK]
            batch = named.batch(chosen)
            numbers = (chosen * self.n_sides + np.arange(self.n_sides)[:, None]).reshape(-1)  # [R]
            lengths, gold = batch.lengths.numpy(), batch.gold.numpy()
            self.lengths[numbers] = lengths
            self.has_gold[numbers] = batch.has_gold.numpy()
            self.starts[numbers] = used + lengths.cumsum() - lengths
            used += int(lengths.sum())
            real = np.arange(batch.tokens.shape[1]) < lengths[:, None]
            words.append(batch.tokens.numpy()[real].astype(np.int32))
            trees.append(widest_spans(gold)[real].astype(self._count))
        self._corpus_tokens = used
        self._read(np.concatenate(words), np.concatenate(trees))

    def _read(self, words: WordArray, trees: CountArray) -> None:
        """Take over all sentences, one after the other, and view N words from any place on as one item."""
        n = self._max_tokens
        slack = np.zeros(n, np.int32)
        self._flat_words, self._flat_trees = words, trees
        self.widest = trees.reshape(-1)
        self._word_windows, self._token_windows = (
            np.ndarray((len(words) + 1,), f"V{4 * n}", np.concatenate((values, slack)), strides=(4,))
            for values in (words, self.token_ids[words])
        )

    @property
    def words(self) -> Sequence[str]:
        """The words that `word_rows` numbers."""
        return self._words

    def token_rows(self, numbers: IntArray) -> WordArray:
        """Look sentences up: [k, N] int32 indices in the corpus's vocabulary, 0 after their ends."""
        return self._cut(self._token_windows, numbers)

    def word_rows(self, numbers: IntArray) -> WordArray:
        """Look sentences up: [k, N] int32 positions in `words`, 0 after their ends."""
        return self._cut(self._word_windows, numbers)

    def _cut(self, windows: npt.NDArray[np.void], numbers: IntArray) -> WordArray:
        rows: WordArray = windows[self.starts[numbers]].view(np.int32).reshape(len(numbers), self._max_tokens)
        rows *= self._columns < self.lengths[numbers][:, None]
        return rows

    def add_typed(self, sentences: Sequence[Sentence]) -> int:
        """Append one typed example and return its position, which follows that of the last example."""
        numbered = []
        for sentence in sentences:
            for word in sentence.tokens:
                if word not in self._number:
                    self._number[word] = len(self._words)
                    self._words.append(word)
            numbered.append([self._number[word] for word in sentence.tokens])
        known = len(self.token_ids)
        self.token_ids = np.concatenate(
            (self.token_ids, self._vocabulary.encode(self._words[known:]).astype(np.int32))
        )
        lengths = np.array([len(words) for words in numbered])
        self.starts = np.concatenate((self.starts, len(self._flat_words) + lengths.cumsum() - lengths))
        self.lengths = np.concatenate((self.lengths, lengths))
        has_gold = [sentence.transitions is not None for sentence in sentences]
        self.has_gold = np.concatenate((self.has_gold, has_gold))
        derivations = [
            np.full(2 * n - 1, PAD) if sentence.transitions is None else np.array(sentence.transitions)
            for n, sentence in zip(lengths, sentences, strict=True)
        ]
        trees = [widest_spans(derivation[None])[0].astype(self._count) for derivation in derivations]
        words = [np.array(words, np.int32) for words in numbered]
        self._read(np.concatenate((self._flat_words, *words)), np.concatenate((self._flat_trees, *trees)))
        return len(self.lengths) // self.n_sides - 1

    def forget_typed(self) -> None:
        """Drop every typed example; their words keep their numbers."""
        m, used = self._corpus_sentences, self._corpus_tokens
        self.starts, self.lengths, self.has_gold = self.starts[:m], self.lengths[:m], self.has_gold[:m]
        self._read(self._flat_words[:used], self._flat_trees[:used])


def widest_spans(transitions: npt.NDArray[np.integer[Any]]) -> IntArray:
    """Describe binary trees so that one comparison or two tell whether a span is in them.

    A node that is a left child is the widest span that ends where it ends, because its parent ends
    later; a node that is a right child is the widest that starts where it starts; the root is both. So

        (s, e) in tree  <=>  widest[e - 1, 0] = s  or  widest[s, 1] = e        (e - s >= 2)

    Args:
        transitions: [R, T] complete derivations, PAD after the end; rows of PAD only have no tree.

    Returns:
        [R, N, 2] int64. For each token the start of the widest span that ends with it, and the end of the
        widest that begins with it; -1 where there is none of two tokens or more, after the end, and in rows
        without a tree.
    """
    n_rows, n_steps = transitions.shape
    n_tokens = (n_steps + 1) // 2
    widest = np.full((n_rows, n_tokens, 2), -1, np.int64)
    n_real = (transitions < len(Transition)).sum(axis=1)
    order = np.argsort(-n_real, kind="stable")  # so that finished rows fall off the end
    ordered = transitions[order]
    active = (n_real[:, None] > np.arange(n_steps)).sum(axis=0)  # [T]
    stack = np.zeros((n_rows, n_tokens), np.int64)  # where each item starts
    sizes, shifted = np.zeros(n_rows, np.int64), np.zeros(n_rows, np.int64)
    for step in range(n_steps):
        now = ordered[: active[step], step]
        shift = np.flatnonzero(now == Transition.SHIFT)
        stack[shift, sizes[shift]] = shifted[shift]
        shifted[shift] += 1
        sizes[shift] += 1
        reduce = np.flatnonzero(now == Transition.REDUCE)
        sizes[reduce] -= 1
        start, end = stack[reduce, sizes[reduce] - 1], shifted[reduce]
        widest[order[reduce], end - 1, 0] = start  # later spans with the same start or end are wider
        widest[order[reduce], start, 1] = end
    return widest
