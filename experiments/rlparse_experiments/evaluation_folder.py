"""One evaluation of a run and the folder it is written to: what ``rlparse evaluate`` and ``--run.test`` have in common.

results.json        accuracy, parse scores and, if asked for, the diagnosis
predictions.jsonl   the label that every example got
parses.jsonl        the parses; missing where the encoder reads no trees
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlparse.checkpoint import write_json
from rlparse.corpora.corpus import Corpus
from rlparse.models.nli_model import NLIModel
from rlparse_agents.parsing_policy import ParsingPolicy
from rlparse_experiments.diagnosis.diagnoser import Diagnoser, Diagnosis
from rlparse_experiments.evaluate import (
    Measured,
    ParseScorer,
    ParseTable,
    measure,
    parse_records,
    prediction_records,
)
from rlparse_experiments.parse_files import write_parses
from rlparse_experiments.prediction_files import write_predictions


class Evaluation(NamedTuple):
    """What a run came to on a corpus.

    Attributes:
        corpus: The corpus, bound to the run's vocabulary.
        lines: Say what it is.
        measured: What model and parser did.
        table: Scores of the parses; None for a model that reads no trees.
        diagnosis: The figures in detail, if they were asked for.
    """

    corpus: Corpus
    lines: tuple[str, ...]
    measured: Measured
    table: ParseTable | None
    diagnosis: Diagnosis | None


def evaluate(
    model: NLIModel,
    policy: ParsingPolicy,
    corpus: Corpus,
    lines: Sequence[str],
    *,
    seed: int,
    batch_size: int = 256,
    detail: bool = False,
    **decoding: Any,
) -> Evaluation:
    """Measure, score and diagnose.

    Args:
        model: The classifier.
        policy: The parser.
        corpus: Bound to their vocabulary.
        lines: Say what it is.
        seed: Of random trees and sampled parses.
        batch_size: Examples at a time.
        detail: Whether to diagnose.
        **decoding: Arguments ``how`` and ``width`` of `measure`.
    """
    measured = measure(model, policy, corpus, batch_size=batch_size, seed=seed, **decoding)
    table = None
    if measured.derivations is not None:
        table = ParseScorer(corpus, seed=seed).table(measured.derivations)
    diagnosis = None
    if detail:
        diagnosis = Diagnoser(corpus, batch_size=batch_size).diagnose(model, policy, measured)
    return Evaluation(corpus, tuple(lines), measured, table, diagnosis)


def write_evaluation(folder: Path, evaluation: Evaluation, run: Path) -> list[Path]:
    """Write the files of an evaluation, each as a whole or not at all; ``results.json`` comes last.

    Args:
        folder: Where to; made if need be.
        evaluation: What to write.
        run: Whose it is.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    corpus, lines, measured, table, diagnosis = evaluation
    results: dict[str, Any] = {
        "run": str(run),
        "corpus": list(lines),
        "accuracy": measured.accuracy,
        "cross_entropy": measured.cross_entropy,
        "parses": None if table is None else table.as_json(),
    }
    if diagnosis is not None:
        results["diagnosis"] = diagnosis.as_json()
    written = [folder / "results.json", folder / "predictions.jsonl"]
    write_predictions(written[1], prediction_records(corpus, measured.predicted))
    if measured.derivations is not None:
        written.append(folder / "parses.jsonl")
        write_parses(written[-1], parse_records(corpus, measured.derivations))
    write_json(written[0], results)
    return written
