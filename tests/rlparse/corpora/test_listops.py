"""ListOps expressions are drawn as published, have the right values, and the published trees."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlparse.corpora.corpus import Corpus
from rlparse.corpora.examples import LISTOPS_LABELS
from rlparse.corpora.listops import (
    TOKENS,
    corpus_of,
    draw_expressions,
    embedded_listops,
    example_of,
    list_derivation,
    operator_depth,
    value,
    write_listops,
)
from rlparse.corpora.logic import draw_bins
from rlparse.corpora.nli_files import read_examples
from rlparse.errors import CorpusError
from rlparse.trees import parse_binary


def slow_value(text: str) -> int:
    """Rewrite an expression as nested calls and let Python evaluate it."""
    names = {
        "MIN": lambda values: min(values),
        "MAX": lambda values: max(values),
        "MED": lambda values: int(np.median(values)),
        "SM": lambda values: sum(values) % 10,
        "FIRST": lambda values: values[0],
        "LAST": lambda values: values[-1],
    }
    code = re.sub(r"\[(\w+)", r"\1([", text).replace("]", "])")
    return eval(re.sub(r"(?<=[\d)]) (?=[\dA-Z])", ", ", code), names)


def slow_brackets(text: str) -> str:
    """The fully bracketed form, by replacing innermost lists until none is left."""
    pieces = text.split()
    while len(pieces) > 1:
        close = pieces.index("]")
        start = max(i for i in range(close) if pieces[i].startswith("["))
        tree = pieces[start]
        for item in pieces[start + 1 : close + 1]:
            tree = f"( {tree} {item} )".replace("[", "{").replace("]", "}")
        pieces[start : close + 1] = [tree]
    return pieces[0].replace("{", "[").replace("}", "]")


def text_of(expression: bytes) -> str:
    return " ".join(TOKENS[i] for i in expression)


@pytest.fixture(scope="module")
def published():
    """A data set of the published size."""
    return draw_expressions(100_000, seed=1)


@pytest.fixture(scope="module")
def expressions() -> list[bytes]:
    return draw_expressions(3000, seed=5).expressions


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7", 7),
        ("[SM 6 5 9 0 ]", 0),
        ("[MAX 2 9 [MIN 4 7 ] 0 ]", 9),
        ("[MED 1 2 ]", 1),
        ("[MED 9 0 4 ]", 4),
        ("[MED 9 0 4 5 ]", 4),
        ("[MED 8 1 6 9 ]", 7),
        ("[FIRST 3 4 ]", 3),
        ("[LAST 3 [FIRST 4 1 ] ]", 4),
    ],
)
def test_values_by_hand(text, expected):
    assert value(text.split()) == expected == slow_value(text)


def test_values_agree_with_python(expressions):
    corpus = corpus_of(expressions, name="x")
    for i, expression in enumerate(expressions[:1000]):
        text = text_of(expression)
        assert value(text.split()) == slow_value(text) == int(corpus.label(i)), text


def test_gold_trees_branch_to_the_left_inside_a_list(expressions):
    assert slow_brackets("[SM 6 5 9 0 ]") == "( ( ( ( ( [SM 6 ) 5 ) 9 ) 0 ) ] )"
    corpus = corpus_of(expressions[:800], name="x")
    for i, expression in enumerate(expressions[:800]):
        text = text_of(expression)
        expected = parse_binary(slow_brackets(text))
        assert expected.tokens == tuple(text.split())
        assert list_derivation(text.split()) == expected.transitions
        assert corpus.example(i) == example_of(expression)
        assert corpus.sentence(i, 0).transitions == expected.transitions


@given(
    st.recursive(
        st.just("a"),
        lambda inner: st.lists(inner, min_size=1, max_size=4).map(lambda x: f"( {' '.join(x)} )"),
    )
)
def test_any_brackets_can_be_tokens(text):
    tokens = text.split()
    derivation = list_derivation(tokens)
    assert len(derivation) == 2 * len(tokens) - 1
    stack: list[str] = []
    position = 0
    for transition in derivation:
        if transition == 0:
            stack.append(tokens[position])
            position += 1
        else:
            right, left = stack.pop(), stack.pop()
            # The left item is an unfinished list, or an opening bracket; the right one is a finished item.
            assert left.startswith("(")
            assert left.count("(") == left.count(")") + 1
            stack.append(f"{left} {right}")
    assert stack == [text]


def test_published_statistics(published):
    """Figures of the published 10,000 test expressions, whose own sampling error is about 1 %."""
    assert len(set(published.expressions)) == 100_000
    assert published.n_draws == pytest.approx(516_000, rel=0.01)
    lengths = np.array([len(expression) for expression in published.expressions])
    assert lengths.mean() == pytest.approx(42.85, rel=0.03)
    assert np.median(lengths) == 16
    assert np.percentile(lengths, 90) == pytest.approx(106, rel=0.04)
    assert np.percentile(lengths, 99) == pytest.approx(390, rel=0.05)
    assert 600 < lengths.max() < 2000
    for cap, share in ((50, 0.797), (100, 0.893), (130, 0.921)):
        assert (lengths <= cap).mean() == pytest.approx(share, abs=0.008)
    depths = np.array([operator_depth([TOKENS[i] for i in e]) for e in published.expressions[:20_000]])
    assert (depths == 1).mean() == pytest.approx(0.209, abs=0.012)
    assert (depths == 19).mean() == pytest.approx(0.032, abs=0.005)
    assert depths.max() == 19
    corpus = corpus_of(published.expressions, name="published")
    counts = corpus.label_counts()
    assert max(counts.values()) / 100_000 == pytest.approx(0.114, abs=0.005)
    assert set(corpus.types) == set(TOKENS)
    assert len(TOKENS) == 15


def test_operators_and_numbers_of_arguments_are_uniform(published):
    flat = b"".join(published.expressions[:5000])
    counts = np.bincount(np.frombuffer(flat, np.uint8), minlength=15)
    operators = counts[10:14]
    np.testing.assert_allclose(operators / operators.sum(), 0.25, atol=0.01)
    assert counts[14] == operators.sum()
    # Every list adds its operator and bracket; its 2 to 5 arguments are tokens or lists themselves.
    arguments = counts[:10].sum() + operators.sum() - 5000
    assert arguments / operators.sum() == pytest.approx(3.5, abs=0.15)


@pytest.mark.parametrize("cap", [10, 25, 40, 100])
def test_a_length_cap_is_the_same_as_leaving_out_longer_draws(cap):
    """The cap stops hopeless draws early; what is left has the distribution of the uncapped draws that fit."""
    capped = draw_expressions(4000, seed=3, max_tokens=cap)
    free = draw_expressions(4000, seed=4, fit_tokens=cap)
    fitting = [e for e in free.expressions if len(e) <= cap]
    assert len(fitting) == 4000
    assert max(map(len, capped.expressions)) <= cap
    assert np.mean([len(e) for e in capped.expressions]) == pytest.approx(
        np.mean([len(e) for e in fitting]), rel=0.05
    )


def test_twenty_thousand_short_expressions_take_a_second_or_two():
    started = time.process_time()
    train, _, _ = embedded_listops(20_000, 10, 10, max_tokens=40)
    assert len(train) == 20_000
    assert time.process_time() - started < 5  # 0.4 s measured


def as_set(corpus: Corpus) -> set[tuple[str, ...]]:
    return {corpus.sentence(i, 0).tokens for i in range(len(corpus))}


@pytest.mark.parametrize(("cap", "test_cap"), [(100, None), (30, 100), (30, math.inf), (None, None)])
def test_splits_are_disjoint_and_of_the_asked_size(cap, test_cap):
    splits = embedded_listops(600, 50, 80, seed=2, max_tokens=cap, test_max_tokens=test_cap)
    assert [corpus.name for corpus in splits] == ["listops-train", "listops-dev", "listops-test"]
    sets = [as_set(corpus) for corpus in splits]
    assert [len(s) for s in sets] == [len(c) for c in splits] == [600, 50, 80]
    assert len(set.union(*sets)) == 730
    longest = [corpus.lengths.max() for corpus in splits]
    assert all(n <= (cap or 10_000) for n in longest[:2])
    assert longest[2] <= (test_cap or cap or 10_000)
    if test_cap:
        assert longest[2] > cap
    assert all(corpus.lengths.min() >= 2 for corpus in splits)
    assert all(corpus.has_gold.all() and corpus.labels == LISTOPS_LABELS for corpus in splits)


def test_bare_digits_can_be_had():
    assert min(map(len, draw_expressions(100, seed=0).expressions)) == 1
    assert min(map(len, draw_expressions(100, seed=0, min_tokens=2).expressions)) == 4


def test_the_seed_decides_everything():
    first, again, other = (
        [as_set(corpus) for corpus in embedded_listops(50, 5, 5, seed=s)] for s in (1, 1, 2)
    )
    assert first == again != other


def test_another_process_generates_the_same():
    code = (
        "from rlparse.corpora.listops import draw_expressions as d; from rlparse.corpora.logic import draw_bins;"
        "print(d(50, seed=3).expressions, draw_bins(200, seed=3))"
    )
    environment = {"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": "7"}
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, env=environment, text=True
    )
    assert other.stdout.strip() == f"{draw_expressions(50, seed=3).expressions} {draw_bins(200, seed=3)}"


def test_official_files_read_back(tmp_path):
    paths = write_listops(tmp_path / "new", n_train=60, n_test=20, seed=4)
    assert [path.name for path in paths] == ["train_d20s.tsv", "test_d20s.tsv"]
    drawn = draw_expressions(80, seed=4).expressions
    found = []
    for path in paths:
        examples, report = read_examples(path)
        found.extend(examples)
        assert report.format == "listops"
    assert found == [example_of(expression) for expression in drawn]
    first = paths[0].read_text(encoding="utf-8").splitlines()[0].split("\t")
    assert first[1] == slow_brackets(text_of(drawn[0]))
    assert all(
        len(e) <= 20 for p in write_listops(tmp_path, n_train=9, n_test=3, max_tokens=20) for e in lengths(p)
    )


def lengths(path):
    return [s.tokens for example in read_examples(path)[0] for s in example.sentences]


def test_the_older_operators_of_the_sample_file(shared_data):
    examples, report = read_examples(shared_data / "listops" / "format_sample_d8.tsv")
    found = list(examples)
    assert report.n_examples == len(found) == 500
    for example in found:
        assert slow_value(" ".join(example.sentences[0].tokens)) == int(example.label)
        assert list_derivation(example.sentences[0].tokens) == example.sentences[0].transitions


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[MAX 1 2", "3 tokens ends with 1 open lists, expected 0"),
        ("[MAX ]", r"'\]' at token 1 of a ListOps expression needs an open list with a value in it"),
        ("]", r"'\]' at token 0"),
        ("1 2", "ends at token 1, expected nothing more, found '2'"),
        ("[MAX 1 x ]", r"token 2 of a ListOps expression must be a digit, '\]' or one of .*found 'x'"),
        ("", "0 tokens ends with 0 open lists"),
    ],
)
def test_no_value_without_one_expression(text, message):
    with pytest.raises(CorpusError, match=message):
        value(text.split())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[MAX 1 2", "3 tokens end with 1 open brackets, expected 0"),
        ("1 ]", r"brackets close before token 1, expected nothing more, found '\]'"),
        (") a", r"'\)' at token 0 closes a bracket that was never opened"),
        ("", "0 tokens end with 0 open brackets"),
    ],
)
def test_no_derivation_without_matching_brackets(text, message):
    with pytest.raises(CorpusError, match=message):
        list_derivation(text.split())


def test_impossible_wishes_are_refused(monkeypatch):
    monkeypatch.setattr("rlparse.corpora.listops._PATIENCE", 2000)
    with pytest.raises(
        CorpusError, match="found only 10 of 11 different ListOps expressions of 1 to 3 tokens in"
    ):
        draw_expressions(11, seed=0, max_tokens=3)
    with pytest.raises(CorpusError, match=r"test_max_tokens must not be below max_tokens \(50\), got 20"):
        embedded_listops(max_tokens=50, test_max_tokens=20)
    with pytest.raises(CorpusError, match="corpus 'none' has no examples"):
        corpus_of([], name="none")
