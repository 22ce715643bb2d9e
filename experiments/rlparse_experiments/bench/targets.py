"""The figures that rlparse means to reach, and whether it does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from rlparse_experiments.bench import encoder
from rlparse_experiments.bench.measuring import Figure, Measured, Unavailable

REACHED, NOT_REACHED, NOT_MEASURED = "reached", "not reached", "not measured"

Results = Mapping[str, Measured]
"""What was measured, by the key of its section."""


class Target(NamedTuple):
    """A figure to reach.

    Attributes:
        what: What it is, for people.
        column: Where in the table it stands: the hidden size, or what else it belongs to.
        bound: The figure to reach.
        figure: Takes it from the results; raises `Unavailable` where it was not measured.
        at_most: Whether less is better.
        unit: What the figure counts; a ratio has none.
    """

    what: str
    column: str
    bound: float
    figure: Callable[[Results], Figure]
    at_most: bool = False
    unit: str = ""


class Verdict(NamedTuple):
    """Whether a figure was reached.

    Attributes:
        target: The figure to reach.
        figure: What was measured instead of it, or None.
        status: `REACHED`, `NOT_REACHED` or `NOT_MEASURED`.
        reason: Why it was not measured.
    """

    target: Target
    figure: Figure | None
    status: str
    reason: str = ""

    def as_json(self) -> dict[str, Any]:
        """Give plain JSON values."""
        target = self.target
        return {
            "what": target.what,
            "column": target.column,
            "bound": target.bound,
            "at_most": target.at_most,
            "unit": target.unit,
            "measured": None if self.figure is None else self.figure._asdict(),
            "status": self.status,
            "reason": self.reason,
        }


def judge(target: Target, results: Results) -> Verdict:
    """Hold a target against what was measured: the median decides."""
    try:
        figure = target.figure(results)
    except Unavailable as missing:
        return Verdict(target, None, NOT_MEASURED, str(missing))
    good = figure.value <= target.bound if target.at_most else figure.value >= target.bound
    return Verdict(target, figure, REACHED if good else NOT_REACHED)


def section_of(results: Results, key: str) -> Measured:
    """Give one section's measurements.

    Raises:
        Unavailable: It was left out.
    """
    if key not in results:
        raise Unavailable(f"{key} was left out")
    return results[key]


def ratio(key: str, ours: str, theirs: str) -> Callable[[Results], Figure]:
    """Take a ratio of two contenders of one section."""
    return lambda results: section_of(results, key).ratio(ours, theirs)


def rate(key: str, name: str) -> Callable[[Results], Figure]:
    """Take the rate of a contender."""
    return lambda results: section_of(results, key).rate(name)


def _against(what: str, key: str, theirs: str, bounds: Mapping[int, float]) -> list[Target]:
    """One row of the table: ours as a multiple of theirs, by hidden size."""
    return [
        Target(what, f"hidden {size}", bound, ratio(key.format(size), encoder.BY_LEVEL, theirs))
        for size, bound in bounds.items()
    ]


EXACT, MEDIUM = "encoder/{}/highest", "encoder/{}/medium"

TARGETS: Sequence[Target] = (
    *_against("encoder ÷ packed nn.LSTM, float32", EXACT, encoder.LSTM, {100: 1.6, 300: 1.15}),
    *_against("encoder ÷ packed nn.LSTM, both in medium", MEDIUM, encoder.LSTM, {100: 1.9, 300: 1.35}),
    *_against("encoder ÷ naive recursion", EXACT, encoder.RECURSION, {100: 20, 300: 6.5}),
    *_against("encoder ÷ list-of-tensors SPINN", EXACT, encoder.LISTS, {100: 4, 300: 1.8}),
    *_against("encoder ÷ DyNet autobatch", EXACT, encoder.DYNET, {100: 1.7, 300: 1.2}),
    Target(
        "encoder ÷ packed nn.LSTM, lengths of ListOps",
        "hidden 100",
        3,
        ratio("encoder/listops", encoder.BY_LEVEL, encoder.LSTM),
    ),
)
