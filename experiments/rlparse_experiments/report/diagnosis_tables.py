"""What ``rlparse evaluate --detail`` prints behind the table of parses."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from rlparse_experiments.diagnosis.breakdown import Row
from rlparse_experiments.diagnosis.decisions import Decisions
from rlparse_experiments.diagnosis.diagnoser import Diagnosis

HEADS = {
    "f1_nyu": "F1",
    "f1_nyu_root_out": "no root",
    "f1_lists_nyu": "lists",
    "f1_lists_nyu_root_out": "no root",
    "exact": "exact",
}
"""Columns of the table of groups."""

SHOWN_STATES = 16
"""Rows of the table of states."""


def group_table(diagnosis: Diagnosis) -> Table:
    """Build the table of groups of examples, at most 80 columns wide."""
    scores = [score for score in HEADS if score in diagnosis.all.scores]
    found = Table(box=SIMPLE_HEAD)
    found.add_column("examples", no_wrap=True)
    for head in ("n", "accuracy", *(HEADS[score] for score in scores)):
        found.add_column(head, justify="right", no_wrap=True)

    def add(row: Row, indent: str = "") -> None:
        of_parses = (f"{100 * row.scores[score]:.2f}" if row.scores else "–" for score in scores)
        found.add_row(
            indent + row.name.replace("[", r"\["), f"{row.n:,}", f"{100 * row.accuracy:.2f}", *of_parses
        )

    add(diagnosis.all)
    for by, rows in diagnosis.groups.items():
        found.add_section()
        found.add_row(by, style="dim")
        for row in rows:
            add(row, "  ")
    return found


def state_table(states: Sequence[Decisions]) -> Table:
    """Build the table of decisions by kind of state, at most 80 columns wide."""
    with_gold = any(row.gold is not None for row in states)
    found = Table(box=SIMPLE_HEAD)
    for name in ("top", "second"):
        found.add_column(name, no_wrap=True)
    for name in ("decisions", "share", "REDUCE", "entropy", *(["gold REDUCE"] if with_gold else [])):
        found.add_column(name, justify="right", no_wrap=True)
    total = sum(row.n for row in states)
    for row in states[:SHOWN_STATES]:
        gold = "–" if row.gold is None else f"{100 * row.gold:.1f}"
        found.add_row(
            row.top,
            row.second,
            f"{row.n:,}",
            f"{100 * row.n / total:.1f}",
            f"{100 * row.reduce:.1f}",
            f"{row.entropy:.3f}",
            *([gold] if with_gold else []),
        )
    return found


def print_groups(out: Console, diagnosis: Diagnosis) -> None:
    """Print the table of groups of examples."""
    out.print()
    what = "accuracy, F1 (nyu) of the parses"
    if "f1_lists_nyu" in diagnosis.all.scores:
        what += ", of complete lists only (each with and without the root)"
    _print_line(out, f"in detail (%): {what if diagnosis.all.scores else 'accuracy'}")
    out.print(group_table(diagnosis))


def print_diagnosis(out: Console, diagnosis: Diagnosis, parser: str) -> None:
    """Print a diagnosis.

    Args:
        out: Where to.
        diagnosis: What to print.
        parser: Kind of the parser.
    """

    def line(text: str) -> None:
        _print_line(out, text)

    print_groups(out, diagnosis)
    if diagnosis.lists:
        shown = "  ".join(
            f"{opener} {100 * share:.1f} ({n:,})" for opener, (share, n) in diagnosis.lists.items()
        )
        line(f"lists inside others that are nodes of the parses: {shown}")
        out.print()
    if diagnosis.states is None:
        line(
            f"parser {parser} gives no probabilities of SHIFT and REDUCE: no table of decisions by kind of state"
        )
    else:
        line(
            "decisions along these parses, by what lies on the stack: mean probability of REDUCE (%), entropy"
        )
        line("(1: a fair coin), and how often REDUCE makes a node of the gold tree (%)")
        out.print(state_table(diagnosis.states))
        if len(diagnosis.states) > SHOWN_STATES:
            line(f"and {len(diagnosis.states) - SHOWN_STATES} rarer kinds of states")
    for layer, units in diagnosis.units.items():
        line(
            f"ReLU units of the {layer}: {units.n:,}, of which {100 * units.dead:.1f} % never fire and "
            f"{100 * units.linear:.1f} % always do"
        )


def _print_line(out: Console, line: str) -> None:
    out.print(line, highlight=False, markup=False, soft_wrap=True)
