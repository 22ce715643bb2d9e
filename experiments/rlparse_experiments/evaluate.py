"""Measure a model and its parser on a corpus: accuracy, and the parses against gold and trivial trees."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from rlparse.bracketings import Bracketings
from rlparse.checkpoint import write_json
from rlparse.corpora.batching import sequential_batches
from rlparse.corpora.corpus import Corpus
from rlparse.models.nli_model import NLIModel
from rlparse.parse_scores import mean_depth, recall_by_label, score_parses, trivial_trees
from rlparse_agents.parsing_policy import ParsingPolicy
from rlparse_experiments.assembly import evaluation_corpus, open_run
from rlparse_experiments.config import EvaluateConfig
from rlparse_experiments.parse_files import ParseRecord, write_parses

REPORTED = ("nyu", "prpn", "evalb")
"""Conventions of every table."""

SHOWN_TREES = {
    "left": "left",
    "right": "right",
    "balanced_floor": "balanced (floor)",
    "balanced_ceil": "balanced (ceil)",
    "uniform": "random",
}
"""Trivial trees of every table and their names there; random is uniform over trees."""


class Measured(NamedTuple):
    """What a model and a parser do on a corpus.

    Attributes:
        accuracy: Share of examples classified rightly.
        cross_entropy: Mean over examples, in nats.
        derivations: One list of transitions for every sentence, in the order example by example, side by side.
        seconds: Wall time.
    """

    accuracy: float
    cross_entropy: float
    derivations: list[list[int]]
    seconds: float


def measure(
    model: NLIModel, policy: ParsingPolicy, corpus: Corpus, *, batch_size: int = 256, seed: int = 0
) -> Measured:
    """Parse greedily, classify, and keep the parses. Changes no generator but its own.

    Args:
        model: The classifier.
        policy: The parser.
        corpus: Bound to their vocabulary.
        batch_size: Examples at a time.
        seed: Of random trees.
    """
    start = time.perf_counter()
    generator = torch.Generator(device=model.device).manual_seed(seed)
    training = model.training
    model.eval()
    correct, loss = 0, 0.0
    n_sides = corpus.n_sides
    derivations: list[list[int]] = [[] for _ in range(len(corpus) * n_sides)]
    with torch.no_grad():
        for indices in sequential_batches(corpus.lengths, batch_size):
            batch = corpus.batch(indices).to(model.device)
            transitions = policy.derive(batch, generator=generator, greedy=True)
            logits = model(batch, transitions)
            correct += int((logits.argmax(dim=1) == batch.labels).sum())
            loss += float(F.cross_entropy(logits, batch.labels, reduction="sum"))
            _keep(derivations, transitions, batch.lengths, indices.tolist(), n_sides)
    model.train(training)
    return Measured(correct / len(corpus), loss / len(corpus), derivations, time.perf_counter() - start)


def _keep(
    derivations: list[list[int]], transitions: Tensor, lengths: Tensor, indices: list[int], n_sides: int
) -> None:
    """Put a batch's derivations where they belong in the corpus's order."""
    rows, sizes = transitions.tolist(), (2 * lengths - 1).tolist()
    for row, (derivation, size) in enumerate(zip(rows, sizes, strict=True)):
        side, example = divmod(row, len(indices))
        derivations[indices[example] * n_sides + side] = derivation[:size]


class ParseTable(NamedTuple):
    """Parse scores of one parser and of the trivial trees, as fractions of 1.

    Attributes:
        n_gold: Sentences with a gold parse, of all.
        n_sentences: All sentences.
        against_gold: Tree kind (``learned``, ``left`` …) to convention to F1; empty where there is no gold.
        agreement: Trivial tree to convention to F1 of the learned parses against it.
        depth: Tree kind to the mean depth of a token (edges above it).
        recall: Phrase label to (share found, gold phrases) under ``nyu``; empty without labelled gold trees.
        exact: Share of sentences parsed exactly as gold, or None.
    """

    n_gold: int
    n_sentences: int
    against_gold: dict[str, dict[str, float]]
    agreement: dict[str, dict[str, float]]
    depth: dict[str, float]
    recall: dict[str, tuple[float, int]]
    exact: float | None

    def as_json(self) -> dict[str, Any]:
        """Give plain JSON values."""
        return self._asdict()


def score_table(corpus: Corpus, derivations: Sequence[Sequence[int]], *, seed: int = 0) -> ParseTable:
    """Score a parser's derivations against gold and trivial trees, under every reported convention.

    Args:
        corpus: Whose sentences were parsed.
        derivations: One a sentence, as `Measured` has them.
        seed: Of the random trees.
    """
    sentences = [corpus.sentence(i, side) for i in range(len(corpus)) for side in range(corpus.n_sides)]
    words = [s.tokens for s in sentences]
    trivial = trivial_trees([len(w) for w in words], seed=seed)
    found = {"learned": Bracketings(derivations, words)}
    found |= {name: Bracketings(trivial[name], words) for name in SHOWN_TREES}
    known = [i for i, s in enumerate(sentences) if s.transitions is not None]
    agreement = {
        name: {c: score_parses(found["learned"], found[name], None, c).f1 for c in REPORTED}
        for name in SHOWN_TREES
    }
    depth = {name: mean_depth(trees) for name, trees in found.items()}
    against_gold: dict[str, dict[str, float]] = {}
    recall: dict[str, tuple[float, int]] = {}
    exact = None
    if known:
        gold = Bracketings([sentences[i].transitions or () for i in known], [words[i] for i in known])
        depth["gold"] = mean_depth(gold)
        of_known = {
            name: trees if len(known) == len(words) else trees.select(known) for name, trees in found.items()
        }
        for name, trees in of_known.items():
            scores = {c: score_parses(trees, gold, None, c) for c in REPORTED}
            against_gold[name] = {c: score.f1 for c, score in scores.items()}
            if name == "learned":
                exact = scores["nyu"].exact_match
        labelled = [sentences[i].labelled_spans for i in known]
        if any(spans is not None for spans in labelled):
            recalls = recall_by_label(of_known["learned"], labelled)
            recall = {label: (r.recall, r.n_gold) for label, r in recalls.items()}
    return ParseTable(len(known), len(sentences), against_gold, agreement, depth, recall, exact)


def parse_records(corpus: Corpus, derivations: Sequence[Sequence[int]]) -> list[ParseRecord]:
    """Pair every parse with its sentence, for files that ``rlparse compare`` reads."""
    records = []
    for i in range(len(corpus)):
        for side in range(corpus.n_sides):
            sentence = corpus.sentence(i, side)
            derivation = derivations[i * corpus.n_sides + side]
            gold, phrases = sentence.transitions, sentence.labelled_spans
            records.append(ParseRecord.of(f"{i}.{side}", sentence.tokens, derivation, gold, phrases))
    return records


def run_evaluate(config: EvaluateConfig) -> int:
    """Run ``rlparse evaluate``."""
    from rlparse_experiments.report.tables import console, print_evaluation

    run = open_run(config.run, config.device)
    corpus, lines = evaluation_corpus(
        run, config.data, split=config.split, skip_bad_lines=config.skip_bad_lines
    )
    measured = measure(run.model, run.policy, corpus, batch_size=config.batch_size, seed=run.config.seed)
    table = score_table(corpus, measured.derivations, seed=run.config.seed)
    print_evaluation(console(), config.run, lines, measured, table, damaged=run.checkpoint.damaged)
    if config.out is not None:
        config.out.mkdir(parents=True, exist_ok=True)
        results = {
            "run": str(config.run),
            "corpus": list(lines),
            "accuracy": measured.accuracy,
            "cross_entropy": measured.cross_entropy,
            "parses": table.as_json(),
        }
        write_json(Path(config.out) / "results.json", results)
        write_parses(Path(config.out) / "parses.jsonl", parse_records(corpus, measured.derivations))
        print(f"written: {config.out}/results.json, {config.out}/parses.jsonl")
    return 0
