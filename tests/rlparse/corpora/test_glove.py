"""Word vectors are found for a vocabulary in files with all their quirks."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from rlparse.corpora.glove import read_vectors
from rlparse.errors import CorpusError
from rlparse.vocabulary import Vocabulary


def write(path, *lines: str | bytes):
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines))
    return path


def test_rows_follow_the_vocabulary(tmp_path):
    path = write(tmp_path / "v.txt", "cat 1 2", "dog 3 -4e-1 ", "", "bird 5 6")
    vectors = read_vectors(path, Vocabulary(["dog", "unicorn", "cat"]))
    assert vectors.matrix.dtype == np.float32
    np.testing.assert_allclose(vectors.matrix, [[0, 0], [0, 0], [3, -0.4], [0, 0], [1, 2]])
    assert vectors.has_vector.tolist() == [False, False, True, False, True]
    assert (vectors.n_lines, vectors.n_repeated) == (3, 0)
    assert vectors.coverage({"dog": 3, "unicorn": 1, "new": 1, "cat": 5}) == (0.5, 0.8)


def test_packed_files_are_read(tmp_path):
    (tmp_path / "v.txt.gz").write_bytes(gzip.compress(b"cat 1 2\n"))
    assert read_vectors(tmp_path / "v.txt.gz", Vocabulary(["cat"])).matrix[2].tolist() == [1, 2]


def test_a_header_line_is_skipped(tmp_path):
    path = write(tmp_path / "v.txt", "2 3", "cat 1 2 3", "dog 4 5 6")
    vectors = read_vectors(path, Vocabulary(["cat", "2"]))
    assert (vectors.n_lines, vectors.matrix.shape) == (2, (4, 3))
    assert vectors.has_vector.tolist() == [False, False, True, False]


def test_quirks_of_the_published_files(tmp_path):
    path = write(
        tmp_path / "v.txt",
        "the 1 1",
        ". . . 9 9",  # a token with spaces inside
        "at name@domain.com 8 8",
        b"caf\xe9 2 2",  # cp1252
        "naïve 3 3",
        b"\x93 4 4",
        "the 7 7",  # again
        "\u00a0 6 6",
        ". 5 5",
        "at 6 6",
    )
    vectors = read_vectors(path, Vocabulary(["the", "café", "naïve", ".", "at"]))
    assert vectors.matrix[2:, 0].tolist() == [1, 2, 3, 5, 6]
    assert vectors.n_repeated == 1
    assert vectors.n_lines == 10


def test_own_spelling_comes_before_lower_case_and_plain_signs(tmp_path):
    path = write(tmp_path / "v.txt", "us 1 1", "US 2 2", '" 3 3', "( 4 4", "the 5 5")
    vectors = read_vectors(path, Vocabulary(["US", "us", "Us", "``", "-LRB-", "THE"]))
    assert vectors.matrix[2:, 0].tolist() == [2, 1, 1, 3, 4, 5]
    turned = write(tmp_path / "w.txt", "US 2 2", "us 1 1")
    assert read_vectors(turned, Vocabulary(["US"])).matrix[2, 0] == 2


def test_missing_vectors_are_noise_like_the_known_ones(tmp_path):
    rng = np.random.default_rng(0)
    rows = rng.normal(0.5, 2.0, (400, 20))
    path = write(
        tmp_path / "v.txt", *(f"w{i} " + " ".join(f"{x:.5f}" for x in row) for i, row in enumerate(rows))
    )
    vectors = read_vectors(path, Vocabulary([f"w{i}" for i in range(800)]))
    filled = vectors.filled(np.random.default_rng(1))
    assert filled.dtype == np.float32
    np.testing.assert_array_equal(filled[0], 0)
    np.testing.assert_array_equal(filled[vectors.has_vector], vectors.matrix[vectors.has_vector])
    noise = filled[402:]
    assert noise.mean() == pytest.approx(0.5, abs=0.1)
    assert noise.std() == pytest.approx(2.0, abs=0.1)
    np.testing.assert_array_equal(filled, vectors.filled(np.random.default_rng(1)))
    assert not vectors.matrix[402:].any()


def test_the_real_sample_covers_three_quarters_of_snli(shared_data):
    from rlparse.corpora.nli_files import read_examples

    counts: dict[str, int] = {}
    for example in read_examples(
        shared_data / "snli" / "snli_1.0_train_1percent.jsonl.gz", labelled_spans=False
    )[0]:
        for sentence in example.sentences:
            for token in sentence.tokens:
                counts[token] = counts.get(token, 0) + 1
    vectors = read_vectors(shared_data / "glove" / "glove.6B.50d.top2450.txt", Vocabulary.build(counts))
    assert vectors.matrix.shape[1] == 50
    assert vectors.n_lines in (2445, 2446)
    types, tokens = vectors.coverage(counts)
    assert tokens == pytest.approx(0.777, abs=0.02)
    assert 0.2 < types < 0.4


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["cat 1 2", "dog 3"], r"line 2: expected 2 numbers after 'dog', found 1"),
        (["cat 1 2", "dog 3 x"], r"line 2: expected numbers, found could not convert .*'x'"),
        (["cat"], r"line 1: expected a token and numbers, found b'cat'"),
        (["", "  "], "expected word vectors, found an empty file"),
        ([b"cat 1 2", b"\x96dog"], None),
    ],
)
def test_broken_files_are_refused(tmp_path, lines, message):
    path = write(tmp_path / "v.txt", *lines)
    if message is None:
        assert read_vectors(path, Vocabulary(["dog"])).n_lines == 2
        return
    with pytest.raises(CorpusError, match=message):
        read_vectors(path, Vocabulary(["dog"]))


def test_nothing_to_measure_or_imitate_is_refused(tmp_path):
    vectors = read_vectors(write(tmp_path / "v.txt", "cat 1 2"), Vocabulary(["dog"]))
    with pytest.raises(ValueError, match="coverage needs at least one token"):
        vectors.coverage({})
    with pytest.raises(ValueError, match="none of the 3 tokens has a vector"):
        vectors.filled(np.random.default_rng(0))
