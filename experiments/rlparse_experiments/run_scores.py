"""What runs scored: their figures, and what every sentence and example contributed to them. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rlparse.errors import CorpusError
from rlparse.parse_scores import Bracketings, Convention, mean_depth, sentence_scores
from rlparse_experiments.parse_sources import Sentences
from rlparse_experiments.prediction_files import predictions_of, read_predictions
from rlparse_experiments.statistics import Floats
from rlparse_experiments.systems import Run


class ScoredRuns(NamedTuple):
    """Figures of the runs of one task, and the sentences behind them.

    Attributes:
        figures: Run to figure by name.
        parses: Run to parses; only where all are of the same sentences.
        values: Figure to run to what every sentence (example) contributes to it; likewise.
        weights: Figure to the weight of every sentence (example).
        notes: What is missing and why.
    """

    figures: dict[Path, dict[str, float]]
    parses: dict[Path, Bracketings]
    values: dict[str, dict[Path, Floats]]
    weights: dict[str, Floats]
    notes: list[str]


def score_runs(
    runs: Sequence[Run],
    parses: Mapping[Path, Sentences],
    conventions: Sequence[Convention],
    *,
    task: str = "",
    split: str = "dev",
) -> ScoredRuns:
    """Collect what runs of one task wrote about themselves, and score their parses.

    Args:
        runs: The runs.
        parses: For runs with parses the sentences they are of, with one source for every run: the same object for all
            where the sentences match, else one each.
        conventions: How to count F1.
        task: Its name, for notes.
        split: Which part of the data.

    Raises:
        CorpusError: A file of predictions is malformed.
    """
    scored = ScoredRuns({run.path: dict(run.figures) for run in runs}, {}, {}, {}, [])
    sentence_sets = {id(sentences): sentences for sentences in parses.values()}
    for sentences in sentence_sets.values():
        paths = [path for path, found in parses.items() if found is sentences]
        _score_parses(scored, paths, sentences, conventions, same=len(sentence_sets) == 1)
    if len(sentence_sets) > 1:
        scored.notes.append(
            f"{on_task(task)}runs were measured on different sentences: no self-F1 and no bootstrap over sentences. "
            "Runs on generated data share them with --corpus.seed, as rlparse seeds sets it"
        )
    _score_predictions(scored, [run for run in runs if run.seeds is not None], task, split)
    return scored


def on_task(task: str) -> str:
    """Begin a note about a task."""
    return f"{task}: " if task else ""


def _score_parses(
    scored: ScoredRuns,
    paths: Sequence[Path],
    sentences: Sentences,
    conventions: Sequence[Convention],
    *,
    same: bool,
) -> None:
    """Add F1 by convention and the depth of the parses of each source."""
    with_gold = [i for i, tree in enumerate(sentences.gold) if tree is not None]
    words = [sentences.words[i] for i in with_gold]
    gold = Bracketings([tree for tree in sentences.gold if tree is not None], words) if with_gold else None
    for path, source in zip(paths, sentences.sources, strict=True):
        parses = Bracketings(source.derivations, sentences.words)
        if same:
            scored.parses[path] = parses
        if gold is not None:
            parsed = parses if len(with_gold) == len(parses) else parses.select(with_gold)
            for convention in conventions:
                values, weights = sentence_scores(parsed, gold, convention).terms()
                if not weights.any():
                    raise CorpusError(
                        f"{path}: no span counts under {convention.name} (choose another --convention)"
                    )
                name = f"f1_{convention.name}"
                scored.figures[path][name] = float(values.sum() / weights.sum())
                if same:
                    scored.values.setdefault(name, {})[path] = values
                    scored.weights[name] = weights
        scored.figures[path]["depth"] = mean_depth(parses)


def _score_predictions(scored: ScoredRuns, runs: Sequence[Run], task: str, split: str) -> None:
    """Add which examples each run got right."""
    files = {run.path: predictions_of(run.path, split) for run in runs}
    there = [path for path, file in files.items() if file.is_file()]
    answered: dict[Path, Floats] = {}
    examples: dict[Path, list[tuple[str, str]]] = {}
    for path in there:
        predictions = read_predictions(files[path])
        answered[path] = np.array([p.gold == p.predicted for p in predictions], np.float64)
        examples[path] = [(p.example, p.gold) for p in predictions]
        scored.figures[path].setdefault("accuracy", float(answered[path].mean()))
    if len(runs) > 1 and len(there) < len(runs):
        scored.notes.append(
            f"{on_task(task)}{len(runs) - len(there)} of {len(runs)} runs have no predictions of {split}: "
            "no bootstrap of their accuracy over examples"
        )
    if there and all(examples[path] == examples[there[0]] for path in there):
        scored.values["accuracy"] = answered
        scored.weights["accuracy"] = np.ones(len(examples[there[0]]))
    elif there:
        scored.notes.append(
            f"{on_task(task)}runs classified different examples: no bootstrap of accuracy over examples"
        )
