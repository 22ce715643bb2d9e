"""Lists in sentences that show their brackets: ListOps, and logic whose brackets are tokens.

A *list* is the span from a token that opens one (``[MAX``, ``(``) to the token that closes it. It is the part of a gold
tree that is no convention: that trees branch to the left inside a list is one, and an encoder may do without. No torch
here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlparse.bracketings import Bracketings
from rlparse.bracketings import key as node_key

__all__ = ["Lists", "closing_ends", "is_closing", "is_opening", "shows_brackets"]

Integers = NDArray[np.int64]


def is_opening(token: str) -> bool:
    """Tell whether a token opens a list: ``(``, ``[`` or an operator of ListOps."""
    return token[0] in "[("


def is_closing(token: str) -> bool:
    """Tell whether a token closes a list."""
    return token in ("]", ")")


_WORDS = frozenset("0123456789abcdef") | {"not", "and", "or"}


def shows_brackets(types: Iterable[str]) -> bool:
    """Tell from its different tokens whether a corpus is one whose sentences show their brackets.

    Brackets in natural language open no list: only what holds nothing but words of ListOps or of logic counts.
    """
    found = set(types)
    opening, closing = (set(filter(which, found)) for which in (is_opening, is_closing))
    return bool(opening) and bool(closing) and found - opening - closing <= _WORDS


def closing_ends(tokens: Sequence[str]) -> list[int]:
    """Find where every list ends.

    Returns:
        For every token that opens a list the position after the token that closes it, or ``len(tokens) + 1`` if
        nothing does; 0 for other tokens. A closing token without a list is passed over.
    """
    ends = [0] * len(tokens)
    open_lists: list[int] = []
    for position, token in enumerate(tokens):
        if is_opening(token):
            open_lists.append(position)
        elif is_closing(token) and open_lists:
            ends[open_lists.pop()] = position + 1
    for position in open_lists:
        ends[position] = len(tokens) + 1
    return ends


class Lists(NamedTuple):
    """The complete lists of many sentences.

    Attributes:
        n_tokens: [sentences] int64. Length of every sentence.
        sentences: [lists] int64. Sentence of every list.
        starts: [lists] int64. Position of the token that opens it.
        ends: [lists] int64. Position after the token that closes it.
        openers: The token that opens each.
    """

    n_tokens: Integers
    sentences: Integers
    starts: Integers
    ends: Integers
    openers: tuple[str, ...]

    @classmethod
    def of(cls, sentences: Sequence[Sequence[str]]) -> Lists:
        """Find them."""
        found: list[tuple[int, int, int]] = []
        openers: list[str] = []
        for number, tokens in enumerate(sentences):
            for start, end in enumerate(closing_ends(tokens)):
                if 0 < end <= len(tokens):
                    found.append((number, start, end))
                    openers.append(tokens[start])
        which, starts, ends = np.array(found, dtype=np.int64).reshape(-1, 3).T
        return cls(np.array([len(s) for s in sentences], np.int64), which, starts, ends, tuple(openers))

    @property
    def is_root(self) -> NDArray[np.bool_]:
        """[lists] bool. Whether the list is the whole sentence, which every tree has right."""
        whole: NDArray[np.bool_] = self.ends - self.starts == self.n_tokens[self.sentences]
        return whole

    def found(self, parses: Bracketings) -> NDArray[np.bool_]:
        """Tell which lists are nodes of trees over the same sentences.

        Returns:
            [lists] bool.

        Raises:
            ValueError: The trees are over other sentences.
        """
        if parses.n_tokens != self.n_tokens.tolist():
            raise ValueError(
                f"got trees of {len(parses)} sentences to find the lists of {len(self.n_tokens)} in; "
                "expected trees over the same tokens"
            )
        nodes = parses.nodes(punctuation=True)
        if not len(nodes.keys):
            return np.zeros(len(self.starts), np.bool_)
        first = nodes.offsets[self.sentences]
        keys = (first + self.starts) * node_key(1, 0) + first + self.ends
        places = np.minimum(np.searchsorted(nodes.keys, keys), len(nodes.keys) - 1)
        there: NDArray[np.bool_] = nodes.keys[places] == keys
        return there

    def scores(self, found: NDArray[np.bool_], *, root: bool) -> NDArray[np.float64]:
        """Score every sentence: of the spans that count in F1, only those of complete lists.

        Of a binary tree's nodes those that cover a complete list are in every gold tree, so that there is no wrong one,
        and shared lists / lists is what shared spans / spans is for all nodes.

        Args:
            found: [lists] bool, as `found` gives them.
            root: Count the list that is the whole sentence.

        Returns:
            [sentences] float, from 0 to 1; 1 where no list counts.
        """
        counted = np.ones(len(self.starts), np.bool_) if root else ~self.is_root
        n = len(self.n_tokens)
        n_lists = np.bincount(self.sentences[counted], minlength=n)
        n_found = np.bincount(self.sentences[counted & found], minlength=n)
        shares: NDArray[np.float64] = n_found / np.maximum(n_lists, 1) + (n_lists == 0)
        return shares

    def found_by_opener(self, found: NDArray[np.bool_]) -> dict[str, tuple[float, int]]:
        """Pool the lists inside others by the token that opens them.

        Args:
            found: [lists] bool, as `found` gives them.

        Returns:
            Token to (share found, how many there are), alphabetically; lists that are whole sentences are left out.
        """
        inner = ~self.is_root
        openers = np.array(self.openers, dtype=np.str_)[inner]
        of_inner = found[inner]
        return {
            str(name): (float(of_inner[openers == name].mean()), int((openers == name).sum()))
            for name in np.unique(openers)
        }
