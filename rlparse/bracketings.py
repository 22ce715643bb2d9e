"""The spans of many trees at once, so that trees can be compared by the hundred thousand.

Spans of all sentences are one sorted array of integers: two sets of trees are compared by looking the spans
of one up in the other, with no loop over sentences. Where punctuation does not count, it is cut out of the
trees here. No torch here.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlparse import trees
from rlparse.errors import MalformedTreeError

__all__ = ["Bracketings", "Derivations", "Nodes", "is_punctuation"]

Derivations = Sequence[Sequence[int]]
Integers = NDArray[np.int64]

_STRIDE = 1 << 31  # more than a corpus has tokens

_ESCAPED_BRACKETS = {"-LRB-", "-RRB-", "-LSB-", "-RSB-", "-LCB-", "-RCB-"}
_WORDS_AND_SIGNS = set("&%#@*/\\§¶†‡()[]{}")


def is_punctuation(token: str) -> bool:
    """Say whether a token is punctuation: a stop, comma, colon, quote, dash or escaped bracket (``-LRB-``).

    Signs that are read as words (``&``, ``%``, ``$``, ``#``) are not, nor are unescaped brackets, which no
    treebank has but ListOps does.
    """
    if token in _ESCAPED_BRACKETS:
        return True
    return all(
        character == "`" or (unicodedata.category(character)[0] == "P" and character not in _WORDS_AND_SIGNS)
        for character in token
    )


class Nodes(NamedTuple):
    """The internal nodes of the trees of many sentences, laid out one sentence after the other.

    Attributes:
        keys: Start * 2**31 + end of every node, ascending; positions count on from sentence to sentence.
        sentences: Index of the sentence of every node.
        n_tokens: Length of every sentence.
        offsets: Position at which every sentence starts.
    """

    keys: Integers
    sentences: Integers
    n_tokens: Integers
    offsets: Integers

    @classmethod
    def of(cls, starts: Integers, ends: Integers, n_tokens: Integers) -> Nodes:
        """Order nodes; those that are given twice are kept once."""
        offsets = np.cumsum(n_tokens) - n_tokens
        keys = np.sort(starts * _STRIDE + ends)
        keys = keys[np.diff(keys, prepend=-1) > 0]  # np.unique hashes, which takes ten times as long
        return cls(keys, np.searchsorted(offsets, keys // _STRIDE, side="right") - 1, n_tokens, offsets)

    def lengths(self) -> Integers:
        """Return the number of tokens below every node."""
        return self.keys % _STRIDE - self.keys // _STRIDE

    def n_shared(self, other: Nodes) -> Integers:
        """Count per sentence the nodes that both sets of trees have; the sentences must be the same."""
        if len(other.keys) == 0:
            return np.zeros(len(self.n_tokens), np.int64)
        places = np.minimum(np.searchsorted(other.keys, self.keys), len(other.keys) - 1)
        shared = other.keys[places] == self.keys
        return np.bincount(self.sentences[shared], minlength=len(self.n_tokens))


class Bracketings:
    """The spans of the trees of many sentences, found once, so that they can be compared with several others.

    Every function of `rlparse.parse_scores` that takes derivations takes these as well.

    Args:
        derivations: One complete derivation a sentence.
        tokens: The words of the same sentences; needed where punctuation is removed.

    Attributes:
        n_tokens: Length of every sentence.

    Raises:
        MalformedTreeError: A derivation is not one binary tree, or not one over the sentence's tokens.
        ValueError: There are not as many token sequences as derivations.
    """

    def __init__(self, derivations: Derivations, tokens: Sequence[Sequence[str]] | None = None) -> None:
        if tokens is not None and len(tokens) != len(derivations):
            raise ValueError(f"got {len(derivations)} derivations, but the tokens of {len(tokens)} sentences")
        self.derivations = derivations
        self.tokens = tokens
        self._nodes = _all_nodes(derivations)
        self._without_punctuation: Nodes | None = None
        self.n_tokens: list[int] = self._nodes.n_tokens.tolist()
        if tokens is not None:
            for i, (words, n) in enumerate(zip(tokens, self.n_tokens, strict=True)):
                if len(words) != n:
                    raise MalformedTreeError(
                        f"sentence {i} has {len(words)} tokens, but its derivation has {n}"
                    )

    def __len__(self) -> int:
        """How many sentences there are."""
        return len(self.n_tokens)

    def select(self, sentences: Sequence[int]) -> Bracketings:
        """Return the bracketings of some of the sentences, in the order given."""
        tokens = None if self.tokens is None else [self.tokens[i] for i in sentences]
        return Bracketings([self.derivations[i] for i in sentences], tokens)

    def nodes(self, *, punctuation: bool) -> Nodes:
        """Return the internal nodes of all trees.

        Args:
            punctuation: False cuts punctuation tokens out of the trees: their leaves vanish, and nodes that
                are left with one child. A sentence may then have no token.

        Raises:
            ValueError: Punctuation is to be removed and there are no tokens to tell it by.
        """
        if punctuation:
            return self._nodes
        if self._without_punctuation is None:
            places = self.places(punctuation=False)
            moved = np.stack((places[self._nodes.keys // _STRIDE], places[self._nodes.keys % _STRIDE]))
            starts, ends = moved[:, moved[1] - moved[0] > 1]
            offsets = self._nodes.offsets
            kept = places[offsets + self._nodes.n_tokens] - places[offsets]
            self._without_punctuation = Nodes.of(starts, ends, kept)
        return self._without_punctuation

    def places(self, *, punctuation: bool) -> Integers:
        """Return where every boundary between tokens, counted over all sentences, lies in `nodes`.

        Raises:
            ValueError: Punctuation is to be removed and there are no tokens to tell it by.
        """
        if punctuation:
            return np.arange(sum(self.n_tokens) + 1)
        if self.tokens is None:
            raise ValueError("removing punctuation needs the tokens of the sentences: pass tokens=...")
        kept = np.fromiter(map(_is_kept, chain.from_iterable(self.tokens)), np.int64)
        return np.concatenate(([0], np.cumsum(kept)))

    def spans(self, *, punctuation: bool = True) -> list[frozenset[tuple[int, int]]]:
        """Return the spans of the internal nodes sentence by sentence, as Python sets; see `nodes`."""
        nodes = self.nodes(punctuation=punctuation)
        base = nodes.offsets[nodes.sentences]
        pairs = zip(
            (nodes.keys // _STRIDE - base).tolist(), (nodes.keys % _STRIDE - base).tolist(), strict=True
        )
        found: list[set[tuple[int, int]]] = [set() for _ in self.n_tokens]
        for sentence, pair in zip(nodes.sentences.tolist(), pairs, strict=True):
            found[sentence].add(pair)
        return [frozenset(spans) for spans in found]


def key(start: int, end: int) -> int:
    """Name a node as `Nodes.keys` does."""
    return start * _STRIDE + end


def _all_nodes(derivations: Derivations) -> Nodes:
    """Find the nodes of every tree without a loop over sentences.

    A tree on the stack starts where the SHIFT happened that first filled its slot. So the node that a
    REDUCE makes at stack size d starts at the last SHIFT before it that led to size d.
    """
    lengths = np.fromiter(map(len, derivations), np.int64, len(derivations))
    flat = np.fromiter(chain.from_iterable(derivations), np.int64, int(lengths.sum()))
    n_tokens = (lengths + 1) // 2
    offsets = np.cumsum(lengths) - lengths
    sentence = np.repeat(np.arange(len(lengths)), lengths)
    level = np.cumsum(1 - 2 * flat)  # counted on from sentence to sentence, each of which adds 1
    size = level - sentence
    good = (lengths > 0).all() and ((flat == trees.SHIFT) | (flat == trees.REDUCE)).all()
    if not good or (size < 1).any() or (size[offsets + lengths - 1] != 1).any():
        for i, derivation in enumerate(derivations):
            try:
                trees.check_derivation(derivation)
            except MalformedTreeError as error:
                raise MalformedTreeError(f"sentence {i}: {error}") from None
    shifted = flat == trees.SHIFT
    position = np.cumsum(shifted)  # end of everything shifted so far
    by_slot = np.argsort(sentence * (size.max(initial=0) + 1) + size, kind="stable")
    last_shift = np.maximum.accumulate(np.where(shifted[by_slot], np.arange(len(flat)), 0))
    starts = np.empty_like(flat)
    starts[by_slot] = position[by_slot[last_shift]] - 1
    return Nodes.of(starts[~shifted], position[~shifted], n_tokens)


@lru_cache(maxsize=1 << 16)
def _is_kept(token: str) -> bool:
    return not is_punctuation(token)
