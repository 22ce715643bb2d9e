"""What one example is, before it becomes arrays: sentences with an optional gold parse, and one label."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

NLI_LABELS = ("entailment", "neutral", "contradiction")
"""Labels of SNLI, MultiNLI and SICK, in the order of the class indices."""

TWO_WAY_NLI_LABELS = ("entailment", "non-entailment")
"""Labels of HANS, which does not tell neutral from contradiction."""

RELATION_LABELS = ("=", "<", ">", "^", "|", "v", "#")
"""The seven relations of propositional-logic inference: equivalence, forward and reverse entailment,
negation, alternation, cover, independence."""

LISTOPS_LABELS = tuple("0123456789")
"""The value of a ListOps expression."""

KNOWN_LABEL_SETS = (NLI_LABELS, TWO_WAY_NLI_LABELS, RELATION_LABELS, LISTOPS_LABELS)


class Sentence(NamedTuple):
    """The tokens of one sentence, with its gold parse where one is known.

    Attributes:
        tokens: The words, at least one.
        transitions: Gold derivation, ``2 * len(tokens) - 1`` of SHIFT (0) and REDUCE (1), or None.
        labelled_spans: Constituents ``(start, end, label)`` of the labelled gold tree, end excluded, or None.
    """

    tokens: tuple[str, ...]
    transitions: tuple[int, ...] | None = None
    labelled_spans: tuple[tuple[int, int, str], ...] | None = None


class Example(NamedTuple):
    """One thing to classify: a single sentence (ListOps), or premise and hypothesis (NLI)."""

    sentences: tuple[Sentence, ...]
    label: str


def label_order(found: Iterable[str]) -> tuple[str, ...]:
    """Order labels as the first known label set that has them all, else alphabetically."""
    labels = set(found)
    for known in KNOWN_LABEL_SETS:
        if labels <= set(known):
            return known
    return tuple(sorted(labels))
