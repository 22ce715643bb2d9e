"""Tiny runs of the command line, inside the test process: a second each."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from rlparse_experiments import train
from rlparse_experiments.cli import main

# What every tiny run has unless a test says otherwise: 10 iterations, and no two intervals that fall together.
TINY: dict[str, Any] = {
    "seed": 3,
    "device": "cpu",
    "corpus.generator": "logic",
    "corpus.n_train": 40,
    "corpus.n_dev": 12,
    "corpus.operators": (1, 3),
    "corpus.brackets": "dropped",
    "encoder.composition": "tree_lstm",
    "encoder.embedding_size": 8,
    "encoder.hidden_size": 8,
    "encoder.mlp_size": 8,
    "encoder.dropout": 0.2,
    "parser.embedding_size": 8,
    "parser.hidden_size": 8,
    "parser.tracker_size": 8,
    "agent.epochs": 2,
    "agent.batch_size": 8,
    "agent.n_parses": 2,
    "run.log_interval": 4,
    "run.eval_interval": 5,
    "run.checkpoint_interval": 3,
    "run.sample_trees": 2,
}


class TinyRuns(NamedTuple):
    """Trains in one folder, with one cache for all tests."""

    folder: Path
    cache: Path

    def options(self, name: str, changes: dict[str, Any] | None = None) -> list[str]:
        """Everything after `rlparse`; a change to None takes the setting away."""
        settings = TINY | {"corpus.cache": self.cache, "run.folder": self.folder, "run.name": name}
        settings |= changes or {}
        words = ["train"]
        for key, value in settings.items():
            if isinstance(value, bool):
                section, _, last = key.rpartition(".")
                words.append(f"--{section}.{last}" if value else f"--{section}.no-{last}")
            elif value is not None:
                values = value if isinstance(value, tuple | list) else (value,)
                words += [f"--{key}", *map(str, values)]
        return words

    def train(self, name: str, changes: dict[str, Any] | None = None, *, code: int = 0) -> Path:
        """Train in this process, expect the exit code, and give the run's folder."""
        assert main(self.options(name, changes)) == code
        return self.folder / name

    def in_folder(self, folder: Path) -> TinyRuns:
        """The same cache, another folder."""
        return self._replace(folder=folder)


@pytest.fixture(scope="session")
def session_runs(tmp_path_factory: pytest.TempPathFactory) -> TinyRuns:
    """Where runs that several tests look at are trained."""
    return TinyRuns(tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("cache"))


@pytest.fixture
def runs(session_runs: TinyRuns, tmp_path: Path) -> TinyRuns:
    """Where the runs of one test are trained."""
    return session_runs.in_folder(tmp_path / "runs")


@pytest.fixture(scope="session")
def logic_run(session_runs: TinyRuns) -> Path:
    """A finished run of the learning parser on generated logic. Not to be changed."""
    return session_runs.train("logic")


@pytest.fixture(scope="session")
def listops_run(session_runs: TinyRuns) -> Path:
    """A finished run of the learning parser on generated ListOps. Not to be changed."""
    return session_runs.train("listops", LISTOPS)


LISTOPS: dict[str, Any] = {"corpus.generator": "listops", "corpus.max_tokens": 12}

PAIRS = [
    ("entailment", "( ( A man ) ( is ( eating pizza ) ) )", "( ( A man ) eats )"),
    ("contradiction", "( ( A man ) ( is ( eating pizza ) ) )", "( Nobody ( is eating ) )"),
    ("neutral", "( ( A man ) ( is ( eating pizza ) ) )", "( ( A ( tall man ) ) eats )"),
    ("entailment", "( ( Two dogs ) ( run ( in ( the snow ) ) ) )", "( dogs run )"),
    ("contradiction", "( ( Two dogs ) ( run ( in ( the snow ) ) ) )", "( ( The dogs ) ( are asleep ) )"),
    ("neutral", "( ( Two dogs ) ( run ( in ( the snow ) ) ) )", "( ( Two dogs ) ( are ( very cold ) ) )"),
]
"""Label and binary parses, as SNLI has them: premises come with several hypotheses."""

PHRASES = "(ROOT (S (NP (DT A) (NN man)) (VP (VBZ is) (VP (VBG eating) (NN pizza)))))"
"""The labelled parse of the first premise."""


@pytest.fixture
def write_snli(tmp_path: Path) -> Callable[..., Path]:
    """Write a folder of SNLI files, with or without parses."""

    def write(
        name: str = "snli", *, parsed: bool = True, words: tuple[str, str] = ("and", "so"), repeat: int = 4
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for file, number in (("snli_1.0_train.jsonl", repeat), ("snli_1.0_dev.jsonl", 1)):
            lines = []
            for copy in range(number):
                for label, *trees in PAIRS:
                    # A word that only this copy has, as pairs of the training set that are in dev are dropped.
                    extra = (
                        f"( {words[0]} {words[1] * (copy + 1)} )" if file == "snli_1.0_train.jsonl" else ""
                    )
                    trees = [f"( {tree} {extra} )" if extra else tree for tree in trees]
                    entry = {"gold_label": label}
                    for side, tree in enumerate(trees, start=1):
                        entry[f"sentence{side}"] = " ".join(w for w in tree.split() if w not in "()")
                        if parsed:
                            entry[f"sentence{side}_binary_parse"] = tree
                            entry[f"sentence{side}_parse"] = PHRASES if tree == PAIRS[0][1] else ""
                    lines.append(json.dumps(entry) + "\n")
            (folder / file).write_text("".join(lines), encoding="utf-8")
        return folder

    return write


@pytest.fixture(scope="session", autouse=True)
def plot_run() -> Iterator[Callable[[Path, Path, str], None]]:
    """Draw no picture, which takes longer than a tiny run; give what would draw one."""
    original = train.plot_run
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "plot_run", lambda metrics, picture, title: picture.write_text(title))
        yield original


@pytest.fixture(autouse=True)
def _hundred_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """The width of the terminal must not reach into what the tests read."""
    monkeypatch.setitem(os.environ, "COLUMNS", "100")
