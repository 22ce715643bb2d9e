"""``rlparse compare``: runs, system by system over seeds, and parses against gold, each other and trivial trees.

Neither torch nor a corpus is needed: everything comes from the folders of runs and files of parses. Importing
this module stays light.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import tyro

from rlparse.errors import ConfigError, CorpusError
from rlparse_experiments.systems import Run, System, by_system, by_task, is_run, read_run

if TYPE_CHECKING:
    from rich.console import Console

    from rlparse.parse_scores import Convention
    from rlparse_experiments.parse_sources import Sentences
    from rlparse_experiments.standings import Standings

MANY = 8
"""With more sources than this, each is only shown by itself if that is asked for."""


@dataclass(frozen=True)
class CompareConfig:
    """What to compare, and how to score it."""

    parses: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN|FILE ...")]
    """Run folders, and files of parses: bracketed trees one a line, or JSONL as in RUN/parses."""
    gold: Path | None = None
    """File of gold trees, in either format; without it the gold trees inside JSONL files count."""
    convention: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """How to count: nyu, prpn, evalb, or a variant such as nyu-root or evalb-punctuation; may be repeated.
    All three if not given."""
    split: str = "dev"
    """Which part of the runs' data: dev, or test where it was measured (RUN/test, or RUN/parses/test.jsonl)."""
    each: bool = False
    """Also compare the parses of every single run or file where there are more than 8."""
    reference: str = ""
    """Name of a system: compare the others with this one only; empty compares all pairs."""
    draws: int = 2000
    """Of every bootstrap."""
    seed: int = 0
    """Of the bootstraps and of the random trees."""
    json: Path | None = None
    """Also write all figures to this file, as fractions of 1."""
    csv: Path | None = None
    """Also write the systems' figures to this file, and their differences to NAME-differences.csv beside it."""
    latex: Path | None = None
    """Also write the tables of systems to this file, as LaTeX."""


# ------------------------------------------------------------------------------------------------------ systems


class TaskParses(NamedTuple):
    """The parses of the runs of one task, and whose they are.

    Attributes:
        of: Run or file to the sentences it parsed; the same object for all where all parsed the same. Without
            runs that read no trees.
        shared: These sentences, if they are the same.
    """

    of: dict[Path, Sentences]
    shared: Sentences | None


def compare_systems(
    paths: Sequence[Path],
    conventions: Sequence[Convention],
    *,
    gold: Path | None = None,
    split: str = "dev",
    reference: str = "",
    n_draws: int = 2000,
    seed: int = 0,
) -> tuple[Standings, dict[str, TaskParses]]:
    """Read runs and files of parses, sort them into systems, and compute how these stand.

    Args:
        paths: Run folders or files; a file is a system of one run.
        conventions: How to count F1.
        gold: File of gold trees.
        split: Which part of the runs' data.
        reference: Compare the others with this system only; empty compares all pairs.
        n_draws: Of every bootstrap.
        seed: Of every bootstrap.

    Returns:
        The standings, and task to the parses compared.

    Raises:
        ConfigError: There is nothing to compare, a run is not finished or not measured on this part of its data, or
            there is no such system.
        CorpusError: A file is malformed, or files are not of the same sentences.
        CheckpointError: A run is damaged.
    """
    from rlparse_experiments.run_scores import score_runs
    from rlparse_experiments.standings import stand

    runs = [read_run(path, split) for path in paths if is_run(path)]
    _check_measured(runs, split)
    files = [path for path in paths if not is_run(path)]
    if not paths:
        raise ConfigError("expected run folders or files of parses to compare, got none")
    if (twice := _given_twice([run.path for run in runs])) is not None:
        raise ConfigError(f"{twice} is given 2 times, expected different runs")
    tasks = by_task(runs) or {"": []}
    if files and len(tasks) > 1:
        raise ConfigError(
            f"{files[0]} can be compared with runs of one task, got runs of {len(tasks)}: {', '.join(tasks)}"
        )
    systems: dict[str, list[System]] = {}
    parses: dict[str, TaskParses] = {}
    scored = {}
    for task, members in tasks.items():
        there = [path for path in paths if path in files or any(path == run.path for run in members)]
        parses[task] = _read_parses(there, members, gold, split)
        named = _names(files, parses[task])
        everyone = {run.path: run for run in members} | {
            path: Run(named[path], path, label=named[path]) for path in files
        }
        of_task = [everyone[path] for path in there]
        systems[task] = by_system(of_task)
        of = parses[task].of
        ordered = {path: of[path] for path in there if path in of}
        scored[task] = score_runs(of_task, ordered, conventions, task=task, split=split)
    known = list(dict.fromkeys(system.name for found in systems.values() for system in found))
    if reference and reference not in known:
        raise ConfigError(f"--reference: expected one of {', '.join(known)}, got '{reference}'")
    found = stand(systems, scored, conventions, reference=reference, n_draws=n_draws, seed=seed)
    return found._replace(split=split), parses


def _check_measured(runs: Sequence[Run], split: str) -> None:
    """Refuse runs of which nothing is known on a part of their data."""
    from rlparse_experiments.parse_sources import parses_there
    from rlparse_experiments.prediction_files import predictions_of

    missing = [
        run.path
        for run in runs
        if "accuracy" not in run.figures
        and not predictions_of(run.path, split).is_file()
        and parses_there(run.path, split) is None
    ]
    if missing and split != "dev":
        first = missing[0]
        part = "--split test" if split == "test" else "--data FILES"
        how = f"rlparse evaluate {first} {part} --detail --out {first / split}"
        raise ConfigError(
            f"{len(missing)} of {len(runs)} runs were not measured on {split}: {', '.join(map(str, missing))}; "
            f"measure each by {how}"
        )


def _given_twice(paths: Sequence[Path]) -> Path | None:
    seen = set()
    for path in paths:
        if path.resolve() in seen:
            return path
        seen.add(path.resolve())
    return None


def _read_parses(paths: Sequence[Path], runs: Sequence[Run], gold: Path | None, split: str) -> TaskParses:
    """Read the parses there are; those of runs on different sentences are read one by one."""
    from rlparse_experiments.parse_sources import parses_of, read_sources

    treeless = {run.path for run in runs if not run.reads_trees}
    there = [path for path in paths if path not in treeless]
    if not there:
        return TaskParses({}, None)
    try:
        together = read_sources(there, gold=gold, split=split)
    except CorpusError:
        if len(there) == 1 or not {run.path for run in runs}.issuperset(there):
            raise
        alone = {path: read_sources([path], gold=gold, split=split) for path in there}
        return TaskParses(alone, None)
    assert [source.path for source in together.sources] == [parses_of(path, split) for path in there]
    return TaskParses(dict.fromkeys(there, together), together)


def _names(files: Sequence[Path], parses: TaskParses) -> dict[Path, str]:
    """Give every file the name that its source has."""
    if parses.shared is None:
        return {}
    return {
        path: source.name
        for path, source in zip(parses.of, parses.shared.sources, strict=True)
        if path in files
    }


# ----------------------------------------------------------------------------------------------------- printing


def _console() -> Console:
    """As wide as the terminal; at least 120 columns when piped."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=max(120, console.width))


def print_standings(console: Console, standings: Standings) -> None:
    """Print the tables of systems, and what to know about them."""
    from rlparse_experiments.standings_tables import standings_tables

    for table in standings_tables(standings):
        console.print(table)
    for note in standings.notes:
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)


def find_conventions(names: Sequence[str]) -> list[Convention]:
    """Look up the conventions asked for; all that have a name of their own if none is.

    Raises:
        ConfigError: There is no such convention, or one is given twice.
    """
    from rlparse.parse_scores import CONVENTIONS, find_convention

    try:
        conventions = [find_convention(name) for name in names or tuple(CONVENTIONS)]
    except ValueError as error:
        raise ConfigError(f"--convention: {error}") from None
    found = [convention.name for convention in conventions]
    if len(set(found)) < len(found):
        raise ConfigError(f"--convention: expected different conventions, got {', '.join(found)}")
    return conventions


def run_compare(config: CompareConfig) -> int:
    """Run ``rlparse compare``.

    Raises:
        ConfigError: There is nothing to compare, a run is not finished, or there is no such convention or system.
        CorpusError: A file is malformed, or the files are not of the same sentences.
        CheckpointError: A run is damaged.
    """
    from rlparse_experiments.parse_comparison import compare_parses, tables
    from rlparse_experiments.parse_files import replace_file

    conventions = find_conventions(config.convention)
    if config.draws < 1:
        raise ConfigError(f"--draws must be at least 1, got {config.draws}")
    standings, parses = compare_systems(
        config.parses,
        conventions,
        gold=config.gold,
        split=config.split,
        reference=config.reference,
        n_draws=config.draws,
        seed=config.seed,
    )
    console = _console()
    print_standings(console, standings)
    written: dict[str, Any] = {}
    shared = next(iter(parses.values())).shared if len(parses) == 1 else None
    if shared is not None and (config.each or len(shared.sources) <= MANY):
        comparison = compare_parses(shared, conventions, seed=config.seed)
        for table in tables(comparison):
            console.print(table)
        if not comparison.against_gold:
            console.print("No gold trees: none inside the files, and no --gold FILE.")
        written = comparison.as_json()
    elif shared is not None:
        console.print(f"--each also compares the parses of each of the {len(shared.sources)} sources.")
    elif config.each and len(parses) > 1:
        console.print(f"--each compares the parses of one task; these are of {len(parses)}.")
    for convention in conventions:
        console.print(f"{convention.name}: {convention.describe()}", highlight=False)
    for path, text in _files(config, standings, written).items():
        replace_file(path, [text])
        console.print(f"written: {path}", highlight=False, markup=False)
    return 0


def _files(config: CompareConfig, standings: Standings, comparison: dict[str, Any]) -> dict[Path, str]:
    """Return the files that were asked for, and what goes into them."""
    from rlparse_experiments.standings_tables import differences_csv, standings_csv, standings_latex

    found = {}
    if config.json is not None:
        everything = {**comparison, "standings": standings.as_json()}
        found[config.json] = json.dumps(everything, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if config.csv is not None:
        found[config.csv] = standings_csv(standings)
        beside = config.csv.with_name(f"{config.csv.stem}-differences{config.csv.suffix}")
        found[beside] = differences_csv(standings)
    if config.latex is not None:
        found[config.latex] = standings_latex(standings)
    return found
