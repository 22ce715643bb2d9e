"""The results page and the picture are made from what runs wrote, and from nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import pytest

from made_runs import made_settings
from rlparse.errors import CheckpointError
from rlparse_experiments.config import ParserKind
from rlparse_experiments.report.plots import curve, panels_of, plot_run, read_points
from rlparse_experiments.report.results_page import describe_parser, main, results_table


def edited(run: Path, folder: Path, **changes: object) -> Path:
    """A copy of a run's results and settings with other figures."""
    folder.mkdir()
    results = json.loads((run / "results.json").read_text()) | changes
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "config.json").write_text((run / "config.json").read_text())
    return folder


def test_every_run_has_a_row_with_its_own_figures(logic_run, tmp_path, capsys):
    other = edited(logic_run, tmp_path / "other", dev_accuracy=0.1234, seconds=90.0, train_examples=1234567)
    assert main([str(logic_run), str(other)]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if line.startswith("| learned (Tracker, policy gradient)")]
    accuracy = json.loads((logic_run / "results.json").read_text())["dev_accuracy"]
    assert f"| {100 * accuracy:.2f} |" in rows[0]
    assert "| 1,234,567 | 12.34 |" in rows[1]
    assert "| 1.5 |" in rows[1]
    head = next(line for line in lines if line.startswith("| trees | training"))
    assert all(f"F1 ({convention})" in head for convention in ("nyu", "prpn", "evalb"))
    assert sum(" # threads " in line for line in lines) == 2


def test_trivial_trees_stand_below(logic_run):
    lines = results_table([logic_run])
    scores = json.loads((logic_run / "results.json").read_text())["parses"]["against_gold"]["right"]
    row = next(line for line in lines if line.startswith("| right |"))
    assert row.startswith(f"| right | {100 * scores['nyu']:.2f} | {100 * scores['prpn']:.2f} |")


@pytest.mark.parametrize("kind", get_args(ParserKind))
def test_every_parser_is_described_in_words(kind):
    settings = made_settings(parser__kind=kind, encoder__hide_premise=True, corpus__parsed_only=True)
    assert re.fullmatch(
        r"[a-z][a-z ,'()A-Z-]+; hypothesis only; parsed pairs only", describe_parser({"settings": settings})
    )
    assert describe_parser({"settings": made_settings(agent__system="ppo")}).startswith("ppo: learned (")


def test_an_unfinished_run_is_refused(logic_run, tmp_path):
    folder = edited(logic_run, tmp_path / "unfinished")
    (folder / "results.json").unlink()
    with pytest.raises(CheckpointError, match=r"results\.json is missing"):
        results_table([folder])


def test_the_picture_is_drawn_from_the_points(logic_run, tmp_path):
    points = read_points(logic_run / "metrics.jsonl")
    steps, values = curve(points, "eval/accuracy")
    assert steps == sorted(steps)
    assert len(values) == sum("eval/accuracy" in point for point in points) > 0
    assert curve(points, "no/such_tag") == ([], [])
    plot_run(logic_run / "metrics.jsonl", tmp_path / "curves.png", "a run")
    assert (tmp_path / "curves.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_picture_keeps_rewards_apart_from_accuracies():
    figures = {"rollout/accuracy": 0.5, "eval/accuracy": 0.4, "eval/depth": 2.0}
    accuracy = (
        "accuracy",
        [("rollout/accuracy", "train, sampled parses"), ("eval/accuracy", "dev, greedy parses")],
    )
    reward = ("reward", [("rollout/reward", "train, sampled parses")])
    assert panels_of([{"step": 1, "rollout/reward": 0.5000001, **figures}]) == [accuracy]
    assert panels_of([{"step": 1, "rollout/reward": -2.3, **figures}]) == [accuracy, reward]


def test_the_picture_tells_of_no_parses_where_there_are_none():
    points = [{"step": 1, "rollout/reward": 0.5, "rollout/accuracy": 0.5, "eval/accuracy": 0.4}]
    assert panels_of(points) == [("accuracy", [("rollout/accuracy", "train"), ("eval/accuracy", "dev")])]
