"""The tables at the end of ``train`` and ``evaluate``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from rlparse.corpora.corpus import Corpus
from rlparse.errors import RlparseError
from rlparse_agents.fixed import FIXED_PARSERS
from rlparse_experiments.config import AgentConfig, ParserConfig, RunConfig, TrainConfig
from rlparse_experiments.evaluate import REPORTED, SHOWN_TREES, Measured, ParseTable
from rlparse_experiments.report.diagnosis_tables import print_groups
from rlparse_experiments.report.trees import draw_samples, sample_sentences
from rlparse_experiments.run_folder import RunFolder

if TYPE_CHECKING:
    from rlparse_experiments.callbacks import DevEvaluation
    from rlparse_experiments.evaluation_folder import Evaluation

TREE_OF_PARSER = {
    "left": "left",
    "right": "right",
    "balanced": "balanced_floor",
    "random": "uniform",
    "random_per_epoch": "uniform",
    "gold": "gold",
}
"""Which row of the table a run with a fixed parser belongs to."""


def console() -> Console:
    """Where results are printed: standard output, as wide as the terminal, at least 100 columns when piped."""
    found = Console()
    return found if found.is_terminal else Console(width=max(100, found.width))


def parse_table(table: ParseTable, *, accuracies: dict[str, float], learned: str) -> Table:
    """Build the comparison of one parser with gold and trivial trees, at most 80 columns wide.

    Args:
        table: The scores.
        accuracies: Accuracy by kind of tree (``learned``, ``gold``, ``left`` …), where it is known.
        learned: What to call the parser.
    """
    conventions = REPORTED if table.against_gold else ()
    found = Table(box=SIMPLE_HEAD)
    found.add_column("trees", no_wrap=True)
    for name in ("accuracy", *(f"F1 {convention}" for convention in conventions), "depth", "vs run"):
        found.add_column(name, justify="right", no_wrap=True)
    gold = {"gold": "gold"} if table.against_gold else {}
    for kind, name in {"learned": learned, **gold, **SHOWN_TREES}.items():
        accuracy = f"{100 * accuracies[kind]:.2f}" if kind in accuracies else "–"
        if kind == "gold":
            f1 = dict.fromkeys(conventions, 1.0)
            agreement = table.against_gold["learned"]["nyu"]
        else:
            f1 = table.against_gold.get(kind, {})
            agreement = 1.0 if kind == "learned" else table.agreement[kind]["nyu"]
        scores = [f"{100 * f1[convention]:.2f}" for convention in conventions]
        found.add_row(name, accuracy, *scores, f"{table.depth[kind]:.2f}", f"{100 * agreement:.2f}")
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
            accuracy = float(results["dev_accuracy"])
            # Either control is of random trees; the one with a tree a sentence goes first.
            found[kind] = found.get(kind, accuracy) if theirs.parser.kind == "random_per_epoch" else accuracy
    return found


def print_training_results(
    out: Console,
    config: TrainConfig,
    folder: RunFolder,
    dev: Corpus,
    evaluation: DevEvaluation,
    results: dict[str, Any],
    test: Evaluation | None = None,
) -> None:
    """Print what a finished run has come to, on dev and perhaps on the test set."""
    assert evaluation.latest is not None
    measured, table = evaluation.latest
    out.print()
    if table is None or measured.derivations is None:
        _print_accuracy(out, measured, f"dev: {len(dev):,} examples")
    else:
        accuracies = {"learned": measured.accuracy, **sibling_accuracies(config, folder)}
        _print_table(out, table, accuracies, f"dev: {len(dev):,} examples", config.parser.kind)
        others = "runs beside this one with the same data, encoder and seed"
        if set(accuracies) == {"learned"}:
            # An agent may have an encoder of its own, which another --agent would not keep.
            option = "--parser.kind" if config.agent.system else "--agent"
            gold = "gold, " if "gold" in table.depth else ""
            others = f"run the same with {option} {gold}left, right, balanced or random"
        _print_line(out, f"accuracy of other trees: {others}", style="dim")
        _print_recall(out, table)
        for sample in draw_samples(dev, measured.derivations, config.run.sample_trees, width=out.width):
            out.print()
            _print_line(out, sample)
    if test is not None:
        out.print()
        print_evaluation(out, folder.path, config.parser.kind, test)
        if test.diagnosis is not None:
            print_groups(out, test.diagnosis)
    minutes = results["seconds"] / 60
    out.print()
    _print_line(
        out,
        f"{results['iterations']:,} iterations, {results['transitions']:,} transitions, {minutes:.1f} minutes, "
        f"peak memory {results['peak_memory_gib']:.2f} GiB",
    )
    path = shlex.quote(str(folder.path))
    _print_line(out, f"run:         {folder.path}")
    _print_line(out, f"picture:     {folder.picture}")
    _print_line(out, f"curves:      tensorboard --logdir {shlex.quote(str(folder.path.parent))}")
    _print_line(out, f"measure:     rlparse evaluate {path}")
    if table is not None:
        example = " ".join(dev.sentence(*sample_sentences(dev, 1)[0]).tokens)
        _print_line(out, f"parse:       rlparse parse --run {path} {shlex.quote(example)}")


def print_evaluation(
    out: Console, path: Path, parser: str, evaluation: Evaluation, damaged: Sequence[str] = ()
) -> None:
    """Print what was measured, but for its details.

    Args:
        out: Where to.
        path: Of the run.
        parser: Kind of its parser.
        evaluation: What was measured.
        damaged: Messages of checkpoints that were passed over.
    """
    for message in damaged:
        _print_line(out, f"passed over a checkpoint: {message}", style="yellow")
    for line in evaluation.lines:
        _print_line(out, line)
    measured, table = evaluation.measured, evaluation.table
    if table is None:
        _print_accuracy(out, measured, str(path))
        return
    _print_table(out, table, {"learned": measured.accuracy}, str(path), parser)
    out.print(f"cross-entropy {measured.cross_entropy:.4f} nats, {measured.seconds:.1f} s", highlight=False)
    _print_recall(out, table)


def _print_accuracy(out: Console, measured: Measured, title: str) -> None:
    """Print what there is to say of an encoder that reads no trees."""
    _print_line(out, title)
    _print_line(
        out,
        f"accuracy {100 * measured.accuracy:.2f} %, cross-entropy {measured.cross_entropy:.4f} nats, "
        f"{measured.seconds:.1f} s; this encoder reads no trees",
    )


def _print_table(
    out: Console, table: ParseTable, accuracies: dict[str, float], title: str, parser: str
) -> None:
    _print_line(out, title)
    agreement = "vs run: F1 nyu against the parses of this run"
    _print_line(
        out,
        f"unlabelled F1 (%) against gold, by convention; {agreement}" if table.against_gold else agreement,
    )
    learned = f"run: {parser}" if parser in FIXED_PARSERS else "learned"
    out.print(parse_table(table, accuracies=accuracies, learned=learned))
    if table.against_gold:
        exact = "–" if table.exact is None else f"{100 * table.exact:.2f} %"
        _print_line(
            out,
            f"{table.n_gold:,} of {table.n_sentences:,} sentences have a gold parse; parsed exactly: {exact}",
        )
    else:
        _print_line(out, "no gold parses to compare with")


def _print_recall(out: Console, table: ParseTable) -> None:
    if table.recall:
        frequent = sorted(table.recall.items(), key=lambda item: -item[1][1])[:8]
        shown = "  ".join(f"{label} {100 * share:.1f} ({n:,})" for label, (share, n) in frequent)
        out.print(f"recall by gold label (nyu): {shown}", highlight=False)


def _print_line(out: Console, line: str, style: str | None = None) -> None:
    """Print text as it is: nothing in it is markup, and it is not broken where it could not be copied."""
    out.print(line, style=style, highlight=False, markup=False, soft_wrap=True)
