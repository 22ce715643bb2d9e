"""Write a table of systems over seeds from run folders: ``python -m rlparse_experiments.report.systems_page RUN …``.

A row a system, a table a task, and the commands below. Every figure is read from the runs; nothing is typed in by hand.
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

METRICS = ("accuracy", "f1_nyu", "depth", "minutes")
HEAD = ("system", "dev accuracy", "F1 (nyu)", "self-F1 (nyu)", "depth", "minutes", "seeds", "commit")


def systems_page(runs: Sequence[Path], *, by: str = "") -> list[str]:
    """Build, for every task of the runs, a Markdown table with a row for every system, and the commands below it.

    Args:
        runs: Folders of finished runs.
        by: Sort the rows by the mean of this figure, highest first; empty keeps the order of the runs.

    Raises:
        ConfigError: A folder is not a run, or not a finished one, or no system has the figure to sort by.
        CheckpointError: A run is damaged.
    """
    for path in runs:
        if not is_run(path):
            raise ConfigError(f"{path} is not the folder of a run (a run is made by `rlparse train`)")
    standings, _ = compare_systems(runs, find_conventions(("nyu",)), n_draws=1)
    lines: list[str] = []
    for task in standings.tasks:
        lines += [f"### {task.task}", "", *_table(task, by), "", *commands(task), ""]
    return lines[:-1]


def _table(task: TaskStandings, by: str) -> list[str]:
    systems = list(task.systems)
    if by:
        if not any(by in standing.metrics for standing in systems):
            known = list(dict.fromkeys(metric for standing in systems for metric in standing.metrics))
            raise ConfigError(f"--by: expected one of {', '.join(known)}, got '{by}'")
        systems.sort(key=lambda s: s.metrics[by].mean if by in s.metrics else float("-inf"), reverse=True)
    head = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    return head + ["| " + " | ".join(_row(standing)) + " |" for standing in systems]


def _row(standing: Standing) -> list[str]:
    accuracy, f1, depth, minutes = (mean_and_sd(metric, standing.metrics.get(metric)) for metric in METRICS)
    agreement = shown("self_f1_nyu", standing.self_f1.get("nyu"))
    name = standing.name.replace("|", r"\|")
    return [
        name,
        accuracy,
        f1,
        agreement,
        depth,
        minutes,
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
    arguments = parser.parse_args(argv)
    print("\n".join(systems_page(arguments.runs, by=arguments.by)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
