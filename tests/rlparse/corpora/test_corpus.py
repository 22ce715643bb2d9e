"""A corpus gives back what went in, as text and as padded tensors."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlparse import PAD
from rlparse.corpora.corpus import Corpus
from rlparse.corpora.examples import Example, Sentence
from rlparse.errors import CorpusError
from rlparse.trees import uniform_tree
from rlparse.vocabulary import Vocabulary

WORDS = ["the", "cat", "dog", "naïve", "“", "日本", "runs", ".", "𝒳"]


def random_sentence(rng: np.random.Generator, longest: int = 12) -> Sentence:
    n = int(rng.integers(1, longest + 1))
    tokens = tuple(rng.choice(WORDS, n).tolist())
    transitions = tuple(int(t) for t in uniform_tree(n, rng)) if rng.random() < 0.7 else None
    spans = None
    if rng.random() < 0.5:
        spans = tuple(
            (int(s), n, str(rng.choice(["NP", "VP"]))) for s in rng.integers(0, n, int(rng.integers(0, 4)))
        )
    return Sentence(tokens, transitions, spans)


def random_examples(seed: int, n: int, n_sides: int = 2) -> list[Example]:
    rng = np.random.default_rng(seed)
    labels = ["entailment", "neutral", "contradiction"]
    return [
        Example(tuple(random_sentence(rng) for _ in range(n_sides)), str(rng.choice(labels)))
        for _ in range(n)
    ]


def slow_batch(examples: list[Example], chosen: list[int], vocabulary: Vocabulary, labels: tuple[str, ...]):
    """The batch by loops over sentences and tokens."""
    n_sides = len(examples[0].sentences)
    rows = [examples[i].sentences[s] for s in range(n_sides) for i in chosen]
    width = max(len(row.tokens) for row in rows)
    tokens = torch.zeros(len(rows), width, dtype=torch.int64)
    gold = torch.full((len(rows), 2 * width - 1), PAD, dtype=torch.int64)
    for r, row in enumerate(rows):
        for j, token in enumerate(row.tokens):
            tokens[r, j] = vocabulary.index(token)
        for t, transition in enumerate(row.transitions or ()):
            gold[r, t] = transition
    return {
        "tokens": tokens,
        "lengths": torch.tensor([len(row.tokens) for row in rows]),
        "labels": torch.tensor([labels.index(examples[i].label) for i in chosen]),
        "gold": gold,
        "has_gold": torch.tensor([row.transitions is not None for row in rows]),
        "indices": torch.tensor(chosen),
    }


@given(seed=st.integers(0, 1000), n=st.integers(1, 12), n_sides=st.integers(1, 2), data=st.data())
def test_text_and_batches_agree_with_the_examples(seed, n, n_sides, data):
    examples = random_examples(seed, n, n_sides)
    corpus = Corpus.from_examples(examples, name="random")
    assert len(corpus) == n
    assert corpus.n_sides == n_sides
    assert [corpus.example(i) for i in range(n)] == examples
    assert corpus.lengths.tolist() == [[len(s.tokens) for s in e.sentences] for e in examples]
    assert corpus.has_gold.tolist() == [[s.transitions is not None for s in e.sentences] for e in examples]

    vocabulary = Vocabulary.build(corpus.token_counts(), min_count=2)
    chosen = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=8))
    batch = corpus.with_vocabulary(vocabulary).batch(np.array(chosen))
    expected = slow_batch(examples, chosen, vocabulary, corpus.labels)
    for field, tensor in batch._asdict().items():
        assert tensor.dtype == expected[field].dtype, field
        assert torch.equal(tensor, expected[field]), field


def test_a_subset_is_a_corpus_of_its_own():
    examples = random_examples(1, 20)
    corpus = Corpus.from_examples(examples)
    part = corpus.subset([7, 3, 3, 11], name="part")
    assert part.name == "part"
    assert part.is_subset
    assert [part.example(i) for i in range(4)] == [examples[i] for i in (7, 3, 3, 11)]
    assert np.shares_memory(part.arrays.tokens, corpus.arrays.tokens)
    inner = part.subset(np.array([3, 0]))
    assert [inner.example(i) for i in range(2)] == [examples[11], examples[7]]
    assert inner.name == "part"

    counts: dict[str, int] = {}
    for i in (7, 3, 3, 11):
        for sentence in examples[i].sentences:
            for token in sentence.tokens:
                counts[token] = counts.get(token, 0) + 1
    assert part.token_counts() == counts
    assert sum(part.label_counts().values()) == 4
    vocabulary = Vocabulary.build(counts)
    batch = part.with_vocabulary(vocabulary).batch([2, 0])
    assert batch.indices.tolist() == [2, 0]
    assert batch.labels.tolist() == [corpus.labels.index(examples[i].label) for i in (3, 7)]
    # A subset of a corpus with a vocabulary keeps it.
    again = corpus.with_vocabulary(vocabulary).subset([3, 7]).batch([0, 1])
    assert torch.equal(again.tokens, batch.tokens)


def test_an_empty_subset_can_be_looked_at():
    part = Corpus.from_examples(random_examples(1, 3)).subset([])
    assert len(part) == 0
    assert part.token_counts() == {}
    assert part.lengths.shape == (0, 2)


def test_batches_do_not_share_memory_with_the_corpus():
    corpus = Corpus.from_examples(random_examples(2, 4))
    corpus = corpus.with_vocabulary(Vocabulary.build(corpus.token_counts()))
    indices = np.array([0, 1])
    batch = corpus.batch(indices)
    for tensor in batch:
        tensor.zero_()
    assert corpus.example(0) == random_examples(2, 4)[0]
    assert indices.tolist() == [0, 1]


def test_labels_are_ordered_and_counted():
    examples = [Example((Sentence(("a",)),), label) for label in ("neutral", "contradiction", "neutral")]
    corpus = Corpus.from_examples(examples)
    assert corpus.labels == ("entailment", "neutral", "contradiction")
    assert corpus.label_counts() == {"entailment": 0, "neutral": 2, "contradiction": 1}
    assert corpus.label_indices.tolist() == [1, 2, 1]
    assert corpus.label(1) == "contradiction"
    other = corpus.with_labels(("contradiction", "neutral"))
    assert other.label_indices.tolist() == [1, 0, 1]
    assert [other.label(i) for i in range(3)] == ["neutral", "contradiction", "neutral"]
    assert corpus.label_indices.tolist() == [1, 2, 1]
    assert corpus.with_labels(corpus.labels) is corpus
    with pytest.raises(CorpusError, match=r"has labels \['neutral'\], expected one of \['contradiction'\]"):
        corpus.with_labels(["contradiction"])


def test_given_labels_are_kept():
    examples = [Example((Sentence(("a",)),), "no")]
    assert Corpus.from_examples(examples, labels=["yes", "no"]).label_indices.tolist() == [1]
    with pytest.raises(CorpusError, match=r"corpus 'x' has labels \['no'\], expected one of \['yes'\]"):
        Corpus.from_examples(examples, labels=["yes"], name="x")


@pytest.mark.parametrize(
    ("sentences", "message"),
    [
        ((Sentence(()),), "sentence 0 of example 1 has no tokens"),
        ((Sentence(("a", "")),), "empty token at position 1"),
        ((Sentence(("a", "b"), (0, 0)),), "2 SHIFT and 1 REDUCE; found 2 and 0 in 2 transitions"),
        ((Sentence(("a", "b"), (0, 0, 2)),), "2 SHIFT and 1 REDUCE; found 2 and 0 in 3 transitions"),
        ((Sentence(("a", "b"), None, ((0, 3, "NP"),)),), "has 2 tokens, but a span 'NP' from 0 to 3"),
        ((Sentence(("a", "b"), None, ((1, 1, "NP"),)),), "a span 'NP' from 1 to 1"),
        ((Sentence(("a",)), Sentence(("b",))), "example 1 has 2 sentences, expected 1"),
        ((), "example 1 has 0 sentences, expected 1"),
    ],
)
def test_what_cannot_be_stored_is_refused(sentences, message):
    good = Example((Sentence(("a",)),), "neutral")
    with pytest.raises(CorpusError, match=message):
        Corpus.from_examples([good, Example(sentences, "neutral")])


def test_no_examples_make_no_corpus():
    with pytest.raises(CorpusError, match="corpus 'nothing' has no examples"):
        Corpus.from_examples([], name="nothing")
    with pytest.raises(CorpusError, match="example 0 has 0 sentences, expected at least 1"):
        Corpus.from_examples([Example((), "neutral")])


def test_wrong_positions_are_refused():
    corpus = Corpus.from_examples(random_examples(0, 3), name="small")
    bound = corpus.with_vocabulary(Vocabulary.build(corpus.token_counts()))
    for act in (corpus.example, lambda i: corpus.subset([0, i]), lambda i: bound.batch([0, i])):
        with pytest.raises(IndexError, match="corpus 'small' has examples 0 to 2, asked for"):
            act(3)
    with pytest.raises(IndexError, match="asked for -1 to -1"):
        corpus.example(-1)
    with pytest.raises(IndexError, match="sides 0 to 1, asked for 2"):
        corpus.sentence(0, 2)
    with pytest.raises(ValueError, match="at least one example, got no indices"):
        bound.batch([])
    with pytest.raises(ValueError, match=r"corpus 'small' has no vocabulary yet: call with_vocabulary"):
        corpus.batch([0])


def test_a_batch_of_128_pairs_takes_less_than_a_millisecond_or_two():
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(5000)]

    def sentence(mean: int) -> Sentence:
        n = max(1, int(rng.poisson(mean)))
        return Sentence(tuple(words[i] for i in rng.integers(0, 5000, n)), tuple([0] + [0, 1] * (n - 1)))

    corpus = Corpus.from_examples(Example((sentence(14), sentence(8)), "neutral") for _ in range(2000))
    corpus = corpus.with_vocabulary(Vocabulary.build(corpus.token_counts()))
    times = []
    for _ in range(30):
        indices = rng.integers(0, 2000, 128)
        started = time.process_time()
        corpus.batch(indices)
        times.append(time.process_time() - started)
    assert min(times) < 0.002  # 0.3-0.6 ms measured; a loop over tokens needs 3
