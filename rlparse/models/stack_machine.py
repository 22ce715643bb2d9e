"""Run the derivations of a whole batch over vectors: no Python loop over sentences or nodes, only over groups.

A *schedule* says which nodes are composed together. By step: all rows that REDUCE at the same step of the
lockstep parser; the only order possible when a tracker feeds the composition. By level: all nodes of equal height.
Either way the nodes of a group are neighbours in one preallocated table, so that a group is one gather, one
composition, one write.

Backward runs through the groups in reverse and recomputes each composition, so that the memory a batch needs is its
table and nothing more, and any `Composition` works unchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rlparse.lockstep import Trace
from rlparse.models.composition import Composition
from rlparse.models.tracker import Tracker

ScheduleName = Literal["by_step", "by_level"]

SCHEDULES: dict[str, Callable[[Trace], Tensor]] = {
    "by_step": lambda trace: trace.steps,
    "by_level": lambda trace: trace.heights,
}
"""What the nodes of one group share: [R, N - 1] int64, ascending in an order in which children come first."""


class Layout(NamedTuple):
    """Where every node of a batch lies in the table: all leaves first, row by row, then the groups in order.

    Attributes:
        position: [R, 2N - 1] int64. Table row of each node id; one past the last table row where there is no node.
        left: [M] int64. Table row of the left child of the m-th composed node.
        right: [M] int64. The same for the right child.
        rows: [M] int64. Batch row it belongs to.
        sizes: Nodes in each group; they add up to M.
        n_leaves: Tokens in the batch.
    """

    position: Tensor
    left: Tensor
    right: Tensor
    rows: Tensor
    sizes: list[int]
    n_leaves: int


class Encoding(NamedTuple):
    """The vectors of a batch of trees.

    Attributes:
        roots: [R, state_size] float. State of the node that covers each sentence.
        table: [leaves + M, state_size] float. States of all nodes, in the layout's order.
        layout: Where they lie.
        trace: The derivations that made them.
        tracker: [R, T, H] float. Tracker's hidden vectors after reading each step (zeros past a row's end), or None.
    """

    roots: Tensor
    table: Tensor
    layout: Layout
    trace: Trace
    tracker: Tensor | None


def lay_out(trace: Trace, schedule: str) -> Layout:
    """Place the nodes of a batch in one table, group after group.

    Raises:
        ValueError: The schedule is unknown.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"unknown schedule {schedule!r}; known: {', '.join(SCHEDULES)}")
    lengths, device = trace.lengths, trace.lengths.device
    rows, n_inner = trace.steps.shape
    n_tokens = n_inner + 1
    token_mask = torch.arange(n_tokens, device=device) < lengths.unsqueeze(1)  # [R, N]
    node_mask = token_mask[:, 1:]  # a row of n tokens has n - 1 inner nodes
    n_leaves = int(lengths.sum())
    n_inner_real = n_leaves - rows
    position = torch.full((rows, 2 * n_tokens - 1), n_leaves + n_inner_real, dtype=torch.int64, device=device)
    leaf_position = (lengths.cumsum(0) - lengths).unsqueeze(1) + torch.arange(n_tokens, device=device)
    position[:, :n_tokens] = torch.where(token_mask, leaf_position, position[:, :n_tokens])
    keys = SCHEDULES[schedule](trace)[node_mask]  # [M]
    order = torch.argsort(keys, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(n_inner_real, device=device)
    inner = position[:, n_tokens:]
    inner[node_mask] = n_leaves + rank
    children = trace.children.clamp_min(0)
    row_index = torch.arange(rows, device=device).view(-1, 1, 1)
    child_positions = position[row_index, children][node_mask][order]  # [M, 2]
    sizes = [size for size in torch.bincount(keys).tolist() if size] if n_inner_real else []
    node_rows = node_mask.nonzero()[:, 0][order]
    return Layout(position, child_positions[:, 0], child_positions[:, 1], node_rows, sizes, n_leaves)


class StackMachine(nn.Module):
    """Compose every sentence of a batch along its derivation.

    Args:
        composition: What REDUCE computes.
        tracker: Read the stack at every step and feed the composition (SPINN); its width must be the
            composition's ``tracker_size``.
        schedule: ``by_step`` or ``by_level``; with a tracker always by step.

    Raises:
        ValueError: Tracker and composition do not fit each other, or the schedule is unknown.
    """

    def __init__(
        self, composition: Composition, tracker: Tracker | None = None, *, schedule: str = "by_level"
    ) -> None:
        super().__init__()
        width = 0 if tracker is None else tracker.hidden_size
        if width != composition.tracker_size:
            raise ValueError(
                f"the composition reads a tracker of width {composition.tracker_size}, got one of width {width}"
            )
        if schedule not in SCHEDULES:
            raise ValueError(f"unknown schedule {schedule!r}; known: {', '.join(SCHEDULES)}")
        self.composition = composition
        self.tracker = tracker
        self.schedule = "by_step" if tracker is not None else schedule

    def forward(self, embeddings: Tensor, trace: Trace) -> Encoding:
        """Encode a batch of sentences along known derivations.

        Args:
            embeddings: [R, N, E] float. What stands past a sentence's length is never read.
            trace: What `lockstep.trace` makes of the batch's derivations, which it checks.

        Raises:
            ValueError: Shapes do not fit each other.
        """
        rows, n_steps = trace.tops.shape[:2]
        if embeddings.dim() != 3 or embeddings.shape[:2] != (rows, (n_steps + 1) // 2):
            raise ValueError(
                f"embeddings must be [R, N, E] with R = {rows} and N = {(n_steps + 1) // 2} as the derivations "
                f"have it, got {tuple(embeddings.shape)}"
            )
        if self.tracker is None:
            layout = lay_out(trace, self.schedule)
            table = self._compose(self._leaves(embeddings, trace.lengths), layout)
            tracked = None
        else:
            # Longest first, so that the rows still running are always the first ones.
            order = torch.argsort(trace.lengths, descending=True, stable=True)
            back = torch.argsort(order)
            in_order = Trace(*(field[order] for field in trace))
            layout = lay_out(in_order, "by_step")
            leaves = self._leaves(embeddings[order], in_order.lengths)
            table, tracked = self._track_and_compose(leaves, layout, in_order)
            layout = layout._replace(position=layout.position[back], rows=order[layout.rows])
            tracked = tracked[back]
        last = torch.where(trace.lengths > 1, layout.position.shape[1] // 2 + trace.lengths - 1, 0)
        roots = table[layout.position.gather(1, last.unsqueeze(1)).squeeze(1)]
        return Encoding(roots, table, layout, trace, tracked)

    def _leaves(self, embeddings: Tensor, lengths: Tensor) -> Tensor:
        """States of the real tokens, row by row: [leaves, state_size]."""
        token_mask = torch.arange(embeddings.shape[1], device=lengths.device) < lengths.unsqueeze(1)
        return self.composition.leaf(embeddings[token_mask])

    def _compose(self, leaves: Tensor, layout: Layout) -> Tensor:
        parameters = tuple(p for p in self.composition.parameters() if p.requires_grad)
        # mypy sees an unannotated method of our own class, although torch defines it.
        table: Tensor = _ComposeGroups.apply(  # type: ignore[no-untyped-call]
            self.composition, layout, leaves, *parameters
        )
        return table

    def _track_and_compose(self, leaves: Tensor, layout: Layout, trace: Trace) -> tuple[Tensor, Tensor]:
        assert self.tracker is not None
        both = (*self.composition.parameters(), *self.tracker.parameters())
        parameters = tuple(p for p in both if p.requires_grad)
        table, tracked = _TrackAndCompose.apply(  # type: ignore[no-untyped-call]  # as above
            self.composition, self.tracker, layout, trace, leaves, *parameters
        )
        return table, tracked.transpose(0, 1)


def _add_gradients(total: list[Tensor | None], new: tuple[Tensor | None, ...]) -> None:
    """Add the gradients of one group to the running sums, in place."""
    for i, gradient in enumerate(new):
        if gradient is None:
            continue
        running = total[i]
        if running is None:
            total[i] = gradient.clone()
        else:
            running.add_(gradient)


class _ComposeGroups(torch.autograd.Function):
    """Fill the node table group by group; backward recomputes each group once, in reverse."""

    @staticmethod
    def forward(
        ctx: Any, composition: Composition, layout: Layout, leaves: Tensor, *parameters: Tensor
    ) -> Tensor:
        table = leaves.new_empty(layout.n_leaves + layout.left.shape[0], leaves.shape[1])
        table[: layout.n_leaves] = leaves
        start = 0
        for size in layout.sizes:
            group = slice(start, start + size)
            left = table.index_select(0, layout.left[group])
            right = table.index_select(0, layout.right[group])
            table[layout.n_leaves + start : layout.n_leaves + start + size] = composition(left, right)
            start += size
        ctx.composition, ctx.layout, ctx.parameters = composition, layout, parameters
        ctx.save_for_backward(table)
        return table

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_table: Tensor) -> tuple[Any, ...]:
        table = ctx.saved_tensors[
            0
        ].detach()  # saved as an output, it comes back with this very node as its history
        layout: Layout = ctx.layout
        grad_table = grad_table.clone()
        grads: list[Tensor | None] = [None] * len(ctx.parameters)
        end = len(layout.left)
        for size in reversed(layout.sizes):
            group = slice(end - size, end)
            with torch.enable_grad():
                left = table.index_select(0, layout.left[group]).requires_grad_()
                right = table.index_select(0, layout.right[group]).requires_grad_()
                composed = ctx.composition(left, right)
            grad_left, grad_right, *grad_parameters = torch.autograd.grad(
                composed,
                (left, right, *ctx.parameters),
                grad_table[layout.n_leaves + end - size : layout.n_leaves + end],
                allow_unused=True,
            )
            # Every node has one parent, so that no index occurs twice in these two additions.
            grad_table.index_add_(0, layout.left[group], grad_left)
            grad_table.index_add_(0, layout.right[group], grad_right)
            _add_gradients(grads, tuple(grad_parameters))
            end -= size
        return None, None, grad_table[: layout.n_leaves], *grads


class _TrackAndCompose(torch.autograd.Function):
    """The same by step, with a tracker that reads the stack before each step and feeds the composition.

    Rows must be sorted by length, longest first. Gives the table and the tracker's hidden vectors, [T, R, H].
    """

    @staticmethod
    def forward(
        ctx: Any,
        composition: Composition,
        tracker: Tracker,
        layout: Layout,
        trace: Trace,
        leaves: Tensor,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor]:
        rows, n_steps = trace.tops.shape[:2]
        # One row of zeros more stands for "nothing there", which is where the layout points for a missing node.
        table = leaves.new_zeros(layout.n_leaves + layout.left.shape[0] + 1, leaves.shape[1])
        table[: layout.n_leaves] = leaves
        plan = _plan_steps(layout, trace)
        hidden = leaves.new_zeros(n_steps + 1, rows, tracker.hidden_size)
        cell = torch.zeros_like(hidden)
        for t, step in enumerate(plan):
            active = step.active
            inputs = composition.hidden(table[step.tops]).flatten(1)
            h, c = tracker.step(inputs, (hidden[t, :active], cell[t, :active]))
            hidden[t + 1, :active], cell[t + 1, :active] = h, c
            if step.size:
                left = table.index_select(0, layout.left[step.group])
                right = table.index_select(0, layout.right[step.group])
                start = layout.n_leaves + step.group.start
                table[start : start + step.size] = composition(left, right, h.index_select(0, step.reducing))
        ctx.composition, ctx.tracker, ctx.layout, ctx.plan, ctx.parameters = (
            composition,
            tracker,
            layout,
            plan,
            parameters,
        )
        ctx.save_for_backward(table, hidden, cell)
        return table[:-1].clone(), hidden[1:].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_nodes: Tensor, grad_tracked: Tensor) -> tuple[Any, ...]:
        table, hidden, cell = ctx.saved_tensors
        layout: Layout = ctx.layout
        composition, tracker = ctx.composition, ctx.tracker
        grad_table = torch.zeros_like(table)
        grad_table[:-1] = grad_nodes
        grad_hidden = torch.zeros_like(hidden[0])
        grad_cell = torch.zeros_like(grad_hidden)
        grads: list[Tensor | None] = [None] * len(ctx.parameters)
        for t in reversed(range(len(ctx.plan))):
            step = ctx.plan[t]
            active = step.active
            start = layout.n_leaves + step.group.start
            with torch.enable_grad():
                read = table[step.tops].requires_grad_()
                h_before = hidden[t, :active].detach().requires_grad_()
                c_before = cell[t, :active].detach().requires_grad_()
                inputs = composition.hidden(read).flatten(1)
                h, c = tracker.step(inputs, (h_before, c_before))
                made, asked = [h, c], [read, h_before, c_before]
                given = [grad_hidden[:active] + grad_tracked[t, :active], grad_cell[:active]]
                if step.size:
                    left = table.index_select(0, layout.left[step.group]).requires_grad_()
                    right = table.index_select(0, layout.right[step.group]).requires_grad_()
                    made.append(composition(left, right, h.index_select(0, step.reducing)))
                    asked += [left, right]
                    given.append(grad_table[start : start + step.size].clone())
            found = torch.autograd.grad(made, (*asked, *ctx.parameters), given, allow_unused=True)
            # A node may stand on top of the stack in many rows' steps, but only once in this one.
            grad_table.index_add_(0, step.tops.flatten(), found[0].flatten(0, 1))
            grad_hidden[:active], grad_cell[:active] = found[1], found[2]
            if step.size:
                grad_table.index_add_(0, layout.left[step.group], found[3])
                grad_table.index_add_(0, layout.right[step.group], found[4])
            _add_gradients(grads, found[len(asked) :])
        return None, None, None, None, grad_table[: layout.n_leaves], *grads


class _Step(NamedTuple):
    """One step of the lockstep loop: the rows still running, what they read, and which of them compose."""

    active: int
    tops: Tensor  # [active, 3] table rows
    reducing: Tensor  # [size] rows
    group: slice
    size: int


def _plan_steps(layout: Layout, trace: Trace) -> list[_Step]:
    rows, n_steps = trace.tops.shape[:2]
    n_nodes = layout.n_leaves + layout.left.shape[0]
    row_index = torch.arange(rows, device=trace.lengths.device).view(-1, 1, 1)
    positions = layout.position[row_index, trace.tops.clamp_min(0)]
    positions = torch.where(trace.tops >= 0, positions, n_nodes)
    steps = torch.arange(n_steps, device=trace.lengths.device).unsqueeze(1)
    active_rows = (2 * trace.lengths - 1 > steps).sum(1).tolist()
    made = (trace.steps.flatten() == steps).sum(1).tolist()
    plan: list[_Step] = []
    start = 0
    for t, (active, size) in enumerate(zip(active_rows, made, strict=True)):
        if not active:
            break
        group = slice(start, start + size)
        plan.append(_Step(active, positions[:active, t], layout.rows[group], group, size))
        start += size
    return plan


__all__ = ["SCHEDULES", "Encoding", "Layout", "ScheduleName", "StackMachine", "lay_out"]
