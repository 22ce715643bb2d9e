"""What runs came to on a part of their data, in detail, seed by seed. No torch here.

All is read from ``RUN/SPLIT/results.json``, as ``--run.test`` and ``rlparse evaluate --detail --out`` write it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlparse.errors import CheckpointError, ConfigError
from rlparse_experiments.run_folder import RunFolder
from rlparse_experiments.statistics import standard_deviation

TITLES = {
    "accuracy": "accuracy",
    "f1_nyu": "F1 nyu",
    "f1_nyu_root_out": "F1 nyu-root",
    "f1_lists_nyu": "lists",
    "f1_lists_nyu_root_out": "lists-root",
    "exact": "exact",
}
"""Figures of a group of examples and what they are called in tables, in their order there."""

BY = ("length, up to", "nesting", "operators")
"""Groups that are shown, where there are such: as results are published."""

NONE = "–"


class MeasuredRun(NamedTuple):
    """What one run came to; figures are named as in `TITLES`, and only those are there that were measured.

    Attributes:
        seed: Of the run.
        n: Examples.
        figures: Of all examples, fractions of 1.
        groups: By what examples are grouped, to group to its number of examples and its figures.
    """

    seed: int
    n: int
    figures: dict[str, float]
    groups: dict[str, dict[str, tuple[int, dict[str, float]]]]


def read_measured(path: Path, split: str = "test") -> MeasuredRun:
    """Read what a run came to on a part of its data.

    Raises:
        ConfigError: The run was not measured on it, or without ``--detail``; says how to.
        CheckpointError: A file of the run is damaged.
    """
    folder = RunFolder(path)
    file = folder.measured(split) / folder.results_file.name
    how = f"rlparse evaluate {path} --split {split} --detail --out {file.parent}"
    if not file.is_file():
        raise ConfigError(f"{path} was not measured on {split}; measure it by {how}")
    diagnosis = folder.read(file).get("diagnosis")
    if diagnosis is None:
        raise ConfigError(f"{file} has no figures in detail; measure the run again by {how}")
    try:
        n, figures = _figures(diagnosis["all"])
        groups = {
            by: {str(row["name"]): _figures(row) for row in rows} for by, rows in diagnosis["groups"].items()
        }
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file} is damaged: expected figures by group: {error!r}") from error
    return MeasuredRun(folder.config().seed, n, figures, groups)


def _figures(row: Mapping[str, Any]) -> tuple[int, dict[str, float]]:
    found = {"accuracy": row["accuracy"], **row["scores"]}
    return int(row["n"]), {name: float(found[name]) for name in TITLES if name in found}


# ------------------------------------------------------------------------------------------------ rows of tables


def percent(value: float | None) -> str:
    """Show a share."""
    return NONE if value is None else f"{100 * value:.2f}"


def seed_rows(runs: Sequence[MeasuredRun]) -> list[list[str]]:
    """Lay out the figures of every seed, and their mean, standard deviation and minimum: a head and rows.

    Args:
        runs: Of one system.
    """
    names = [name for name in TITLES if all(name in run.figures for run in runs)]
    rows = [["seed", *(TITLES[name] for name in names)]]
    rows += [[str(run.seed), *(percent(run.figures[name]) for name in names)] for run in runs]
    if len(runs) > 1:
        values = np.array([[run.figures[name] for name in names] for run in runs])
        spread = [standard_deviation(column) for column in values.T]
        for what, found in (("mean", values.mean(axis=0)), ("sd", spread), ("min", values.min(axis=0))):
            rows.append([what, *(percent(float(value)) for value in found)])
    return rows


def group_rows(runs: Sequence[MeasuredRun]) -> list[list[str]]:
    """Lay out accuracy and F1 by group of examples, ``mean (min)`` over seeds: a head and rows; empty without groups.

    Args:
        runs: Of one system, measured on the same examples.
    """
    shown = ("accuracy", "f1_nyu", "exact")
    names = [name for name in shown if all(name in run.figures for run in runs)]
    rows = [["examples", "n", *(TITLES[name] for name in names)]]
    for by in BY:
        shared = [group for group in runs[0].groups.get(by, {}) if all(group in r.groups[by] for r in runs)]
        for group in shared:
            n, _ = runs[0].groups[by][group]
            cells = [mean_and_min([r.groups[by][group][1].get(name) for r in runs]) for name in names]
            rows.append([f"{by.removesuffix(', up to')} {group}", f"{n:,}", *cells])
    everything = [mean_and_min([run.figures[name] for run in runs]) for name in names]
    return [*rows, ["all", f"{runs[0].n:,}", *everything]]


def mean_and_min(values: Sequence[float | None]) -> str:
    """Show a share over seeds as ``99.21 (98.90)``, the worst seed in brackets."""
    known = [value for value in values if value is not None]
    if len(known) < len(values) or not known:
        return NONE
    least = f" ({percent(min(known))})" if len(known) > 1 else ""
    return percent(float(np.mean(known))) + least
