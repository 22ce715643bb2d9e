"""From a path to training, development and test corpora, and what exactly they were made of.

``load_corpora("../shared/data/snli")`` finds the files of one data set by their official names. What has been
read once comes from the cache the next time, by the content of the files.
"""

from __future__ import annotations

import hashlib
import inspect
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from rlparse.corpora.cache import Outcome, cache_key, default_cache_dir, get_or_build
from rlparse.corpora.corpus import Corpus, CorpusBuilder
from rlparse.corpora.examples import Sentence, label_order
from rlparse.corpora.listops import embedded_listops
from rlparse.corpora.logic import embedded_logic
from rlparse.corpora.nli_files import Brackets, Format, ReadingReport, read_examples
from rlparse.corpora.official_files import Paths, as_files, find_files
from rlparse.corpora.text_files import TextFile
from rlparse.errors import CorpusError

HELD_OUT = 10
"""Where a data set has no development file, every so many-th training example is for development."""

CacheDir = Path | str | None
"""Folder of the cache; "default" for ``default_cache_dir()``, None for no cache."""


@dataclass
class CorpusReport:
    """What one corpus was made of.

    Attributes:
        name: Of the corpus.
        n_examples: Examples in it.
        files: One report per file.
        n_duplicates: Dropped: the same sentences are in an earlier file of this corpus.
        n_leaked: Dropped: the same sentences are in the development or test corpus.
        n_held_out: Put aside for development.
        n_too_long: Left out because of ``max_train_tokens``.
        cache: How the cache had it.
        seconds: Time it took.
    """

    name: str
    n_examples: int
    files: tuple[ReadingReport, ...] = ()
    n_duplicates: int = 0
    n_leaked: int = 0
    n_held_out: int = 0
    n_too_long: int = 0
    cache: Outcome = "not stored"
    seconds: float = 0.0

    def lines(self) -> list[str]:
        """The report in words: the corpus, then every file with its skipped lines."""
        text = f"{self.name}: {self.n_examples} examples"
        if self.files:
            parsed = sum(report.n_parsed for report in self.files)
            tokenized = sum(report.n_tokenized for report in self.files)
            files = "1 file" if len(self.files) == 1 else f"{len(self.files)} files"
            text += f" from {files} ({parsed} sentences with a gold parse, {tokenized} without)"
        for count, what in (
            (self.n_duplicates, "duplicates of an earlier file dropped"),
            (self.n_leaked, "dropped because dev or test has the same sentences"),
            (self.n_held_out, f"held out for development (every {HELD_OUT}th)"),
            (self.n_too_long, "left out as too long"),
        ):
            if count:
                text += f", {count} {what}"
        how = {"found": "from the cache", "rebuilt": "the cached one was damaged and has been replaced"}
        lines = [text + (f"; {how[self.cache]}" if self.cache in how else "")]
        for report in self.files:
            lines.append(f"  {report}")
            lines.extend(f"    {bad.message}" for bad in report.bad_lines)
        return lines


class LoadedCorpora(NamedTuple):
    """The corpora of one data set and what they were made of.

    Attributes:
        name: Of the data set.
        train: To learn from.
        dev: To choose by.
        test: For the final score, where there is one.
        reports: One per corpus, in the same order.
        notes: What else was decided.
    """

    name: str
    train: Corpus
    dev: Corpus
    test: Corpus | None
    reports: tuple[CorpusReport, ...]
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """Everything that was used, dropped and decided, in words."""
        lines = [f"{self.name}, labels {' '.join(self.train.labels)}"]
        for report in self.reports:
            lines.extend(f"  {line}" for line in report.lines())
        return [*lines, *(f"  note: {note}" for note in self.notes)]


def load_corpora(
    data: Paths,
    *,
    dev: Paths | None = None,
    test: Paths | None = None,
    format: Format = "auto",
    skip_bad_lines: bool = False,
    brackets: Brackets = "dropped",
    max_train_tokens: int | None = None,
    cache_dir: CacheDir = "default",
) -> LoadedCorpora:
    """Load a data set from its files.

    Training pairs whose sentences are also in an earlier training file, or in the development or test corpus,
    are dropped and counted; repetitions inside one file stay, as they belong to the published corpus.

    Args:
        data: See ``find_files``: a folder, a zip archive, or a list of files.
        dev: Development files; by default found by name, else every tenth training example.
        test: Test files; by default found by name, else none.
        format: See ``read_examples``.
        skip_bad_lines: Skip, count and report malformed lines instead of raising.
        brackets: For logical inference, see ``rlparse.corpora.logic``.
        max_train_tokens: Leave out training examples with a longer sentence.
        cache_dir: Where to keep the corpora.

    Raises:
        CorpusError: Files are missing or malformed, or it is not clear which to use.
    """
    files = find_files(data)
    notes = list(files.notes)
    dev_files = files.dev if dev is None else as_files(dev)
    test_files = files.test if test is None else as_files(test)

    load = partial(
        load_corpus,
        format=format,
        skip_bad_lines=skip_bad_lines,
        brackets=brackets,
        cache_dir=cache_dir,
    )
    dev_loaded = load(dev_files, name=f"{files.name}-dev") if dev_files else None
    test_loaded = load(test_files, name=f"{files.name}-test") if test_files else None
    train, report = load(
        files.train,
        name=f"{files.name}-train",
        labelled_spans=False,
        exclude=[loaded[0] for loaded in (dev_loaded, test_loaded) if loaded],
        exclude_files=(*dev_files, *test_files),
    )
    if dev_loaded is None:
        train, dev_loaded = _hold_out(train, report, f"{files.name}-dev")
        notes.append(f"no development file: every {HELD_OUT}th training example is used instead")
    if max_train_tokens is not None:
        fitting = np.flatnonzero((train.lengths <= max_train_tokens).all(axis=1))
        if len(fitting) == 0:
            raise CorpusError(
                f"{train.name}: expected sentences of at most {max_train_tokens} tokens, found none"
            )
        report.n_too_long = len(train) - len(fitting)
        train = train.subset(fitting)
        report.n_examples = len(train)
    loaded = [(train, report), dev_loaded, *([test_loaded] if test_loaded else [])]
    labels = _common_labels([corpus for corpus, _ in loaded])
    return _in_order(files.name, [(corpus.with_labels(labels), report) for corpus, report in loaded], notes)


def load_corpus(
    paths: Paths | Sequence[TextFile],
    *,
    name: str,
    format: Format = "auto",
    skip_bad_lines: bool = False,
    brackets: Brackets = "dropped",
    labelled_spans: bool = True,
    exclude: Sequence[Corpus] = (),
    exclude_files: Sequence[TextFile] = (),
    cache_dir: CacheDir = "default",
) -> tuple[Corpus, CorpusReport]:
    """Read files as one corpus, or take it from the cache where their content has been read before.

    Args:
        paths: One file or several, of one format or of different ones.
        name: Of the corpus.
        format: See ``read_examples``.
        skip_bad_lines: Skip, count and report malformed lines instead of raising.
        brackets: For logical inference, see ``rlparse.corpora.logic``.
        labelled_spans: Also keep the labelled constituents, for recall by label.
        exclude: Drop pairs whose sentences are in one of these corpora.
        exclude_files: The files of ``exclude``, by which the cache knows them.
        cache_dir: Where to keep the corpus.

    Raises:
        CorpusError: A file is missing or malformed, or nothing is left of it.
    """
    started = time.perf_counter()
    given = [paths] if isinstance(paths, str | Path) else paths
    files = [path if isinstance(path, TextFile) else TextFile.find(path) for path in given]

    def build() -> tuple[Corpus, dict[str, Any]]:
        return _read(files, name, format, skip_bad_lines, brackets, labelled_spans, exclude)

    folder = _folder(cache_dir)
    key = ""
    if folder is not None:
        key = cache_key(
            [
                "files",
                {"name": name, "format": format, "skip_bad_lines": skip_bad_lines, "brackets": brackets},
                {"labelled_spans": labelled_spans, "excluded": bool(exclude)},
                [[file.name, file.digest()] for file in files],
                [file.digest() for file in exclude_files] if exclude else [],
            ]
        )
    cached = get_or_build(folder, key, build)
    report = CorpusReport(
        name,
        len(cached.corpus),
        tuple(
            ReadingReport.from_json(entry).at(str(file))
            for entry, file in zip(cached.extra["files"], files, strict=True)
        ),
        n_duplicates=cached.extra["n_duplicates"],
        n_leaked=cached.extra["n_leaked"],
        cache=cached.outcome,
        seconds=time.perf_counter() - started,
    )
    return cached.corpus, report


def load_generated(
    name: Literal["logic", "listops"], *, cache_dir: CacheDir = "default", **options: Any
) -> LoadedCorpora:
    """Generate a data set that needs no file, or take it from the cache.

    Args:
        name: Which generator.
        cache_dir: Where to keep the corpora.
        **options: Those of ``embedded_logic`` or ``embedded_listops``.

    Raises:
        ValueError: The name or an option is unknown.
        CorpusError: The options cannot be met.
    """
    generators: dict[str, Callable[..., tuple[Corpus, Corpus, Corpus]]] = {
        "logic": embedded_logic,
        "listops": embedded_listops,
    }
    if name not in generators:
        raise ValueError(f"the generated corpora are {sorted(generators)}, got {name!r}")
    known = list(inspect.signature(generators[name]).parameters)
    if not set(options) <= set(known):
        raise ValueError(
            f"corpus {name!r} is generated from {known}, got {sorted(set(options) - set(known))}"
        )
    made: list[Corpus] = []

    def build_part(number: int) -> tuple[Corpus, dict[str, Any]]:
        if not made:
            made.extend(generators[name](**options))
        return made[number], {}

    loaded = []
    for number, role in enumerate(("train", "dev", "test")):
        started = time.perf_counter()
        key = cache_key(["generated", name, role, options])
        cached = get_or_build(_folder(cache_dir), key, partial(build_part, number))
        report = CorpusReport(cached.corpus.name, len(cached.corpus), cache=cached.outcome)
        report.seconds = time.perf_counter() - started
        loaded.append((cached.corpus, report))
    described = ", ".join(f"{option}={value}" for option, value in options.items()) or "default options"
    return _in_order(name, loaded, [f"generated with {described}"])


def _folder(cache_dir: CacheDir) -> Path | None:
    if cache_dir is None:
        return None
    return default_cache_dir() if cache_dir == "default" else Path(cache_dir)


def _in_order(
    name: str, loaded: Sequence[tuple[Corpus, CorpusReport]], notes: Sequence[str]
) -> LoadedCorpora:
    corpora = [corpus for corpus, _ in loaded]
    test = corpora[2] if len(corpora) > 2 else None
    return LoadedCorpora(
        name, corpora[0], corpora[1], test, tuple(report for _, report in loaded), tuple(notes)
    )


def _read(
    files: Sequence[TextFile],
    name: str,
    format: Format,
    skip_bad_lines: bool,
    brackets: Brackets,
    labelled_spans: bool,
    exclude: Sequence[Corpus],
) -> tuple[Corpus, dict[str, Any]]:
    """Read files into one corpus without repetitions between them."""
    builder = CorpusBuilder()
    held_out = {_content(corpus.example(i).sentences) for corpus in exclude for i in range(len(corpus))}
    earlier: set[bytes] = set()
    reports = []
    n_duplicates = n_leaked = 0
    for file in files:
        examples, report = read_examples(
            file,
            format=format,
            skip_bad_lines=skip_bad_lines,
            labelled_spans=labelled_spans,
            brackets=brackets,
        )
        own: set[bytes] = set()
        for example in examples:
            if len(files) > 1 or held_out:
                content = _content(example.sentences)
                if content in held_out:
                    n_leaked += 1
                    continue
                if content in earlier:
                    n_duplicates += 1
                    continue
                if file is not files[-1]:
                    own.add(content)
            builder.add(example)
        earlier |= own
        reports.append(report.to_json())
    return builder.build(name=name), {"files": reports, "n_duplicates": n_duplicates, "n_leaked": n_leaked}


def _content(sentences: Sequence[Sentence]) -> bytes:
    """Short fingerprint of the words of an example."""
    text = "\n".join(" ".join(sentence.tokens) for sentence in sentences)
    return hashlib.blake2b(text.encode(), digest_size=12).digest()


def _hold_out(train: Corpus, report: CorpusReport, name: str) -> tuple[Corpus, tuple[Corpus, CorpusReport]]:
    """Part every tenth training example from the others."""
    if len(train) < HELD_OUT:
        raise CorpusError(
            f"{train.name}: expected a development file, or at least {HELD_OUT} training examples to hold some "
            f"out of, found {len(train)}"
        )
    is_dev = np.arange(len(train)) % HELD_OUT == HELD_OUT - 1
    dev = train.subset(np.flatnonzero(is_dev), name=name)
    train = train.subset(np.flatnonzero(~is_dev))
    report.n_held_out, report.n_examples = len(dev), len(train)
    return train, (dev, CorpusReport(name, len(dev), cache=report.cache))


def _common_labels(corpora: Sequence[Corpus]) -> tuple[str, ...]:
    """One order of classes for all parts of a data set."""
    found = {label for corpus in corpora for label, count in corpus.label_counts().items() if count}
    if "non-entailment" in found and len(found) > 2:
        raise CorpusError(
            f"expected the labels of one task, found {sorted(found)}: "
            "HANS does not tell neutral from contradiction"
        )
    return label_order(found)
