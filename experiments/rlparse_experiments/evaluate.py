"""Measure a model and its parser on a corpus: accuracy, and the parses against gold and trivial trees."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from rlparse.bracketings import Bracketings
from rlparse.corpora.batching import sequential_batches
from rlparse.corpora.corpus import Corpus
from rlparse.corpora.prefetch import Prefetcher
from rlparse.errors import ConfigError
from rlparse.models.nli_model import NLIModel
from rlparse.parse_scores import LabelledPhrases, mean_depth, score_parses, trivial_trees
from rlparse_agents.decoding import decode
from rlparse_agents.parsing_policy import EncodingPolicy, LearningPolicy, ParsingPolicy
from rlparse_experiments.assembly import TrainedRun, evaluation_corpus, open_run
from rlparse_experiments.config import EvaluateConfig
from rlparse_experiments.parse_files import ParseRecord
from rlparse_experiments.precision import matmul_precision
from rlparse_experiments.prediction_files import Prediction

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

MAX_TOKENS = 1 << 15
"""Padded size of a batch, so that sentences of 900 tokens need no more memory than shorter ones."""


class Measured(NamedTuple):
    """What a model and a parser do on a corpus.

    Attributes:
        accuracy: Share of examples classified rightly.
        cross_entropy: Mean over examples, in nats.
        predicted: Class of every example.
        derivations: One list of transitions for every sentence, in the order example by example, side by side; None for
            a model that reads no trees.
        seconds: Wall time.
    """

    accuracy: float
    cross_entropy: float
    predicted: list[int]
    derivations: list[list[int]] | None
    seconds: float


def measure(
    model: NLIModel,
    policy: ParsingPolicy,
    corpus: Corpus,
    *,
    batch_size: int = 256,
    seed: int = 0,
    how: str = "greedy",
    width: int | None = None,
) -> Measured:
    """Parse, classify, and keep the parses. Changes no generator but its own.

    Args:
        model: The classifier.
        policy: The parser.
        corpus: Bound to their vocabulary.
        batch_size: Examples at a time; fewer where they are long, see `MAX_TOKENS`.
        seed: Of random trees and sampled parses.
        how: ``greedy``, ``beam`` or ``sample``; see `decode`.
        width: Of the beam, or how many parses to sample.

    Raises:
        ValueError: The parser cannot be asked in that way.
    """
    start = time.perf_counter()
    generator = torch.Generator(device=model.device).manual_seed(seed)
    training = model.training
    model.eval()
    correct = torch.zeros((), dtype=torch.int64, device=model.device)
    loss = torch.zeros((), dtype=torch.float64, device=model.device)
    n_sides = corpus.n_sides
    max_tokens = max(1, MAX_TOKENS // (width or 1))  # every parse that is looked at has its own rows
    derivations: list[list[int]] = [[] for _ in range(len(corpus) * n_sides)]
    predicted = [0] * len(corpus)
    built = (
        (indices.tolist(), corpus.batch(indices))
        for indices in sequential_batches(corpus.lengths, batch_size, max_tokens=max_tokens)
    )
    with torch.no_grad(), Prefetcher(built) as batches:
        for indices, on_host in batches:
            batch = on_host.to(model.device)
            transitions = decode(policy, batch, how, n=width, generator=generator)
            logits = model(batch, transitions)
            classes = logits.argmax(dim=1)
            correct += (classes == batch.labels).sum()
            loss += F.cross_entropy(logits, batch.labels, reduction="sum")
            _keep(derivations, transitions, on_host.lengths, indices, n_sides)
            for example, chosen in zip(indices, classes.tolist(), strict=True):
                predicted[example] = chosen
    model.train(training)
    n = len(corpus)
    parses = derivations if model.reads_trees else None
    return Measured(int(correct) / n, float(loss) / n, predicted, parses, time.perf_counter() - start)


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


class ParseScorer:
    """Scores parses of one corpus, against gold and trivial trees, under every reported convention.

    What does not depend on the parser - the sentences, the gold and the trivial trees and how these score - is
    found once, at the first table.

    Args:
        corpus: Whose sentences are parsed.
        seed: Of the random trees.
    """

    def __init__(self, corpus: Corpus, *, seed: int = 0) -> None:
        self.corpus = corpus
        self.seed = seed

    @cached_property
    def _known(self) -> _Known:
        return _Known.of(self.corpus, self.seed)

    def table(self, derivations: Sequence[Sequence[int]]) -> ParseTable:
        """Score a parser.

        Args:
            derivations: One a sentence, as `Measured` has them.
        """
        known = self._known
        learned = Bracketings(derivations, known.words)
        agreement = {
            name: {c: score_parses(learned, trees, None, c).f1 for c in REPORTED}
            for name, trees in known.trivial.items()
        }
        depth = {"learned": mean_depth(learned), **known.depth}
        if known.gold is None:
            return ParseTable(0, len(known.words), {}, agreement, depth, {}, None)
        parsed = learned if len(known.parsed) == len(known.words) else learned.select(known.parsed)
        scores = {c: score_parses(parsed, known.gold, None, c) for c in REPORTED}
        against_gold = {"learned": {c: score.f1 for c, score in scores.items()}, **known.against_gold}
        recall: dict[str, tuple[float, int]] = {}
        if known.phrases is not None:
            recalls = known.phrases.recall(parsed)
            recall = {label: (r.recall, r.n_gold) for label, r in recalls.items()}
        return ParseTable(
            len(known.parsed),
            len(known.words),
            against_gold,
            agreement,
            depth,
            recall,
            scores["nyu"].exact_match,
        )


class _Known(NamedTuple):
    """What `ParseScorer` knows before it sees a parser.

    Attributes:
        words: Of every sentence.
        trivial: The trivial trees of every sentence.
        parsed: The sentences with a gold parse.
        gold: Their gold parses, if there is one.
        against_gold: Scores of the trivial trees of the same sentences.
        depth: Of gold and trivial trees.
        phrases: Labelled gold phrases, if there is one.
    """

    words: list[tuple[str, ...]]
    trivial: dict[str, Bracketings]
    parsed: list[int]
    gold: Bracketings | None
    against_gold: dict[str, dict[str, float]]
    depth: dict[str, float]
    phrases: LabelledPhrases | None

    @classmethod
    def of(cls, corpus: Corpus, seed: int) -> _Known:
        """Find it."""
        sentences = [corpus.sentence(i, side) for i in range(len(corpus)) for side in range(corpus.n_sides)]
        words = [s.tokens for s in sentences]
        trees = trivial_trees([len(w) for w in words], seed=seed, kinds=SHOWN_TREES)
        trivial = {name: Bracketings(trees[name], words) for name in SHOWN_TREES}
        depth = {name: mean_depth(found) for name, found in trivial.items()}
        parsed = [i for i, s in enumerate(sentences) if s.transitions is not None]
        if not parsed:
            return cls(words, trivial, parsed, None, {}, depth, None)
        gold = Bracketings([sentences[i].transitions or () for i in parsed], [words[i] for i in parsed])
        depth["gold"] = mean_depth(gold)
        against_gold = {}
        for name, found in trivial.items():
            of_parsed = found if len(parsed) == len(words) else found.select(parsed)
            against_gold[name] = {c: score_parses(of_parsed, gold, None, c).f1 for c in REPORTED}
        labelled = [sentences[i].labelled_spans for i in parsed]
        has_phrases = any(spans is not None for spans in labelled)
        phrases = LabelledPhrases(labelled, gold) if has_phrases else None
        return cls(words, trivial, parsed, gold, against_gold, depth, phrases)


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


def prediction_records(corpus: Corpus, predicted: Sequence[int]) -> list[Prediction]:
    """Pair every predicted class with its example's label, for files that ``rlparse compare`` reads."""
    labels, gold = corpus.labels, corpus.label_indices.tolist()
    pairs = enumerate(zip(gold, predicted, strict=True))
    return [Prediction(str(i), labels[right], labels[chosen]) for i, (right, chosen) in pairs]


def decoding(how: str, width: int, run: TrainedRun) -> dict[str, Any]:
    """Give the arguments ``how`` and ``width`` of `measure`, as `decode` wants them.

    Raises:
        ConfigError: The run's parser cannot be asked in that way, or the width is too small.
    """
    if how == "greedy":
        return {}
    if width < 1:
        raise ConfigError(f"--width must be at least 1, got {width}")
    if not isinstance(run.policy, LearningPolicy):
        why = "gives none"
        if isinstance(run.policy, EncodingPolicy):
            why = "chooses while the classifier composes, one parse at a time"
        raise ConfigError(
            f"--decode {how} ranks parses by their probability, and parser {run.config.parser.kind} of "
            f"{run.folder.path} {why}; use --decode greedy"
        )
    return {"how": how, "width": width}


def run_evaluate(config: EvaluateConfig) -> int:
    """Run ``rlparse evaluate``."""
    from rlparse_experiments.evaluation_folder import evaluate, write_evaluation
    from rlparse_experiments.report.diagnosis_tables import print_diagnosis
    from rlparse_experiments.report.tables import console, print_evaluation

    run = open_run(config.run, config.device)
    corpus, lines = evaluation_corpus(
        run, config.data, split=config.split, skip_bad_lines=config.skip_bad_lines
    )
    with matmul_precision(config.precision or run.config.precision):
        evaluation = evaluate(
            run.model,
            run.policy,
            corpus,
            lines,
            seed=run.config.seed,
            batch_size=config.batch_size,
            detail=config.detail,
            **decoding(config.decode, config.width, run),
        )
    print_evaluation(
        console(), config.run, run.config.parser.kind, evaluation, damaged=run.checkpoint.damaged
    )
    if evaluation.diagnosis is not None:
        print_diagnosis(console(), evaluation.diagnosis, run.config.parser.kind)
    if config.out is not None:
        written = write_evaluation(config.out, evaluation, config.run)
        print(f"written: {', '.join(map(str, written))}")
    return 0
