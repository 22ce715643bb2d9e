"""What is observed of many parsers at once is what is observed of each."""

from __future__ import annotations

import numpy as np
import pytest

from rlparse.corpora.corpus import Corpus
from rlparse.corpora.examples import Example, Sentence
from rlparse.transitions import ParserState
from rlparse.vocabulary import Vocabulary
from rlparse_envs.observations import FeatureObserver, GameSize, HashedVectors, Situation
from rlparse_envs.parser_rows import ParserRows
from rlparse_envs.row_observers import FeatureRows
from rlparse_envs.sentence_table import SentenceTable


@pytest.mark.parametrize("n", [16_390, 32_767])
def test_features_of_sentences_whose_doubled_positions_are_too_wide(n):
    """16 bits hold the positions of at most 32,767 tokens, but not their doubles."""
    words = tuple(f"w{i % 50}" for i in range(n))
    corpus = Corpus.from_examples([Example((Sentence(words),), "yes")])
    corpus = corpus.with_vocabulary(Vocabulary.build(corpus.token_counts()))
    size = GameSize(n, 1, len(corpus.vocabulary))
    observer = FeatureObserver(size, stack_items=2, buffer_items=3, vectors=HashedVectors(3))
    table = SentenceTable(corpus, np.arange(1), n)
    rows, numbers, nobody = ParserRows(1, n, heights=True), np.zeros(1, np.int64), np.zeros(0, np.int64)
    assert rows.lengths.dtype == np.int16
    many = FeatureRows(observer, rows, table)
    rows.start(numbers, table.token_rows(numbers), table.lengths[numbers], numbers)
    many.start(numbers, numbers)
    parser = ParserState(n)
    for step in range(n + 2):
        if step in (0, 1, n - 4, n - 1, n, n + 1):
            alone = observer.observe(Situation(parser, words, corpus.batch([0]).tokens[0].numpy(), 0))
            np.testing.assert_allclose(many.observe()[0], alone, rtol=0, atol=1e-6)
        action = 0 if step < n else 1
        rows.advance(np.array([action]), nobody)
        parser.apply(action)
