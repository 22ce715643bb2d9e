"""Curves as pictures: of one run, from its ``metrics.jsonl``; of the seeds of systems, side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

PANELS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    (
        "accuracy",
        (
            ("rollout/accuracy", "train, sampled parses"),
            ("eval/accuracy", "dev, greedy parses"),
        ),
    ),
    ("reward", (("rollout/reward", "train, sampled parses"),)),
    (
        "F1 of dev parses (nyu)",
        (
            ("eval/f1_gold_nyu", "against gold"),
            ("eval/f1_left_nyu", "against left-branching"),
            ("eval/f1_right_nyu", "against right-branching"),
            ("eval/f1_balanced_nyu", "against balanced"),
        ),
    ),
    ("entropy of free decisions (1 = uniform)", (("rollout/entropy", "train, sampled parses"),)),
)


def read_points(metrics_file: Path) -> list[dict[str, Any]]:
    """Read the points of a run's curves, in order."""
    return [json.loads(line) for line in metrics_file.read_text(encoding="utf-8").splitlines()]


def curve(points: Sequence[dict[str, Any]], tag: str) -> tuple[list[float], list[float]]:
    """Give steps (in transitions) and values of one tag, where it was recorded."""
    found = [(float(point["step"]), float(point[tag])) for point in points if tag in point]
    return [step for step, _ in found], [value for _, value in found]


def panels_of(points: Sequence[dict[str, Any]]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Choose what to draw of a run: nothing that it does not have, and the reward where it is not the accuracy.

    Args:
        points: Of its curves.

    Returns:
        Title, and tag and label of every curve, by panel.
    """
    parsed = bool(curve(points, "eval/depth")[0])
    reward, accuracy = curve(points, "rollout/reward"), curve(points, "rollout/accuracy")
    panels = []
    for name, tags in PANELS:
        if name == "reward" and reward[0] == accuracy[0] and np.allclose(reward[1], accuracy[1], atol=1e-5):
            continue
        recorded = [(tag, label) for tag, label in tags if curve(points, tag)[0]]
        if recorded:
            panels.append(
                (name, [(tag, label if parsed else label.partition(",")[0]) for tag, label in recorded])
            )
    return panels


def plot_run(metrics_file: Path, picture: Path, title: str) -> None:
    """Draw accuracy, reward, F1 against gold and trivial trees, and entropy, each against transitions.

    Args:
        metrics_file: A run's ``metrics.jsonl``.
        picture: PNG to write.
        title: Above the panels.
    """
    points = read_points(metrics_file)
    panels = panels_of(points)
    figure = Figure(figsize=(4.2 * len(panels), 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=10)
    for number, (name, tags) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), number + 1)
        for tag, label in tags:
            steps, values = curve(points, tag)
            axes.plot(
                [step / 1e6 for step in steps], values, label=label, marker="." if len(steps) < 40 else None
            )
        axes.set_xlabel("million transitions")
        axes.set_title(name, fontsize=9)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    figure.savefig(picture, dpi=130)


SEED_PANELS = (("eval/accuracy", "dev accuracy"), ("eval/f1_gold_nyu", "F1 of dev parses (nyu)"))
"""What is drawn of every seed: tag and title."""


def plot_seeds(systems: Mapping[str, Sequence[Sequence[dict[str, float]]]], picture: Path) -> None:
    """Draw accuracy and F1 on dev against sampled parses: a row a system, a thin line a seed.

    Args:
        systems: Name to the points of every seed's curves: ``parses``, and the tags of `SEED_PANELS` where recorded.
        picture: PNG to write.
    """
    figure = Figure(figsize=(8.4, 0.5 + 2.3 * len(systems)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(systems), len(SEED_PANELS), sharex=True, sharey=True, squeeze=False)
    for row, (name, seeds) in zip(grid, systems.items(), strict=True):
        for axes, (tag, title) in zip(row, SEED_PANELS, strict=True):
            for points in seeds:
                known = [(point["parses"] / 1e6, point[tag]) for point in points if tag in point]
                axes.plot([x for x, _ in known], [y for _, y in known], linewidth=0.8, alpha=0.9)
            axes.set_title(f"{name}: {title}" if len(systems) > 1 else title, fontsize=9)
            axes.set_ylim(0, 1.02)
            axes.grid(alpha=0.3)
    for axes in grid[-1]:
        axes.set_xlabel("million sampled parses")
    figure.savefig(picture, dpi=130, metadata={"Software": None})
