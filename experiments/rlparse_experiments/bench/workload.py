"""What the benchmarks work on: sentences of known lengths over random words, under random trees."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rlparse import PAD
from rlparse.corpora.corpus import Corpus
from rlparse.corpora.examples import NLI_LABELS, Example, Sentence
from rlparse.corpora.listops import draw_expressions
from rlparse.trees import uniform_tree
from rlparse.vocabulary import Vocabulary

IntArray = npt.NDArray[np.int64]

MEAN_LENGTH, SHORTEST, LONGEST = 12, 3, 50
"""Sentence lengths: about those of SNLI, log-normal and cut at both ends."""

LOG_SPREAD = 0.5
"""Standard deviation of the logarithm of a length."""

WORDS, EXPONENT, OFFSET = 6450, 1.19, 1.0
"""Words of drawn sentences: the k-th has a probability in proportion to (k + 1)^-1.19 (Zipf, Mandelbrot).

Fitted to an SNLI excerpt of 6,450 words: so many different words are among so many tokens of its sentences, and, behind
the colon, of drawn ones: 302 among 748: 293; 492 among 1,501: 486; 806 among 3,048: 800; 1,236 among 6,040: 1,264.
"""

LISTOPS_SHORTEST, LISTOPS_LONGEST = 12, 500
"""The ListOps generator's expressions of so many tokens have 60 on average."""


def snli_lengths(n: int, rng: np.random.Generator) -> IntArray:
    """Draw lengths like those of SNLI's sentences."""
    drawn = rng.lognormal(math.log(MEAN_LENGTH) - LOG_SPREAD**2 / 2, LOG_SPREAD, n)
    return np.clip(np.rint(drawn), SHORTEST, LONGEST).astype(np.int64)


def listops_lengths(n: int, seed: int) -> IntArray:
    """Draw lengths of ListOps expressions, from the generator itself."""
    # Many more than are needed: the first short expressions to be found are soon used up, as all are different.
    found = draw_expressions(
        max(n, 2000), seed=seed, max_tokens=LISTOPS_LONGEST, min_tokens=LISTOPS_SHORTEST
    ).expressions
    return np.array([len(expression) for expression in found[:n]], dtype=np.int64)


def word_probabilities() -> npt.NDArray[np.float64]:
    """Give the probability of every word."""
    weights = (np.arange(1, WORDS + 1) + OFFSET) ** -EXPONENT
    found: npt.NDArray[np.float64] = weights / weights.sum()
    return found


def draw_words(shape: tuple[int, ...], rng: np.random.Generator) -> IntArray:
    """Draw words, as numbers from 0."""
    ends = word_probabilities().cumsum()
    return np.minimum(np.searchsorted(ends, rng.random(shape), side="right"), WORDS - 1)


class Sentences(NamedTuple):
    """A batch for the encoders.

    Attributes:
        tokens: [R, N] int64, 0 where there is none.
        n_types: Entries of the vocabulary.
        lengths: [R] int64.
        transitions: [R, T] int64.
        derivations: The same as lists without padding.
        weights: [R, D] float. What the roots' hidden vectors are multiplied with to make one number.
        labels: [R] int64 in 0..2, for the steps that classify.
    """

    tokens: Tensor
    n_types: int
    lengths: Tensor
    transitions: Tensor
    derivations: list[list[int]]
    weights: Tensor
    labels: Tensor

    @property
    def n_tokens(self) -> int:
        """Tokens without padding."""
        return int(self.lengths.sum())

    @property
    def n_transitions(self) -> int:
        """SHIFTs and REDUCEs of all sentences."""
        return 2 * self.n_tokens - len(self.lengths)


def padded(derivations: Sequence[Sequence[int]]) -> Tensor:
    """Put derivations under each other: [R, T] int64, PAD after each one's end."""
    width = max(map(len, derivations))
    return torch.tensor([[*row, *[PAD] * (width - len(row))] for row in derivations])


def draw_sentences(
    lengths: IntArray,
    hidden_size: int,
    rng: np.random.Generator,
    derivations: list[list[int]] | None = None,
    *,
    distinct: bool = False,
) -> Sentences:
    """Make a batch of sentences of given lengths.

    Args:
        lengths: [R] int64.
        hidden_size: D.
        rng: Source of everything random.
        derivations: Their trees; None draws them, every binary tree equally likely.
        distinct: Let no word come twice, instead of drawing them.
    """
    if derivations is None:
        derivations = [uniform_tree(int(n), rng) for n in lengths]
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    rows, longest = len(lengths), int(lengths.max())
    words = np.arange(rows * longest).reshape(rows, longest) if distinct else draw_words((rows, longest), rng)
    words[np.arange(longest) >= lengths[:, None]] = -1
    return Sentences(
        torch.from_numpy(words + 1),
        1 + (words.size if distinct else WORDS),
        torch.from_numpy(lengths),
        padded(derivations),
        derivations,
        torch.randn(rows, hidden_size, generator=generator),
        torch.randint(len(NLI_LABELS), (rows,), generator=generator),
    )


def draw_corpus(n_examples: int, rng: np.random.Generator) -> Corpus:
    """Draw pairs of sentences of SNLI's lengths over random words, with uniformly random trees as gold."""

    def sentence(n: int) -> Sentence:
        words = tuple(f"w{word}" for word in draw_words((n,), rng).tolist())
        return Sentence(words, tuple(uniform_tree(n, rng)))

    examples = [
        Example((sentence(premise), sentence(hypothesis)), NLI_LABELS[int(rng.integers(len(NLI_LABELS)))])
        for premise, hypothesis in snli_lengths(2 * n_examples, rng).reshape(-1, 2).tolist()
    ]
    corpus = Corpus.from_examples(examples, labels=NLI_LABELS, name="drawn")
    return corpus.with_vocabulary(Vocabulary.build({f"w{word}": 1 for word in range(WORDS)}))
