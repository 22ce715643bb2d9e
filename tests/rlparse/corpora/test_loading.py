"""A data set is loaded from its files, says what it used, and starts from the cache the second time."""

from __future__ import annotations

import json
import shutil
import time
import tracemalloc

import numpy as np
import pytest

from rlparse.corpora.loading import load_corpora, load_corpus, load_generated
from rlparse.errors import CorpusError


def row(label: str, premise: str, hypothesis: str) -> str:
    return json.dumps({"gold_label": label, "sentence1": premise, "sentence2": hypothesis})


def parsed_row(label: str, premise: str, hypothesis: str) -> str:
    """With right-branching parses over the words."""

    def parse(words: list[str]) -> str:
        return words[0] if len(words) == 1 else f"( {words[0]} {parse(words[1:])} )"

    trees = {f"sentence{i}_binary_parse": parse(text.split()) for i, text in ((1, premise), (2, hypothesis))}
    labelled = {
        f"sentence{i}_parse": f"(ROOT {' '.join(f'(X {w})' for w in t.split())})"
        for i, t in ((1, premise), (2, hypothesis))
    }
    return json.dumps(json.loads(row(label, premise, hypothesis)) | trees | labelled)


@pytest.fixture
def snli(tmp_path):
    """Two training files that share a pair, one of which is also in the development file."""
    folder = tmp_path / "snli"
    folder.mkdir()
    parsed = [parsed_row("neutral", f"cat {i} .", "a b c") for i in range(6)]
    (folder / "snli_1.0_train_a.jsonl").write_text("\n".join([*parsed, parsed[0]]) + "\n")
    unparsed = [row("entailment", "dog.", f"x {i}") for i in range(5)]
    repeated = [row("neutral", "cat 3.", "a b c"), row("-", "cat", "cat")]
    (folder / "snli_1.0_train_b.jsonl").write_text("\n".join([*unparsed, *repeated]) + "\n")
    dev = [parsed_row("contradiction", "cat 5 .", "a b c"), parsed_row("neutral", "x", "y")]
    (folder / "snli_1.0_dev.jsonl").write_text("\n".join(dev) + "\n")
    return folder


def texts(corpus):
    return [" ".join(corpus.sentence(i, 0).tokens + corpus.sentence(i, 1).tokens) for i in range(len(corpus))]


def test_duplicates_between_files_and_leaks_from_dev_are_dropped(tmp_path, snli):
    loaded = load_corpora(snli, cache_dir=tmp_path / "cache")
    # The repetition inside the first file stays; cat 3 of the second file and cat 5 of dev go.
    expected = [f"cat {i} . a b c" for i in (0, 1, 2, 3, 4, 0)] + [f"dog . x {i}" for i in range(5)]
    assert texts(loaded.train) == expected
    assert texts(loaded.dev) == ["cat 5 . a b c", "x y"]
    assert loaded.test is None
    assert loaded.train.labels == loaded.dev.labels == ("entailment", "neutral", "contradiction")
    report, dev_report = loaded.reports
    assert (report.n_duplicates, report.n_leaked, report.n_examples) == (1, 1, 11)
    assert report.files[1].n_unlabelled == 1
    assert report.cache == dev_report.cache == "built"
    text = "\n".join(loaded.lines())
    assert "snli, labels entailment neutral contradiction" in text
    assert "snli-train: 11 examples from 2 files (14 sentences with a gold parse, 12 without)" in text
    assert (
        "1 duplicates of an earlier file dropped, 1 dropped because dev or test has the same sentences"
        in text
    )
    assert (
        "snli_1.0_train_b.jsonl: 6 examples (jsonl, 0 sentences parsed, 12 not), 1 dropped without gold label"
        in text
    )


def test_labelled_spans_are_kept_for_evaluation_only(tmp_path, snli):
    loaded = load_corpora(snli, cache_dir=tmp_path / "cache")
    assert loaded.dev.sentence(0, 0).labelled_spans == ((0, 3, "ROOT"),)
    assert loaded.train.sentence(0, 0).labelled_spans is None


def test_the_second_start_comes_from_the_cache_wherever_the_files_are(tmp_path, snli):
    first = load_corpora(snli, cache_dir=tmp_path / "cache")
    moved = shutil.move(snli, tmp_path / "elsewhere")
    second = load_corpora(moved, cache_dir=tmp_path / "cache")
    assert [report.cache for report in second.reports] == ["found", "found"]
    assert "from the cache" in second.lines()[1]
    assert [second.train.example(i) for i in range(11)] == [first.train.example(i) for i in range(11)]
    for old, new in zip(first.reports[0].files, second.reports[0].files, strict=True):
        assert new.file == old.file.replace(str(snli), str(moved))
        assert (new.n_examples, new.n_lines) == (old.n_examples, old.n_lines)
    assert second.reports[0].n_duplicates == 1
    uncached = load_corpora(moved, cache_dir=None)
    assert [report.cache for report in uncached.reports] == ["not stored", "not stored"]
    assert texts(uncached.train) == texts(first.train)


def test_changed_content_and_options_are_read_anew(tmp_path, snli):
    cache = tmp_path / "cache"
    load_corpora(snli, cache_dir=cache)
    with (snli / "snli_1.0_train_b.jsonl").open("a") as file:
        file.write(row("neutral", "new", "one") + "\n")
    again = load_corpora(snli, cache_dir=cache)
    assert [report.cache for report in again.reports] == ["built", "found"]
    assert len(again.train) == 12
    assert load_corpora(snli, cache_dir=cache, skip_bad_lines=True).reports[0].cache == "built"
    # Another development file may leak other pairs, so training is read anew too.
    (snli / "snli_1.0_dev.jsonl").write_text(row("neutral", "dog.", "x 1") + "\n")
    third = load_corpora(snli, cache_dir=cache)
    assert [report.cache for report in third.reports] == ["built", "built"]
    assert "dog . x 1" not in texts(third.train)


def test_a_damaged_cache_is_replaced_and_said(tmp_path, snli):
    load_corpora(snli, cache_dir=tmp_path / "cache")
    for stored in (tmp_path / "cache").iterdir():
        stored.write_bytes(stored.read_bytes()[:-5])
    loaded = load_corpora(snli, cache_dir=tmp_path / "cache")
    assert "the cached one was damaged and has been replaced" in loaded.lines()[1]
    assert len(loaded.train) == 11


def test_bad_lines_stop_or_are_listed(tmp_path, snli):
    with (snli / "snli_1.0_train_b.jsonl").open("a") as file:
        file.write("{broken\n")
    with pytest.raises(CorpusError, match=r"snli_1\.0_train_b\.jsonl, line 8: expected a JSON object"):
        load_corpora(snli, cache_dir=tmp_path / "cache")
    for folder in (snli, tmp_path / "moved"):  # read, and from the cache
        if folder != snli:
            shutil.move(snli, folder)
        lines = load_corpora(folder, skip_bad_lines=True, cache_dir=tmp_path / "cache").lines()
        assert any("1 malformed lines skipped" in line for line in lines)
        assert any(
            f"{folder}/snli_1.0_train_b.jsonl, line 8: expected a JSON object" in line for line in lines
        )


def test_long_training_sentences_can_be_left_out(tmp_path, snli):
    loaded = load_corpora(snli, max_train_tokens=2, cache_dir=None)
    assert texts(loaded.train) == [f"dog . x {i}" for i in range(5)]
    assert loaded.reports[0].n_too_long == 6
    assert "6 left out as too long" in loaded.lines()[1]
    assert len(loaded.dev) == 2
    with pytest.raises(CorpusError, match="expected sentences of at most 1 tokens, found none"):
        load_corpora(snli, max_train_tokens=1, cache_dir=None)


def test_files_can_be_given_apart(tmp_path, snli):
    train, dev = snli / "snli_1.0_train_a.jsonl", snli / "snli_1.0_dev.jsonl"
    other = snli / "snli_1.0_train_b.jsonl"
    loaded = load_corpora(train, dev=other, test=[dev], cache_dir=None)
    assert [len(loaded.train), len(loaded.dev), len(loaded.test)] == [5, 6, 2]
    assert [report.name for report in loaded.reports] == ["snli-train", "snli-dev", "snli-test"]
    assert loaded.reports[0].n_leaked == 2
    as_list = load_corpora([train, other, dev], cache_dir=None)
    assert texts(as_list.train) == texts(load_corpora(snli, cache_dir=None).train)


def test_without_a_development_file_every_tenth_example_is_held_out(tmp_path):
    path = tmp_path / "hans_train.tsv"
    path.write_text("".join(f"entailment\th\tcat {i}\tdog\n" for i in range(25)))
    loaded = load_corpora(path, cache_dir=tmp_path / "cache")
    assert texts(loaded.dev) == ["cat 9 dog", "cat 19 dog"]
    assert (len(loaded.train), loaded.reports[0].n_held_out, loaded.reports[0].n_examples) == (23, 2, 23)
    assert not set(texts(loaded.train)) & set(texts(loaded.dev))
    assert "no development file: every 10th training example is used instead" in loaded.lines()[-1]
    path.write_text("entailment\th\tcat\tdog\n")
    with pytest.raises(
        CorpusError, match=r"expected a development file, or at least 10 training examples .* found 1"
    ):
        load_corpora(path, cache_dir=None)


def test_classes_are_numbered_the_same_in_every_part(tmp_path):
    (tmp_path / "train.tsv").write_text(
        "".join(f"{'non-' * (i % 2)}entailment\th\tcat {i}\tdog\n" for i in range(4))
    )
    (tmp_path / "dev.tsv").write_text("entailment\th\tcat\tdog\n")
    loaded = load_corpora([tmp_path / "train.tsv", tmp_path / "dev.tsv"], cache_dir=None)
    assert loaded.dev.labels == loaded.train.labels == ("entailment", "non-entailment")
    (tmp_path / "dev.jsonl").write_text(row("neutral", "a", "b") + "\n")
    with pytest.raises(
        CorpusError, match=r"the labels of one task, found .*HANS does not tell neutral from contradiction"
    ):
        load_corpora([tmp_path / "train.tsv", tmp_path / "dev.jsonl"], cache_dir=None)


def test_the_shared_snli_folder_makes_58k_pairs(shared_data, shared_snli):
    first = shared_snli.corpora
    assert (len(first.train), len(first.dev)) == (57_743, 9_842)
    assert first.reports[0].n_duplicates == 6
    assert first.reports[0].n_leaked == 0
    assert [report.n_examples for report in first.reports[0].files] == [5498, 1022, 51229]
    assert int(first.train.has_gold.all(axis=1).sum()) == 5498 + 1022 - 6
    assert first.dev.has_gold.all()
    assert first.dev.arrays.has_spans.all()
    assert (0, 2, "NP") in first.dev.sentence(0, 0).labelled_spans
    dev_file = first.reports[1].files[0]
    assert (dev_file.n_lines, dev_file.n_unlabelled, dev_file.n_bad) == (10_000, 158, 0)

    tracemalloc.start()
    started = time.perf_counter()
    second = load_corpora(shared_data / "snli", cache_dir=shared_snli.cache_dir)
    seconds = time.perf_counter() - started
    allocated = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [report.cache for report in second.reports] == ["found", "found"]
    assert seconds < 2  # 0.03 measured
    stored = sum(array.nbytes for array in second.train.arrays)
    assert stored > 10_000_000
    assert allocated < stored / 4
    sample = np.random.default_rng(0).integers(0, len(second.train), 50).tolist()
    assert [second.train.example(i) for i in sample] == [first.train.example(i) for i in sample]


def test_other_shared_data_sets(tmp_path, shared_data):
    sick = load_corpora(shared_data / "sick", cache_dir=None)
    assert (len(sick.train), len(sick.dev), sick.reports[0].n_leaked) == (4497, 500, 3)
    logic = load_corpora(
        [shared_data / "logic" / f"train{n}" for n in range(3)], cache_dir=None, brackets="tokens"
    )
    assert len(logic.train) + len(logic.dev) == 30 + 2319 + 12451
    assert "(" in logic.train.types


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CorpusError, match="found nothing there"):
        load_corpus(tmp_path / "x.jsonl", name="x")


@pytest.mark.parametrize(
    ("name", "options", "sides"),
    [
        ("logic", {"n_train": 60, "n_dev": 5, "n_test": 6, "operators": (1, 3), "brackets": "tokens"}, 2),
        ("listops", {"n_train": 60, "n_dev": 5, "n_test": 6, "max_tokens": 30}, 1),
    ],
)
def test_generated_corpora_come_from_the_cache_the_second_time(tmp_path, name, options, sides):
    first = load_generated(name, cache_dir=tmp_path, **options)
    second = load_generated(name, cache_dir=tmp_path, **options)
    assert [report.cache for report in first.reports] == ["built"] * 3
    assert [report.cache for report in second.reports] == ["found"] * 3
    assert [len(c) for c in second[1:4]] == [60, 5, 6]
    assert second.train.n_sides == sides
    assert [first.test.example(i) for i in range(6)] == [second.test.example(i) for i in range(6)]
    assert f"generated with n_train=60, n_dev=5, n_test=6, {list(options)[3]}=" in second.lines()[-1]
    other = load_generated(name, cache_dir=tmp_path, **options, seed=1)
    assert other.reports[0].cache == "built"
    assert other.train.example(0) != first.train.example(0)
    # A part whose file is gone is generated again, and is the same.
    for stored in tmp_path.iterdir():
        stored.unlink()
    third = load_generated(name, cache_dir=tmp_path, **options)
    assert [third.test.example(i) for i in range(6)] == [second.test.example(i) for i in range(6)]


def test_unknown_generators_and_options_are_refused():
    with pytest.raises(ValueError, match=r"the generated corpora are \['listops', 'logic'\], got 'snli'"):
        load_generated("snli")
    with pytest.raises(
        ValueError, match=r"'logic' is generated from \['n_train', .*\], got \['max_tokens'\]"
    ):
        load_generated("logic", max_tokens=3)
