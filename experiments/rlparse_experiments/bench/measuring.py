"""Timing things that do the same job, in turns, so that a machine that slows down slows all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, NamedTuple

Work = Callable[[], float]
"""Does a job once and gives how many units that was; where nothing is timed, gives what it counted."""

LEAST_SECONDS = 0.25
"""A timing repeats its work for at least so long."""


class Unavailable(Exception):  # noqa: N818  # not an error: a reason why something is not measured
    """Something cannot be measured on this machine; the message says why."""


class Contender(NamedTuple):
    """Something that is timed.

    Attributes:
        name: How it does the section's job.
        prepare: Gives the work; may raise `Unavailable`.
    """

    name: str
    prepare: Callable[[], Work]


class Section(NamedTuple):
    """Contenders that do one job under one setting.

    Attributes:
        key: Name for figures and files, such as ``encoder/100``.
        title: Name for people.
        unit: What is counted.
        build: Draws the workload and gives the contenders, the one that others are compared with first.
        timed: Whether units per second are measured. If not, every contender works once and gives its figure.
    """

    key: str
    title: str
    unit: str
    build: Callable[[], Sequence[Contender]]
    timed: bool = True


class Clock(NamedTuple):
    """Where seconds come from, and what to call them."""

    name: str
    seconds: Callable[[], float]


CPU = Clock("CPU seconds", time.process_time)
"""Time that this process had a processor: other programs disturb it less, and threads add up."""

WALL = Clock("seconds", time.perf_counter)


class Figure(NamedTuple):
    """A number with its spread over the rounds.

    Attributes:
        value: Median.
        least: Least.
        greatest: Greatest.
    """

    value: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        """Summarise the values of all rounds."""
        return cls(median(values), min(values), max(values))


class Measured(NamedTuple):
    """What came out of a section.

    Attributes:
        section: What was measured.
        values: Units per second of every contender, one of every round; or its one figure where nothing is timed.
        failures: Why the other contenders have none.
        seconds: Wall time of it all.
    """

    section: Section
    values: dict[str, tuple[float, ...]]
    failures: dict[str, str]
    seconds: float

    def figure(self, name: str) -> Figure:
        """Give what was measured of one contender.

        Raises:
            Unavailable: It was not measured.
        """
        return Figure.of(self.of(name))

    def ratio(self, ours: str, theirs: str) -> Figure:
        """Give how many times as fast one is as another, from their rates of the same round.

        Raises:
            Unavailable: One of them was not measured.
        """
        pairs = zip(self.of(ours), self.of(theirs), strict=True)
        return Figure.of([own / other for own, other in pairs])

    def deviation(self) -> Figure:
        """Give by how many per cent the contenders lie apart: the most that one's cost is off the median of all.

        The cost of a unit is the inverse of its rate; where nothing is timed, it is the figure itself.

        Raises:
            Unavailable: One of them was not measured, or there are less than two.
        """
        for name in self.failures:
            self.of(name)
        if len(self.values) < 2:
            raise Unavailable(f"{self.section.title}: fewer than two sizes were measured")
        found = []
        for of_round in zip(*self.values.values(), strict=True):
            costs = [1 / value if self.section.timed else value for value in of_round]
            found.append(max(100 * abs(cost / median(costs) - 1) for cost in costs))
        return Figure.of(found)

    def of(self, name: str) -> tuple[float, ...]:
        """Give the values of one contender.

        Raises:
            Unavailable: It was not measured.
        """
        if name in self.failures:
            raise Unavailable(f"{name}: {self.failures[name]}")
        if name not in self.values:
            raise Unavailable(f"{name} was left out")
        return self.values[name]

    def as_json(self) -> dict[str, Any]:
        """Give plain JSON values."""
        contenders = [
            {"name": name, **self.figure(name)._asdict(), "values": list(values)}
            for name, values in self.values.items()
        ]
        return {
            "key": self.section.key,
            "title": self.section.title,
            "unit": self.section.unit,
            "contenders": contenders,
            "failures": self.failures,
            "seconds": self.seconds,
        }


def measure(
    section: Section,
    *,
    rounds: int,
    clock: Clock = CPU,
    least_seconds: float = LEAST_SECONDS,
    wanted: Callable[[str], bool] = lambda name: True,
) -> Measured:
    """Time every contender once a round, after one unmeasured round to warm up; or let each give its figure.

    A contender that fails is left out from there on, with the reason, and the others go on.

    Args:
        section: What to measure.
        rounds: How often each is timed.
        clock: Gives seconds.
        least_seconds: A timing repeats the work until so much time has passed.
        wanted: Contenders to measure, by name.
    """
    start = time.perf_counter()
    failures: dict[str, str] = {}
    works: dict[str, Work] = {}
    values: dict[str, list[float]] = {}
    for contender in section.build():
        if not wanted(contender.name):
            continue
        try:
            work = contender.prepare()
            once = work()
        except Exception as error:
            failures[contender.name] = reason(error)
        else:
            works[contender.name], values[contender.name] = work, [] if section.timed else [once]
    for _ in range(rounds if section.timed else 0):
        for name, work in list(works.items()):
            try:
                values[name].append(_time(work, clock.seconds, least_seconds))
            except Exception as error:
                failures[name] = reason(error)
                del works[name], values[name]
    found = {name: tuple(of_rounds) for name, of_rounds in values.items()}
    return Measured(section, found, failures, time.perf_counter() - start)


def _time(work: Work, clock: Callable[[], float], least_seconds: float) -> float:
    """Give units per second."""
    done, start = 0.0, clock()
    while True:
        done += work()
        seconds = clock() - start
        if seconds > 0 and seconds >= least_seconds:
            return done / seconds


def reason(error: Exception) -> str:
    """Say in one line why something was not measured."""
    if isinstance(error, Unavailable):
        return str(error)
    lines = str(error).splitlines()
    return f"failed with {type(error).__name__}: {lines[0] if lines else 'no message'}"
