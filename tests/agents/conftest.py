"""Small corpora for the agents' tests."""

from __future__ import annotations

import numpy as np
import pytest

from rlparse.corpora.corpus import Corpus
from rlparse.corpora.examples import Example, Sentence
from rlparse.trees import parse_binary, random_merges
from rlparse.vocabulary import Vocabulary

PAIRS = (
    ("( ( The dog ) ( ( sees ( a cat ) ) . ) )", "( ( A cat ) sleeps )", "entailment"),
    ("( Two ( dogs run ) )", "( ( Nobody runs ) . )", "contradiction"),
    ("( Stop . )", "Stop", "neutral"),
    ("( ( A cat ) ( ( sees ( the dog ) ) . ) )", "( A ( cat ( sees it ) ) )", "neutral"),
)
"""Premise, hypothesis, label: 1 to 6 words, every sentence with its tree."""


def bound(corpus: Corpus) -> Corpus:
    """The corpus with a vocabulary of all its words."""
    return corpus.with_vocabulary(Vocabulary.build(corpus.token_counts()))


@pytest.fixture(scope="session")
def pairs() -> Corpus:
    """Four NLI pairs with gold parses."""
    examples = [
        Example((Sentence(*parse_binary(premise)), Sentence(*parse_binary(hypothesis))), label)
        for premise, hypothesis, label in PAIRS
    ]
    return bound(Corpus.from_examples(examples, name="pairs"))


@pytest.fixture(scope="session")
def half_parsed() -> Corpus:
    """Two pairs; the second hypothesis has no gold parse."""
    examples = [
        Example((Sentence(*parse_binary("( a ( b c ) )")), Sentence(*parse_binary("( a b )"))), "neutral"),
        Example((Sentence(*parse_binary("( ( a b ) c )")), Sentence(("c", "b", "a", "a"))), "neutral"),
    ]
    return bound(Corpus.from_examples(examples, name="half parsed"))


@pytest.fixture(scope="session")
def word_salad() -> Corpus:
    """96 single sentences of 3 to 8 random words, with random gold trees and two random labels."""
    rng = np.random.default_rng(0)
    examples = []
    for k in range(96):
        words = tuple(f"w{w}" for w in rng.integers(0, 12, 3 + k % 6))
        gold = tuple(random_merges(len(words), rng))
        examples.append(Example((Sentence(words, gold),), "yes" if rng.random() < 0.5 else "no"))
    return bound(Corpus.from_examples(examples, name="word salad"))
