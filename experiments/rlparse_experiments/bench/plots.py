"""Pictures of throughput against batch size, hidden size and length."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from rlparse_experiments.bench import encoder
from rlparse_experiments.bench.measuring import Clock, Measured
from rlparse_experiments.bench.sweep import Axis

STYLES = {
    encoder.BY_LEVEL: ("C3", "o", 2.5),
    encoder.BY_STEP: ("C1", "s", 1.8),
    encoder.LSTM: ("C0", "^", 1.5),
    encoder.LSTM_PADDED: ("C5", "<", 1.5),
    encoder.GRU: ("C9", "v", 1.5),
    encoder.DYNET: ("C2", "D", 1.5),
    encoder.LISTS: ("C4", "P", 1.5),
    encoder.LEAN_LISTS: ("C6", "X", 1.5),
    encoder.RECURSION: ("C7", "*", 1.5),
}
"""Colour, marker and width of every line."""


def plot_axis(
    axis: Axis, results: Mapping[str, Measured], clock: Clock, title: str, files: list[Path]
) -> None:
    """Draw tokens per second of every encoder against one thing that varies, both on logarithmic axes.

    Args:
        axis: What varies.
        results: With the axis's sections.
        clock: What the seconds were.
        title: Above the picture.
        files: To write, in the formats of their names.
    """
    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, (colour, marker, width) in STYLES.items():
        points = [
            (value, results[key].figure(name))
            for value in axis.values
            for key in [f"sweep/{axis.key}/{value}"]
            if name in results[key].values
        ]
        if not points:
            continue
        medians = [found.value for _, found in points]
        spread = (
            [found.value - found.least for _, found in points],
            [found.greatest - found.value for _, found in points],
        )
        axes.errorbar(
            [value for value, _ in points],
            medians,
            yerr=spread,
            label=name,
            color=colour,
            marker=marker,
            linewidth=width,
            capsize=2,
            markersize=5,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(axis.values)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(axis.label)
    axes.set_ylabel(f"tokens per {clock.name[:-1]}, forward and backward")
    axes.set_title(f"{title}\n{axis.of}; median, least and greatest", fontsize=9)
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    for file in files:
        figure.savefig(file, dpi=130)
