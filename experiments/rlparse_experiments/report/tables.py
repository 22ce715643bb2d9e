"""The tables at the end of ``train`` and ``evaluate``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from rlparse.corpora.corpus import Corpus
from rlparse.errors import RlparseError
from rlparse_experiments.config import AgentConfig, ParserConfig, RunConfig, TrainConfig
from rlparse_experiments.evaluate import REPORTED, SHOWN_TREES, Measured, ParseTable
from rlparse_experiments.report.trees import draw_samples
from rlparse_experiments.run_folder import RunFolder

if TYPE_CHECKING:
    from rlparse_experiments.callbacks import DevEvaluation

TREE_OF_PARSER = {
    "left": "left",
    "right": "right",
    "balanced": "balanced_ceil",
    "random": "uniform",
    "gold": "gold",
}
"""Which row of the table a run with a fixed parser belongs to."""


def console() -> Console:
    """Where results are printed: standard output, as wide as the terminal, at least 100 columns when piped."""
    found = Console()
    return found if found.is_terminal else Console(width=max(100, found.width))


def parse_table(table: ParseTable, *, title: str, accuracies: dict[str, float], learned: str) -> Table:
    """Build the comparison of one parser with gold and trivial trees.

    Args:
        table: The scores.
        title: Above the table.
        accuracies: Accuracy by kind of tree (``learned``, ``gold``, ``left`` …), where it is known.
        learned: What to call the parser.
    """
    found = Table(title=title, title_justify="left")
    found.add_column("trees")
    found.add_column("accuracy", justify="right")
    for convention in REPORTED:
        found.add_column(f"F1 gold ({convention})", justify="right")
    found.add_column("F1 learned (nyu)", justify="right")
    found.add_column("depth", justify="right")
    gold = {"gold": "gold (ceiling)"} if table.against_gold else {}
    for kind, name in {"learned": learned, **gold, **SHOWN_TREES}.items():
        accuracy = f"{100 * accuracies[kind]:.2f}" if kind in accuracies else "–"
        if kind == "gold":
            scores = ["100.00"] * len(REPORTED)
            agreement = table.against_gold["learned"]["nyu"]
        else:
            scored = table.against_gold.get(kind)
            scores = [f"{100 * scored[c]:.2f}" if scored else "–" for c in REPORTED]
            agreement = 1.0 if kind == "learned" else table.agreement[kind]["nyu"]
        found.add_row(name, accuracy, *scores, f"{100 * agreement:.2f}", f"{table.depth[kind]:.2f}")
    return found


def sibling_accuracies(config: TrainConfig, folder: RunFolder) -> dict[str, float]:
    """Find finished runs beside this one that differ in parser and agent only, and give their dev accuracies.

    A control counts if corpus, encoder and seed are the same and it saw at least as many epochs.

    Returns:
        Kind of tree to accuracy.
    """

    def essence(settings: TrainConfig) -> TrainConfig:
        return replace(
            settings, parser=ParserConfig(), agent=AgentConfig(), run=RunConfig(), threads=0, device="auto"
        )

    found: dict[str, float] = {}
    for results_file in sorted(folder.path.parent.glob("*/results.json")):
        sibling = RunFolder(results_file.parent)
        if sibling.path == folder.path:
            continue
        try:
            theirs = sibling.config()
            results = sibling.read(results_file)
        except RlparseError:  # a folder of another version is no control of this run
            continue
        kind = TREE_OF_PARSER.get(theirs.parser.kind)
        if kind and essence(theirs) == essence(config) and theirs.agent.epochs >= config.agent.epochs:
            found[kind] = float(results["dev_accuracy"])
    return found


def print_training_results(
    out: Console,
    config: TrainConfig,
    folder: RunFolder,
    dev: Corpus,
    evaluation: DevEvaluation,
    results: dict[str, Any],
) -> None:
    """Print what a finished run has come to."""
    assert evaluation.latest is not None
    measured, table = evaluation.latest
    accuracies = {"learned": measured.accuracy, **sibling_accuracies(config, folder)}
    out.print()
    _print_table(out, table, accuracies, f"dev: {len(dev):,} examples", config.parser.kind)
    if not set(accuracies) - {"learned"}:
        out.print(
            "accuracy of other trees: run the same with --parser.kind gold, left, right, balanced or random",
            style="dim",
        )
    _print_recall(out, table)
    for sample in draw_samples(dev, measured.derivations, config.run.sample_trees):
        out.print()
        out.print(sample, highlight=False, markup=False, soft_wrap=True)
    minutes = results["seconds"] / 60
    out.print()
    out.print(
        f"{results['iterations']:,} iterations, {results['transitions']:,} transitions, {minutes:.1f} minutes, "
        f"peak memory {results['peak_memory_gib']:.2f} GiB",
        highlight=False,
    )
    out.print(f"run:         {folder.path}", highlight=False, soft_wrap=True)
    out.print(f"curves:      tensorboard --logdir {folder.path.parent}", highlight=False, soft_wrap=True)
    out.print(f"measure:     rlparse evaluate {folder.path}", highlight=False, soft_wrap=True)
    out.print(
        f'parse:       rlparse parse --run {folder.path} "{_example(dev)}"', highlight=False, soft_wrap=True
    )


def print_evaluation(
    out: Console,
    path: Path,
    lines: Sequence[str],
    measured: Measured,
    table: ParseTable,
    damaged: Sequence[str],
) -> None:
    """Print what ``rlparse evaluate`` has measured."""
    for message in damaged:
        out.print(f"[yellow]passed over a checkpoint:[/yellow] {message}", highlight=False)
    for line in lines:
        out.print(line, highlight=False, markup=False)
    config = RunFolder(path).config()
    _print_table(out, table, {"learned": measured.accuracy}, str(path), config.parser.kind)
    out.print(f"cross-entropy {measured.cross_entropy:.4f} nats, {measured.seconds:.1f} s", highlight=False)
    _print_recall(out, table)


def _print_table(
    out: Console, table: ParseTable, accuracies: dict[str, float], title: str, parser: str
) -> None:
    learned = "learned" if parser == "tracker" else f"this run ({parser})"
    out.print(parse_table(table, title=title, accuracies=accuracies, learned=learned))
    if table.against_gold:
        exact = "–" if table.exact is None else f"{100 * table.exact:.2f} %"
        out.print(
            f"{table.n_gold:,} of {table.n_sentences:,} sentences have a gold parse; parsed exactly: {exact}",
            highlight=False,
        )
    else:
        out.print("no gold parses to compare with", highlight=False)


def _print_recall(out: Console, table: ParseTable) -> None:
    if table.recall:
        frequent = sorted(table.recall.items(), key=lambda item: -item[1][1])[:8]
        shown = "  ".join(f"{label} {100 * share:.1f} ({n:,})" for label, (share, n) in frequent)
        out.print(f"recall by gold label (nyu): {shown}", highlight=False)


def _example(corpus: Corpus) -> str:
    """Give a sentence to try."""
    return json.dumps(" ".join(corpus.sentence(0, 0).tokens))[1:-1]
