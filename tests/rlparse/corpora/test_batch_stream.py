"""A stream gives the batches of the plain loop, and its order stands where they were taken."""

from __future__ import annotations

import gc
import json
import threading
import time

import numpy as np
import pytest
import torch

from rlparse.corpora.batch_stream import BatchStream
from rlparse.corpora.batching import Batch, BatchOrder
from rlparse.corpora.cache import load, save
from rlparse.corpora.corpus import Corpus
from rlparse.corpora.examples import Example, Sentence
from rlparse.corpora.prefetch import Prefetcher
from rlparse.trees import random_merges
from rlparse.vocabulary import Vocabulary


def sentence(rng: np.random.Generator) -> Sentence:
    n = int(rng.integers(1, 9))
    words = tuple(f"w{w}" for w in rng.integers(0, 12, n))
    return Sentence(words, tuple(random_merges(n, rng)) if rng.random() < 0.8 else None)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    """50 pairs, some with gold parses."""
    rng = np.random.default_rng(0)
    pairs = [Example((sentence(rng), sentence(rng)), f"label {rng.integers(3)}") for _ in range(50)]
    made = Corpus.from_examples(pairs)
    return made.with_vocabulary(Vocabulary.build(made.token_counts()))


def order_of(corpus: Corpus, *, seed: int = 3, batch_size: int = 8) -> BatchOrder:
    return BatchOrder(corpus.lengths, batch_size, seed=seed)


def plain(corpus: Corpus, order: BatchOrder, n: int, repeats: int = 1) -> list[Batch]:
    """The loop that a stream stands for."""
    return [corpus.batch(order.next_indices()).to("cpu").repeat(repeats) for _ in range(n)]


def check_same(ours: list[Batch], theirs: list[Batch]) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        for name in Batch._fields:
            one, other = getattr(a, name), getattr(b, name)
            assert one.dtype == other.dtype, name
            assert torch.equal(one, other), name


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("ahead", [1, 2, 20])
def test_batches_are_those_of_the_plain_loop_over_epochs(corpus, repeats, ahead):
    stream = BatchStream(corpus, order_of(corpus), repeats=repeats, ahead=ahead)
    plain_order = order_of(corpus)
    for expected in plain(corpus, order_of(corpus), 18, repeats):  # 7 an epoch
        check_same([next(stream)], [expected])
        plain_order.next_indices()
        assert stream.order.state_dict() == plain_order.state_dict()
        assert stream.seconds_waited > 0
    stream.close()


def test_batches_come_from_a_mapped_file_too(corpus, tmp_path):
    save(tmp_path / "x.corpus", corpus, {})
    assert corpus.vocabulary is not None
    mapped = load(tmp_path / "x.corpus")[0].with_vocabulary(corpus.vocabulary)
    stream = BatchStream(mapped, order_of(corpus))
    check_same([next(stream) for _ in range(9)], plain(corpus, order_of(corpus), 9))
    stream.close()


@pytest.mark.parametrize("n_taken", [0, 1, 6, 7, 12])
def test_the_state_is_that_of_the_batches_taken(corpus, n_taken):
    stream = BatchStream(corpus, order_of(corpus), ahead=5)
    for _ in range(n_taken):
        next(stream)
    time.sleep(0.02)  # the thread is far ahead now
    state = json.loads(json.dumps(stream.order.state_dict()))
    stream.close()
    assert stream.order.state_dict() == state

    order = order_of(corpus)
    order.load_state_dict(state)
    expected = plain(corpus, order_of(corpus), n_taken + 9)[n_taken:]
    check_same([next(stream) for _ in range(9)], expected)  # after close
    again = BatchStream(corpus, order)
    check_same([next(again) for _ in range(9)], expected)
    for one in (stream, again):
        one.close()


def test_a_state_that_is_loaded_in_the_middle_counts(corpus):
    stream = BatchStream(corpus, order_of(corpus))
    start = stream.order.state_dict()
    expected = plain(corpus, order_of(corpus), 4)
    check_same([next(stream) for _ in range(4)], expected)
    stream.order.load_state_dict(start)
    check_same([next(stream) for _ in range(4)], expected)
    assert stream.order.next_indices().tolist() == order_of(corpus).epoch_batches(0)[4].tolist()
    check_same([next(stream)], plain(corpus, order_of(corpus), 6)[5:])
    stream.close()


def test_an_error_of_the_thread_comes_when_its_batch_is_asked_for(corpus, monkeypatch):
    stream = BatchStream(corpus, order_of(corpus))
    expected = plain(corpus, order_of(corpus), 4)
    sizes = []
    build = Corpus.batch

    def breaks_once(self, indices):
        sizes.append(len(indices))
        if len(sizes) == 3:
            raise ValueError("the third batch cannot be built")
        return build(self, indices)

    with monkeypatch.context() as patch:
        patch.setattr(Corpus, "batch", breaks_once)
        check_same([next(stream), next(stream)], expected[:2])
        with pytest.raises(ValueError, match="the third batch cannot be built") as caught:
            next(stream)
        assert "breaks_once" in [entry.name for entry in caught.traceback]
        check_same([next(stream), next(stream)], expected[2:])
    stream.close()


@pytest.mark.parametrize("when", ["handed over", "copied"])
def test_a_batch_that_an_interrupt_lost_comes_again(corpus, monkeypatch, when):
    stream = BatchStream(corpus, order_of(corpus), device="meta" if when == "copied" else "cpu")
    expected = plain(corpus, order_of(corpus), 4)
    next(stream)
    place = stream.order.state_dict()
    owner, name = (Prefetcher, "__next__") if when == "handed over" else (Batch, "to")
    works = getattr(owner, name)

    def is_interrupted(*arguments):
        works(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, is_interrupted)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                next(stream)
            assert stream.order.state_dict() == place
    stream.device = torch.device("cpu")
    check_same([next(stream) for _ in range(3)], expected[1:])
    stream.close()


def test_a_corpus_without_a_vocabulary_is_refused_by_the_first_batch(corpus):
    bare = Corpus(corpus.arrays, corpus.names)
    stream = BatchStream(bare, order_of(corpus))
    with pytest.raises(ValueError, match="has no vocabulary yet"):
        next(stream)


@pytest.mark.parametrize("how", ["close", "forget"])
def test_no_thread_is_left(corpus, how):
    before = threading.active_count()
    stream = BatchStream(corpus, order_of(corpus))
    assert threading.active_count() == before  # the first batch starts it
    next(stream)
    assert threading.active_count() == before + 1
    if how == "close":
        stream.close()
    del stream
    gc.collect()
    assert threading.active_count() == before


def test_what_goes_to_a_device_is_repeated_there(corpus):
    stream = BatchStream(corpus, order_of(corpus), repeats=3, device="meta")  # which has shapes only
    for expected in plain(corpus, order_of(corpus), 9, 3):
        batch = next(stream)
        for field, other in zip(batch, expected, strict=True):
            assert (field.device.type, field.shape, field.dtype) == ("meta", other.shape, other.dtype)
    stream.close()


@pytest.mark.gpu
def test_on_a_gpu_batches_are_the_same(corpus):
    stream = BatchStream(corpus, order_of(corpus), repeats=2, device="cuda")
    taken = [next(stream) for _ in range(9)]
    assert all(field.device.type == "cuda" for batch in taken for field in batch)
    check_same([batch.to("cpu") for batch in taken], plain(corpus, order_of(corpus), 9, 2))
    stream.close()
