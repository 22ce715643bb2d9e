"""The tables of ``docs/performance.md``: ``python -m rlparse_experiments.bench.page bench.json`` prints them.

The file is what ``rlparse bench --json`` wrote.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlparse_experiments.bench.measuring import Figure
from rlparse_experiments.bench.report import machine_line, number, spread

Record = Mapping[str, Any]
"""What is in the file, or a part of it."""


def performance_tables(record: Record) -> str:
    """Write a record as Markdown: the machine, the figures to reach, and what every contender measured."""
    settings = record["settings"]
    lines = [
        f"{machine_line(record['machine'], settings['threads'])}. Rates are per {record['clock'].removesuffix('s')}; "
        f"median of {settings['repeats']} rounds, with the least and the greatest in brackets.",
        "",
        *_table(
            ("what", "", "target", "measured", "", "not compiled"),
            [_target_row(target) for target in record["targets"]],
        ),
    ]
    for section in record["sections"]:
        rows = [(found["name"], _spread(found)) for found in section["contenders"]]
        rows += [(name, f"not measured: {why}") for name, why in section["failures"].items()]
        lines += ["", *_table((section["title"], section["unit"]), rows)]
    return "\n".join(lines)


def _target_row(target: Record) -> tuple[str, ...]:
    bound = f"{'≤' if target['at_most'] else '≥'} {number(target['bound'])} {target['unit']}".strip()
    measured = target["reason"] if target["measured"] is None else _spread(target["measured"])
    alone = (target["not_compiled"] or {"measured": None})["measured"]
    plain = "" if alone is None else number(alone["value"])
    return target["what"], target["column"], bound, measured, target["status"], plain


def _spread(found: Record) -> str:
    return spread(Figure(found["value"], found["least"], found["greatest"]))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


if __name__ == "__main__":
    print(performance_tables(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
