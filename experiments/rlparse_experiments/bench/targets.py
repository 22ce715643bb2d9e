"""The figures that rlparse means to reach, and whether it does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from rlparse_experiments.bench import encoder, environment, epoch, kernels, rollout
from rlparse_experiments.bench.measuring import Figure, Measured, Unavailable

REACHED, NOT_REACHED, NOT_MEASURED = "reached", "not reached", "not measured"

Results = Mapping[str, Measured]
"""What was measured, by the key of its section."""


class Target(NamedTuple):
    """A figure to reach.

    Attributes:
        key: Of the section that measures it.
        what: What it is, for people.
        column: Where in the table it stands: the hidden size, or what else it belongs to.
        bound: The figure to reach.
        figure: Takes it from that section; raises `Unavailable` where it was not measured.
        at_most: Whether less is better.
        unit: What the figure counts; a ratio has none.
        not_compiled: The same figure with all of rlparse's formulas in torch, where that differs.
    """

    key: str
    what: str
    column: str
    bound: float
    figure: Callable[[Measured], Figure]
    at_most: bool = False
    unit: str = ""
    not_compiled: Callable[[Measured], Figure] | None = None


class Verdict(NamedTuple):
    """Whether a figure was reached.

    Attributes:
        target: The figure to reach.
        figure: What was measured instead of it, or None.
        status: `REACHED`, `NOT_REACHED` or `NOT_MEASURED`.
        reason: Why it was not measured.
        not_compiled: The same judgement where rlparse's formulas are all in torch, if that differs.
    """

    target: Target
    figure: Figure | None
    status: str
    reason: str = ""
    not_compiled: Verdict | None = None

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
            "not_compiled": None if self.not_compiled is None else self.not_compiled.as_json(),
        }


def judge(target: Target, results: Results, *, void: str = "") -> Verdict:
    """Hold a target against what was measured: the median decides.

    Args:
        target: The figure to reach.
        results: What was measured.
        void: Why the results are not what the target is about, if they are not.
    """
    alone = None
    if target.not_compiled is not None:
        alone = judge(target._replace(figure=target.not_compiled, not_compiled=None), results, void=void)
    try:
        if void:
            raise Unavailable(void)
        if target.key not in results:
            raise Unavailable(f"{target.key} was left out")
        found = target.figure(results[target.key])
    except Unavailable as missing:
        return Verdict(target, None, NOT_MEASURED, str(missing), alone)
    good = found.value <= target.bound if target.at_most else found.value >= target.bound
    return Verdict(target, found, REACHED if good else NOT_REACHED, "", alone)


def ratio(ours: str, theirs: str) -> Callable[[Measured], Figure]:
    """Take a ratio of two contenders."""
    return lambda measured: measured.ratio(ours, theirs)


def figure(name: str) -> Callable[[Measured], Figure]:
    """Take what was measured of one contender."""
    return lambda measured: measured.figure(name)


def _against(
    what: str,
    key: str,
    theirs: str,
    bounds: Mapping[int, float],
    ours: tuple[str, str] = (encoder.BY_LEVEL, encoder.BY_LEVEL_TORCH),
) -> list[Target]:
    """One row of the table: ours as a multiple of theirs, by hidden size."""
    return [
        Target(
            key.format(size),
            what,
            f"hidden {size}",
            bound,
            ratio(ours[0], theirs),
            not_compiled=ratio(ours[1], theirs),
        )
        for size, bound in bounds.items()
    ]


def _environment(contender: str, bound: float) -> Target:
    what = f"batched environment, {contender.rpartition(' ')[2]}"
    return Target(
        "env/steps", what, f"{environment.BATCHED:,} parsers", bound, figure(contender), unit="steps/s"
    )


def _linear(what: str, key: str, column: str) -> Target:
    """A row of costs that may differ from each other by so much."""
    return Target(key, what, column, MOST_DEVIATION, Measured.deviation, at_most=True, unit="%")


def _kernels(what: str, contender: str, bound: float) -> Target:
    column = f"{kernels.PAIRS} pairs"
    return Target(kernels.KEY, what, column, bound, figure(contender), at_most=True)


EXACT, MEDIUM, LISTOPS, STEP = "encoder/{}/highest", "encoder/{}/medium", "encoder/{}/listops", "step/{}"

SPINN = (rollout.MACHINE, rollout.MACHINE_TORCH)

MOST_DEVIATION = 25
"""Per cent that the cost of a token may be off the median of all sizes."""

TARGETS: Sequence[Target] = (
    *_against("encoder ÷ packed nn.LSTM, float32", EXACT, encoder.LSTM, {100: 1.6, 300: 1.15}),
    *_against("encoder ÷ packed nn.LSTM, both in medium", MEDIUM, encoder.LSTM, {100: 1.9, 300: 1.35}),
    *_against("encoder ÷ packed nn.LSTM, lengths of ListOps", LISTOPS, encoder.LSTM, {100: 3}),
    *_against("encoder ÷ naive recursion", EXACT, encoder.RECURSION, {100: 20, 300: 6.5}),
    *_against("encoder ÷ list-of-tensors SPINN", EXACT, encoder.LISTS, {100: 4, 300: 1.8}),
    *_against("encoder ÷ DyNet autobatch", EXACT, encoder.DYNET, {100: 1.7, 300: 1.2}),
    *_against("RL step ÷ list-based RL-SPINN", STEP, rollout.LISTS, {100: 4, 300: 2.5}, SPINN),
    _environment(environment.NUMPY, 10e6),
    _environment(environment.TORCH, 8e6),
    Target(
        "env/collecting",
        "Stable-Baselines3 collecting",
        f"{environment.COLLECTED} parsers",
        100e3,
        figure(environment.ADAPTED),
        unit="steps/s",
    ),
    _linear("spread of time per token", "scaling/length", "10–1,000 tokens"),
    _linear("spread of time per token", "scaling/batch", "batch 64–1,024"),
    _linear("spread of peak memory per token", "scaling/memory", "100–1,000 tokens"),
    _kernels("kernels, step by level", kernels.SUPERVISED, 250),
    _kernels("kernels, RL step", kernels.RL, 1500),
    Target(
        epoch.KEY,
        "epoch of 550k pairs on a GPU",
        "hidden 300",
        30,
        figure(epoch.FLOAT32),
        at_most=True,
        unit="s",
    ),
)
