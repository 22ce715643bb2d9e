"""Small corpora and models for the environment's tests."""

from __future__ import annotations

import pytest
import torch

from rlparse.corpora.corpus import Corpus
from rlparse.corpora.examples import Example, Sentence
from rlparse.models.nli_model import NLIModel
from rlparse.trees import parse_binary
from rlparse.vocabulary import Vocabulary


def sentence(text: str) -> Sentence:
    """A sentence with its tree if the text has brackets or one word, else without."""
    has_tree = text.startswith("(") or " " not in text
    return Sentence(*parse_binary(text)) if has_tree else Sentence(tuple(text.split()))


PAIRS = (
    (
        "( ( The ( old man ) ) ( ( sleeps ( on ( a bench ) ) ) . ) )",
        "( ( A man ) ( sleeps . ) )",
        "entailment",
    ),
    ("( Two ( women run ) )", "( ( Nobody runs ) . )", "contradiction"),
    ("( Stop . )", "Stop", "neutral"),
    ("A dog barks", "( ( A cat ) sleeps )", "contradiction"),
)
"""Premise, hypothesis, label; the third hypothesis has one word, the fourth premise no tree."""

SINGLES = (("( ( ( [MAX 2 ) 9 ) ] )", "9"), ("7", "7"), ("( ( ( [MIN 4 ) 3 ) ] )", "3"))


@pytest.fixture(scope="session")
def pairs() -> Corpus:
    """Four NLI pairs of 1 to 8 words, bound to a vocabulary of all their words."""
    examples = [Example((sentence(p), sentence(h)), label) for p, h, label in PAIRS]
    corpus = Corpus.from_examples(examples, name="pairs")
    return corpus.with_vocabulary(Vocabulary.build(corpus.token_counts()))


@pytest.fixture(scope="session")
def singles() -> Corpus:
    """Three ListOps expressions."""
    examples = [Example((sentence(text),), label) for text, label in SINGLES]
    corpus = Corpus.from_examples(examples, name="singles")
    return corpus.with_vocabulary(Vocabulary.build(corpus.token_counts()))


@pytest.fixture(scope="session")
def threes() -> Corpus:
    """Two examples of three sentences."""
    texts = (("( a b )", "c", "( ( d e ) f )"), ("g", "( h ( i ( j k ) ) )", "( l m )"))
    return Corpus.from_examples(
        [Example(tuple(map(sentence, three)), "yes") for three in texts], name="threes"
    )


@pytest.fixture(scope="session")
def one_word() -> Corpus:
    """One example of one word."""
    return Corpus.from_examples([Example((sentence("yes"),), "yes")], name="one word")


@pytest.fixture
def model(pairs: Corpus) -> NLIModel:
    """A small model of ``pairs`` with random weights, in training mode, with dropout."""
    torch.manual_seed(0)
    return NLIModel(
        len(pairs.vocabulary), len(pairs.labels), embedding_size=6, hidden_size=6, mlp_size=8, dropout=0.5
    )
