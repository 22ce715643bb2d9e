"""The order of batches is complete, repeatable, resumable, and pads little."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from rlparse.corpora.batching import Batch, BatchOrder, pack, padding_share, sequential_batches, unpack
from rlparse.errors import CheckpointError


@pytest.fixture
def lengths() -> np.ndarray:
    """Premises of about 14 and hypotheses of about 8 tokens, as in SNLI."""
    rng = np.random.default_rng(0)
    return np.stack([1 + rng.negative_binomial(6, 0.31, 5000), 1 + rng.poisson(7, 5000)], axis=1)


def one_epoch(order: BatchOrder) -> list[list[int]]:
    return [order.next_indices().tolist() for _ in range(order.batches_per_epoch)]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(("n", "batch_size"), [(1, 4), (7, 7), (50, 7), (5000, 128)])
def test_an_epoch_visits_every_example_once(lengths, n, batch_size, shuffle):
    order = BatchOrder(lengths[:n], batch_size, seed=1, shuffle=shuffle)
    for epoch in range(2):
        assert (order.epoch, order.position) == (epoch, 0)
        batches = one_epoch(order)
        assert sorted(i for batch in batches for i in batch) == list(range(n))
        sizes = sorted(map(len, batches))
        assert set(sizes[1:]) <= {batch_size}
        assert sizes[0] == (n - 1) % batch_size + 1


def test_one_sentence_per_example_is_sorted_by_its_length(lengths):
    order = BatchOrder(lengths[:, :1], 50, seed=1)
    batches = order.epoch_batches(0)
    assert padding_share(lengths[:, :1], batches, per_side=True) < 0.03


def test_without_shuffling_the_corpus_order_is_kept(lengths):
    order = BatchOrder(lengths[:10], 4, seed=1, shuffle=False)
    assert one_epoch(order) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_the_order_is_a_function_of_seed_and_epoch_only(lengths):
    first, second = BatchOrder(lengths, 64, seed=3), BatchOrder(lengths, 64, seed=3)
    one_epoch(second)  # being ahead changes nothing
    assert [b.tolist() for b in second.epoch_batches(0)] == one_epoch(first)
    assert one_epoch(first) == one_epoch(second)
    assert one_epoch(BatchOrder(lengths, 64, seed=3)) != one_epoch(BatchOrder(lengths, 64, seed=4))
    order = BatchOrder(lengths, 64, seed=3)
    assert one_epoch(order) != one_epoch(order)


@pytest.mark.parametrize("n_taken", [0, 1, 33, 79, 80])
def test_continues_in_mid_epoch_from_plain_numbers(lengths, n_taken):
    whole = BatchOrder(lengths, 64, seed=5)
    for _ in range(n_taken):
        whole.next_indices()
    state = json.loads(json.dumps(whole.state_dict()))
    assert all(type(value) is int for value in state.values())
    continued = BatchOrder(lengths, 64, seed=5)
    continued.next_indices()
    continued.load_state_dict(state)
    assert (continued.epoch, continued.position) == (whole.epoch, whole.position)
    for _ in range(100):
        np.testing.assert_array_equal(continued.next_indices(), whole.next_indices())


def test_lengths_are_mixed_over_the_epoch_not_sorted(lengths):
    means = [lengths[batch].mean() for batch in BatchOrder(lengths, 64, seed=0).epoch_batches(0)]
    assert abs(np.corrcoef(np.arange(len(means)), means)[0, 1]) < 0.3


def test_similar_lengths_share_a_batch(lengths):
    order = BatchOrder(lengths, 32, seed=0)
    bucketed = padding_share(lengths, order.epoch_batches(0), per_side=True)
    plain = padding_share(
        lengths, BatchOrder(lengths, 32, seed=0, shuffle=False).epoch_batches(0), per_side=True
    )
    assert bucketed < 0.15 < 0.4 < plain


def test_small_pools_mix_more_and_pad_more(lengths):
    fine, coarse = (BatchOrder(lengths, 32, seed=0, pool_batches=n).epoch_batches(0) for n in (4, 2000))
    assert padding_share(lengths, fine, per_side=True) > padding_share(lengths, coarse, per_side=True)
    assert sorted(i for batch in fine for i in batch.tolist()) == list(range(len(lengths)))


def test_padding_share_counts_positions_without_tokens():
    lengths = np.array([[4, 2], [3, 1]])
    batches = [np.array([0, 1])]
    assert padding_share(lengths, batches, per_side=True) == pytest.approx(1 - 10 / 12)
    assert padding_share(lengths, batches, per_side=False) == pytest.approx(1 - 10 / 16)


def test_padding_on_snli_is_below_15_percent(shared_snli):
    both = shared_snli.corpora.train.lengths
    for batch_size, limit in ((32, 0.05), (128, 0.08), (256, 0.12)):
        batches = BatchOrder(both, batch_size, seed=0).epoch_batches(0)
        assert padding_share(both, batches, per_side=True) < limit
        # One width for premises and hypotheses costs 22 % in batches of one example already.
        assert padding_share(both, batches, per_side=False) < 0.30
    assert 1 - both.sum() / (2 * both.max(axis=1).sum()) == pytest.approx(0.22, abs=0.005)
    evaluation = list(sequential_batches(both, 128))
    assert padding_share(both, evaluation, per_side=True) < 0.08


@pytest.mark.parametrize("n_sides", [1, 2])
def test_evaluation_takes_every_example_once_by_length(lengths, n_sides):
    own = lengths[:500, :n_sides]
    batches = list(sequential_batches(own, 32))
    assert sorted(i for batch in batches for i in batch.tolist()) == list(range(500))
    assert [b.tolist() for b in sequential_batches(own, 32)] == [b.tolist() for b in batches]
    assert padding_share(own, batches, per_side=True) < 0.2


@pytest.mark.parametrize("n_sides", [1, 2])
def test_long_sentences_come_in_smaller_batches(lengths, n_sides):
    own = lengths[:500, :n_sides]
    whole = list(sequential_batches(own, 32))
    limit = 32 * n_sides * int(np.median([own[batch].max() for batch in whole]))
    pieces = list(sequential_batches(own, 32, max_tokens=limit))
    assert np.concatenate(pieces).tolist() == np.concatenate(whole).tolist()
    assert all(own[piece].max() * own[piece].size <= limit for piece in pieces)
    small = [batch.tolist() for batch in whole if own[batch].max() * own[batch].size <= limit]
    assert 0 < len(small) < len(whole)
    assert [batch for batch in small if batch not in [piece.tolist() for piece in pieces]] == []
    alone = list(sequential_batches(own, 32, max_tokens=1))
    assert [len(piece) for piece in alone] == [1] * 500


def make_batch() -> Batch:
    """Two examples of two sides: row s * B + b has tokens 10 * s + b."""
    rows = torch.tensor([[0], [1], [10], [11]])
    return Batch(
        tokens=rows,
        lengths=torch.ones(4, dtype=torch.int64),
        labels=torch.tensor([5, 6]),
        gold=torch.zeros(4, 1, dtype=torch.int64),
        has_gold=torch.tensor([True, False, True, False]),
        indices=torch.tensor([70, 71]),
    )


def test_repeated_examples_stay_together_on_every_side():
    batch = make_batch().repeat(3)
    assert (batch.n_examples, batch.n_sides) == (6, 2)
    assert batch.tokens[:, 0].tolist() == [0, 0, 0, 1, 1, 1, 10, 10, 10, 11, 11, 11]
    assert batch.labels.tolist() == [5, 5, 5, 6, 6, 6]
    assert batch.indices.tolist() == [70, 70, 70, 71, 71, 71]
    assert batch.has_gold.tolist() == [True] * 3 + [False] * 3 + [True] * 3 + [False] * 3
    once = make_batch()
    assert once.repeat(1) is once
    with pytest.raises(ValueError, match="1 time or more, got k = 0"):
        once.repeat(0)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_thinning_keeps_one_of_every_k_examples_on_every_side(k):
    batch = make_batch()
    for field, kept in zip(batch, batch.repeat(k).thin(k), strict=True):
        assert torch.equal(kept, field)
    thin = batch.thin(k)
    kept = list(range(0, batch.n_examples, k))
    assert thin.n_sides == batch.n_sides
    assert thin.indices.tolist() == batch.indices[kept].tolist()
    for side in range(batch.n_sides):
        rows = [side * batch.n_examples + i for i in kept]
        own = slice(side * len(kept), (side + 1) * len(kept))
        assert torch.equal(thin.tokens[own], batch.tokens[rows])
        assert torch.equal(thin.lengths[own], batch.lengths[rows])


def test_nothing_is_thinned_by_nothing():
    with pytest.raises(ValueError, match="thinned by 1 or more, got k = 0"):
        make_batch().thin(0)


def test_a_batch_moves_to_a_device():
    assert all(field.device.type == "meta" for field in make_batch().to("meta"))


def test_packed_fields_are_what_they_were():
    generator = torch.Generator().manual_seed(0)
    fields = [
        torch.randint(-9, 9, (5, 3), generator=generator),
        torch.rand(7, generator=generator) < 0.5,  # 7 bytes, so that what follows has to be aligned
        torch.randn(2, 1, 4, generator=generator, dtype=torch.float64),
        torch.empty(0, 4),
        torch.randint(0, 255, (3,), generator=generator, dtype=torch.uint8),
        torch.randint(0, 9, (4, 6), generator=generator).t(),  # not contiguous
    ]
    buffer = pack(fields, pin_memory=False)
    assert buffer.dtype == torch.uint8
    assert len(buffer) == 5 * 3 * 8 + 8 + 16 + 64 + 0 + 16 + 4 * 6 * 8
    moved = buffer.clone()  # as a copy to a GPU is
    for field, found in zip(fields, unpack(moved, like=fields), strict=True):
        assert (found.dtype, found.shape) == (field.dtype, field.shape)
        assert torch.equal(found, field)


@pytest.mark.gpu
def test_a_batch_goes_to_a_gpu_and_back():
    tokens = torch.tensor([[4, 5, 6], [7, 8, 0]])
    batch = Batch(
        tokens,
        torch.tensor([3, 2]),
        torch.tensor([1, 0]),
        torch.tensor([[0, 0, 1, 0, 1], [0, 0, 1, 2, 2]]),
        torch.tensor([True, False]),
        torch.tensor([9, 8]),
    )
    there = batch.to("cuda")
    for field, moved, back in zip(batch, there, there.to("cpu"), strict=True):
        assert moved.is_cuda
        assert (moved.dtype, moved.shape) == (field.dtype, field.shape)
        assert torch.equal(back, field)
    assert all(field is moved for field, moved in zip(there, there.to("cuda"), strict=True))


def test_an_order_goes_to_any_batch(lengths):
    order = BatchOrder(lengths, 64, seed=1)
    whole = [*order.epoch_batches(0), *order.epoch_batches(1)]
    for epoch, position in ((0, 3), (0, 0), (1, 78), (0, 5), (1, 0)):
        order.move_to(epoch, position)
        assert order.next_indices().tolist() == whole[79 * epoch + position].tolist()
    for epoch, position in ((-1, 0), (0, -1), (0, 79)):
        with pytest.raises(ValueError, match=f"batches 0 to 78, asked for batch {position} of epoch {epoch}"):
            order.move_to(epoch, position)


def test_bad_arguments_are_refused(lengths):
    with pytest.raises(ValueError, match=r"\[n, S\] with n >= 1 examples, got shape \(0, 2\)"):
        BatchOrder(lengths[:0], 4, seed=0)
    with pytest.raises(ValueError, match=r"got shape \(5000,\)"):
        BatchOrder(lengths[:, 0], 4, seed=0)
    with pytest.raises(ValueError, match="batch_size and pool_batches must be at least 1, got 0 and"):
        BatchOrder(lengths, 0, seed=0)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        sequential_batches(lengths, 0)
    with pytest.raises(ValueError, match="max_tokens must be at least 1, or None for no limit, got 0"):
        sequential_batches(lengths, 8, max_tokens=0)


def test_a_state_of_another_order_is_refused(lengths):
    order = BatchOrder(lengths, 64, seed=1)
    other = BatchOrder(lengths[:100], 64, seed=2).state_dict()
    with pytest.raises(CheckpointError, match=r"seed here 1, stored 2.*n_examples here 5000, stored 100"):
        order.load_state_dict(other)
    with pytest.raises(CheckpointError, match=r"the state of a batch order has .*found .'epoch'"):
        order.load_state_dict({"epoch": 1})
    with pytest.raises(CheckpointError, match="at epoch 0, batch 79; an epoch has batches 0 to 78"):
        order.load_state_dict(order.state_dict() | {"position": 79})
