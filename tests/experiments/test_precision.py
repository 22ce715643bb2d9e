"""The precision of matrix products holds for one run, is kept with it, and is nobody else's business."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import torch

from rlparse_agents.policy_gradient import PolicyGradient
from rlparse_experiments import evaluation_folder
from rlparse_experiments.cli import main
from rlparse_experiments.parse import parse_sentences
from rlparse_experiments.precision import matmul_precision


def precision() -> tuple[str, bool]:
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = precision()
    yield
    assert precision() == before


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """The precision at every iteration and every evaluation."""
    found: list[tuple[str, bool]] = []

    def watch(owner: object, name: str) -> None:
        original = getattr(owner, name)

        def watched(*args, **kwargs):
            found.append(precision())
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, watched)

    watch(PolicyGradient, "_iterate")
    watch(evaluation_folder, "measure")
    return found


@pytest.mark.parametrize(
    ("name", "expected"),
    [("highest", ("highest", False)), ("high", ("high", True)), ("medium", ("medium", True))],
)
def test_training_multiplies_in_the_precision_that_was_asked_for(runs, seen, name, expected):
    run = runs.train("run", {"precision": name})
    assert len(seen) == 10
    assert set(seen) == {expected}
    assert json.loads((run / "config.json").read_text())["settings"]["precision"] == name


def test_highest_is_the_default_whatever_was_set_before(runs, seen, logic_run):
    with matmul_precision("medium"):
        run = runs.train("run")
        assert precision() == ("medium", True)
    assert set(seen) == {("highest", False)}
    results = [json.loads((folder / "results.json").read_text()) for folder in (run, logic_run)]
    assert results[0]["history"] == results[1]["history"]


def test_it_is_as_before_after_an_error():
    before = precision()
    with pytest.raises(ZeroDivisionError), matmul_precision("medium"):
        _ = 1 / int(precision() != ("medium", True))
    assert precision() == before


def test_a_run_keeps_it(runs, seen, monkeypatch, capsys):
    run = runs.train("run", {"precision": "medium"})
    seen.clear()
    assert main(["train", "--resume", str(run), "--agent.epochs", "3"]) == 0
    assert seen == [("medium", True)] * 5
    assert main(["train", "--resume", str(run), "--precision", "high"]) == 2
    assert "precision (medium to high) cannot change" in capsys.readouterr().err

    seen.clear()
    assert main(["evaluate", str(run)]) == 0
    assert main(["evaluate", str(run), "--precision", "highest"]) == 0
    assert seen == [("medium", True), ("highest", False)]

    parsed_in = []
    monkeypatch.setattr(
        "rlparse_experiments.parse.parse_sentences",
        lambda *args, **options: (parsed_in.append(precision()), parse_sentences(*args, **options))[1],
    )
    assert main(["parse", "--run", str(run), "a or b"]) == 0
    assert parsed_in == [("medium", True)]


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_help_and_errors_name_the_choices(capsys, command):
    assert main([command, "--help"]) == 0
    out = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--precision" in out
    for name in ("highest", "high", "medium"):
        assert name in out
    if command == "train":
        assert "Of matrix products: highest is float32" in out


def test_another_precision_is_refused(capsys):
    assert main(["train", "--precision", "low"]) == 2
    assert "invalid choice" in capsys.readouterr().err
