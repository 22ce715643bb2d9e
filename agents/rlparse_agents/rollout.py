"""Parses of a whole batch, and what judging them needs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rlparse import lockstep
from rlparse.batched_trees import shuffled_trees
from rlparse.lockstep import REDUCE, SHIFT, Trace


class Seen(NamedTuple):
    """What a tracker reads before every step, without repeating vectors that are read more than once.

    Attributes:
        vectors: [V, D] float.
        slots: [R, T, 3] int64. Which of them are the next token, the stack's top and the second beneath it.
    """

    vectors: Tensor
    slots: Tensor


class Rollout(NamedTuple):
    """Parses of a batch and what judging them needs, however often a policy is updated from them.

    Attributes:
        tokens: [R, N] int64. The sentences.
        transitions: [R, T] int64. Their derivations.
        trace: The same, replayed.
        log_probs: [R, M] float. Of each decision under the policy that sampled it, 0 where it was forced and after
            the end; None for derivations that came from elsewhere.
        seen: What the policy read, without gradient; None where it reads vectors of its own, which every update moves.
        actions: [R, M] int64. The decisions, for a policy whose decisions are not transitions; else None.
    """

    tokens: Tensor
    transitions: Tensor
    trace: Trace
    log_probs: Tensor | None = None
    seen: Seen | None = None
    actions: Tensor | None = None

    @property
    def decisions(self) -> Tensor:
        """[R, M] int64. What the policy chose: its actions, or the transitions."""
        return self.transitions if self.actions is None else self.actions

    @classmethod
    def of(cls, tokens: Tensor, lengths: Tensor, transitions: Tensor) -> Rollout:
        """Take derivations that came from elsewhere: gold, a file, an enumeration.

        Args:
            tokens: [R, N] int64.
            lengths: [R] int64.
            transitions: [R, T] int.
        """
        return cls(tokens, transitions, lockstep.trace(transitions, lengths))


def parser_sizes(transitions: Tensor) -> tuple[Tensor, Tensor]:
    """Count before every step of complete derivations the tokens shifted and the items on the stack.

    Args:
        transitions: [R, T] int64, PAD after the end.

    Returns:
        [R, T] int64 each; after the end, all tokens and the one item that is left.
    """
    shifts, reduces = (transitions == SHIFT).long(), (transitions == REDUCE).long()
    shifted = shifts.cumsum(1) - shifts
    return shifted, shifted - (reduces.cumsum(1) - reduces)


def longest_first(lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Give the order that sorts rows by falling length, and the order that undoes it: each [R] int64."""
    order = torch.argsort(lengths, descending=True, stable=True)
    return order, torch.argsort(order)


def uniform_trees(lengths: Tensor, n_tokens: int, generator: torch.Generator | None = None) -> Tensor:
    """Sample one binary tree a row, every tree over its tokens equally likely.

    Args:
        lengths: [R] int64, in any order.
        n_tokens: Padded length N.
        generator: Source of randomness.

    Returns:
        [R, T] int64 derivations.
    """
    keys = torch.randint(
        torch.iinfo(torch.int64).max,
        (len(lengths), 2 * n_tokens - 1),
        generator=generator,
        device=lengths.device,
    )
    return shuffled_trees(keys, lengths)
