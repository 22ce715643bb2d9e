"""The batches that training takes, ready before it asks for them."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator

import torch

from rlparse.corpora.batching import Batch, BatchOrder
from rlparse.corpora.corpus import Corpus
from rlparse.corpora.prefetch import Prefetcher


class BatchStream(Iterator[Batch]):
    """Endless batches of a corpus, in an order, built ahead of their use by a thread.

    ``next(stream)`` gives what ``corpus.batch(order.next_indices()).to(device).repeat(repeats)`` would give, and
    moves ``order`` on as that would: the order stands where the batches that were *taken* end, whatever was
    built ahead, so that its ``state_dict`` is what continuing needs. Moving it by hand (``load_state_dict``)
    is noticed, and the batches come from there. A batch whose ``next`` raised, for whatever reason, was not taken:
    it comes again.

    The thread starts with the first batch and ends at ``close``, as described at `Prefetcher`; a batch taken
    after that starts another one. It touches no device: what is copied is copied by who takes the batch, in one
    asynchronous copy from pinned memory.

    Args:
        corpus: Bound to a vocabulary.
        order: Of the corpus's examples.
        repeats: K, copies of every example.
        device: Where the batches are wanted.
        ahead: Batches to have ready at most.

    Attributes:
        order: Where the batches taken so far end.
        seconds_waited: What the last ``next`` took: waiting, and starting the copy to the device.
    """

    def __init__(
        self,
        corpus: Corpus,
        order: BatchOrder,
        *,
        repeats: int = 1,
        device: torch.device | str = "cpu",
        ahead: int = 16,
    ) -> None:
        self.corpus = corpus
        self.order = order
        self.repeats = repeats
        self.device = torch.device(device)
        self.ahead = ahead
        self.seconds_waited = 0.0
        self._source: Prefetcher[tuple[Batch, int, int]] | None = None
        self._taken: tuple[int, int] | None = None

    def __next__(self) -> Batch:
        """Take the next batch.

        Raises:
            ValueError: As `Corpus.batch` and `Batch.repeat`; the order stays where it was.
        """
        start = time.perf_counter()
        if self._source is None or self._taken != (self.order.epoch, self.order.position):
            self.close()
            repeats = 1 if self._copies else self.repeats
            batches = _batches(self.corpus, copy.copy(self.order), repeats)
            self._source = Prefetcher(batches, ahead=self.ahead)
        self._taken = None  # whatever raises from here on, an interrupt too, makes the next call begin anew
        batch, *taken = next(self._source)
        if self._copies:
            batch = batch.to(self.device).repeat(self.repeats)
        self.seconds_waited = time.perf_counter() - start
        self.order.move_to(*taken)
        self._taken = (self.order.epoch, self.order.position)
        return batch

    @property
    def _copies(self) -> bool:
        """Whether batches go to a device, where they are repeated: that is less to copy."""
        return self.device.type != "cpu"

    def close(self) -> None:
        """Stop the thread and forget what it has built ahead; the order is not moved."""
        if self._source is not None:
            self._source.close()
            self._source = None


def _batches(corpus: Corpus, order: BatchOrder, repeats: int) -> Iterator[tuple[Batch, int, int]]:
    """Build endless batches, each with the place where the order stands after it; no stream is held here."""
    while True:
        batch = corpus.batch(order.next_indices()).repeat(repeats)
        yield batch, order.epoch, order.position
