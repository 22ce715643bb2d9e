"""``rlparse seeds``: train a system with several seeds, some at a time, and compare the runs. No torch in this process.

Every seed is a run of ``rlparse train`` in a process of its own. What a run folder says decides what is left to do:
finished runs are skipped, stopped ones go on from their checkpoint. So the same command may be given again
until all runs are done.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from rlparse.errors import ConfigError
from rlparse_experiments.config import TrainConfig
from rlparse_experiments.idle_options import refuse_idle_options
from rlparse_experiments.layered_config import changed_settings
from rlparse_experiments.measured_figures import MeasuredRun, group_rows, read_measured, seed_rows
from rlparse_experiments.options import preset_named, read_train_options
from rlparse_experiments.processes import Task, run_tasks
from rlparse_experiments.run_folder import RunFolder, config_of_run

TRAIN = (sys.executable, "-m", "rlparse_experiments.cli", "train")
"""How a run is begun."""

EVALUATE = (sys.executable, "-m", "rlparse_experiments.cli", "evaluate")
"""How a run is measured that was made without ``--run.test``."""

BAD_USAGE = 2
"""Exit code of a run that did not begin; the others would not either."""

MAY_DIFFER = ("device", "threads", "corpus.cache")
"""Settings, beside those of ``run``, in which a run in the folder may differ from the one asked for."""

SHOWN_LINES = 5
"""Last lines of the log of a run that failed."""

REDRAWN_SECONDS = 2.0


@dataclass(frozen=True)
class SeedsConfig:
    """Train a system with several seeds and compare the runs."""

    seeds: int = 5
    """How many runs."""
    first_seed: int = 0
    """The seeds are this one and those after it."""
    jobs: int = 0
    """Runs at a time (0: as many as there are cores for the threads of each)."""
    name: str = ""
    """Runs are called NAME-seed0 and so on; empty takes preset and agent."""


class SeedRun(NamedTuple):
    """One run to be.

    Attributes:
        name: Of its folder.
        folder: Its folder.
        config: Its settings.
        state: What is there of it.
    """

    name: str
    folder: Path
    config: TrainConfig
    state: Literal["new", "stopped", "finished"]


class Plan(NamedTuple):
    """What a command line asks for.

    Attributes:
        runs: One for every seed.
        options: Of ``rlparse train``, for all of them.
        jobs: How many at a time.
    """

    runs: list[SeedRun]
    options: tuple[str, ...]
    jobs: int


def read_plan(argv: Sequence[str], *, prog: str) -> Plan:
    """Read ``[PRESET] [--seeds N] [--any.option.of.train …]`` and look at what is done already.

    Raises:
        ConfigError: An option is unknown or not for several runs, or a folder holds another run than is asked for.
        SystemExit: After ``--help``, or when tyro refuses an option and has said why.
    """
    description = (
        "Train a system with several seeds, some at a time, and compare the runs. Given again, the command goes on "
        "where it was stopped. Every option of `rlparse train` may follow, of which --threads is 1 and --corpus.seed 0 "
        f"unless they are given:\n  {prog} listops-short --agent ppo --seeds 5 --agent.epochs 4"
    )
    ours, rest = tyro.cli(
        SeedsConfig, args=argv, prog=prog, description=description, return_unknown_args=True
    )
    for name, value, least in (
        ("seeds", ours.seeds, 1),
        ("first-seed", ours.first_seed, 0),
        ("jobs", ours.jobs, 0),
    ):
        if value < least:
            raise ConfigError(f"--{name} must be at least {least}, got {value}")
    refused = {
        "--seed": "--first-seed and --seeds choose the seeds",
        "--run.name": "--name NAME calls the runs NAME-seed0 and so on",
        "--resume": "the same command goes on with every run that was stopped",
    }
    for word in rest:
        if (option := word.partition("=")[0]) in refused:
            raise ConfigError(f"{option} is of one run: {refused[option]}")
    asked, _ = read_train_options(
        TrainConfig,
        rest,
        prog=prog,
        description=description,
        config_of_run=config_of_run,
        changeable=(),
        check=refuse_idle_options,
    )
    if asked.run.name:
        raise ConfigError(f"run.name is of one run: {refused['--run.name']}")
    config = replace(
        asked,
        threads=asked.threads or 1,
        corpus=replace(asked.corpus, seed=0 if asked.corpus.seed is None else asked.corpus.seed),
        run=replace(asked.run, progress=False),
    )
    name = ours.name or f"{preset_named(rest, prog=prog)}-{config.agent.system or config.parser.kind}"
    runs = []
    for seed in range(ours.first_seed, ours.first_seed + ours.seeds):
        called = f"{name}-seed{seed}"
        wanted = replace(config, seed=seed, run=replace(config.run, name=called))
        runs.append(_look_at(called, config.run.folder / called, wanted))
    return Plan(runs, tuple(rest), ours.jobs or max(1, _cores() // config.threads))


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _look_at(name: str, folder: Path, wanted: TrainConfig) -> SeedRun:
    """Find out what is there of a run."""
    if not folder.exists():
        return SeedRun(name, folder, wanted, "new")
    run = RunFolder(folder)
    differing = {
        key: values
        for key, values in changed_settings(_with_corpus_seed(run.config()), wanted).items()
        if key not in MAY_DIFFER and not key.startswith("run.")
    }
    if differing:
        listed = ", ".join(f"{key} ({there}, asked for {asked})" for key, (there, asked) in differing.items())
        raise ConfigError(
            f"{folder} is there already with other settings: {listed}; call these runs otherwise with --name"
        )
    if run.results_file.is_file():
        return SeedRun(name, folder, wanted, "finished")
    if not any(run.checkpoints.glob("*/")):
        raise ConfigError(
            f"{folder} was stopped before its first checkpoint; remove it, so that it can begin again"
        )
    return SeedRun(name, folder, wanted, "stopped")


def _with_corpus_seed(config: TrainConfig) -> TrainConfig:
    """Say of a run which seed its corpus was generated from, if it did not say so itself."""
    if config.corpus.seed is not None:
        return config
    return replace(config, corpus=replace(config.corpus, seed=config.seed))


def tasks_of(plan: Plan) -> list[Task]:
    """Give the command of every run that is not finished; stopped ones go first."""
    tasks = []
    for run in sorted(plan.runs, key=lambda run: run.state != "stopped"):
        config = run.config
        if run.state == "new":
            options = [*plan.options, "--seed", str(config.seed), "--run.name", run.name]
            options += ["--threads", str(config.threads), "--corpus.seed", str(config.corpus.seed)]
        elif run.state == "stopped":
            options = ["--resume", str(run.folder)]
        else:
            continue
        log = run.folder.parent / ".logs" / f"{run.name}.log"
        tasks.append(Task(run.name, (*TRAIN, *options, "--run.no-progress"), log))
    return tasks


def test_tasks_of(plan: Plan) -> list[Task]:
    """Give the command that measures each finished run that was not measured on the test set; none if not asked for."""
    tasks = []
    for run in plan.runs:
        folder = RunFolder(run.folder)
        out = folder.measured("test")
        if (
            run.config.run.test
            and folder.results_file.is_file()
            and not (out / folder.results_file.name).is_file()
        ):
            options = (str(run.folder), "--split", "test", "--detail", "--out", str(out))
            log = run.folder.parent / ".logs" / f"{run.name}-test.log"
            tasks.append(Task(run.name, (*EVALUATE, *options, "--device", run.config.device), log))
    return tasks


def run_seeds(argv: Sequence[str], prog: str) -> int:
    """Run ``rlparse seeds``; 0 if all runs are finished and measured, 1 if one failed.

    Raises:
        ConfigError: As `read_plan`, or another process is training one of the runs.
    """
    from rlparse_experiments.compare import compare_systems, find_conventions, print_standings

    plan = read_plan(argv, prog=prog)
    console = Console()
    console = console if console.is_terminal else Console(width=max(120, console.width))
    try:
        _train(plan, console)
        _measure(plan, console)
    except (KeyboardInterrupt, SystemExit):
        _say(console, "stopped; the same command goes on")
        raise
    finished = [run.folder for run in plan.runs if RunFolder(run.folder).results_file.is_file()]
    if finished:
        standings, _ = compare_systems(finished, find_conventions(()))
        print_standings(console, standings)
    tested = [
        folder for folder in finished if (RunFolder(folder).measured("test") / "results.json").is_file()
    ]
    if plan.runs[0].config.run.test and tested:
        standings, _ = compare_systems(tested, find_conventions(()), split="test")
        print_standings(console, standings)
        for table in measured_tables([read_measured(folder) for folder in tested]):
            console.print(table)
    if finished:
        _say(console, f"compare with others: rlparse compare {' '.join(map(str, finished))} OTHERS")
    return 0 if len(finished) == len(plan.runs) and not test_tasks_of(plan) else 1


def measured_tables(runs: Sequence[MeasuredRun]) -> list[Table]:
    """Lay out what every seed came to on the test set, and accuracy and F1 by group of examples."""
    from rlparse_experiments.standings_tables import table_of

    head, *rows = seed_rows(runs)
    by_head, *by_rows = group_rows(runs)
    return [
        table_of(f"Every seed on test: {runs[0].n:,} examples, %", head, rows),
        table_of("By group of examples on test: mean (worst seed), %", by_head, by_rows),
    ]


def _measure(plan: Plan, console: Console) -> None:
    """Measure finished runs that were made without ``--run.test`` where it is asked for now."""

    def ended(task: Task, code: int) -> bool:
        _say(console, f"{task.name}: {'measured on test' if code == 0 else _failure(code, task.log)}")
        return code != BAD_USAGE

    threads = str(plan.runs[0].config.threads)
    run_tasks(
        test_tasks_of(plan),
        plan.jobs,
        environment={"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
        ended=ended,
    )


def _train(plan: Plan, console: Console) -> None:
    """Train what is not trained, telling what happens."""
    tasks = tasks_of(plan)
    runs = {run.name: run for run in plan.runs}
    for run in plan.runs:
        if run.state == "finished":
            _say(console, f"{run.name}: finished already")
    if tasks:
        runs_left = f"{len(tasks)} run{'s' if len(tasks) > 1 else ''}, {min(plan.jobs, len(tasks))} at a time"
        _say(console, f"{runs_left}; what they print: {tasks[0].log.parent}")
    threads = str(plan.runs[0].config.threads)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.1f} of {task.total:g} epochs"),
    )
    # Nothing moves where nobody looks: bars are for terminals, lines for logs.
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        bars: dict[str, TaskID] = {}
        drawn = 0.0

        def started(task: Task) -> None:
            run = runs[task.name]
            _say(console, f"{run.name}: {'begins' if run.state == 'new' else 'goes on'}")
            bars[run.name] = progress.add_task(run.name, total=run.config.agent.epochs)

        def ended(task: Task, code: int) -> bool:
            progress.remove_task(bars.pop(task.name))
            _say(console, f"{task.name}: {_outcome(runs[task.name], code, task.log)}")
            return code != BAD_USAGE

        def waiting() -> None:
            nonlocal drawn
            if time.monotonic() - drawn >= REDRAWN_SECONDS:
                drawn = time.monotonic()
                for name, bar in bars.items():
                    progress.update(bar, completed=epochs_done(runs[name].folder))

        run_tasks(
            tasks,
            plan.jobs,
            environment={"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
            started=started,
            ended=ended,
            waiting=waiting,
        )


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def epochs_done(folder: Path) -> float:
    """Read from a run's curves how far it has come; 0 before the first point."""
    try:
        lines = RunFolder(folder).metrics_file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return 0.0
    for line in reversed(lines):
        if '"time/epochs"' in line and line.endswith("}"):  # the last line may not be written to its end yet
            return float(json.loads(line)["time/epochs"])
    return 0.0


def _outcome(run: SeedRun, code: int, log: Path) -> str:
    """Say how a run ended; of one that failed, the end of its log."""
    folder = RunFolder(run.folder)
    if code == 0 and folder.results_file.is_file():
        results = folder.read(folder.results_file)
        measured = folder.measured("test") / folder.results_file.name
        on_test = f", on test {100 * folder.read(measured)['accuracy']:.2f} %" if measured.is_file() else ""
        return (
            f"accuracy {100 * results['dev_accuracy']:.2f} %{on_test}, {results['seconds'] / 60:.1f} minutes"
        )
    return _failure(code, log)


def _failure(code: int, log: Path) -> str:
    """Say that a command failed, and how its log ends."""
    last = log.read_text(encoding="utf-8", errors="replace").splitlines()[-SHOWN_LINES:]
    return "\n  ".join([f"failed with exit code {code}; {log} ends:", *last])
