"""Play the parsing game for a whole batch in lockstep, without gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from rlparse import PAD, lockstep
from rlparse.lockstep import REDUCE, SHIFT, LockstepState, Trace
from rlparse_agents.distribution import MaskedDistribution

Chooser = Callable[[LockstepState, Tensor], Tensor]
"""Choose transitions: (state of the first a rows, their legal transitions [a, A]) to [a] int64."""


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


@torch.no_grad()
def roll_out(lengths: Tensor, n_tokens: int, choose: Chooser) -> Tensor:
    """Let ``choose`` parse every sentence to its end.

    Args:
        lengths: [R] int64, longest first, so that the rows still running are always the first ones.
        n_tokens: Padded length N.
        choose: Called once a step with the rows still running.

    Returns:
        [R, T] int64. Complete derivations, PAD after the end.

    Raises:
        ValueError: ``lengths`` are not sorted.
    """
    if bool((lengths[1:] > lengths[:-1]).any()):
        raise ValueError("lengths must be sorted, longest first")
    n_steps = 2 * n_tokens - 1
    transitions = torch.full((lengths.shape[0], n_steps), PAD, dtype=torch.int64, device=lengths.device)
    state = lockstep.init(lengths, n_tokens)
    running = (2 * lengths - 1 > torch.arange(n_steps, device=lengths.device).unsqueeze(1)).sum(1).tolist()
    for t, active in enumerate(running):
        if not active:
            break
        view = LockstepState(*(field[:active] for field in state))
        actions = choose(view, lockstep.legal(view))
        lockstep.apply_(view, actions)
        transitions[:active, t] = actions
    return transitions


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

    def choose(state: LockstepState, legal: Tensor) -> Tensor:
        odds = lockstep.catalan_logits(state.stack_sizes, state.lengths - state.buffer_front)
        logits = torch.stack((torch.zeros_like(odds), odds), dim=1)
        return MaskedDistribution(logits, legal).sample(generator)

    order, back = longest_first(lengths)
    return roll_out(lengths[order], n_tokens, choose)[back]
