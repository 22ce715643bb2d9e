"""Accuracy and parse scores of groups of examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlparse.bracketings import Bracketings
from rlparse.lists import Lists
from rlparse.parse_scores import sentence_scores
from rlparse_experiments.diagnosis.groups import Groups

Floats = NDArray[np.float64]

SCORES = ("f1_nyu", "f1_nyu_root_out", "f1_lists_nyu", "f1_lists_nyu_root_out", "exact")
"""What `ParseFigures` may hold, in the order of the tables."""


class ParseFigures(NamedTuple):
    """How well every sentence with a gold parse was parsed.

    Attributes:
        examples: [m] int64. Example that each sentence belongs to.
        scores: Name, of `SCORES`, to [m] float from 0 to 1; those of lists only where sentences show their brackets.
    """

    examples: NDArray[np.int64]
    scores: dict[str, Floats]

    @classmethod
    def of(
        cls,
        parses: Bracketings,
        gold: Bracketings,
        examples: NDArray[np.int64],
        lists: Lists | None,
        found: NDArray[np.bool_] | None,
    ) -> ParseFigures:
        """Score them.

        Args:
            parses: Of m sentences.
            gold: Of the same.
            examples: [m] int64. Example that each belongs to.
            lists: Of the same sentences, where they show their brackets.
            found: [lists] bool. Which of them are nodes of the parses.
        """
        rooted, rootless = (sentence_scores(parses, gold, name) for name in ("nyu", "nyu-root"))
        values = [rooted.terms()[0], rootless.terms()[0], None, None, rooted.same.astype(np.float64)]
        if lists is not None and found is not None:
            values[2:4] = lists.scores(found, root=True), lists.scores(found, root=False)
        return cls(examples, {n: v for n, v in zip(SCORES, values, strict=True) if v is not None})


class Row(NamedTuple):
    """The figures of one group.

    Attributes:
        name: Of the group.
        n: Its examples.
        accuracy: Share of them classified rightly.
        scores: Name, of `SCORES`, to the mean over their sentences that have a gold parse; empty where none has.
    """

    name: str
    n: int
    accuracy: float
    scores: dict[str, float]


def break_down(
    groups: Groups, correct: NDArray[np.bool_], figures: ParseFigures | None
) -> dict[str, list[Row]]:
    """Give the figures of every group.

    Args:
        groups: As `groups_of` gives them.
        correct: [examples] bool. Which were classified rightly.
        figures: Of the parses; None where there are none to score.
    """
    return {by: [row(g.name, g.members, correct, figures) for g in found] for by, found in groups.items()}


def row(
    name: str, members: NDArray[np.bool_], correct: NDArray[np.bool_], figures: ParseFigures | None
) -> Row:
    """Give the figures of one group; see `Row`.

    Raises:
        ValueError: The group is empty.
    """
    if not members.any():
        raise ValueError(f"group {name!r} has no examples to give figures of")
    scores: dict[str, float] = {}
    if figures is not None and (inside := members[figures.examples]).any():
        scores = {score: float(values[inside].mean()) for score, values in figures.scores.items()}
    return Row(name, int(members.sum()), float(correct[members].mean()), scores)


def overall(correct: Sequence[bool] | NDArray[np.bool_], figures: ParseFigures | None) -> Row:
    """Give the figures of all examples."""
    right = np.asarray(correct, dtype=np.bool_)
    return row("all", np.ones(len(right), np.bool_), right, figures)
