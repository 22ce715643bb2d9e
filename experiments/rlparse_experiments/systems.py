"""Sort finished runs into tasks and systems: runs of one system differ in their seed only. No torch here."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from rlparse.errors import ConfigError
from rlparse_experiments.config import TrainConfig, as_json
from rlparse_experiments.run_folder import RunFolder

IGNORED = ("seed", "threads", "device", "corpus.cache", "corpus.seed")
"""Settings, beside those of ``run``, in which runs of one system may differ."""

OF_DATA = (
    *("data", "dev", "corpus.generator", "corpus.operators", "corpus.brackets"),
    *("corpus.n_dev", "corpus.n_test", "corpus.test_max_tokens", "corpus.test_operators"),
)
"""Settings that say which task it is; ``corpus.max_tokens`` does too where expressions are generated."""

T = TypeVar("T")


class Run(NamedTuple):
    """A finished run, or a file of parses that stands for one.

    Attributes:
        name: Of its folder.
        path: Its folder, or the file.
        task: What it was trained on, by name; empty for a file.
        data: Settings that say what it was trained on.
        settings: The other settings that can make a difference, by dotted name.
        label: What its system is called where nothing else is called so.
        seeds: Seed of the run and of its corpus; None for a file.
        commit: What it ran at, as far as known.
        command: What was typed.
        figures: Accuracy and the like, of the part of the data that was asked for, by name.
        reads_trees: Whether there are parses.
    """

    name: str
    path: Path
    task: str = ""
    data: tuple[tuple[str, str], ...] = ()
    settings: dict[str, Any] = {}  # noqa: RUF012 (a NamedTuple's default, never changed)
    label: str = ""
    seeds: tuple[int, int | None] | None = None
    commit: str = ""
    command: str = ""
    figures: dict[str, float] = {}  # noqa: RUF012
    reads_trees: bool = True


class System(NamedTuple):
    """Runs of the same settings on the same task.

    Attributes:
        name: Unique among the systems of the task; the same on another task if it has a name of its own there.
        runs: At least one, by seed.
    """

    name: str
    runs: tuple[Run, ...]


def is_run(path: Path) -> bool:
    """Say whether a path is the folder of a run, finished or not."""
    return RunFolder(path).config_file.is_file()


def read_run(path: Path, split: str = "dev") -> Run:
    """Read what a finished run was and came to.

    Args:
        path: Its folder.
        split: Part of the data whose figures are wanted; those of others than dev are in ``RUN/SPLIT/results.json``.

    Raises:
        ConfigError: The run is not finished.
        CheckpointError: One of its files is damaged.
    """
    folder = RunFolder(path)
    if not folder.results_file.is_file():
        raise ConfigError(
            f"{path} is not finished: there is no {folder.results_file.name}; "
            f"go on with rlparse train --resume {path}, or leave it out"
        )
    described, results = folder.read(folder.config_file), folder.read(folder.results_file)
    settings = _flat(_filled(folder.read_field(folder.config_file, "settings"), as_json(TrainConfig())))
    of_data = OF_DATA if settings["data"] else (*OF_DATA, "corpus.max_tokens")
    left_out = {*IGNORED, *of_data}
    figures = {"minutes": float(results["seconds"]) / 60}
    of_split, prefix = results, "dev_"
    if split != "dev":
        measured = folder.measured(split) / folder.results_file.name
        of_split, prefix = (folder.read(measured) if measured.is_file() else {}), ""
    for name in ("accuracy", "cross_entropy"):
        if of_split.get(prefix + name) is not None:
            figures[name] = float(of_split[prefix + name])
    return Run(
        name=path.resolve().name,
        path=path,
        task=str(results["task"]),
        data=tuple((key, json.dumps(settings[key])) for key in of_data),
        settings={k: v for k, v in settings.items() if k not in left_out and not k.startswith("run.")},
        label=_label(settings),
        seeds=(settings["seed"], settings["corpus.seed"]),
        commit=str(described.get("commit") or "unknown")[:9],
        command=str(described.get("command", "")),
        figures=figures,
        reads_trees=results.get("parses") is not None,
    )


def _label(settings: dict[str, Any]) -> str:
    """Name a system by the agent's preset, else by what builds its trees, else by its encoder."""
    if settings.get("agent.system"):
        return str(settings["agent.system"])
    kind = str(settings["parser.kind"])
    return str(settings.get("encoder.architecture", kind)) if kind == "none" else kind


def _filled(settings: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Put defaults where settings of an older version are missing."""
    filled = {**defaults, **settings}
    for key, value in defaults.items():
        if isinstance(value, dict) and isinstance(filled[key], dict):
            filled[key] = _filled(filled[key], value)
    return filled


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


# ---------------------------------------------------------------------------------------------------- sorting


def by_task(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Sort runs by what they were trained on; tasks of one name are told apart by how their data differ."""
    groups = _grouped(runs, lambda run: (run.task, run.data))
    names = _told_apart([(task, {key: json.loads(value) for key, value in data}) for task, data in groups])
    return dict(zip(names, groups.values(), strict=True))


def by_system(runs: Sequence[Run]) -> list[System]:
    """Sort the runs of one task into systems.

    A system has the name of its agent preset. Systems that would be called the same are told apart by the settings in
    which they differ; where the same seeds were run at several commits, by the commit.

    Raises:
        ConfigError: Two runs have the same settings, seed and commit: the second says nothing new.
    """
    described: list[tuple[str, dict[str, Any]]] = []
    members: list[list[Run]] = []
    groups = _grouped(runs, lambda run: (run.label, json.dumps(run.settings, sort_keys=True)))
    for (label, _), group in groups.items():
        parts = [group] if _repeated(group) is None else _grouped(group, lambda run: run.commit).values()
        for part in parts:
            if (twice := _repeated(part)) is not None:
                first, second = twice
                raise ConfigError(
                    f"{first.path} and {second.path} have the same settings, seed and commit: "
                    "they are one run, not two; leave one out"
                )
            at = {"commit": part[0].commit} if len(parts) > 1 else {}
            described.append((label, {**part[0].settings, **at}))
            members.append(part)
    return [
        System(name, tuple(sorted(part, key=_seed_order)))
        for name, part in zip(_told_apart(described), members, strict=True)
    ]


def _grouped(runs: Sequence[Run], key: Callable[[Run], T]) -> dict[T, list[Run]]:
    """Group by key, in the order in which the keys come."""
    groups: dict[T, list[Run]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
    return groups


def _repeated(runs: Sequence[Run]) -> tuple[Run, Run] | None:
    """Find two runs of the same seed."""
    seen: dict[tuple[int, int | None], Run] = {}
    for run in runs:
        if run.seeds is not None and run.seeds in seen:
            return seen[run.seeds], run
        if run.seeds is not None:
            seen[run.seeds] = run
    return None


def _seed_order(run: Run) -> tuple[int, int]:
    seed, corpus_seed = run.seeds or (0, None)
    return seed, corpus_seed or 0


def _told_apart(described: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
    """Return the names, those that come more than once followed by the settings in which they differ.

    What most of several namesakes have is the usual setting, and not said: of an ablation, the whole recipe has the
    plain name, and the others are called after what is different in them.
    """
    found = []
    for name, settings in described:
        namesakes = [others for other, others in described if other == name]
        keys = sorted({key for others in namesakes for key in others})
        differing = [key for key in keys if any(o.get(key) != settings.get(key) for o in namesakes)]
        last = [key.rpartition(".")[2] for key in differing]
        shown = [
            _setting(short if last.count(short) == 1 else key, settings.get(key))
            for short, key in zip(last, differing, strict=True)
            if not _is_usual(settings.get(key), [others.get(key) for others in namesakes])
        ]
        found.append(", ".join([name, *shown]))
    return found


def _is_usual(value: Any, values: Sequence[Any]) -> bool:
    """Say whether more than half of three or more values are this one; of two, neither is."""
    return len(values) > 2 and 2 * values.count(value) > len(values)


def _setting(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return name if value else f"no {name}"
    if isinstance(value, list):
        value = "-".join(map(str, value))
    return f"{name} {value}"
