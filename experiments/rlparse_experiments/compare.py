"""``rlparse compare``: parses of runs and files against gold, each other and trivial trees.

Neither torch nor a corpus is needed: everything comes from the files of parses. Importing this module stays
light.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import tyro

from rlparse.errors import ConfigError, CorpusError
from rlparse.parse_scores import (
    CONVENTIONS,
    Bracketings,
    Convention,
    LabelRecall,
    ParseScore,
    find_convention,
    mean_depth,
    recall_by_label,
    score_parses,
    trivial_trees,
)
from rlparse.trees import escape_brackets
from rlparse_experiments.parse_files import ParseFile, Phrase, read_parses, replace_file

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

SHOWN_LABELS = 12
"""Rows of the table of recall by label; the JSON file has them all."""


@dataclass(frozen=True)
class CompareConfig:
    """Which parses to compare, and how to score them."""

    parses: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders, and files of parses: bracketed trees one a line, or JSONL as in RUN/parses."""
    gold: Path | None = None
    """File of gold trees, in either format; without it the gold trees inside JSONL files count."""
    convention: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """How to count: nyu, prpn, evalb, or a variant such as nyu-root or evalb-punctuation; may be repeated.
    All three if not given."""
    split: str = "dev"
    """Which file of a run folder to take: RUN/parses/SPLIT.jsonl."""
    seed: int = 0
    """Of the random trees."""
    json: Path | None = None
    """Also write all figures to this file, as fractions of 1."""


# ----------------------------------------------------------------------------------------------- reading


class Source(NamedTuple):
    """One set of parses to compare.

    Attributes:
        name: Short and unique among the sources.
        path: The file.
        derivations: The parses, in the order of the sentences compared.
    """

    name: str
    path: Path
    derivations: list[tuple[int, ...]]


class Sentences(NamedTuple):
    """What is compared: the same sentences, parsed by several sources.

    Attributes:
        words: Tokens of every sentence.
        sources: Who parsed them.
        gold: Gold derivation of every sentence, None where there is none.
        phrases: Labelled gold phrases, likewise.
    """

    words: list[tuple[str, ...]]
    sources: list[Source]
    gold: list[tuple[int, ...] | None]
    phrases: list[tuple[Phrase, ...] | None]


def read_sources(paths: Sequence[Path], *, gold: Path | None = None, split: str = "dev") -> Sentences:
    """Read run folders and files of parses, and match their sentences: by id where both have ids, else by order.

    Args:
        paths: Run folders or files.
        gold: File of gold trees. Of a JSONL line the ``gold`` tree is taken, or ``parse`` where there is
            none.
        split: Which parses of a run folder.

    Raises:
        ConfigError: There are no paths, or a folder has no such parses.
        CorpusError: A file is malformed, or the files are not of the same sentences; says which and where.
    """
    if not paths:
        raise ConfigError("expected run folders or files of parses to compare, got none")
    found = [read_parses(_file_of(path, split)) for path in paths]
    guide = next((file for file in found if file.has_ids), found[0])
    orders = [_match(file, guide) for file in found]
    names = _names(paths, found)
    sources = [
        Source(name, file.path, [file.records[i].transitions for i in order])
        for name, file, order in zip(names, found, orders, strict=True)
    ]
    if gold is not None:
        file = read_parses(_file_of(gold, split))
        records = [file.records[i] for i in _match(file, guide, more_allowed=True)]
        gold_trees: list[tuple[int, ...] | None] = [r.gold or r.transitions for r in records]
        found, orders = [file, *found], [_match(file, guide, more_allowed=True), *orders]
    else:
        gold_trees = _gold_inside(found, orders)
    phrases = [
        next(
            (p for file, order in zip(found, orders, strict=True) if (p := file.records[order[i]].phrases)),
            None,
        )
        for i in range(len(guide.records))
    ]
    return Sentences([record.tokens for record in guide.records], sources, gold_trees, phrases)


def _file_of(path: Path, split: str) -> Path:
    """Return the file of parses that a path stands for."""
    if not path.is_dir():
        return path
    folder = path / "parses" if (path / "parses").is_dir() else path
    file = folder / f"{split}.jsonl"
    if not file.is_file():
        there = sorted(found.stem for found in folder.glob("*.jsonl"))
        hint = f"; there are {', '.join(there)}: choose one with --split" if there else ""
        hint = hint or "; a run writes its parses when it ends"
        raise ConfigError(f"{path} has no parses '{split}': expected {file}{hint}")
    return file


def _names(paths: Sequence[Path], files: Sequence[ParseFile]) -> list[str]:
    """Name every source by its folder or file, and by the whole path where that is not enough."""
    short = [path.resolve().name if path.is_dir() else path.stem for path in paths]
    names = [s if short.count(s) == 1 else str(p) for s, p in zip(short, paths, strict=True)]
    repeated = [file.path for name, file in zip(names, files, strict=True) if names.count(name) > 1]
    if repeated:
        raise ConfigError(f"{repeated[0]} is given {len(repeated)} times, expected different parses")
    return names


def _match(file: ParseFile, guide: ParseFile, *, more_allowed: bool = False) -> list[int]:
    """For every sentence of the guide, find its position in another file; check that the tokens are the same."""
    if file.has_ids and guide.has_ids:
        places = {record.sentence_id: i for i, record in enumerate(file.records)}
        wanted = {record.sentence_id: i for i, record in enumerate(guide.records)}
        missing = [i for name, i in wanted.items() if name not in places]
        surplus = [i for name, i in places.items() if name not in wanted]
        for a, b, only in ((guide, file, missing), (file, guide, [] if more_allowed else surplus)):
            if only:
                raise CorpusError(
                    f"{len(only)} sentences of {a.path} are not in {b.path}, the first is "
                    f"{a.records[only[0]].sentence_id!r} in line {a.lines[only[0]]}; expected the same sentences"
                )
        order = [places[record.sentence_id] for record in guide.records]
    else:
        if len(file.records) != len(guide.records):
            raise CorpusError(
                f"{file.path} has {len(file.records)} sentences, {guide.path} has {len(guide.records)}; "
                "expected the same sentences"
            )
        order = list(range(len(guide.records)))
    for i, place in enumerate(order):
        if escape_brackets(file.records[place].tokens) != escape_brackets(guide.records[i].tokens):
            raise CorpusError(
                f"{file.where(place)}: expected the sentence of {guide.where(i)}, "
                f"{_quoted(guide.records[i].tokens)}, found {_quoted(file.records[place].tokens)}"
            )
    return order


def _gold_inside(files: Sequence[ParseFile], orders: Sequence[Sequence[int]]) -> list[tuple[int, ...] | None]:
    """Collect the gold trees that the files hold; where several do, they have to agree."""
    collected: list[tuple[int, ...] | None] = []
    for i in range(len(orders[0])):
        gold: tuple[int, ...] | None = None
        origin = ""
        for file, order in zip(files, orders, strict=True):
            other = file.records[order[i]].gold
            if other is None:
                continue
            if gold is not None and other != gold:
                raise CorpusError(
                    f"{file.where(order[i])}: expected the gold tree of {origin}, found another one; "
                    "say with --gold FILE which trees to compare with"
                )
            gold, origin = other, file.where(order[i])
        collected.append(gold)
    return collected


def _quoted(tokens: Sequence[str]) -> str:
    text = " ".join(tokens)
    return repr(text if len(text) <= 60 else text[:60] + "…")


# ----------------------------------------------------------------------------------------------- comparing


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


# ----------------------------------------------------------------------------------------------- printing


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


def _console() -> Console:
    """As wide as the terminal; at least 120 columns when piped."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=max(120, console.width))


def run_compare(config: CompareConfig) -> int:
    """Run ``rlparse compare``.

    Raises:
        ConfigError: There is nothing to compare, or no such convention.
        CorpusError: A file is malformed, or the files are not of the same sentences.
    """
    try:
        conventions = [find_convention(name) for name in config.convention or tuple(CONVENTIONS)]
    except ValueError as error:
        raise ConfigError(f"--convention: {error}") from None
    names = [convention.name for convention in conventions]
    if len(set(names)) < len(names):
        raise ConfigError(f"--convention: expected different conventions, got {', '.join(names)}")
    sentences = read_sources(config.parses, gold=config.gold, split=config.split)
    comparison = compare_parses(sentences, conventions, seed=config.seed)
    console = _console()
    for table in tables(comparison):
        console.print(table)
    if not comparison.against_gold:
        console.print("No gold trees: none inside the files, and no --gold FILE.")
    for convention in conventions:
        console.print(f"{convention.name}: {convention.describe()}", highlight=False)
    if config.json is not None:
        text = json.dumps(comparison.as_json(), indent=2, ensure_ascii=False, allow_nan=False)
        replace_file(config.json, [text, "\n"])
        console.print(f"written: {config.json}", highlight=False, markup=False)
    return 0
