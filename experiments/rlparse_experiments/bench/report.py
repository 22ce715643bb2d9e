"""What ``rlparse bench`` prints and writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from rlparse_experiments.bench.measuring import Clock, Figure, Measured
from rlparse_experiments.bench.targets import NOT_MEASURED, NOT_REACHED, REACHED, Verdict
from rlparse_experiments.config import BenchConfig
from rlparse_experiments.report.tables import console

COLOURS = {REACHED: "green", NOT_REACHED: "red", NOT_MEASURED: "yellow"}


def say(text: str, style: str | None = None) -> None:
    """Print text as it is: nothing in it is markup."""
    console().print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def machine_line(described: dict[str, Any], threads: int) -> str:
    """Describe a machine in a line."""
    used = f"{threads} thread{'s' if threads > 1 else ''} used"
    flags = " ".join(described["flags"]) or "no vector flags known"
    return (
        f"{described['processor']} ({flags}), {described['cpus']} CPUs, {used}, GPU: {described['gpu'] or 'none'}, "
        f"{described['system']}, Python {described['python']}, torch {described['torch']}, "
        f"{'with' if described['compiled'] else 'without'} compiled gates"
    )


def print_machine(config: BenchConfig, described: dict[str, Any], clock: Clock) -> None:
    """Say what is measured where."""
    say(machine_line(described, config.threads))
    say(f"rates are per {clock.name[:-1]}; median of {config.repeats} rounds in turns [least–greatest]")
    if config.quick:
        say("--quick: sizes too small to mean anything", "yellow")
    cpus, load = described["cpus"], described["load"]
    if load is not None and cpus is not None and load + config.threads > cpus + 0.5:
        say(
            f"other programs are running (load {load} on {cpus} CPUs): expect other figures than on an idle machine",
            "yellow",
        )


def print_section(measured: Measured) -> None:
    """Print the rates of one section, and how many times as fast the first contender is."""
    table = Table(box=SIMPLE_HEAD, title=measured.section.title, title_justify="left", title_style="bold")
    timed = measured.section.timed
    table.add_column("", no_wrap=True)
    table.add_column(measured.section.unit, justify="right", no_wrap=True)
    if timed:
        table.add_column("first ÷ this", justify="right", no_wrap=True)
    first = next(iter(measured.values), "")
    for name in measured.values:
        figure = measured.figure(name)
        if timed:
            table.add_row(name, spread(figure), "" if name == first else spread(measured.ratio(first, name)))
        else:
            table.add_row(name, number(figure.value))
    if measured.values:
        console().print(table)
    for name, why in measured.failures.items():
        say(f"  not measured: {name}: {why}", "yellow")


def print_verdicts(verdicts: Sequence[Verdict]) -> None:
    """Print the table of figures to reach."""
    table = Table(box=SIMPLE_HEAD, title="Figures to reach", title_justify="left", title_style="bold")
    table.add_column("what", min_width=28)
    table.add_column("target", justify="right", no_wrap=True)
    table.add_column("measured", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    with_torch = any(verdict.not_compiled is not None for verdict in verdicts)
    if with_torch:
        table.add_column("not compiled", justify="right", no_wrap=True)
    for verdict in verdicts:
        target, figure = verdict.target, verdict.figure
        bound = f"{'≤' if target.at_most else '≥'} {number(target.bound)}"
        shown = "–" if figure is None else spread(figure)
        what = ", ".join(part for part in (target.what, target.column, target.unit) if part)
        cells = [what, bound, shown, coloured(verdict.status, verdict.status)]
        alone = verdict.not_compiled
        if with_torch:
            cells.append(
                ""
                if alone is None or alone.figure is None
                else coloured(number(alone.figure.value), alone.status)
            )
        table.add_row(*cells)
    console().print(table)
    for why in dict.fromkeys(verdict.reason for verdict in verdicts if verdict.reason):
        say(f"  not measured: {why}", "yellow")
    counts = Counter(verdict.status for verdict in verdicts)
    say("  ".join(f"{status}: {counts[status]}" for status in (REACHED, NOT_REACHED, NOT_MEASURED)))


def coloured(text: str, status: str) -> str:
    """Give a text the colour of a status."""
    return f"[{COLOURS[status]}]{text}[/]"


def number(value: float) -> str:
    """Write a figure with about three digits."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:.3g} M"
    if abs(value) >= 1e5:
        return f"{value / 1e3:.0f} k"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def spread(figure: Figure) -> str:
    """Write a figure with its least and greatest, where they differ."""
    if figure.least == figure.greatest:
        return number(figure.value)
    return f"{number(figure.value)} [{number(figure.least)}–{number(figure.greatest)}]"
