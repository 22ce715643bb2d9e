"""A cached corpus is the corpus, mapped; a damaged one is noticed and replaced."""

from __future__ import annotations

import gc
import mmap
import os
import weakref

import numpy as np
import pytest

from rlparse.corpora.cache import cache_key, default_cache_dir, get_or_build, load, save
from rlparse.corpora.corpus import Corpus
from rlparse.corpora.examples import Example, Sentence
from rlparse.errors import CorpusError
from rlparse.vocabulary import Vocabulary

EXAMPLES = [
    Example(
        (
            Sentence(("a", "naïve", "cat"), (0, 0, 0, 1, 1), ((0, 3, "NP"), (0, 3, "ROOT"))),
            Sentence(("日本",)),
        ),
        "neutral",
    ),
    Example((Sentence(("a",), (0,), ()), Sentence(("cat", "a"))), "entailment"),
]


@pytest.fixture
def corpus() -> Corpus:
    return Corpus.from_examples(EXAMPLES, name="two")


def examples_of(corpus: Corpus) -> list[Example]:
    return [corpus.example(i) for i in range(len(corpus))]


def test_what_was_saved_is_loaded(tmp_path, corpus):
    save(tmp_path / "deep" / "x.corpus", corpus, {"n": [1, "é"]})
    loaded, extra = load(tmp_path / "deep" / "x.corpus")
    assert extra == {"n": [1, "é"]}
    assert loaded.names == corpus.names
    assert examples_of(loaded) == EXAMPLES
    for mine, theirs in zip(loaded.arrays, corpus.arrays, strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["x.corpus"]


def test_a_loaded_corpus_makes_the_same_batches(tmp_path, corpus):
    save(tmp_path / "x.corpus", corpus, {})
    vocabulary = Vocabulary.build(corpus.token_counts())
    one = corpus.with_vocabulary(vocabulary).batch([1, 0])
    other = load(tmp_path / "x.corpus")[0].with_vocabulary(vocabulary).batch([1, 0])
    assert all(bool((a == b).all()) for a, b in zip(one, other, strict=True))


def test_loaded_arrays_are_views_of_the_file(tmp_path, corpus):
    save(tmp_path / "x.corpus", corpus, {})
    loaded, _ = load(tmp_path / "x.corpus")
    base = loaded.arrays.tokens
    while isinstance(base.base, np.ndarray):
        base = base.base
    assert isinstance(base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        loaded.arrays.tokens[0] = 1


def test_a_corpus_without_spans_can_be_saved(tmp_path):
    plain = Corpus.from_examples([Example((Sentence(("a",)),), "3")])
    save(tmp_path / "x.corpus", plain, {})
    assert load(tmp_path / "x.corpus")[0].arrays.spans.shape == (0, 3)


def test_every_changed_byte_and_every_cut_is_noticed(tmp_path, corpus):
    path = tmp_path / "x.corpus"
    save(path, corpus, {})
    content = path.read_bytes()
    changed_unnoticed = []
    for position in range(0, len(content), 7):
        path.write_bytes(content[:position] + bytes([content[position] ^ 0x40]) + content[position + 1 :])
        try:
            loaded, _ = load(path)
        except CorpusError:
            continue
        assert examples_of(loaded) == EXAMPLES  # only the padding between arrays may change
        changed_unnoticed.append(position)
    assert len(changed_unnoticed) * 7 < 64 * len(corpus.arrays)
    for length in range(0, len(content), 11):
        path.write_bytes(content[:length])
        with pytest.raises(CorpusError, match=r"x\.corpus: expected "):
            load(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "expected a stored corpus, found .*No such file"),
        (b"", "expected a stored corpus, found .*empty"),
        (b"something else entirely, and long enough", "expected a stored corpus, found something else"),
        (b"rlparse corpus\n\0" + bytes(16), "expected the header of a stored corpus, found it damaged"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "x.corpus"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        load(path)


def test_damaged_arrays_are_named(tmp_path, corpus):
    path = tmp_path / "x.corpus"
    save(path, corpus, {})
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(
        CorpusError, match="expected 40 bytes of 'type_offsets', found 39: the file has been cut off"
    ):
        load(path)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CorpusError, match="expected 'type_offsets' as it was written, found it damaged"):
        load(path)


def test_the_file_is_let_go_with_the_last_array(tmp_path, corpus):
    path = tmp_path / "x.corpus"
    save(path, corpus, {})
    loaded, _ = load(path)
    base = loaded.arrays.tokens
    while isinstance(base.base, np.ndarray):
        base = base.base
    mapping = weakref.ref(base.base)
    part = loaded.subset([0])
    del base, loaded
    gc.collect()
    assert isinstance(mapping(), mmap.mmap)
    del part
    gc.collect()
    assert mapping() is None


def test_the_second_time_nothing_is_built(tmp_path, corpus):
    built = []

    def build():
        built.append(1)
        return corpus, {"made": "once"}

    key = cache_key(["x"])
    assert get_or_build(tmp_path, key, build).outcome == "built"
    again = get_or_build(tmp_path, key, build)
    assert (again.outcome, again.extra, len(built)) == ("found", {"made": "once"}, 1)
    assert examples_of(again.corpus) == EXAMPLES

    stored = tmp_path / f"{key}.corpus"
    stored.write_bytes(stored.read_bytes()[:-3])
    assert get_or_build(tmp_path, key, build).outcome == "rebuilt"
    assert get_or_build(tmp_path, key, build).outcome == "found"
    assert len(built) == 2
    assert get_or_build(None, key, build).outcome == "not stored"
    assert len(built) == 3


def test_a_cache_that_cannot_be_written_does_not_stop_anything(tmp_path, corpus):
    (tmp_path / "file").write_text("in the way")
    cached = get_or_build(tmp_path / "file", "key", lambda: (corpus, {"a": 1}))
    assert (cached.corpus, cached.extra, cached.outcome) == (corpus, {"a": 1}, "not stored")


def test_an_interrupted_write_leaves_nothing(tmp_path, corpus, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path / "x.corpus", corpus, {})
    assert list(tmp_path.iterdir()) == []


def test_subsets_are_not_stored(tmp_path, corpus):
    with pytest.raises(ValueError, match="only whole corpora are stored, got a subset of 1 examples"):
        save(tmp_path / "x.corpus", corpus.subset([0]), {})


def test_keys_tell_everything_apart():
    keys = {cache_key(parts) for parts in (["a"], ["b"], ["a", {"x": 1}], ["a", {"x": True}], [["a"]])}
    assert len(keys) == 5
    assert cache_key({"x": 1, "y": (1, 2)}) == cache_key({"y": [1, 2], "x": 1})


def test_the_default_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("RLPARSE_CACHE", str(tmp_path / "mine"))
    assert default_cache_dir() == tmp_path / "mine"
    monkeypatch.delenv("RLPARSE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "rlparse"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / ".cache" / "rlparse"
