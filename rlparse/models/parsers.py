"""Pointers of many parsers whose transitions are being chosen: what a tracker sees next, and what REDUCE joins."""

from __future__ import annotations

import torch
from torch import Tensor

from rlparse.compiled import Kernels, replay_kernels
from rlparse.lockstep import REDUCE


class Parsers:
    """The pointers of parsers that are being told what to do; rows are sorted by length, longest first.

    Every step puts one item on the stack, so that items are numbered by the step before which they came: the top of
    the stack before step t is item t, and what lies beneath an item stays the same while it is there.

    Args:
        lengths: [R] int64.
        tokens: [L] int64. Table row of every token, sentence by sentence.
        active: Rows that run at each step.
        nothing: Table row of the zeros.

    Attributes:
        fronts: [a] int64. Table row at each buffer's front, for the rows that take the next step.
        tops: [2 a] int64. Those of each stack's top and second.
        stack_sizes: [a] int64.
        buffer_sizes: [a] int64.
    """

    def __init__(self, lengths: Tensor, tokens: Tensor, active: list[int], nothing: int) -> None:
        rows = len(lengths)
        self.active, self.nothing, self.lengths, self.tokens = [*active, 0], nothing, lengths, tokens
        self.first = lengths.cumsum(0) - lengths
        self.items = lengths.new_full((len(active) + 1, rows), nothing)  # their table rows
        self.beneath = lengths.new_zeros(len(active) + 1, rows)  # number of the item under each
        self.shifted = lengths.new_zeros(rows)
        self.step = 0
        self.kernels = replay_kernels() if lengths.device.type == "cpu" else None
        self.fronts, self.tops = tokens[self.first], lengths.new_full((2 * rows,), nothing)
        self.stack_sizes, self.buffer_sizes = lengths.new_zeros(rows), lengths.clone()

    def take(self, actions: Tensor, node: int) -> tuple[Tensor, Tensor]:
        """Take a step.

        Args:
            actions: [a] int64.
            node: Table row of the next node.

        Returns:
            The rows that REDUCE, [m] int64, and the table rows of their nodes' children, [2 m] int64.
        """
        t, running, following = self.step, *self.active[self.step : self.step + 2]
        self.step += 1
        if self.kernels is not None:
            return self._take_compiled(self.kernels, t, actions, node, running, following)
        top, below, done = self.items[t, :running], self.beneath[t, :running], self.shifted[:running]
        reduces = actions == REDUCE
        rows = reduces.nonzero().squeeze(1)
        pairs = self.tops.view(running, 2).flip(1).index_select(0, rows).flatten()
        made = torch.arange(node, node + len(rows), device=rows.device)
        self.items[t + 1, :running] = self._front(done).index_copy_(0, rows, made)
        under = self.beneath[:, :running].gather(0, below.unsqueeze(0)).squeeze(0)
        self.beneath[t + 1, :running] = torch.where(reduces, under, t)
        done += ~reduces
        done, top, below = (
            self.shifted[:following],
            self.items[t + 1, :following],
            self.beneath[t + 1, :following],
        )
        second = self.items[:, :following].gather(0, below.unsqueeze(0)).squeeze(0)
        self.fronts, self.tops = self._front(done), torch.stack((top, second), dim=1).flatten()
        self.stack_sizes, self.buffer_sizes = 2 * done - (t + 1), self.lengths[:following] - done
        return rows, pairs

    def _take_compiled(
        self, kernels: Kernels, t: int, actions: Tensor, node: int, running: int, following: int
    ) -> tuple[Tensor, Tensor]:
        rows, pairs = self.lengths.new_empty(running), self.lengths.new_empty(2 * running)
        fronts, tops, stacks, buffers = (self.lengths.new_empty(k * following) for k in (1, 2, 1, 1))
        done = kernels.take_step(
            running,
            following,
            t,
            node,
            self.nothing,
            actions.long().contiguous(),
            self.lengths,
            self.first,
            self.tokens,
            self.items,
            self.beneath,
            self.shifted,
            rows,
            pairs,
            fronts,
            tops,
            stacks,
            buffers,
        )
        self.fronts, self.tops, self.stack_sizes, self.buffer_sizes = fronts, tops, stacks, buffers
        return rows[:done], pairs[: 2 * done]

    def _front(self, done: Tensor) -> Tensor:
        """Give the table row of the next token, for rows that shifted so many: [a] int64."""
        left = done < self.lengths[: len(done)]
        upcoming = (self.first[: len(done)] + done).clamp_max(len(self.tokens) - 1)
        return torch.where(left, self.tokens.index_select(0, upcoming), self.nothing)
