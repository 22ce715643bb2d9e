"""``rlparse data``: write the corpora that can be generated, and say what is in a corpus.

Importing this module stays light, for the help; what reads or writes corpora is imported when it runs.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from rlparse.errors import ConfigError

if TYPE_CHECKING:
    from rlparse.corpora.corpus import Corpus

SAMPLED_SENTENCES = 5_000
"""Parse statistics of a larger corpus come from so many of its sentences, drawn at random."""


@dataclass(frozen=True)
class ListOpsData:
    """Nested list operations as published: train_d20s.tsv and test_d20s.tsv."""

    out: Path
    """Folder to write to; made if need be."""
    train_size: int = 90_000
    """Expressions to train on."""
    test_size: int = 10_000
    """Expressions to test on; no expression is in both."""
    max_tokens: int | None = None
    """Longest expression; published without a limit."""
    seed: int = 0
    """The same seed writes the same files."""
    force: bool = False
    """Replace files of an earlier call."""

    def __post_init__(self) -> None:
        """Check the sizes."""
        _check_at_least(train_size=(self.train_size, 1), test_size=(self.test_size, 1), seed=(self.seed, 0))
        if self.max_tokens is not None:
            _check_at_least(max_tokens=(self.max_tokens, 1))


@dataclass(frozen=True)
class LogicData:
    """Propositional-logic inference as published: train0 to train12 and test0 to test12, by operators."""

    out: Path
    """Folder to write to; made if need be."""
    draws: int = 420_000
    """Pairs to draw; repeated ones are dropped. The default makes about the published sizes."""
    seed: int = 0
    """The same seed writes the same files."""
    force: bool = False
    """Replace files of an earlier call."""

    def __post_init__(self) -> None:
        """Check the sizes."""
        _check_at_least(draws=(self.draws, 1), seed=(self.seed, 0))


@dataclass(frozen=True)
class InspectData:
    """What is in corpus files."""

    paths: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PATH ...")]
    """Files, each described for itself, or the folder or zip archive of a data set."""
    skip_bad_lines: bool = False
    """Leave out lines that cannot be read, and list the first of them, in place of stopping at one."""
    examples: int = 2
    """Examples to print with their trees."""


def write_listops_data(config: ListOpsData) -> int:
    """Generate ListOps files."""
    from rlparse.corpora.listops import write_listops

    def write(folder: Path) -> list[Path]:
        return write_listops(
            folder,
            n_train=config.train_size,
            n_test=config.test_size,
            seed=config.seed,
            max_tokens=config.max_tokens,
        )

    return _write_all_or_none(write, config.out, r"(train|test)_d20s\.tsv", force=config.force)


def write_logic_data(config: LogicData) -> int:
    """Generate the bins of propositional-logic inference."""
    from rlparse.corpora.logic import write_logic

    def write(folder: Path) -> list[Path]:
        return write_logic(folder, n_draws=config.draws, seed=config.seed)

    return _write_all_or_none(write, config.out, r"(train|test)\d+", force=config.force)


def _write_all_or_none(write: Callable[[Path], list[Path]], out: Path, names: str, *, force: bool) -> int:
    """Write all files or none, print what is in them; ``names`` matches the files that belong together."""
    there = (
        sorted(path.name for path in out.iterdir() if re.fullmatch(names, path.name)) if out.is_dir() else []
    )
    if there and not force:
        listed = ", ".join(there[:3]) + (", ..." if len(there) > 3 else "")
        raise ConfigError(f"{out} holds {listed} already; --force replaces them, or name another folder")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=out) as unfinished:
        written = write(Path(unfinished))
        for name in there:
            (out / name).unlink()
        paths = [path.replace(out / path.name) for path in written]
    from rlparse.corpora.corpus import Corpus
    from rlparse.corpora.nli_files import read_examples

    for path in paths:
        corpus = Corpus.from_examples(read_examples(path)[0])
        label, n = max(corpus.label_counts().items(), key=lambda item: item[1])
        print(
            f"{path}: {len(corpus):,} examples, {corpus.lengths.mean():.2f} tokens a sentence "
            f"(longest {corpus.lengths.max()}), most frequent label {label} ({n / len(corpus):.1%})"
        )
    return 0


def inspect_data(config: InspectData) -> int:
    """Read files as training does and print what is in them."""
    if not config.paths:
        raise ConfigError("name at least one file or folder to inspect")
    from rlparse.corpora.corpus import Corpus
    from rlparse.corpora.loading import load_corpora
    from rlparse.corpora.nli_files import read_examples

    for path in config.paths:
        if path.is_dir() or path.suffix == ".zip":
            loaded = load_corpora(path, skip_bad_lines=config.skip_bad_lines, cache_dir=None)
            print("\n".join(loaded.lines()))
            corpora = [corpus for corpus in (loaded.train, loaded.dev, loaded.test) if corpus is not None]
        else:
            examples, report = read_examples(path, skip_bad_lines=config.skip_bad_lines)
            corpora = [Corpus.from_examples(examples, name=path.name)]
            print(report, *(f"  skipped: {line.message}" for line in report.bad_lines), sep="\n")
        for corpus in corpora:
            print(describe(corpus))
            if config.examples:
                print(show_examples(corpus, config.examples))
    return 0


def describe(corpus: Corpus) -> str:
    """Return a corpus in numbers: sizes, lengths, labels, gold parses and how close trivial trees come."""
    import numpy as np

    lengths = corpus.lengths.ravel()
    labels = corpus.label_counts()
    median, p90, p99 = np.percentile(lengths, (50, 90, 99))
    rows = [
        ("examples", f"{len(corpus):,} of {corpus.n_sides} sentence{'s' if corpus.n_sides > 1 else ''}"),
        ("tokens", f"{lengths.sum():,} of {len(corpus.token_counts()):,} types"),
        (
            "length",
            f"mean {lengths.mean():.2f}, median {median:.0f}, 90 % up to {p90:.0f}, 99 % up to {p99:.0f}, "
            f"longest {lengths.max()}",
        ),
        (
            "labels",
            ", ".join(f"{name} {n / len(corpus):.1%}" for name, n in labels.items() if n),
        ),
        *_parse_rows(corpus),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join([corpus.name, *(f"  {name:<{width}}  {text}" for name, text in rows)])


def show_examples(corpus: Corpus, n: int) -> str:
    """Return the first ``n`` examples with their labels, bracketed where the parse is known."""
    from rlparse.trees import format_brackets

    lines = []
    for index in range(min(n, len(corpus))):
        example = corpus.example(index)
        lines.append(f"  {example.label}")
        for sentence in example.sentences:
            parse, words = sentence.transitions, sentence.tokens
            lines.append("    " + (" ".join(words) if parse is None else format_brackets(words, parse)))
    return "\n".join(lines)


def _parse_rows(corpus: Corpus) -> list[tuple[str, str]]:
    """Say how many sentences have a gold parse, how deep those are, and what trivial trees score."""
    import numpy as np

    from rlparse.parse_scores import mean_depth, score_trivial_trees

    has_gold = corpus.has_gold
    parsed = np.argwhere(has_gold)
    rows = [("gold parses", f"{len(parsed):,} ({len(parsed) / has_gold.size:.1%} of the sentences)")]
    if len(parsed):
        n = min(len(parsed), SAMPLED_SENTENCES)
        drawn = parsed if n == len(parsed) else np.random.default_rng(0).choice(parsed, n, replace=False)
        sampled = [corpus.sentence(index, side) for index, side in drawn.tolist()]
        gold = [sentence.transitions or () for sentence in sampled]
        scores = score_trivial_trees(gold, [sentence.tokens for sentence in sampled], "nyu")
        note = "" if n == len(parsed) else f" (of {n:,} drawn at random)"
        rows.append(("gold depth", f"mean {mean_depth(gold):.2f}{note}"))
        rows.append(("F1, nyu", ", ".join(f"{kind} {score.f1:.1%}" for kind, score in scores.items()) + note))
    return rows


def _check_at_least(**values: tuple[int, int]) -> None:
    for name, (value, least) in values.items():
        if value < least:
            raise ConfigError(f"{name} must be at least {least}, got {value}")
