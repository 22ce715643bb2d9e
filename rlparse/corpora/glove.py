"""Pretrained word vectors in GloVe's text format, for the words of a vocabulary.

The published files have quirks that this reader takes as they are: some lines are not UTF-8 but cp1252, some tokens
have spaces inside, some tokens come twice, and converted files start with a header line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rlparse.corpora.text_files import TextFile
from rlparse.errors import CorpusError
from rlparse.vocabulary import Vocabulary

_HEADER = re.compile(rb"\d+ \d+")
_PLAIN = {
    "-lrb-": "(",
    "-rrb-": ")",
    "-lsb-": "[",
    "-rsb-": "]",
    "-lcb-": "{",
    "-rcb-": "}",
    "``": '"',
    "''": '"',
    "`": "'",
}


class WordVectors(NamedTuple):
    """Vectors in the order of a vocabulary.

    Attributes:
        matrix: [V, E] float32. One row per token of the vocabulary; zero where there is no vector.
        has_vector: [V] bool. True where the file has a vector.
        vocabulary: Whose indices the rows are.
        n_lines: Vectors in the file.
        n_repeated: Lines for a token that had a vector already; the first one is kept.
    """

    matrix: npt.NDArray[np.float32]
    has_vector: npt.NDArray[np.bool_]
    vocabulary: Vocabulary
    n_lines: int
    n_repeated: int

    def coverage(self, counts: Mapping[str, int]) -> tuple[float, float]:
        """Shares of the different tokens, and of all tokens, that have a vector.

        Args:
            counts: How often each token occurs, as from ``Corpus.token_counts()``.

        Raises:
            ValueError: There are no tokens.
        """
        if not counts:
            raise ValueError("coverage needs at least one token, got no counts")
        known = {
            token: count for token, count in counts.items() if self.has_vector[self.vocabulary.index(token)]
        }
        return len(known) / len(counts), sum(known.values()) / sum(counts.values())

    def filled(self, rng: np.random.Generator) -> npt.NDArray[np.float32]:
        """The matrix with normal noise of the known vectors' mean and spread where there is no vector.

        The row of the padding stays zero.

        Raises:
            ValueError: Not a single token has a vector.
        """
        if not self.has_vector.any():
            raise ValueError(
                f"none of the {len(self.vocabulary)} tokens has a vector, so there is no spread to imitate"
            )
        known = self.matrix[self.has_vector]
        noise = rng.normal(known.mean(), known.std(), self.matrix.shape).astype(np.float32)
        matrix = np.where(self.has_vector[:, None], self.matrix, noise)
        matrix[0] = 0.0
        return matrix


def read_vectors(path: str | Path, vocabulary: Vocabulary) -> WordVectors:
    """Read the vectors of a vocabulary's tokens from a GloVe text file (plain, ``.gz`` or ``archive.zip/member``).

    A token takes the vector of its own spelling, else of its lower-case form, else of the plain sign that a
    treebank token such as -LRB- stands for.

    Raises:
        CorpusError: The file is missing or empty, a line has too few numbers, or something that is not a number.
    """
    file = TextFile.find(path)
    wanted = _wanted(vocabulary)
    best: dict[int, int] = {}  # row -> rank of the spelling it has
    dimension = n_lines = n_repeated = 0
    matrix = np.zeros((len(vocabulary), 0), np.float32)
    for number, line in file.lines():
        if number == 1 and _HEADER.fullmatch(line.strip()):
            continue
        if not line.strip(b" "):
            continue
        fields = line.rstrip(b" ").split(b" ") if not dimension else None
        if fields is not None:
            dimension = len(fields) - 1
            if dimension < 1:
                raise CorpusError(f"{file}, line {number}: expected a token and numbers, found {line[:60]!r}")
            matrix = np.zeros((len(vocabulary), dimension), np.float32)
        n_lines += 1
        token = line[: line.find(b" ")]
        rows = wanted.get(token)
        if rows is None:
            continue
        values = line.rstrip(b" ").split(b" ")
        if len(values) > dimension + 1:
            continue  # a token with spaces inside, such as ". . ."; no corpus has those
        if len(values) < dimension + 1:
            raise CorpusError(
                f"{file}, line {number}: expected {dimension} numbers after {_decoded(token)!r}, "
                f"found {len(values) - 1}"
            )
        vector: npt.NDArray[np.float32] | None = None
        for row, rank in rows:
            if best.get(row, rank + 1) <= rank:
                n_repeated += best[row] == rank
                continue
            if vector is None:
                vector = _numbers(values[1:], f"{file}, line {number}")
            best[row] = rank
            matrix[row] = vector
    if not dimension:
        raise CorpusError(f"{file}: expected word vectors, found an empty file")
    has_vector = np.zeros(len(vocabulary), np.bool_)
    has_vector[list(best)] = True
    return WordVectors(matrix, has_vector, vocabulary, n_lines, n_repeated)


def _wanted(vocabulary: Vocabulary) -> dict[bytes, list[tuple[int, int]]]:
    """For every spelling as it may stand in the file: the rows that want it, and how much (0 is best)."""
    wanted: dict[bytes, list[tuple[int, int]]] = {}
    for row, token in enumerate(vocabulary.tokens):
        if row < 2:
            continue  # padding and unknown
        spellings = dict.fromkeys((token, token.lower(), _PLAIN.get(token.lower(), token)))
        for rank, spelling in enumerate(spellings):
            encodings = {spelling.encode("utf-8")}
            if not spelling.isascii():
                encodings.add(spelling.encode("cp1252", errors="ignore"))
            for encoded in encodings:
                wanted.setdefault(encoded, []).append((row, rank))
    return wanted


def _numbers(values: list[bytes], where: str) -> npt.NDArray[np.float32]:
    try:
        return np.array([float(value) for value in values], np.float32)
    except ValueError as error:
        raise CorpusError(f"{where}: expected numbers, found {error}") from error


def _decoded(token: bytes) -> str:
    """Text of a token, in cp1252 where it is not UTF-8."""
    try:
        return token.decode("utf-8")
    except UnicodeDecodeError:
        return token.decode("cp1252", errors="replace")
