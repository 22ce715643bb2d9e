"""Write what agents have learned, seed by seed: ``python -m rlparse_experiments.report.learning_page RUN …``.

Tables of the test set and pictures of the learning, task by task, from the folders of runs that were measured with
``--run.test`` (or by ``rlparse evaluate RUN --split test --detail --out RUN/test``). Systems stand side by side, those
of an ablation are told apart by the setting in which they differ. ``--into PAGE`` puts everything between the lines
``<!-- begin learning -->`` and ``<!-- end learning -->`` of a page.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rlparse.errors import ConfigError
from rlparse_experiments.compare import compare_systems, find_conventions
from rlparse_experiments.idle_options import LEARNS
from rlparse_experiments.measured_figures import (
    BY,
    NONE,
    TITLES,
    MeasuredRun,
    mean_and_min,
    percent,
    read_measured,
)
from rlparse_experiments.parse_files import replace_file
from rlparse_experiments.report.plots import plot_seeds
from rlparse_experiments.report.systems_page import commands, seeds_of
from rlparse_experiments.run_folder import RunFolder
from rlparse_experiments.standings import Standing, TaskStandings, commits_of
from rlparse_experiments.standings_tables import mean_and_sd, shown
from rlparse_experiments.statistics import standard_deviation
from rlparse_experiments.systems import Run, is_run

SECTION = "learning"
"""Name of the section, of its markers and its pictures, where no other is asked for."""

EXPLAINED = (
    "Figures are of the test set, in per cent, with the weights at the end of the run: mean ± standard deviation over "
    "seeds, and the worst seed in brackets. F1 is unlabelled under `nyu`, with the root and without; *lists* is the "
    "share of complete lists that are nodes of the parses, *exact* that of sentences parsed as gold; *nesting* counts "
    "lists inside lists, *operators* those of a pair's longer formula. In a group of examples a figure is the mean "
    "over seeds."
)


def learning_page(
    runs: Sequence[Path],
    *,
    pictures: Path | None = None,
    beside: Path = Path(),
    section: str = SECTION,
    brief: bool = False,
) -> list[str]:
    """Build the section, and draw its pictures.

    Args:
        runs: Folders of finished runs that were measured on the test set in detail.
        pictures: Folder for the pictures, made if need be; None draws none.
        beside: Folder of the page, from which it names the pictures.
        section: What the pictures' names begin with.
        brief: Leave out the figures by group of examples, whose tables have a column a system.

    Returns:
        Its lines, in Markdown.

    Raises:
        ConfigError: A folder is not a run, or not a finished one, or was not measured in detail.
        CheckpointError: A run is damaged.
    """
    for path in runs:
        if not is_run(path):
            raise ConfigError(f"{path} is not the folder of a run (a run is made by `rlparse train`)")
    standings, _ = compare_systems(runs, find_conventions(("nyu",)), split="test", n_draws=1)
    lines = [EXPLAINED, ""]
    for task in standings.tasks:
        measured = {s.name: [read_measured(run.path) for run in s.runs] for s in task.systems}
        lines += [f"### {task.task}", "", _described(task, measured), ""]
        lines += [*_systems_table(task, measured), ""]
        lines += [*_seeds_table(task, measured), ""]
        for name in () if brief else ("accuracy", "f1_nyu"):
            lines += _groups_table(name, measured)
        if pictures is not None:
            picture = pictures / f"{section}-{_slug(task.task)}.png"
            pictures.mkdir(parents=True, exist_ok=True)
            plot_seeds({s.name: [points_of(run) for run in s.runs] for s in task.systems}, picture)
            where = Path(os.path.relpath(picture, beside)).as_posix()
            lines += [f"![Accuracy and F1 on dev of every seed, {task.task}]({where})", ""]
        lines += [*commands(task), ""]
    return lines[:-1]


def points_of(run: Run) -> list[dict[str, float]]:
    """Give a run's evaluations on dev, each with the number of parses sampled until then, ``parses``."""
    folder = RunFolder(run.path)
    config = folder.config()
    n_parses = config.agent.n_parses if config.parser.kind in LEARNS else 1
    per_iteration = config.agent.batch_size * n_parses
    history = folder.read(folder.results_file).get("history", [])
    return [{**point, "parses": point["iteration"] * per_iteration} for point in history]


class Page(NamedTuple):
    """A page with a section to be replaced.

    Attributes:
        path: Of the page.
        before: Its text up to the section, with the marker.
        after: Its text from the section's end on, with the marker.
    """

    path: Path
    before: str
    after: str

    @classmethod
    def read(cls, path: Path, section: str) -> Page:
        """Find the section.

        Raises:
            ConfigError: The page has not both markers, once and in order.
            OSError: It cannot be read.
        """
        begin, end = (f"<!-- {word} {section} -->" for word in ("begin", "end"))
        text = path.read_text(encoding="utf-8")
        if not (text.count(begin) == text.count(end) == 1 and text.index(begin) < text.index(end)):
            raise ConfigError(f"{path}: expected the line {begin} and, below it, the line {end}, each once")
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        return cls(path, before + begin, end + after)

    def write(self, lines: Sequence[str]) -> None:
        """Put lines in place of what is in the section."""
        replace_file(self.path, ["\n".join([self.before, *lines, self.after])])


# --------------------------------------------------------------------------------------------------------- tables


def _described(task: TaskStandings, measured: dict[str, list[MeasuredRun]]) -> str:
    """Say what was learned from, and what it was measured on."""
    run = task.systems[0].runs[0]
    folder = RunFolder(run.path)
    config, results = folder.config(), folder.read(folder.results_file)
    corpus = config.corpus
    first = measured[task.systems[0].name][0]
    trained, tested = f"{results['train_examples']:,} examples", f"{first.n:,}"
    if run.task == "listops":
        cap, test_cap = corpus.max_tokens, corpus.test_max_tokens or corpus.max_tokens
        trained += f" of at most {cap} tokens" if cap else " of any length"
        tested += f" of at most {test_cap} tokens" if cap and test_cap > 0 else " of any length"
    elif run.task == "logic" and not config.data:
        low, high = corpus.operators
        trained += f" of {low} to {high} operators"
        if bins := list(first.groups.get("operators", {})):
            tested += f" of {bins[0]} to {bins[-1]}"
    threads = sorted({RunFolder(run.path).config().threads for s in task.systems for run in s.runs})
    plural = "" if threads == [1] else "s"
    return f"Trained on {trained}, tested on {tested}. Minutes are of {' or '.join(map(str, threads))} thread{plural}."


def _names(measured: dict[str, list[MeasuredRun]]) -> list[str]:
    """Return the figures that any run has."""
    return [name for name in TITLES if any(name in run.figures for runs in measured.values() for run in runs)]


def _systems_table(task: TaskStandings, measured: dict[str, list[MeasuredRun]]) -> list[str]:
    names = _names(measured)
    titles = [TITLES[name] for name in names]
    rows = [["system", "seeds", *titles, "self-F1", "minutes", "commit"]]
    for standing in task.systems:
        cells = [_over_seeds([run.figures.get(name) for run in measured[standing.name]]) for name in names]
        rows.append([standing.name, seeds_of(standing), *cells, *_provenance(standing)])
    return markdown_table(rows)


def _provenance(standing: Standing) -> list[str]:
    agreement = shown("self_f1_nyu", standing.self_f1.get("nyu"))
    minutes = mean_and_sd("minutes", standing.metrics.get("minutes"))
    return [agreement, minutes, ", ".join(commits_of(standing)) or NONE]


def _over_seeds(values: Sequence[float | None]) -> str:
    """Show a share over seeds as ``99.21 ± 0.30 (98.90)``, the worst seed in brackets."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return NONE
    if len(known) == 1:
        return percent(known[0])
    return f"{percent(float(np.mean(known)))} ± {percent(standard_deviation(known))} ({percent(min(known))})"


def _seeds_table(task: TaskStandings, measured: dict[str, list[MeasuredRun]]) -> list[str]:
    names = _names(measured)
    rows = [["system", "seed", *(TITLES[name] for name in names), "dev accuracy", "minutes"]]
    for standing in task.systems:
        for run, found in zip(standing.runs, measured[standing.name], strict=True):
            results = RunFolder(run.path).read(RunFolder(run.path).results_file)
            cells = [percent(found.figures.get(name)) for name in names]
            dev, minutes = percent(results["dev_accuracy"]), shown("minutes", run.figures["minutes"])
            rows.append([standing.name, str(found.seed), *cells, dev, minutes])
    return markdown_table(rows)


def _groups_table(name: str, measured: dict[str, list[MeasuredRun]]) -> list[str]:
    """Lay out one figure by group of examples, a column a system; nothing where no run has it."""
    with_figure = {system: runs for system, runs in measured.items() if all(name in r.figures for r in runs)}
    if not with_figure:
        return []
    rows = [[f"{TITLES[name]} of", "examples", *with_figure]]
    first = next(iter(with_figure.values()))[0]
    for by in BY:
        for group, (n, _) in first.groups.get(by, {}).items():
            cells = []
            for runs in with_figure.values():
                of_runs = [run.groups.get(by, {}).get(group, (0, {}))[1].get(name) for run in runs]
                cells.append(mean_and_min(of_runs))
            rows.append([f"{by.removesuffix(', up to')} {group}", f"{n:,}", *cells])
    everything = [mean_and_min([run.figures[name] for run in runs]) for runs in with_figure.values()]
    return [*markdown_table([*rows, ["all", f"{first.n:,}", *everything]]), ""]


def markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Write a head and rows as Markdown."""
    head, *body = [[cell.replace("|", r"\|") for cell in row] for row in rows]
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)] + [
        "| " + " | ".join(row) + " |" for row in body
    ]


def _slug(task: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", task.lower()).strip("-")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the section of the runs given, or put it into a page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "runs", nargs="+", type=Path, help="folders of finished runs, measured on the test set"
    )
    parser.add_argument("--into", type=Path, help="page with the markers; none prints the section")
    parser.add_argument("--section", default=SECTION, help=f"name in the markers and pictures ({SECTION})")
    parser.add_argument(
        "--pictures", type=Path, help="folder for pictures (with --into: images beside the page)"
    )
    parser.add_argument(
        "--brief", action="store_true", help="leave out the tables by length, depth and operators"
    )
    arguments = parser.parse_args(argv)
    page = None if arguments.into is None else Page.read(arguments.into, arguments.section)
    beside = Path() if page is None else page.path.parent
    pictures = arguments.pictures
    if page is not None and pictures is None:
        pictures = beside / "images"
    lines = learning_page(
        arguments.runs, pictures=pictures, beside=beside, section=arguments.section, brief=arguments.brief
    )
    if page is None:
        print("\n".join(lines))
    else:
        page.write(lines)
        print(f"written: {page.path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
