"""Folders that look like finished runs, with figures and parses of a test's choice. No torch here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlparse_experiments.config import TrainConfig, as_json
from rlparse_experiments.parse_files import ParseRecord, write_parses
from rlparse_experiments.prediction_files import Prediction, predictions_of, write_predictions

WORDS = [tuple("abcd"), tuple("efg"), tuple("hij")]
LEFT3, RIGHT3 = (0, 0, 1, 0, 1), (0, 0, 0, 1, 1)
LEFT4, RIGHT4 = (0, 0, 1, 0, 1, 0, 1), (0, 0, 0, 0, 1, 1, 1)
LEFT, RIGHT, MIXED = [LEFT4, LEFT3, LEFT3], [RIGHT4, RIGHT3, RIGHT3], [LEFT4, LEFT3, RIGHT3]
GOLD = LEFT
"""Against gold (``nyu``) the sentences of RIGHT have 1/3, 1/2 and 1/2, those of MIXED 1, 1 and 1/2."""


def made_settings(**changes: Any) -> dict[str, Any]:
    """The settings of a run as config.json has them, changed by names such as ``agent__n_parses``."""
    settings = as_json(TrainConfig())
    for name, value in changes.items():
        *sections, last = name.split("__")
        inner = settings
        for section in sections:
            inner = inner[section]
        inner[last] = value
    return settings


def make_run(
    path: Path,
    *,
    accuracy: float = 0.5,
    parses: Sequence[tuple[int, ...]] | None = LEFT,
    words: Sequence[tuple[str, ...]] = WORDS,
    gold: bool = True,
    correct: Sequence[int] | None = None,
    task: str = "logic",
    minutes: float = 1.5,
    commit: str | None = "c0ffee0123456789",
    **changes: Any,
) -> Path:
    """Write a run's folder.

    Args:
        path: The folder.
        accuracy: Of the dev set.
        parses: Of the dev sentences; None for a run that reads no trees.
        words: The dev sentences.
        gold: Whether they have gold trees.
        correct: 1 for every dev example that was classified rightly, else 0; None for no file of predictions.
        task: What it was trained on.
        minutes: How long it took.
        commit: What it ran at.
        changes: Settings, as `made_settings` takes them.
    """
    settings = made_settings(**changes)
    described = {
        "settings": settings,
        "commit": commit,
        "command": f"rlparse train {task} --seed {settings['seed']}",
    }
    results = {
        "task": task,
        "parser": settings["parser"]["kind"],
        "seed": settings["seed"],
        "dev_accuracy": accuracy,
        "dev_cross_entropy": 1 - accuracy,
        "train_examples": 1000,
        "parses": None if parses is None else {"against_gold": {}},
        "seconds": 60 * minutes,
        "peak_memory_gib": 0.25,
    }
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(described), encoding="utf-8")
    (path / "results.json").write_text(json.dumps(results), encoding="utf-8")
    if parses is not None:
        records = [
            ParseRecord.of(f"{i}.0", tokens, parse, tree if gold else None)
            for i, (tokens, parse, tree) in enumerate(zip(words, parses, GOLD, strict=True))
        ]
        write_parses(path / "parses" / "dev.jsonl", records)
    if correct is not None:
        predictions = [Prediction(str(i), "yes", "yes" if right else "no") for i, right in enumerate(correct)]
        write_predictions(predictions_of(path), predictions)
    return path


def make_measured(
    run: Path,
    split: str = "test",
    *,
    accuracy: float = 0.25,
    parses: Sequence[tuple[int, ...]] | None = MIXED,
    correct: Sequence[int] = (1, 0, 0),
    detail: bool = True,
    **scores: float,
) -> Path:
    """Write what a run came to on another part of its data, as ``rlparse evaluate --detail --out`` does.

    Args:
        run: Its folder.
        split: The part.
        accuracy: There.
        parses: Of the sentences; None for a run that reads no trees.
        correct: 1 for every example that was classified rightly, else 0.
        detail: Whether there is a diagnosis.
        scores: Figures of the parses in it.
    """
    folder = run / split
    folder.mkdir()
    row = {"name": "all", "n": len(correct), "accuracy": accuracy, "scores": scores}
    short = {"name": "≤ 3", "n": 2, "accuracy": accuracy / 2, "scores": scores}
    results: dict[str, Any] = {"run": str(run), "accuracy": accuracy, "cross_entropy": 2.5, "parses": None}
    if detail:
        results["diagnosis"] = {
            "all": row,
            "groups": {"length, up to": [short], "nesting": [row | {"name": "1"}]},
        }
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    predictions = [Prediction(str(i), "yes", "yes" if right else "no") for i, right in enumerate(correct)]
    write_predictions(folder / "predictions.jsonl", predictions)
    if parses is not None:
        triples = zip(WORDS, parses, GOLD, strict=True)
        write_parses(
            folder / "parses.jsonl",
            [ParseRecord.of(f"{i}.0", *triple) for i, triple in enumerate(triples)],
        )
    return run
