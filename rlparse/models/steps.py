"""Compose step by step, with a tracker that reads the stack before each step and feeds the composition.

The transitions are known, or are chosen on the way from what the tracker has read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlparse.compiled import row_adder
from rlparse.lockstep import Trace
from rlparse.models.cells import Cell, Children, Given, Planes, refuse_second_derivatives, without_autocast
from rlparse.models.composition import Composition
from rlparse.models.layout import Layout
from rlparse.models.parsers import Parsers
from rlparse.models.tables import give_back, room
from rlparse.models.tracker import Tracker, TrackerCell

Chooser = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Choose transitions: (tracker's hidden vectors [a, H], stack sizes [a], buffer sizes [a]) to [a] int64.

Legal are SHIFT while the buffer is not empty and REDUCE while two items are on the stack."""

Play = Callable[["_StepPass"], None]
"""Takes all steps of a pass."""


def track_and_compose(
    composition: Composition, tracker: Tracker, lengths: Tensor, n_steps: int, embeddings: Tensor, play: Play
) -> tuple[Tensor, Tensor]:
    """Give the table of hidden vectors and what the tracker's were after each step.

    Args:
        composition: With a tracker size.
        tracker: Of that size.
        lengths: [R] int64, falling.
        n_steps: T.
        embeddings: [U, E] float, of the leaves.
        play: Takes the steps: `replay` or `choosing`.

    Returns:
        [U + M + 1, D] float, whose last row is zeros, and [R, T, H] float, zeros past a row's end.
    """
    tables = _StepPass(composition, tracker, lengths, embeddings.shape[0])
    named = [{name: p for name, p in m.named_parameters() if p.requires_grad} for m in (composition, tracker)]
    names = tuple(map(tuple, named))
    table, flat = _TrackAndCompose.apply(  # type: ignore[no-untyped-call]  # torch does not annotate `apply`
        tables, play, names, torch.is_grad_enabled(), embeddings, *named[0].values(), *named[1].values()
    )
    running = torch.arange(n_steps, device=lengths.device).unsqueeze(1) < 2 * lengths - 1  # [T, R]
    places = running.flatten().nonzero().squeeze(1)
    tracked = flat.new_zeros(running.numel(), flat.shape[1]).index_copy(0, places, flat)
    return table, tracked.view(n_steps, len(lengths), -1).transpose(0, 1)


class _StepPass:
    """The tables of one forward and backward by step, with a tracker that feeds the composition.

    Rows are sorted by length, longest first, so that the rows still running are always the first ones. Nodes get
    their table rows in the order in which they are made. One row of zeros more stands for "nothing there".

    Args:
        composition: With a tracker size.
        tracker: Of that size.
        lengths: [R] int64, falling.
        n_leaves: U.
    """

    def __init__(self, composition: Composition, tracker: Tracker, lengths: Tensor, n_leaves: int) -> None:
        self.composition, self.module = composition, tracker
        self.n_leaves, self.n_nodes = n_leaves, int(lengths.sum()) - lengths.shape[0]
        longest = 2 * int(lengths[0]) - 1
        numbers = torch.arange(longest, device=lengths.device).unsqueeze(1)
        self.active: list[int] = (2 * lengths - 1 > numbers).sum(1).tolist()
        self.numbers = torch.arange(self.n_leaves + self.n_nodes, device=lengths.device)
        self.steps: list[_Step] = []
        self.made = 0
        self.filled = False

    def start(self, embeddings: Tensor) -> None:
        """Write the leaves into tables of new memory: [U + M + 1, D] each, the last row zeros."""
        D, rows = self.composition.hidden_size, self.n_leaves + self.n_nodes
        self.cell: Cell = self.composition.cell(self.n_nodes, embeddings)
        self.tracker = TrackerCell(self.module, self.active, embeddings)
        self.children = room(embeddings, self.n_nodes, 2 * D)
        # What each node's composition read of the tracker.
        self.read = embeddings.new_empty(self.n_nodes, self.module.hidden_size)
        self.planes: Planes = tuple(
            embeddings.new_empty(rows + 1, D) for _ in range(self.composition.state_multiple)
        )
        for plane in self.planes:
            plane[rows].zero_()
        self.cell.leaf(embeddings, tuple(plane[: self.n_leaves] for plane in self.planes))
        self.tracker.start(self.planes[0][: self.n_leaves])
        self.steps, self.made, self.filled = [], 0, True

    def release(self) -> None:
        """Give back all tables; those of the states may be somebody's."""
        give_back(self.children)
        self.cell.release()
        del self.children, self.read, self.cell, self.tracker, self.planes
        self.filled = False

    def look(self, fronts: Tensor, pairs: Tensor) -> Tensor:
        """Let the tracker read, and give its hidden vectors: [a, H].

        Args:
            fronts: [a] int64. Table row at each buffer's front; any that is no leaf's stands for nothing.
            pairs: [2 a] int64. Table rows of each stack's top and second.
        """
        t = len(self.steps)
        self.steps.append(
            _Step(fronts.clamp_max(self.n_leaves), pairs, *_NO_NODES, slice(self.made, self.made))
        )
        return self.tracker.step(t, self.planes[0], self.steps[t].fronts, pairs)

    def reduce(self, rows: Tensor, pairs: Tensor) -> None:
        """Compose: batch rows [m] int64 and the table rows of their nodes' children, [2 m] int64."""
        size = rows.shape[0]
        group = slice(self.made, self.made + size)
        t = len(self.steps) - 1
        self.steps[t] = self.steps[t]._replace(rows=rows, pairs=pairs, group=group)
        self.made += size
        if not size:
            return
        torch.index_select(self.tracker.views[t][-1], 0, rows, out=self.read[group])
        gathered = self.children[group].view(2 * size, self.cell.size)
        torch.index_select(self.planes[0], 0, pairs, out=gathered)
        self.cell.compose(*self._views(group, pairs), self.read[group])

    def _views(self, group: slice, pairs: Tensor) -> tuple[Children, Planes, Planes]:
        own = slice(self.n_leaves + group.start, self.n_leaves + group.stop)
        return (
            Children(self.children[group], self.planes, pairs),
            tuple(plane[own] for plane in self.planes),
            tuple(table[group] for table in self.cell.kept),
        )

    def backward(
        self, embeddings: Tensor, grad_table: Tensor | None, grad_tracked: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Give the gradients of embeddings, of the composition and of the tracker."""
        if not self.filled:  # a graph that is kept for several backwards
            steps = self.steps
            self.start(embeddings)
            for step in steps:
                self.look(step.fronts, step.tops)
                self.reduce(step.rows, step.pairs)
        self.filled = False
        try:
            return self._backward(embeddings, grad_table, grad_tracked)
        finally:
            self.release()

    def _backward(
        self, embeddings: Tensor, grad_table: Tensor | None, grad_tracked: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        planes = self.planes
        D, U = self.cell.size, self.n_leaves
        grads = tuple(torch.zeros_like(plane) for plane in planes)
        if grad_table is not None:
            grads[0].copy_(grad_table)
        grad_hidden = embeddings.new_zeros(self.active[0], self.tracker.size)
        grad_cell = torch.zeros_like(grad_hidden)
        add_rows = row_adder(embeddings)
        for t in reversed(range(len(self.steps))):
            _, tops, rows, pairs, group = self.steps[t]
            active, size = self.active[t], group.stop - group.start
            hidden = grad_hidden[:active]
            if grad_tracked is not None:
                start = self.tracker.starts[t]
                hidden.add_(grad_tracked[start : start + active])
            if size:
                children, states, kept = self._views(group, pairs)
                given = Given(grads, self.numbers[U + group.start : U + group.stop])
                to_children = tuple(torch.empty_like(children.hidden) for _ in grads)
                read = self.cell.compose_backward(
                    children, states, given, kept, to_children, self.read[group]
                )
                assert read is not None
                add_rows(hidden, rows, read)
                for grad, to_child in zip(grads, to_children, strict=True):
                    add_rows(grad, pairs, to_child.view(2 * size, D))
            to_stack = self.tracker.step_backward(t, hidden, grad_cell[:active])
            add_rows(grads[0], tops, to_stack.view(2 * active, D))
        to_leaves, of_tracker = self.tracker.finish([step.fronts for step in self.steps], planes[0][:U])
        leaves = tuple(grad[:U] for grad in grads)
        leaves[0].add_(to_leaves)
        grad_embeddings, of_leaf = self.cell.leaf_backward(
            embeddings, tuple(plane[:U] for plane in planes), leaves
        )
        return grad_embeddings, of_leaf | self.cell.weight_gradients(self.children, self.read), of_tracker


class _Step(NamedTuple):
    """What one step of the lockstep loop read and made."""

    fronts: Tensor  # [a] leaves, U for nothing
    tops: Tensor  # [2 a] table rows of top and second
    rows: Tensor  # [m] batch rows that reduce
    pairs: Tensor  # [2 m] table rows of their nodes' children
    group: slice  # which nodes they make


_NO_NODES = torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64)


class _TrackAndCompose(torch.autograd.Function):
    """By step, with a tracker that reads the stack before each step and feeds the composition.

    Rows must be sorted by length, longest first. Gives the table, [L + M + 1, D], and the tracker's hidden vectors of
    all running rows, step after step, [S, H].
    """

    @staticmethod
    def forward(
        ctx: Any,
        tables: _StepPass,
        play: Play,
        names: tuple[tuple[str, ...], tuple[str, ...]],
        recorded: bool,
        embeddings: Tensor,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor]:
        tables.start(embeddings)
        play(tables)
        planes, hidden = tables.planes, tables.tracker.hidden.clone()
        if not (recorded and any(ctx.needs_input_grad)):  # nobody will go backward
            tables.release()
        ctx.tables, ctx.names = tables, names
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(embeddings, *planes, *parameters)
        # Not the table itself, which `tables` holds: it would keep its own graph alive.
        return planes[0].detach(), hidden

    @staticmethod
    def backward(ctx: Any, grad_table: Tensor | None, grad_tracked: Tensor | None) -> tuple[Any, ...]:
        refuse_second_derivatives()
        embeddings, *_ = ctx.saved_tensors  # which raises if table or weights were changed meanwhile
        tables: _StepPass = ctx.tables
        with without_autocast(embeddings):
            grad_embeddings, of_cell, of_tracker = tables.backward(
                embeddings.detach(), grad_table, grad_tracked
            )
        in_cell, in_tracker = ctx.names
        return (
            None,
            None,
            None,
            None,
            grad_embeddings,
            *(of_cell.get(name) for name in in_cell),
            *(of_tracker.get(name) for name in in_tracker),
        )


def replay(layout: Layout, trace: Trace) -> Play:
    """Give what takes known derivations step by step; rows must be sorted by length."""
    positions = layout.position.gather(1, trace.tops.clamp_min(0).flatten(1)).view_as(trace.tops)
    positions = torch.where(trace.tops >= 0, positions, layout.position.new_tensor(-1))  # [R, T, 3]
    numbers = torch.arange(trace.tops.shape[1], device=trace.lengths.device).unsqueeze(1)
    made: list[int] = (trace.steps.flatten() == numbers).sum(1).tolist()
    index, owners = layout.children.flatten(), layout.rows
    assert owners is not None  # which only nodes by level have not

    def play(tables: _StepPass) -> None:
        nothing = tables.n_leaves + tables.n_nodes
        slots = torch.where(positions >= 0, positions, nothing).transpose(0, 1)  # [T, R, 3]
        sizes = made[: len(tables.active)]
        for t, (rows, pairs) in enumerate(
            zip(owners.split(sizes), index.split([2 * size for size in sizes]), strict=True)
        ):
            looked = slots[t, : tables.active[t]]
            tables.look(looked[:, 0], looked[:, 1:].flatten())
            tables.reduce(rows, pairs)

    return play


def choosing(lengths: Tensor, tokens: Tensor, choose: Chooser, chosen: Tensor) -> Play:
    """Give what asks for every transition and writes it to ``chosen``, [T, R]; see `Parsers`."""

    def play(tables: _StepPass) -> None:
        parsers = Parsers(lengths, tokens, tables.active, tables.n_leaves + tables.n_nodes)
        for t, active in enumerate(tables.active):
            hidden = tables.look(parsers.fronts, parsers.tops)
            actions = choose(hidden, parsers.stack_sizes, parsers.buffer_sizes)
            if actions.shape != (active,):
                raise ValueError(
                    f"choose must give one transition for each of the {active} rows still running at step {t}, "
                    f"got a tensor {tuple(actions.shape)}"
                )
            chosen[t, :active] = actions
            rows, pairs = parsers.take(actions, tables.n_leaves + tables.made)
            if tables.made + len(rows) > tables.n_nodes:
                return  # an illegal REDUCE, which `lockstep.trace` will name
            tables.reduce(rows, pairs)

    return play
