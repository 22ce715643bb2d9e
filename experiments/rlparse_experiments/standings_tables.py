"""Standings laid out: tables for a terminal, CSV, LaTeX. Per cent where a figure is a share."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rlparse_experiments.standings import Difference, Standing, Standings, Summary, TaskStandings
from rlparse_experiments.statistics import LEVEL, Interval

if TYPE_CHECKING:
    from rich.table import Table

SHOWN_PAIRS = 15
"""Pairs of systems in a terminal; of more, only those with the first system, and two figures of each."""

NONE = "–"
"""What stands where there is no figure."""

CSV_COLUMNS = ("task", "system", "metric", "runs", "mean", "sd", "iqm", "iqm_low", "iqm_high", "scores")
CSV_DIFFERENCE_COLUMNS = (
    "task",
    "metric",
    "ours",
    "theirs",
    "difference",
    "sentences_low",
    "sentences_high",
    "p",
    "runs_low",
    "runs_high",
    "improvement",
    "improvement_low",
    "improvement_high",
)


def title_of(metric: str) -> str:
    """Name a figure in words: ``f1_nyu`` is F1 nyu."""
    if metric.startswith("f1_"):
        return f"F1 {metric[3:]}"
    return metric


def is_share(metric: str) -> bool:
    """Say whether a figure is a fraction of 1, and shown per cent."""
    return metric == "accuracy" or metric.startswith(("f1_", "self_f1_"))


def shown(metric: str, value: float | None) -> str:
    """Show one figure."""
    if value is None:
        return NONE
    if metric == "minutes":
        return f"{value:.1f}"
    return f"{100 * value if is_share(metric) else value:.2f}"


def mean_and_sd(metric: str, summary: Summary | None) -> str:
    """Show a figure over seeds as ``91.00 ± 0.52``, without the spread where there is none."""
    if summary is None:
        return NONE
    spread = "" if summary.sd is None else f" ± {shown(metric, summary.sd)}"
    return shown(metric, summary.mean) + spread


def _interval(metric: str, interval: Interval | None, *, signed: bool = False) -> str:
    if interval is None:
        return NONE
    low, high = (f"{'+' if signed and end > 0 else ''}{shown(metric, end)}" for end in interval)
    return f"[{low}, {high}]"


def all_tasks(standings: Standings) -> list[TaskStandings]:
    """Return the standings task by task, then those across tasks."""
    return [*standings.tasks, *([] if standings.across is None else [standings.across])]


def _metrics(systems: Iterable[Standing]) -> list[str]:
    """Return the figures that any system has, in the order of a table; cross-entropy is left to the files."""
    found = list(dict.fromkeys(metric for standing in systems for metric in standing.metrics))
    f1 = [metric for metric in found if metric.startswith("f1_")]
    return [metric for metric in ("accuracy", *f1, "depth", "minutes") if metric in found]


def _heading(task: TaskStandings, split: str) -> str:
    """Say what the figures of a table are of; dev is not mentioned."""
    part = "" if split == "dev" else f"{split} of " if task.task else split
    return f" on {part}{task.task}" if part or task.task else ""


# ------------------------------------------------------------------------------------------------- for a terminal


def standings_tables(standings: Standings) -> list[Table]:
    """Lay out what there is to say, as tables: systems, their intervals, their differences."""
    found = []
    for task in all_tasks(standings):
        where = _heading(task, standings.split)
        if any(standing.runs[0].seeds is not None for standing in task.systems):
            found.append(_system_table(task, where))
            if any(s.interval for standing in task.systems for s in standing.metrics.values()):
                found.append(_interval_table(task, where))
        if task.differences:
            found.append(_difference_table(task, where))
    return found


def table_of(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Lay out a table whose first column is names and whose others are figures."""
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    # Unlike a string, this is not broken at the width of a narrow table.
    line = Text(title, style="table.title", no_wrap=True, overflow="ignore")
    table = Table(title=line, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(escape(column), justify="right" if i else "left")
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def _system_table(task: TaskStandings, where: str) -> Table:
    metrics = _metrics(task.systems)
    conventions = list(dict.fromkeys(c for standing in task.systems for c in standing.self_f1))[:1]
    columns = ["system", "runs", *map(title_of, metrics), *(f"self-F1 {c}" for c in conventions)]
    rows = [
        [
            standing.name,
            str(len(standing.runs)),
            *(mean_and_sd(metric, standing.metrics.get(metric)) for metric in metrics),
            *(shown("self_f1_", standing.self_f1.get(c)) for c in conventions),
        ]
        for standing in task.systems
    ]
    return table_of(f"Systems{where}: mean ± sd over runs; shares in %", columns, rows)


def _interval_table(task: TaskStandings, where: str) -> Table:
    metrics = [metric for metric in _metrics(task.systems) if is_share(metric)]
    rows = []
    for standing in task.systems:
        row = [standing.name]
        for metric in metrics:
            summary = standing.metrics.get(metric)
            row.append(
                NONE
                if summary is None
                else f"{shown(metric, summary.iqm)} {_interval(metric, summary.interval)}"
            )
        rows.append(row)
    title = f"Interquartile mean{where}, % [{100 * LEVEL:g} % of a bootstrap over runs]"
    return table_of(title, ["system", *map(title_of, metrics)], rows)


def shown_differences(task: TaskStandings) -> tuple[Difference, ...]:
    """Return the differences that fit a terminal: all, or those with the first system in accuracy and one F1."""
    if len({(d.ours, d.theirs) for d in task.differences}) <= SHOWN_PAIRS:
        return task.differences
    first = task.differences[0].ours
    metrics = [metric for metric in _metrics(task.systems) if is_share(metric)][:2]
    return tuple(d for d in task.differences if first in (d.ours, d.theirs) and d.metric in metrics)


def _difference_table(task: TaskStandings, where: str) -> Table:
    found = shown_differences(task)
    columns = ["ours – theirs", "figure", "difference", "over sentences", "p", "over runs", "P(ours better)"]
    rows = []
    for d in found:
        improvement = f"{d.improvement:.2f}"
        if d.improvement_interval is not None:
            improvement += f" [{d.improvement_interval.low:.2f}, {d.improvement_interval.high:.2f}]"
        rows.append(
            [
                f"{d.ours} – {d.theirs}",
                title_of(d.metric),
                f"{100 * d.difference:+.2f}",
                _interval(d.metric, d.over_sentences, signed=True),
                NONE if d.p is None else f"{d.p:.3f}",
                _interval(d.metric, d.over_runs, signed=True),
                improvement,
            ]
        )
    title = f"Differences{where}, in points [{100 * LEVEL:g} % of a bootstrap]"
    if len(found) < len(task.differences):
        title += f"; with {found[0].ours} only, the files have all {len(task.differences)} (--reference NAME: others)"
    return table_of(title, columns, rows)


# ---------------------------------------------------------------------------------------------------------- CSV


def standings_csv(standings: Standings) -> str:
    """Write one line a task, system and figure, as fractions of 1; what there is none of stays empty."""
    rows: list[list[object]] = []
    for task in all_tasks(standings):
        for standing in task.systems:
            begin = [task.task, standing.name]
            for metric, s in standing.metrics.items():
                scores = " ".join(map(repr, s.scores))
                rows.append(
                    [*begin, metric, len(s.scores), s.mean, s.sd, s.iqm, *(s.interval or ("", "")), scores]
                )
            for convention, f1 in standing.self_f1.items():
                rows.append([*begin, f"self_f1_{convention}", len(standing.runs), f1, "", "", "", "", ""])
    return _csv(CSV_COLUMNS, rows)


def differences_csv(standings: Standings) -> str:
    """Write one line a task, figure and pair of systems, likewise."""
    nothing = ("", "")
    rows = []
    for task in all_tasks(standings):
        for d in task.differences:
            over_sentences, over_runs = d.over_sentences or nothing, d.over_runs or nothing
            improvement = (d.improvement, *(d.improvement_interval or nothing))
            pair = (task.task, d.metric, d.ours, d.theirs, d.difference)
            rows.append((*pair, *over_sentences, d.p, *over_runs, *improvement))
    return _csv(CSV_DIFFERENCE_COLUMNS, rows)


def _csv(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


# -------------------------------------------------------------------------------------------------------- LaTeX

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def latex_escaped(text: str) -> str:
    """Write text so that LaTeX shows it as it is."""
    return "".join(_ESCAPES.get(character, character) for character in text)


def standings_latex(standings: Standings) -> str:
    """Write a ``tabular`` of the systems, and one of the differences, for every task; they need booktabs."""
    lines = [r"% needs \usepackage{booktabs}; accuracy, F1 and differences in per cent"]
    for task in all_tasks(standings):
        metrics = _metrics(task.systems)
        conventions = list(dict.fromkeys(c for standing in task.systems for c in standing.self_f1))[:1]
        head = ["system", "runs", *map(title_of, metrics), *(f"self-F1 {c}" for c in conventions)]
        rows = []
        for standing in task.systems:
            cells = [_latex_mean_and_sd(metric, standing.metrics.get(metric)) for metric in metrics]
            agreement = [_latex(shown("self_f1_", standing.self_f1.get(c))) for c in conventions]
            rows.append([latex_escaped(standing.name), str(len(standing.runs)), *cells, *agreement])
        lines += _tabular(f"systems{_heading(task, standings.split)}: mean and sd over runs", head, rows)
        if task.differences:
            head = [
                "ours -- theirs",
                "figure",
                "difference",
                "over sentences",
                "$p$",
                "over runs",
                "P(better)",
            ]
            rows = [
                [
                    f"{latex_escaped(d.ours)} -- {latex_escaped(d.theirs)}",
                    latex_escaped(title_of(d.metric)),
                    f"${100 * d.difference:+.2f}$",
                    _latex(_interval(d.metric, d.over_sentences, signed=True)),
                    _latex(NONE if d.p is None else f"{d.p:.3f}"),
                    _latex(_interval(d.metric, d.over_runs, signed=True)),
                    f"${d.improvement:.2f}$",
                ]
                for d in task.differences
            ]
            caption = f"differences{_heading(task, standings.split)}, {100 * LEVEL:g} % bootstrap intervals"
            lines += _tabular(caption, head, rows)
    return "\n".join(lines) + "\n"


def _latex_mean_and_sd(metric: str, summary: Summary | None) -> str:
    return _latex(mean_and_sd(metric, summary).replace("±", r"\pm"))


def _latex(number: str) -> str:
    return "--" if number == NONE else f"${number}$"


def _tabular(comment: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return " & ".join(cells) + r" \\"

    columns = "l" + "r" * (len(head) - 1)
    titles = [cell if "$" in cell else latex_escaped(cell) for cell in head]
    body = [line(row) for row in rows]
    top, middle, bottom = r"\toprule", r"\midrule", r"\bottomrule"
    begin, end = rf"\begin{{tabular}}{{{columns}}}", r"\end{tabular}"
    return ["", f"% {comment}", begin, top, line(titles), middle, *body, bottom, end]
