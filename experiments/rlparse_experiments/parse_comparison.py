"""Score parses of several sources against gold, each other and trivial trees, and lay the scores out. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rlparse.errors import CorpusError
from rlparse.parse_scores import (
    Bracketings,
    Convention,
    LabelRecall,
    ParseScore,
    mean_depth,
    recall_by_label,
    score_parses,
    trivial_trees,
)
from rlparse_experiments.parse_sources import Sentences

if TYPE_CHECKING:
    from rich.table import Table

SHOWN_LABELS = 12
"""Rows of the table of recall by label; the JSON file has them all."""


class Comparison(NamedTuple):
    """All figures of a comparison; every score under every convention, by the convention's full name.

    Attributes:
        conventions: The conventions, in the order asked for.
        n_sentences: Sentences compared.
        n_gold: Those of them with a gold tree; only these are scored against gold.
        sources: Name of each source and its file.
        against_gold: Source, to convention, to score. Empty without gold trees.
        trivial_against_gold: Kind of trivial tree, to convention, to score; likewise.
        against_trivial: Source, to kind of trivial tree, to convention, to score.
        pairs: Pair of sources, to convention, to score. Empty for one source.
        depth: Source, to mean depth of a token.
        trivial_depth: Kind of trivial tree, to mean depth of a token.
        gold_depth: Mean depth of a token in the gold trees, None without them.
        recall: Source, to label, to recall; under the first convention. Empty without labelled phrases.
    """

    conventions: tuple[Convention, ...]
    n_sentences: int
    n_gold: int
    sources: dict[str, Path]
    against_gold: dict[str, dict[str, ParseScore]]
    trivial_against_gold: dict[str, dict[str, ParseScore]]
    against_trivial: dict[str, dict[str, dict[str, ParseScore]]]
    pairs: dict[tuple[str, str], dict[str, ParseScore]]
    depth: dict[str, float]
    trivial_depth: dict[str, float]
    gold_depth: float | None
    recall: dict[str, dict[str, LabelRecall]]

    def self_f1(self, convention: str) -> float:
        """Return the mean F1 over all pairs of sources."""
        return sum(scores[convention].f1 for scores in self.pairs.values()) / len(self.pairs)

    def as_json(self) -> dict[str, Any]:
        """Give plain JSON values."""

        def plain(scores: dict[str, ParseScore]) -> dict[str, Any]:
            return {name: score._asdict() for name, score in scores.items()}

        return {
            "conventions": {c.name: c.describe() for c in self.conventions},
            "n_sentences": self.n_sentences,
            "n_gold": self.n_gold,
            "sources": {name: str(path) for name, path in self.sources.items()},
            "against_gold": {name: plain(scores) for name, scores in self.against_gold.items()},
            "trivial_against_gold": {kind: plain(s) for kind, s in self.trivial_against_gold.items()},
            "against_trivial": {
                name: {kind: plain(scores) for kind, scores in kinds.items()}
                for name, kinds in self.against_trivial.items()
            },
            "pairs": [{"sources": list(pair), "scores": plain(s)} for pair, s in self.pairs.items()],
            "self_f1": {c.name: self.self_f1(c.name) for c in self.conventions} if self.pairs else None,
            "mean_depth": {"sources": self.depth, "trivial": self.trivial_depth, "gold": self.gold_depth},
            "recall_by_label": {
                name: {label: {**r._asdict(), "recall": r.recall} for label, r in labels.items()}
                for name, labels in self.recall.items()
            },
        }


def compare_parses(sentences: Sentences, conventions: Sequence[Convention], *, seed: int = 0) -> Comparison:
    """Score every source against gold, trivial trees and every other source.

    Args:
        sentences: What to compare.
        conventions: How to count.
        seed: Of the random trees.

    Raises:
        CorpusError: Under a convention there is nothing to count.
    """
    words = sentences.words
    sources = {source.name: Bracketings(source.derivations, words) for source in sentences.sources}
    kinds = trivial_trees([len(w) for w in words], seed=seed, tokens=words)
    if kinds["right_final_stop"] == kinds["right"]:
        del kinds["right_final_stop"]
    trivial = {kind: Bracketings(derivations, words) for kind, derivations in kinds.items()}
    with_gold = [i for i, tree in enumerate(sentences.gold) if tree is not None]

    def scores(parses: Bracketings, others: Bracketings) -> dict[str, ParseScore]:
        try:
            return {c.name: score_parses(parses, others, None, c) for c in conventions}
        except ValueError as error:
            raise CorpusError(f"{error} (choose another --convention)") from error

    against_gold: dict[str, dict[str, ParseScore]] = {}
    trivial_against_gold: dict[str, dict[str, ParseScore]] = {}
    gold_depth = None
    if with_gold:
        gold_trees = [tree for tree in sentences.gold if tree is not None]
        gold = Bracketings(gold_trees, [words[i] for i in with_gold])
        gold_depth = mean_depth(gold)

        def scores_against_gold(parses: Bracketings) -> dict[str, ParseScore]:
            everywhere = len(with_gold) == len(words)
            return scores(parses if everywhere else parses.select(with_gold), gold)

        against_gold = {name: scores_against_gold(parses) for name, parses in sources.items()}
        trivial_against_gold = {kind: scores_against_gold(trees) for kind, trees in trivial.items()}
    recall = {}
    if any(sentences.phrases):
        recall = {
            name: recall_by_label(parses, sentences.phrases, None, conventions[0])
            for name, parses in sources.items()
        }
    return Comparison(
        conventions=tuple(conventions),
        n_sentences=len(words),
        n_gold=len(with_gold),
        sources={source.name: source.path for source in sentences.sources},
        against_gold=against_gold,
        trivial_against_gold=trivial_against_gold,
        against_trivial={
            name: {kind: scores(parses, trees) for kind, trees in trivial.items()}
            for name, parses in sources.items()
        },
        pairs={(a, b): scores(sources[a], sources[b]) for a, b in combinations(sources, 2)},
        depth={name: mean_depth(parses) for name, parses in sources.items()},
        trivial_depth={kind: mean_depth(parses) for kind, parses in trivial.items()},
        gold_depth=gold_depth,
        recall=recall,
    )


def tables(comparison: Comparison) -> list[Table]:
    """Lay a comparison out as tables, each number under the full name of its convention."""
    from rich.markup import escape
    from rich.table import Table

    names = [c.name for c in comparison.conventions]
    kinds = list(next(iter(comparison.against_trivial.values())))
    laid_out = []

    def table(title: str, *columns: str) -> Table:
        new = Table(title=title, title_justify="left")
        for i, column in enumerate(columns):
            new.add_column(escape(column), justify="right" if i else "left")
        laid_out.append(new)
        return new

    n = f"{comparison.n_gold:,} of {comparison.n_sentences:,} sentences"
    if comparison.against_gold:
        same = f"same tree ({names[0]})"
        against = table(f"F1 against gold trees, % ({n})", "trees", *names, same, "mean depth")

        def add(name: str, scores: dict[str, ParseScore], depth: float) -> None:
            cells = [_percent(scores[c].f1) for c in names] + [_percent(scores[names[0]].exact_match)]
            against.add_row(escape(name), *cells, f"{depth:.2f}")

        for name, scores in comparison.against_gold.items():
            add(name, scores, comparison.depth[name])
        against.add_section()
        for kind, scores in comparison.trivial_against_gold.items():
            add(_spelled(kind), scores, comparison.trivial_depth[kind])
        against.add_row("gold", *["" for _ in names], "", f"{comparison.gold_depth:.2f}")
    if comparison.pairs:
        each_other = table("F1 against each other, %", "pair", *names)
        for (a, b), scores in comparison.pairs.items():
            each_other.add_row(escape(f"{a} – {b}"), *[_percent(scores[c].f1) for c in names])
        each_other.add_section()
        each_other.add_row("self-F1 (mean of pairs)", *[_percent(comparison.self_f1(c)) for c in names])
    for c in names:
        similar = table(f"F1 against trivial trees, % ({c})", "trees", *comparison.against_trivial)
        for kind in kinds:
            cells = [_percent(scores[kind][c].f1) for scores in comparison.against_trivial.values()]
            similar.add_row(_spelled(kind), *cells)
    if comparison.recall:
        title = f"Gold phrases found, % ({names[0]})"
        by_label = table(title, "label", "gold phrases", *comparison.recall)
        first = next(iter(comparison.recall.values()))
        for label in list(first)[:SHOWN_LABELS]:
            cells = [_percent(recalls[label].recall) for recalls in comparison.recall.values()]
            by_label.add_row(escape(label), f"{first[label].n_gold:,}", *cells)
    return laid_out


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}"


def _spelled(kind: str) -> str:
    return kind.replace("_", " ")
