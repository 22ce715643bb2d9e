"""Batches of examples, and the order in which they come: by length, seeded, resumable."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rlparse.errors import CheckpointError

IntArray = npt.NDArray[np.int64]

POOL_BATCHES = 2000
"""Batches whose examples `BatchOrder` sorts by length together, unless it is told otherwise."""


class Batch(NamedTuple):
    """Padded examples as tensors, in R = S * B rows: row ``s * B + b`` is sentence s of example b.

    Attributes:
        tokens: [R, N] int64. Vocabulary indices, 0 is padding.
        lengths: [R] int64. Tokens per row, at least 1.
        labels: [B] int64. Class of every example.
        gold: [R, T] int64. Gold transitions, PAD after the end; all PAD where the row has no gold parse.
        has_gold: [R] bool. True where the row has a gold parse.
        indices: [B] int64. Position of every example in the corpus that made the batch.
    """

    tokens: Tensor
    lengths: Tensor
    labels: Tensor
    gold: Tensor
    has_gold: Tensor
    indices: Tensor

    @property
    def n_examples(self) -> int:
        """B, the number of examples."""
        return self.labels.shape[0]

    @property
    def n_sides(self) -> int:
        """S, the number of sentences of each example."""
        return self.tokens.shape[0] // self.labels.shape[0]

    def repeat(self, k: int) -> Batch:
        """Copy every example k times: example b's copies are ``b * k .. b * k + k - 1``, on every side.

        Raises:
            ValueError: k < 1.
        """
        if k < 1:
            raise ValueError(f"a batch can be repeated 1 time or more, got k = {k}")
        if k == 1:
            return self
        return Batch(*(field.repeat_interleave(k, dim=0) for field in self))

    def thin(self, k: int) -> Batch:
        """Keep the first of every k examples, on every side: the inverse of `repeat`.

        Raises:
            ValueError: k < 1.
        """
        if k < 1:
            raise ValueError(f"a batch can be thinned by 1 or more, got k = {k}")
        if k == 1:
            return self
        n = self.n_examples
        return Batch(*(field.unflatten(0, (len(field) // n, n))[:, ::k].flatten(0, 1) for field in self))

    def to(self, device: torch.device | str) -> Batch:
        """Copy to ``device`` what is not there yet; to a GPU in one piece, without waiting for it.

        A copy is asynchronous only from pinned memory, so all fields go through one buffer of that. On the
        GPU they are views of one tensor.
        """
        device = torch.device(device)
        if device.type != "cuda" or self.tokens.device.type != "cpu":
            return Batch(*(field.to(device, non_blocking=True) for field in self))
        packed = pack(self, pin_memory=True)
        return Batch(*unpack(packed.to(device, non_blocking=True), like=self))


_ALIGNMENT = 16
"""Bytes; enough for a field of any type to start at."""


def pack(fields: Sequence[Tensor], *, pin_memory: bool) -> Tensor:
    """Put the bytes of several tensors, all in main memory, one after the other into a buffer.

    Args:
        fields: Of any shapes and types.
        pin_memory: Make the buffer one that a GPU can read by itself.

    Returns:
        [bytes] uint8. Each field starts at a multiple of 16.
    """
    size = sum(_extent(field) for field in fields)
    buffer = torch.empty(size, dtype=torch.uint8, pin_memory=pin_memory)
    for place, field in zip(unpack(buffer, like=fields), fields, strict=True):
        place.copy_(field)
    return buffer


def unpack(buffer: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """View the fields in a buffer that `pack` has made of tensors with the shapes and types of ``like``."""
    views, start = [], 0
    for field in like:
        end = start + field.numel() * field.element_size()
        views.append(buffer[start:end].view(field.dtype).view(field.shape))
        start += _extent(field)
    return views


def _extent(field: Tensor) -> int:
    """Bytes from the start of a field to the start of the next one."""
    return math.ceil(field.numel() * field.element_size() / _ALIGNMENT) * _ALIGNMENT


class BatchOrder:
    """Endless batches of example indices, in an order that depends on (seed, epoch) only.

    Each epoch visits every example once. The examples are shuffled and cut into equal pools. Inside a pool
    they are sorted by the length of their longest sentence into strips, and inside a strip by the other
    sentence, so that the sentences of a batch are of nearly equal length on every side; then all batches of
    the epoch are shuffled. One batch, anywhere in the epoch, holds the rest and can be smaller than
    ``batch_size``.

    On SNLI in batches of 128, 6 % of the positions are padding when every side is padded to its own longest
    sentence, which is what an encoder computes that skips rows without tokens. In one [R, N] tensor for both
    sides no order can get below 22 %, because premises are longer than their hypotheses; this one gives 25 %.

    Args:
        lengths: [n, S] int. Tokens of every sentence, as ``Corpus.lengths``.
        batch_size: Examples per batch.
        seed: Of the order.
        shuffle: False takes the examples in their corpus order, without sorting.
        pool_batches: At most so many batches per pool. Larger pools pad less, smaller ones mix lengths more.

    Attributes:
        epoch: Epochs completed so far.
        position: Batches already given in the current epoch, below ``batches_per_epoch``.

    Raises:
        ValueError: No examples, or ``batch_size`` or ``pool_batches`` < 1.
    """

    def __init__(
        self,
        lengths: npt.NDArray[np.integer],
        batch_size: int,
        *,
        seed: int,
        shuffle: bool = True,
        pool_batches: int = POOL_BATCHES,
    ) -> None:
        if lengths.ndim != 2 or len(lengths) == 0:
            raise ValueError(f"lengths must be [n, S] with n >= 1 examples, got shape {lengths.shape}")
        if batch_size < 1 or pool_batches < 1:
            raise ValueError(
                f"batch_size and pool_batches must be at least 1, got {batch_size} and {pool_batches}"
            )
        self._lengths = np.ascontiguousarray(lengths, dtype=np.int64)
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.pool_batches = pool_batches
        self.batches_per_epoch = math.ceil(len(lengths) / batch_size)
        self.epoch = 0
        self.position = 0
        self._batches: list[IntArray] | None = None

    def next_indices(self) -> IntArray:
        """Indices of the next batch, [<= batch_size] int64."""
        if self._batches is None:
            self._batches = self.epoch_batches(self.epoch)
        batch = self._batches[self.position]
        self.position += 1
        if self.position == self.batches_per_epoch:
            self.epoch, self.position, self._batches = self.epoch + 1, 0, None
        return batch

    def epoch_batches(self, epoch: int) -> list[IntArray]:
        """All batches of one epoch, without moving the order on."""
        n = len(self._lengths)
        if not self.shuffle:
            return _cut(np.arange(n), self.batch_size)
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(n)
        n_pools = math.ceil(self.batches_per_epoch / self.pool_batches)
        pool = math.ceil(self.batches_per_epoch / n_pools) * self.batch_size
        pools = [
            _by_length(self._lengths, order[start : start + pool], self.batch_size)
            for start in range(0, n, pool)
        ]
        batches = _cut(np.concatenate(pools), self.batch_size)
        return [batches[i] for i in rng.permutation(len(batches))]

    def state_dict(self) -> dict[str, int]:
        """Where the order is, as plain integers."""
        return {
            "seed": self.seed,
            "epoch": self.epoch,
            "position": self.position,
            "batch_size": self.batch_size,
            "n_examples": len(self._lengths),
            "shuffle": int(self.shuffle),
            "pool_batches": self.pool_batches,
        }

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue where another order of the same examples, batch size and seed stood.

        Raises:
            CheckpointError: The state belongs to another order.
        """
        own = self.state_dict()
        if set(state) != set(own):
            raise CheckpointError(f"the state of a batch order has {sorted(own)}, found {sorted(state)}")
        differing = {
            key: (own[key], state[key])
            for key in own
            if key not in ("epoch", "position") and own[key] != state[key]
        }
        if differing:
            described = ", ".join(
                f"{key} here {here}, stored {stored}" for key, (here, stored) in differing.items()
            )
            raise CheckpointError(
                f"the stored batch order belongs to other data or another configuration: {described}"
            )
        if not (state["epoch"] >= 0 and 0 <= state["position"] < self.batches_per_epoch):
            raise CheckpointError(
                f"the stored batch order is at epoch {state['epoch']}, batch {state['position']}; "
                f"an epoch has batches 0 to {self.batches_per_epoch - 1}"
            )
        self.move_to(state["epoch"], state["position"])

    def move_to(self, epoch: int, position: int) -> None:
        """Go to a batch of an epoch.

        Raises:
            ValueError: There is no such batch.
        """
        if epoch < 0 or not 0 <= position < self.batches_per_epoch:
            raise ValueError(
                f"an epoch has batches 0 to {self.batches_per_epoch - 1}, asked for batch {position} of epoch {epoch}"
            )
        if epoch != self.epoch:
            self._batches = None
        self.epoch, self.position = epoch, position


def sequential_batches(
    lengths: npt.NDArray[np.integer], batch_size: int, *, max_tokens: int | None = None
) -> Iterator[IntArray]:
    """Every example once, sorted by length, for evaluation; the order depends on the lengths only.

    Args:
        lengths: [n, S] int. Tokens of every sentence.
        batch_size: Examples per batch.
        max_tokens: Cut batches of long sentences further, so that their padded size R * N is not above this; a single
            example that is larger makes a batch. None does not look.

    Raises:
        ValueError: ``batch_size`` or ``max_tokens`` < 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if max_tokens is not None and max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, or None for no limit, got {max_tokens}")
    lengths = np.asarray(lengths)
    batches = _cut(_by_length(lengths, np.arange(len(lengths)), batch_size), batch_size)
    if max_tokens is None:
        return iter(batches)
    return (
        piece
        for batch in batches
        for piece in _cut(batch, max(1, max_tokens // int(lengths[batch].max() * lengths.shape[1])))
    )


def padding_share(lengths: npt.NDArray[np.integer], batches: list[IntArray], *, per_side: bool) -> float:
    """Share of padding among the token positions of batches.

    Args:
        lengths: [n, S] int. Tokens of every sentence.
        batches: Indices of each batch.
        per_side: Pad every side to its own longest sentence, else all sides to the longest of both.
    """
    real = padded = 0
    for batch in batches:
        own = lengths[batch]
        real += int(own.sum())
        padded += int(own.max(axis=0).sum() if per_side else own.max() * own.shape[1]) * len(own)
    return 1.0 - real / padded


def _cut(order: IntArray, batch_size: int) -> list[IntArray]:
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def _by_length(lengths: npt.NDArray[np.integer], members: IntArray, batch_size: int) -> IntArray:
    """Sort ``members`` so that batches hold similar lengths on every side; ties keep their order."""
    if lengths.shape[1] == 1 or len(members) <= batch_size:
        return members[np.argsort(lengths[members].max(axis=1), kind="stable")]
    members = members[np.argsort(lengths[members].max(axis=1), kind="stable")]
    n_batches = math.ceil(len(members) / batch_size)
    n_strips = max(1, round(1.5 * math.sqrt(n_batches)))
    strip = math.ceil(n_batches / n_strips) * batch_size
    strips = []
    for number, start in enumerate(range(0, len(members), strip)):
        part = members[start : start + strip]
        key = lengths[part, 1:].sum(axis=1)
        # Every other strip runs from long to short, so that lengths do not jump between strips.
        strips.append(part[np.argsort(-key if number % 2 else key, kind="stable")])
    return np.concatenate(strips)
