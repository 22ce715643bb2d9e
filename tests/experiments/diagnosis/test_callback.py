"""`--run.diagnose`: documented curves at every evaluation, the same numbers after an interruption, nothing when off."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from rlparse_experiments.cli import main
from rlparse_experiments.diagnosis import callback
from rlparse_experiments.diagnosis.diagnoser import _tag

LISTOPS: dict[str, Any] = {
    "corpus.generator": "listops",
    "corpus.max_tokens": 16,
    "encoder.composition": "gated",
    "run.diagnose": True,
}


def points_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def evaluations(run: Path) -> list[dict[str, float]]:
    return [point for point in points_of(run) if "eval/accuracy" in point]


@pytest.fixture(scope="session")
def patterns(repository) -> dict[str, re.Pattern[str]]:
    """The tags of diagnosing runs that docs/metrics.md has, as patterns: names in capitals stand for others."""
    text = (repository / "docs" / "metrics.md").read_text(encoding="utf-8")
    section = text.split("### With some options only: `--run.diagnose`")[1].split("\n## ")[0]
    tags = re.findall(r"^\| `([\w/]+)` \|", section, re.MULTILINE)
    return {tag: re.compile(re.sub(r"[A-Z]+", r"[a-z0-9-]+", tag)) for tag in tags}


@pytest.fixture(scope="module")
def diagnosed(session_runs, tmp_path_factory) -> Path:
    runs = session_runs.in_folder(tmp_path_factory.mktemp("diagnosed"))
    return runs.train("listops", LISTOPS)


def further_tags(points: list[dict[str, float]], without: Path) -> set[str]:
    """The tags that a run has and one that does not diagnose has not."""
    usual = {tag for point in points_of(without) for tag in point}
    return {tag for point in points for tag in point} - usual


def test_every_evaluation_has_the_documented_curves(diagnosed, listops_run, patterns):
    points = evaluations(diagnosed)
    assert len(points) == 2
    assert all(math.isfinite(value) for point in points for value in point.values())
    tags = further_tags(points, listops_run)
    for tag, pattern in patterns.items():
        assert [found for found in tags if pattern.fullmatch(found)], tag
    for tag in tags:
        assert any(pattern.fullmatch(tag) for pattern in patterns.values()), tag
    for point in points:
        assert {"eval/exact", "eval/f1_lists_nyu", "train/update_size/encoder"} <= set(point)


def test_the_curves_are_the_figures_of_an_evaluation_in_detail(diagnosed, tmp_path):
    assert main(["evaluate", str(diagnosed), "--detail", "--out", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out" / "results.json").read_text())["diagnosis"]
    last = evaluations(diagnosed)[-1]
    assert last["eval/exact"] == found["all"]["scores"]["exact"]
    assert last["eval/f1_lists_nyu"] == found["all"]["scores"]["f1_lists_nyu"]
    for row in found["groups"]["depth"]:
        assert last[f"eval/accuracy_by_depth/{_tag(row['name'])}"] == row["accuracy"]
    for row in found["groups"]["operators present"]:
        way, operator = row["name"].split()
        if way == "with":
            assert last[f"eval/accuracy_with/{operator[1:].lower()}"] == row["accuracy"]
    for opener, share in found["lists"].items():
        assert last[f"eval/lists_found/{opener[1:].lower()}"] == share["found"]
    for row in found["tops"]:
        assert last[f"eval/reduce/{row['top']}"] == pytest.approx(row["reduce"], abs=1e-6)
        assert last[f"eval/entropy/{row['top']}"] == pytest.approx(row["entropy"], abs=1e-6)
    for layer, units in found["units"].items():
        assert last[f"eval/dead_units/{layer}"] == units["dead"]
        assert last[f"eval/linear_units/{layer}"] == units["linear"]


def test_diagnosing_changes_nothing_else(runs, diagnosed):
    usual = runs.train("usual", LISTOPS | {"run.diagnose": False})
    speeds = {"time/examples_per_second", "time/transitions_per_second", "time/data_wait"}
    for with_, without in zip(points_of(diagnosed), points_of(usual), strict=True):
        assert {tag: with_[tag] for tag in set(without) - speeds} == {
            tag: value for tag, value in without.items() if tag not in speeds
        }


def test_a_run_that_does_not_diagnose_never_looks(runs, monkeypatch):
    def never(*arguments: object) -> None:
        raise AssertionError(arguments)

    monkeypatch.setattr(callback.Diagnosis, "__init__", never)
    runs.train("usual")


def test_fixed_parsers_have_no_decisions_and_no_updates_of_a_policy(runs, diagnosed):
    run = runs.train("left", LISTOPS | {"parser.kind": "left", "agent.epochs": 1})
    missing = set(evaluations(diagnosed)[-1]) - set(evaluations(run)[-1])
    assert missing > {"train/update_size/policy"}
    assert {tag.split("/")[1] for tag in missing - {"train/update_size/policy"}} == {"reduce", "entropy"}


def test_logic_with_brackets_names_its_lists(runs):
    run = runs.train("logic", {"corpus.brackets": "tokens", "run.diagnose": True, "agent.epochs": 1})
    tags = set(evaluations(run)[-1])
    assert {"eval/lists_found/brackets", "eval/reduce/opening", "eval/f1_lists_nyu"} <= tags


def test_an_interrupted_run_draws_the_same_curves(runs, diagnosed, monkeypatch):
    seen = {"n": 0}
    original = callback.Diagnosis._on_step

    def stopping(self: callback.Diagnosis) -> bool:
        seen["n"] += 1
        if seen["n"] == 4:
            raise KeyboardInterrupt
        return original(self)

    with monkeypatch.context() as patch:
        patch.setattr(callback.Diagnosis, "_on_step", stopping)
        runs.train("stopped", LISTOPS, code=130)
    assert main(["train", "--resume", str(runs.folder / "stopped"), "--run.no-progress"]) == 0
    assert evaluations(runs.folder / "stopped") == evaluations(diagnosed)


@pytest.mark.parametrize(
    ("name", "tag"),
    [("[SM", "sm"), ("(", "brackets"), ("0-2", "00-02"), ("11-15", "11-15"), ("51+", "51-up")],
)
def test_names_become_tags(name, tag):
    assert _tag(name) == tag
