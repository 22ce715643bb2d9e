"""The script to read runs from top to bottom, and prints what it measured."""

from __future__ import annotations

import re

import pytest
import torch

from rlparse_experiments.sb3_ppo import main


@pytest.fixture(autouse=True)
def _threads():
    """The script sets the number of threads of this process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_script_runs_and_measures(capsys, tmp_path):
    assert main(["--steps", "100", "--seed", "1", "--tensorboard", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"the classifier took [1-9]\d* steps", printed)
    rows = re.findall(
        r"^(PPO|left-branching|right-branching|random) +([\d.]+) +([\d.]+)$", printed, re.MULTILINE
    )
    assert len(rows) == 4
    f1 = {name: float(score) for name, _, score in rows}
    assert f1["right-branching"] < f1["random"] < f1["left-branching"] < 100
    assert all(0 <= float(accuracy) <= 100 for _, accuracy, _ in rows)
    assert printed.count("read as") == 3
    assert list(tmp_path.glob("PPO_1/events*"))


def test_the_same_seed_prints_the_same(capsys):
    outputs = []
    for _ in range(2):
        main(["--steps", "100"])
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]


def test_the_help_keeps_its_lines(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    assert "\n    python -m rlparse_experiments.sb3_ppo --steps 20000 " in capsys.readouterr().out
