"""Write a table of systems over seeds from run folders: ``python -m rlparse_experiments.report.systems_page RUN …``.

A row a system, a table a task, and the commands below. Every figure is read from the runs; nothing is typed in by hand.
F1 is under ``nyu``, or under every convention given by ``--convention NAME``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rlparse.errors import ConfigError
from rlparse_experiments.compare import compare_systems, find_conventions
from rlparse_experiments.standings import Standing, TaskStandings, commits_of
from rlparse_experiments.standings_tables import NONE, mean_and_sd, shown
from rlparse_experiments.systems import is_run

CONVENTIONS = ("nyu",)
"""Under which F1 is shown where no other is asked for."""


def systems_page(
    runs: Sequence[Path], *, by: str = "", conventions: Sequence[str] = CONVENTIONS
) -> list[str]:
    """Build, for every task of the runs, a Markdown table with a row for every system, and the commands below it.

    Args:
        runs: Folders of finished runs.
        by: Sort the rows by the mean of this figure, highest first; empty keeps the order of the runs.
        conventions: Under which F1 is shown, each in a column; self-F1 under the first.

    Raises:
        ConfigError: A folder is not a run, or not a finished one, or no system has the figure to sort by, or there is
            no such convention.
        CheckpointError: A run is damaged.
    """
    for path in runs:
        if not is_run(path):
            raise ConfigError(f"{path} is not the folder of a run (a run is made by `rlparse train`)")
    standings, _ = compare_systems(runs, find_conventions(conventions), n_draws=1)
    lines: list[str] = []
    for task in standings.tasks:
        lines += [f"### {task.task}", "", *_table(task, by, conventions), "", *commands(task), ""]
    return lines[:-1]


def _table(task: TaskStandings, by: str, conventions: Sequence[str]) -> list[str]:
    systems = list(task.systems)
    if by:
        if not any(by in standing.metrics for standing in systems):
            known = list(dict.fromkeys(metric for standing in systems for metric in standing.metrics))
            raise ConfigError(f"--by: expected one of {', '.join(known)}, got '{by}'")
        systems.sort(key=lambda s: s.metrics[by].mean if by in s.metrics else float("-inf"), reverse=True)
    f1 = [f"F1 ({name})" for name in conventions]
    titles = [
        "system",
        "dev accuracy",
        *f1,
        f"self-F1 ({conventions[0]})",
        "depth",
        "minutes",
        "seeds",
        "commit",
    ]
    head = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    return head + ["| " + " | ".join(_row(standing, conventions)) + " |" for standing in systems]


def _row(standing: Standing, conventions: Sequence[str]) -> list[str]:
    def over_seeds(metric: str) -> str:
        return mean_and_sd(metric, standing.metrics.get(metric))

    first = conventions[0]
    return [
        standing.name.replace("|", r"\|"),
        over_seeds("accuracy"),
        *(over_seeds(f"f1_{name}") for name in conventions),
        shown(f"self_f1_{first}", standing.self_f1.get(first)),
        over_seeds("depth"),
        over_seeds("minutes"),
        seeds_of(standing),
        ", ".join(commits_of(standing)) or NONE,
    ]


def seeds_of(standing: Standing) -> str:
    """List the seeds of a system, as ``0-2`` where they follow each other."""
    seeds = [run.seeds[0] for run in standing.runs if run.seeds is not None]
    if len(seeds) > 1 and seeds == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"{seeds[0]}-{seeds[-1]}"
    return ", ".join(map(str, seeds))


def commands(task: TaskStandings) -> list[str]:
    """Give the command of every system's first run; those of the others differ in seed and name."""
    found = [standing.runs[0].command for standing in task.systems]
    return ["The first seed of each was run by:", "", "```text", *found, "```"]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables of the runs given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished runs")
    parser.add_argument(
        "--by", default="", help="sort rows by this figure: accuracy, f1_nyu, depth or minutes"
    )
    parser.add_argument(
        "--convention",
        action="append",
        metavar="NAME",
        help="show F1 under this convention; several may be given (nyu)",
    )
    arguments = parser.parse_args(argv)
    conventions = arguments.convention or CONVENTIONS
    print("\n".join(systems_page(arguments.runs, by=arguments.by, conventions=conventions)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
