"""Parses that are made one decision at a time: what beam search needs of a policy, whatever its decisions are."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from rlparse.corpora.batching import Batch
from rlparse_agents.distribution import MaskedDistribution


class PartialParses(Protocol):
    """Unfinished parses of R rows, which all have made the same number of decisions, or are finished.

    Without gradient.
    """

    def distribution(self) -> MaskedDistribution:
        """Give what the policy thinks of every row's next decision, at its temperature: over [R] states."""

    def take(self, actions: Tensor) -> None:
        """Carry out one decision in every row.

        Args:
            actions: [R] int64. Legal ones; A, one past the last action, leaves a row as it is for good.
        """

    def select(self, rows: Tensor) -> None:
        """Go on with some of the rows, as often as they are named.

        Args:
            rows: [R'] int64. Row i is from now on a copy of what is row ``rows[i]``.
        """

    def transitions(self) -> Tensor:
        """Give the derivations of rows that are finished: [R, T] int64; anything in those that are not."""


@runtime_checkable
class IncrementalPolicy(Protocol):
    """A policy that can parse one decision at a time."""

    def incremental(self, batch: Batch) -> PartialParses:
        """Begin to parse a batch.

        Args:
            batch: Of R rows.
        """
