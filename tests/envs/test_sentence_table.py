"""Flat sentences are those of the corpus, and widest spans tell every tree from every other."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

import slow_reference
from rlparse.corpora.examples import Sentence
from rlparse.vocabulary import Vocabulary
from rlparse_envs.sentence_table import SentenceTable, widest_spans


def spans_found(widest, n):
    """All spans of two tokens or more that the rule finds in a tree."""
    pairs = combinations(range(n + 1), 2)
    return {(s, e) for s, e in pairs if e - s >= 2 and (widest[e - 1, 0] == s or widest[s, 1] == e)}


@pytest.mark.parametrize("n", range(1, 8))
def test_widest_spans_name_exactly_the_spans_of_every_tree(n):
    derivations = slow_reference.all_derivations(n)
    for derivation, widest in zip(derivations, widest_spans(np.array(derivations)), strict=True):
        assert spans_found(widest, n) == {s for s in slow_reference.slow_spans(derivation) if s[1] - s[0] > 1}


def test_widest_spans_of_rows_of_different_lengths():
    lengths = [3, 40, 1, 17, 2, 40]
    derivations = slow_reference.random_derivations(np.random.default_rng(0), lengths)
    rows = slow_reference.padded(derivations).numpy()
    rows[4] = 2  # no tree
    widest = widest_spans(rows)
    assert widest.shape == (6, 40, 2)
    for row, (n, derivation) in enumerate(zip(lengths, derivations, strict=True)):
        expected = {s for s in slow_reference.slow_spans(derivation) if s[1] - s[0] > 1}
        assert spans_found(widest[row], 40) == (set() if row == 4 else expected)
        assert (widest[row, n:] == -1).all()


def words_of(table, number):
    row = table.word_rows(np.array([number]))[0]
    n = table.lengths[number]
    assert not row[n:].any()
    return tuple(table.words[word] for word in row[:n])


def test_sentences_are_those_of_the_corpus(pairs):
    """Also under a vocabulary that knows some words only, and takes capitals for small letters."""
    narrow = pairs.with_vocabulary(Vocabulary(["the", "man", "stop"], lowercase=True))
    for corpus in (pairs, narrow):
        table = SentenceTable(corpus, np.arange(len(corpus)), 9)
        batch = corpus.batch(np.arange(len(corpus)))
        for position in range(len(corpus)):
            for side, sentence in enumerate(corpus.example(position).sentences):
                number = 2 * position + side
                assert words_of(table, number) == sentence.tokens
                assert table.has_gold[number] == (sentence.transitions is not None)
                tokens = table.token_rows(np.array([number]))[0]
                row = batch.tokens[side * len(corpus) + position].tolist()
                assert tokens.tolist() == row + [0] * (9 - len(row))


def test_only_eligible_sentences_are_read(pairs):
    table = SentenceTable(pairs, np.array([1, 2]), 3)
    assert (table.lengths > 0).tolist() == [False, False, True, True, True, True, False, False]
    assert words_of(table, 5) == ("Stop",)


def test_typed_examples_follow_those_of_the_corpus(pairs):
    table = SentenceTable(pairs, np.arange(len(pairs)), 9)
    known = len(table.words)
    first = table.add_typed((Sentence(("a", "new", "man"), (0, 0, 1, 0, 1)), Sentence(("Stop",), (0,))))
    second = table.add_typed((Sentence(("new", "new")), Sentence(("other",))))
    assert (first, second) == (len(pairs), len(pairs) + 1)
    assert [words_of(table, 2 * first + k) for k in range(4)] == [
        ("a", "new", "man"),
        ("Stop",),
        ("new", "new"),
        ("other",),
    ]
    assert table.has_gold[2 * first :].tolist() == [True, True, False, False]
    at = table.starts[2 * first]
    assert spans_found(table.widest.reshape(-1, 2)[at : at + 3], 3) == {(0, 2), (0, 3)}
    assert spans_found(table.widest.reshape(-1, 2)[at + 4 : at + 6], 2) == set()
    assert len(table.words) == known + 2
    table.forget_typed()
    assert len(table.lengths) == 2 * len(pairs)
    assert table.add_typed((Sentence(("other",)), Sentence(("a",)))) == len(pairs)
    assert len(table.words) == known + 2
    assert words_of(table, 0) == pairs.example(0).sentences[0].tokens
