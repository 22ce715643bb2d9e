"""Small corpora that show their brackets, and some that do not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from gymnasium import spaces

from rlparse.corpora.corpus import Corpus
from rlparse.corpora.examples import Example, Sentence
from rlparse.corpora.listops import corpus_of, draw_expressions, list_derivation
from rlparse.corpora.logic import embedded_logic
from rlparse.trees import uniform_tree
from rlparse.vocabulary import Vocabulary
from rlparse_agents.boundary_policy import BoundaryPolicy


def bound(corpus: Corpus) -> Corpus:
    """The corpus with a vocabulary of all its words."""
    return corpus.with_vocabulary(Vocabulary.build(corpus.token_counts()))


def sentences_of(corpus: Corpus) -> list[Sentence]:
    """Example by example, side by side."""
    return [corpus.sentence(i, side) for i in range(len(corpus)) for side in range(corpus.n_sides)]


def listops_of(*texts: str) -> Corpus:
    """Expressions with their gold trees, all of value 0."""
    examples = [Example((Sentence(tuple(t.split()), list_derivation(t.split())),), "0") for t in texts]
    return bound(Corpus.from_examples(examples))


def random_derivations(corpus: Corpus, seed: int = 0) -> list[list[int]]:
    """One a sentence, every tree equally likely."""
    rng = np.random.default_rng(seed)
    return [uniform_tree(len(s.tokens), rng) for s in sentences_of(corpus)]


def policy_for(corpus: Corpus, *, scale: float = 1.0, seed: int = 0) -> BoundaryPolicy:
    """A boundary policy with random weights; ``scale`` 0 leaves every free decision to a fair coin."""
    import torch

    torch.manual_seed(seed)
    assert corpus.vocabulary is not None
    n_tokens = len(corpus.vocabulary)
    space = spaces.Dict({"tokens": spaces.Box(0, n_tokens, (1,), np.int64)})
    sizes = {"n_tokens": n_tokens, "embedding_size": 4, "hidden_size": 5, "catalan_prior": False}
    policy = BoundaryPolicy(space, spaces.Discrete(2), **sizes)
    with torch.no_grad():
        for weight in policy.parameters():
            weight.normal_(std=scale) if scale else weight.zero_()
    return policy


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
