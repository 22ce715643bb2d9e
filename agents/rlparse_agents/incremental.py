"""Parses that are made one decision at a time: what beam search needs of a policy, whatever its decisions are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from rlparse import PAD, lockstep
from rlparse.corpora.batching import Batch
from rlparse.lockstep import LockstepState
from rlparse_agents.catalan_prior import with_catalan_prior
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


class ShiftReduceParses(ABC):
    """Partial parses whose decisions are transitions: the parser and the prior, for policies to add what they look at.

    Args:
        lengths: [R] int64.
        n_tokens: Padded length N.
        temperature: Divides the logits.
        catalan_prior: Add `lockstep.catalan_logits` to them.

    Attributes:
        parser: Where every row stands.
        vectors: What the policy keeps of every row, one tensor for each kind of thing, rows first.
    """

    def __init__(
        self,
        lengths: Tensor,
        n_tokens: int,
        vectors: dict[str, Tensor],
        *,
        temperature: float,
        catalan_prior: bool,
    ) -> None:
        self.parser = lockstep.init(lengths, n_tokens)
        self.vectors = vectors
        self._temperature = temperature
        self._catalan_prior = catalan_prior
        shape = len(lengths), 2 * n_tokens - 1
        self._history = torch.full(shape, PAD, dtype=torch.int64, device=lengths.device)

    @abstractmethod
    def logits(self) -> Tensor:
        """Give the logits of now without prior and temperature: [R, A] float."""

    @abstractmethod
    def follow(self, actions: Tensor, before: LockstepState) -> None:
        """Bring ``vectors`` in line with a parser that has moved.

        Args:
            actions: [R] int64 that were taken; PAD in rows that stay as they are.
            before: Where the parser stood.
        """

    @torch.no_grad()
    def distribution(self) -> MaskedDistribution:
        """See `PartialParses.distribution`."""
        logits, parser = self.logits(), self.parser
        if self._catalan_prior:
            logits = with_catalan_prior(logits, parser.stack_sizes, parser.lengths - parser.buffer_front)
        return MaskedDistribution(logits / self._temperature, lockstep.legal(parser))

    @torch.no_grad()
    def take(self, actions: Tensor) -> None:
        """See `PartialParses.take`.

        Raises:
            IllegalTransitionError: A row's transition is not legal.
        """
        before = self.parser
        self.parser = lockstep.apply(before, actions)
        step = (2 * before.buffer_front - before.stack_sizes).clamp_max(self._history.shape[1] - 1)
        # A row that stays had nothing there, or it is finished and keeps its last transition.
        kept = self._history.gather(1, step.unsqueeze(1)).squeeze(1)
        taken = torch.where(actions == PAD, kept, actions)
        self._history.scatter_(1, step.unsqueeze(1), taken.unsqueeze(1))
        self.follow(actions, before)

    def select(self, rows: Tensor) -> None:
        """See `PartialParses.select`."""
        self.parser = LockstepState(*(field.index_select(0, rows) for field in self.parser))
        self._history = self._history.index_select(0, rows)
        self.vectors = {name: tensor.index_select(0, rows) for name, tensor in self.vectors.items()}

    def transitions(self) -> Tensor:
        """See `PartialParses.transitions`."""
        return self._history.clone()
