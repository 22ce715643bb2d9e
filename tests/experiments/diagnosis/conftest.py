"""Small corpora that show their brackets, and some that do not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from rlparse.corpora.corpus import Corpus
from rlparse.corpora.examples import Example, Sentence
from rlparse.corpora.listops import corpus_of, draw_expressions
from rlparse.corpora.logic import embedded_logic
from rlparse.trees import uniform_tree
from rlparse.vocabulary import Vocabulary


def bound(corpus: Corpus) -> Corpus:
    """The corpus with a vocabulary of all its words."""
    return corpus.with_vocabulary(Vocabulary.build(corpus.token_counts()))


@pytest.fixture(scope="session")
def listops() -> Corpus:
    """30 expressions of at most 30 tokens."""
    drawn = draw_expressions(30, seed=0, max_tokens=30, min_tokens=1)
    return bound(corpus_of(drawn.expressions, name="listops"))


@pytest.fixture(scope="session")
def make_logic() -> Callable[[str], Corpus]:
    """Twenty pairs of formulas, with their brackets as tokens or without."""
    return lambda brackets: bound(embedded_logic(20, 1, 1, operators=(0, 3), brackets=brackets)[0])


@pytest.fixture(scope="session")
def half_parsed() -> Corpus:
    """Three pairs of natural sentences; the last has one gold parse of two."""
    rng = np.random.default_rng(3)
    examples = []
    for number in range(3):
        sides = []
        for side in range(2):
            words = tuple(rng.choice(["a", "dog", "(", ")", "."], 3 + number + side))
            known = (number, side) != (2, 1)
            sides.append(Sentence(words, tuple(uniform_tree(len(words), rng)) if known else None))
        examples.append(Example(tuple(sides), "neutral"))
    return bound(Corpus.from_examples(examples))
