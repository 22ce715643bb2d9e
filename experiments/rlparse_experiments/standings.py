"""How systems stand: their figures over seeds, and how sure their differences are. No torch here.

A system's figure has two sources of chance. Another seed would have given another run, and other sentences another
figure of the same run. Intervals "over runs" are about the first, those "over sentences" about the second; neither
includes the other. What cannot be computed from the runs that are there is None, and a note says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from rlparse.parse_scores import Convention, self_f1
from rlparse_experiments.run_scores import ScoredRuns, on_task
from rlparse_experiments.statistics import (
    LEVEL,
    Floats,
    Interval,
    bootstrap_interval,
    difference_interval,
    improvement_interval,
    interquartile_mean,
    percentile_interval,
    probability_of_improvement,
    resampled_means,
    standard_deviation,
    two_sided_p,
)
from rlparse_experiments.systems import Run, System

FEW_RUNS = 5
"""With fewer runs than this, an interval over runs is told to be too narrow."""


DIGITS = 12
"""Figures that agree to so many digits are equal: sums of the same numbers in another order are."""


class Summary(NamedTuple):
    """One figure of one system.

    Attributes:
        scores: Of every run, by seed; on several tasks, of every task's runs.
        mean: Their mean (on several tasks, the mean of the tasks' means).
        sd: Their standard deviation, n - 1 below; None for one run or several tasks.
        iqm: Their interquartile mean.
        interval: Of the interquartile mean, over runs; None where a task has one run.
    """

    scores: tuple[float, ...]
    mean: float
    sd: float | None
    iqm: float
    interval: Interval | None


class Standing(NamedTuple):
    """One system on one task.

    Attributes:
        name: Of the system.
        runs: Its runs.
        metrics: Figure by name: ``accuracy``, ``cross_entropy``, ``f1_nyu`` …, ``depth``, ``minutes``; those there are.
        self_f1: Convention to the mean F1 between its runs; empty for one run, or where sentences differ.
    """

    name: str
    runs: tuple[Run, ...]
    metrics: dict[str, Summary]
    self_f1: dict[str, float]


class Difference(NamedTuple):
    """One figure of one system against another's.

    Attributes:
        metric: The figure.
        ours: The one system.
        theirs: The other.
        difference: Of the means over runs, ours less theirs.
        over_sentences: Paired bootstrap over sentences (examples), the runs as they are; None if sentences differ.
        p: Two-sided, of the same bootstrap.
        over_runs: Bootstrap over the runs of either; None where there is one.
        improvement: Probability that a run of ours is better than one of theirs.
        improvement_interval: Over runs; None where there is one.
    """

    metric: str
    ours: str
    theirs: str
    difference: float
    over_sentences: Interval | None
    p: float | None
    over_runs: Interval | None
    improvement: float
    improvement_interval: Interval | None


class TaskStandings(NamedTuple):
    """The systems on one task, or over all tasks.

    Attributes:
        task: Its name.
        systems: Those that were run on it, in the order given.
        differences: Of every pair of systems, by metric.
    """

    task: str
    systems: tuple[Standing, ...]
    differences: tuple[Difference, ...]


class Standings(NamedTuple):
    """All of it.

    Attributes:
        tasks: One by one.
        across: Systems that were run on all of several tasks, pooled; None for one task.
        notes: What could not be computed, and what to be wary of.
        n_draws: Of every bootstrap.
        split: Part of the data that the figures are of.
    """

    tasks: tuple[TaskStandings, ...]
    across: TaskStandings | None
    notes: tuple[str, ...]
    n_draws: int
    split: str = "dev"

    def as_json(self) -> dict[str, Any]:
        """Give plain JSON values; figures are fractions of 1."""
        return {
            "level": LEVEL,
            "draws": self.n_draws,
            "split": self.split,
            "tasks": [_task_as_json(task) for task in self.tasks],
            "across_tasks": None if self.across is None else _task_as_json(self.across),
            "notes": list(self.notes),
        }


def _task_as_json(task: TaskStandings) -> dict[str, Any]:
    return {
        "task": task.task,
        "systems": [
            {
                "system": standing.name,
                "runs": [str(run.path) for run in standing.runs],
                "seeds": [run.seeds[0] for run in standing.runs if run.seeds],
                "commits": commits_of(standing),
                "metrics": {name: summary._asdict() for name, summary in standing.metrics.items()},
                "self_f1": standing.self_f1,
            }
            for standing in task.systems
        ],
        "differences": [difference._asdict() for difference in task.differences],
    }


def commits_of(standing: Standing) -> list[str]:
    """Return the commits that a system's runs were made at, each once."""
    return list(dict.fromkeys(run.commit for run in standing.runs if run.commit))


# -------------------------------------------------------------------------------------------------- statistics


def stand(
    tasks: Mapping[str, Sequence[System]],
    scored: Mapping[str, ScoredRuns],
    conventions: Sequence[Convention],
    *,
    reference: str = "",
    n_draws: int = 2000,
    seed: int = 0,
) -> Standings:
    """Compute every statistic of systems on one task or several.

    Args:
        tasks: Task to its systems.
        scored: Task to what its runs scored.
        conventions: How F1 was counted.
        reference: Compare the others with this system only; empty compares all pairs.
        n_draws: Of every bootstrap.
        seed: Of every bootstrap.
    """
    compared = ("accuracy", *(f"f1_{c.name}" for c in conventions))
    found = []
    for task, systems in tasks.items():
        runs = scored[task]
        drawn = _draws(systems, runs, n_draws, seed)
        standings = tuple(_standing(system, runs, conventions, n_draws, seed) for system in systems)
        differences = [
            _difference(metric, a, b, drawn.get(metric, {}), n_draws, seed)
            for metric in compared
            for a, b in _pairs(standings, reference)
            if metric in a.metrics and metric in b.metrics
        ]
        found.append(TaskStandings(task, standings, tuple(differences)))
    notes = [note for runs in scored.values() for note in runs.notes]
    for standings_of_task in found:
        notes += _notes(standings_of_task)
    across = _across(found, compared, reference, n_draws, seed) if len(found) > 1 else None
    return Standings(tuple(found), across, tuple(notes), n_draws)


def summarise(scores: Sequence[float], *, n_draws: int = 2000, seed: int = 0) -> Summary:
    """Compute what there is to say of one figure of the runs of one system."""
    found = np.asarray(scores, np.float64)
    several = len(found) > 1
    return Summary(
        tuple(found.tolist()),
        float(found.mean()),
        standard_deviation(found) if several else None,
        float(interquartile_mean(found)),
        bootstrap_interval([found], n_draws=n_draws, seed=seed) if several else None,
    )


def _standing(
    system: System, scored: ScoredRuns, conventions: Sequence[Convention], n_draws: int, seed: int
) -> Standing:
    """Summarise the figures that all runs of a system have."""
    figures = [scored.figures[run.path] for run in system.runs]
    shared = [name for name in figures[0] if all(name in others for others in figures)]
    metrics = {
        name: summarise([others[name] for others in figures], n_draws=n_draws, seed=seed) for name in shared
    }
    parses = [scored.parses[run.path] for run in system.runs if run.path in scored.parses]
    agreement = {}
    if len(parses) == len(system.runs) > 1:
        agreement = {c.name: self_f1(parses, None, c).f1 for c in conventions}
    return Standing(system.name, system.runs, metrics, agreement)


def _draws(
    systems: Sequence[System], scored: ScoredRuns, n_draws: int, seed: int
) -> dict[str, dict[str, Floats]]:
    """Bootstrap the systems' means over runs, all on the same draws of sentences: metric to system to its draws."""
    found = {}
    for metric, by_run in scored.values.items():
        whole = [system for system in systems if all(run.path in by_run for run in system.runs)]
        if not whole:
            continue
        values = [np.mean([by_run[run.path] for run in system.runs], axis=0) for system in whole]
        drawn = resampled_means(np.stack(values, axis=1), scored.weights[metric], n_draws=n_draws, seed=seed)
        found[metric] = {system.name: drawn[:, k] for k, system in enumerate(whole)}
    return found


def _pairs(standings: Sequence[Standing], reference: str) -> list[tuple[Standing, Standing]]:
    """All pairs, or every other system with the reference."""
    if not reference:
        return list(combinations(standings, 2))
    others = [standing for standing in standings if standing.name != reference]
    return [(other, standing) for other in others for standing in standings if standing.name == reference]


def _difference(
    metric: str, ours: Standing, theirs: Standing, drawn: Mapping[str, Floats], n_draws: int, seed: int
) -> Difference:
    a, b = ours.metrics[metric], theirs.metrics[metric]
    over_sentences = p = None
    if ours.name in drawn and theirs.name in drawn:
        differences = np.round(drawn[ours.name] - drawn[theirs.name], DIGITS)
        over_sentences, p = percentile_interval(differences), two_sided_p(differences)
    return _compared(metric, ours.name, theirs.name, [(a, b)], over_sentences, p, n_draws, seed)


def _compared(
    metric: str,
    ours: str,
    theirs: str,
    pairs: Sequence[tuple[Summary, Summary]],
    over_sentences: Interval | None,
    p: float | None,
    n_draws: int,
    seed: int,
) -> Difference:
    """Compare two systems over their runs on one task or several."""
    scores = [(np.round(a.scores, DIGITS), np.round(b.scores, DIGITS)) for a, b in pairs]
    several = all(len(side) > 1 for pair in scores for side in pair)
    return Difference(
        metric,
        ours,
        theirs,
        float(np.mean([a.mean() - b.mean() for a, b in scores])),
        over_sentences,
        p,
        difference_interval(scores, n_draws=n_draws, seed=seed) if several else None,
        float(np.mean([probability_of_improvement(a, b) for a, b in scores])),
        improvement_interval(scores, n_draws=n_draws, seed=seed) if several else None,
    )


def _across(
    tasks: Sequence[TaskStandings], compared: Sequence[str], reference: str, n_draws: int, seed: int
) -> TaskStandings:
    """Pool the systems that were run on every task; the tasks are the strata."""
    by_name = [{standing.name: standing for standing in task.systems} for task in tasks]
    names = [name for name in by_name[0] if all(name in others for others in by_name)]
    pooled = []
    for name in names:
        there = [standings[name] for standings in by_name]
        metrics = {}
        for metric in there[0].metrics:
            if all(metric in standing.metrics for standing in there):
                metrics[metric] = _pooled([s.metrics[metric] for s in there], n_draws, seed)
        pooled.append(Standing(name, tuple(run for s in there for run in s.runs), metrics, {}))
    differences = [
        _compared(
            metric,
            a.name,
            b.name,
            [(t[a.name].metrics[metric], t[b.name].metrics[metric]) for t in by_name],
            None,
            None,
            n_draws,
            seed,
        )
        for metric in compared
        for a, b in _pairs(pooled, reference)
        if metric in a.metrics and metric in b.metrics
    ]
    return TaskStandings(" + ".join(task.task for task in tasks), tuple(pooled), tuple(differences))


def _pooled(summaries: Sequence[Summary], n_draws: int, seed: int) -> Summary:
    strata = [np.asarray(summary.scores) for summary in summaries]
    together = np.concatenate(strata)
    several = all(len(stratum) > 1 for stratum in strata)
    return Summary(
        tuple(together.tolist()),
        float(np.mean([stratum.mean() for stratum in strata])),
        None,
        float(interquartile_mean(together)),
        bootstrap_interval(strata, n_draws=n_draws, seed=seed) if several else None,
    )


def _notes(task: TaskStandings) -> list[str]:
    """Say which systems have too few runs for what, and which were not made by one program."""
    of_runs = [standing for standing in task.systems if standing.runs[0].seeds is not None]

    def listed(chosen: Callable[[int], bool]) -> str:
        names = [standing.name for standing in of_runs if chosen(len(standing.runs))]
        return ("; " if any("," in name for name in names) else ", ").join(names)

    notes = []
    if single := listed(lambda n: n == 1):
        notes.append(
            f"{on_task(task.task)}one run each, hence no sd, no interval over runs, no self-F1: {single}"
        )
    if few := listed(lambda n: 1 < n < FEW_RUNS):
        notes.append(
            f"{on_task(task.task)}fewer than {FEW_RUNS} runs, hence intervals over runs that are too narrow: {few}"
        )
    for standing in of_runs:
        if len(commits := commits_of(standing)) > 1:
            notes.append(
                f"{on_task(task.task)}the runs of {standing.name} were made at commits {', '.join(commits)}"
            )
    return notes
