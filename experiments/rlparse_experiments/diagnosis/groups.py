"""Which examples of a corpus belong together: by length, by depth of the gold tree, by operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlparse import trees
from rlparse.corpora.corpus import Corpus
from rlparse.corpora.examples import Sentence
from rlparse.corpora.listops import is_listops
from rlparse.corpora.logic import LAST_BIN, bin_of
from rlparse.lists import is_closing, is_opening

LENGTHS = (10, 25, 50, 100, 300)
"""Upper bounds of the bins of lengths, in tokens."""

DEPTHS = (2, 4, 6, 8, 10, 15, 20, 30, 50)
"""Upper bounds of the bins of depths, in edges."""

LOGIC_OPERATORS = ("not", "and", "or")
_LOGIC_WORDS = {*"abcdef()", *LOGIC_OPERATORS}


class Group(NamedTuple):
    """Some examples of a corpus.

    Attributes:
        name: What they have in common.
        members: [examples] bool.
    """

    name: str
    members: NDArray[np.bool_]


Groups = dict[str, list[Group]]
"""By what examples are grouped, and the groups, none of them empty."""


def groups_of(corpus: Corpus, sentences: Sequence[Sentence]) -> Groups:
    """Group the examples of a corpus in every way that fits it.

    An example of two sentences counts with the longer, the deeper, the one with more operators.

    Args:
        corpus: Whose examples they are.
        sentences: Its sentences, example by example, side by side.

    Returns:
        ``length`` and ``length, up to`` (as results are published); ``depth`` of the gold tree where all sentences have
        one; for ListOps ``nesting`` (lists inside lists), ``outermost operator`` and ``operators present``; for logic
        ``operators`` (the published bins, the last named ``12+``).
    """
    n_sides = corpus.n_sides
    lengths = corpus.lengths.max(axis=1)
    found: Groups = {"length": binned(lengths, LENGTHS), "length, up to": _up_to(lengths, LENGTHS)}
    if all(s.transitions is not None for s in sentences):
        depths = _of_examples(lambda s: trees.depth(s.transitions or ()), sentences, n_sides)
        found["depth"] = binned(depths, DEPTHS)
    types = {token for s in sentences for token in s.tokens}
    if is_listops(sorted(types)) and any(map(is_opening, types)):
        found["nesting"] = _each(_of_examples(lambda s: nesting(s.tokens), sentences, n_sides))
        found["outermost operator"] = _outermost(sentences, n_sides)
        found["operators present"] = _present(sentences, n_sides, sorted(filter(is_opening, types)))
    elif types <= _LOGIC_WORDS:

        def operators(sentence: Sentence) -> int:
            return bin_of(sum(token in LOGIC_OPERATORS for token in sentence.tokens))

        bins = _each(_of_examples(operators, sentences, n_sides))
        found["operators"] = [g._replace(name=f"{LAST_BIN}+") if g.name == str(LAST_BIN) else g for g in bins]
    return found


def nesting(tokens: Sequence[str]) -> int:
    """Count lists inside lists: 0 for a word, 1 for a list of words."""
    deepest = depth = 0
    for token in tokens:
        depth += is_opening(token) - is_closing(token)
        deepest = max(deepest, depth)
    return deepest


def binned(values: NDArray[np.int64], bounds: Sequence[int]) -> list[Group]:
    """Put whole numbers into bins, each up to and with its bound; what is above the last makes one more.

    Args:
        values: [n] int, not negative.
        bounds: Rising.

    Returns:
        The bins that are not empty, named ``0-10``, ``11-25``, …, ``301+``.
    """
    bins = np.searchsorted(np.asarray(bounds), values)
    lows = (0, *(bound + 1 for bound in bounds))
    names = [*(f"{low}-{high}" for low, high in zip(lows, bounds, strict=False)), f"{lows[-1]}+"]
    return [Group(names[k], bins == k) for k in np.unique(bins).tolist()]


def _up_to(values: NDArray[np.int64], bounds: Sequence[int]) -> list[Group]:
    """Group what is at most as large as each bound; a bound that adds nothing to the one before is left out."""
    groups, n_before = [], 0
    for bound in bounds:
        members = values <= bound
        if n_before < members.sum():
            groups.append(Group(f"≤ {bound}", members))
        n_before = int(members.sum())
    return groups


def _each(values: NDArray[np.int64]) -> list[Group]:
    """Make a group of every value that occurs."""
    return [Group(str(value), values == value) for value in np.unique(values).tolist()]


def _of_examples(
    count: Callable[[Sentence], int], sentences: Sequence[Sentence], n_sides: int
) -> NDArray[np.int64]:
    """Count in every sentence, and take the largest of each example."""
    counts = np.fromiter(map(count, sentences), np.int64, len(sentences))
    largest: NDArray[np.int64] = counts.reshape(-1, n_sides).max(axis=1)
    return largest


def _outermost(sentences: Sequence[Sentence], n_sides: int) -> list[Group]:
    """Group by the operator that an example (its first sentence) begins with; digits begin with none."""
    first = [s.tokens[0] if is_opening(s.tokens[0]) else "none" for s in sentences[::n_sides]]
    return [Group(name, np.array([token == name for token in first])) for name in sorted(set(first))]


def _present(sentences: Sequence[Sentence], n_sides: int, operators: Sequence[str]) -> list[Group]:
    """Group examples with and examples without every operator; groups overlap."""
    groups = []
    words = [
        {token for s in sentences[first : first + n_sides] for token in s.tokens}
        for first in range(0, len(sentences), n_sides)
    ]
    for operator in operators:
        has = np.array([operator in of_example for of_example in words])
        parts = (Group(f"with {operator}", has), Group(f"without {operator}", ~has))
        groups += [part for part in parts if part.members.any()]
    return groups
