"""Compose trees that are known beforehand, group after group of a layout, forward and backward."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from rlparse.models.cells import Cell, Children, Given, Planes, refuse_second_derivatives, without_autocast
from rlparse.models.composition import Composition
from rlparse.models.layout import Layout
from rlparse.models.tables import give_back, room


def real_tokens(vectors: Tensor, lengths: Tensor) -> Tensor:
    """Leave padding out: [R, N, E] to [L, E], sentence by sentence."""
    token_mask = torch.arange(vectors.shape[1], device=lengths.device) < lengths.unsqueeze(1)
    real = token_mask.flatten().nonzero().squeeze(1)
    picked: Tensor = _Pick.apply(vectors.flatten(0, 1), real)  # type: ignore[no-untyped-call]  # torch does not annotate `apply`
    return picked


class _Pick(torch.autograd.Function):
    """Take rows out of a table, none of them twice: backward writes each gradient where it belongs."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.rows = table.shape[0]
        return table.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        refuse_second_derivatives()
        (index,) = ctx.saved_tensors
        return grad.new_zeros(ctx.rows, *grad.shape[1:]).index_copy_(0, index, grad), None


def compose_groups(composition: Composition, layout: Layout, embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Give the roots' hidden vectors [R, D] and the whole table, from the embeddings of the leaves [U, E]."""
    named = {name: p for name, p in composition.named_parameters() if p.requires_grad}
    roots, table = _ComposeGroups.apply(  # type: ignore[no-untyped-call]  # torch does not annotate `apply`
        composition, layout, tuple(named), torch.is_grad_enabled(), embeddings, *named.values()
    )
    return roots, table


class _Group(NamedTuple):
    """Views into the tables of a pass, for the nodes that are composed together."""

    gathered: Tensor  # [2 m, D] hidden vectors of their children
    children: Children  # the same, and where the rest of their states is
    states: Planes  # [m, D] each: their own
    kept: Planes  # what the cell keeps of them


class _Pass:
    """The tables of one forward and backward over a batch of trees.

    Gradients lie by the parent: row ``2 m + side`` of a table holds the gradient of the m-th node's child on that
    side, and the roots' gradients follow, ``2 M + r``. `Layout.uses` tells every leaf and node where that is; where it
    may be in several places, their sum is its gradient.
    Backward overwrites what forward kept and gives it back; before another one, forward has to fill it again.
    """

    def __init__(self, composition: Composition, layout: Layout) -> None:
        self.composition, self.layout = composition, layout
        self.n_leaves, self.n_nodes = layout.n_leaves, layout.children.shape[0]
        self.filled = False

    def forward(self, embeddings: Tensor) -> Planes:
        """Fill the tables, and give those of the states, of new memory: [U + M + 1, D] each, the last row zeros."""
        D, rows = self.composition.hidden_size, self.n_leaves + self.n_nodes
        self.cell: Cell = self.composition.cell(self.n_nodes, embeddings)
        self.children = room(embeddings, self.n_nodes, 2 * D)
        planes = tuple(embeddings.new_empty(rows + 1, D) for _ in range(self.composition.state_multiple))
        for plane in planes:
            plane[rows].zero_()
        self.filled = True
        self.planes, self.groups = planes, self._cut(planes)
        self.cell.leaf(embeddings, tuple(plane[: self.n_leaves] for plane in planes))
        compose, hidden = self.cell.compose, planes[0]
        for gathered, children, states, kept in self.groups:
            torch.index_select(hidden, 0, children.pairs, out=gathered)
            compose(children, states, kept)
        return planes

    def _cut(self, planes: Planes) -> list[_Group]:
        """Cut every table into the groups of the layout."""
        sizes, doubled = self.layout.sizes, [2 * size for size in self.layout.sizes]
        own = (plane[self.n_leaves : self.n_leaves + self.n_nodes].split(sizes) for plane in planes)
        parts = zip(
            self.children.view(2 * self.n_nodes, self.cell.size).split(doubled),
            self.children.split(sizes),
            self.layout.children.flatten().split(doubled),
            zip(*own, strict=True),
            self.cell.groups(sizes),
            strict=True,
        )
        if not sizes:
            return []
        return [
            _Group(gathered, Children(hidden, planes, pairs), states, kept)
            for gathered, hidden, pairs, states, kept in parts
        ]

    def backward(
        self, embeddings: Tensor, grad_roots: Tensor | None, grad_table: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Give the gradients of embeddings and weights."""
        if not self.filled:
            self.forward(embeddings)
        self.filled = False
        try:
            return self._backward(embeddings, grad_roots, grad_table)
        finally:
            self.release()

    def _backward(
        self, embeddings: Tensor, grad_roots: Tensor | None, grad_table: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        D, M, U = self.cell.size, self.n_nodes, self.n_leaves
        grads = tuple(room(embeddings, 2 * M + len(self.layout.roots), D) for _ in self.planes)
        for grad in grads:
            grad[2 * M :].zero_()
        if grad_roots is not None:
            grads[0][2 * M :] = grad_roots
        groups = [U, *self.layout.sizes]  # leaves are one too
        uses = self.layout.uses.split(self.layout.use_sizes)
        starts = None if self.layout.starts is None else self.layout.starts.split(groups)
        of_rows = None if grad_table is None else grad_table[: U + M].split(groups)
        numbers = torch.arange(max(groups), device=embeddings.device)

        def given(g: int) -> Given:
            """Give the gradients of a group's states: what `Layout.uses` names, added up, and that of the table."""
            # Every node has a use, so that as many uses as nodes are one each; a leaf may have none.
            if starts is None or (g > 0 and len(uses[g]) == groups[g]):
                if of_rows is None:
                    return Given(grads, uses[g])
                sums = [grad.index_select(0, uses[g]) for grad in grads]
            else:
                sums = [embedding_bag(uses[g], grad, starts[g], mode="sum") for grad in grads]
            if of_rows is not None:
                sums[0] += of_rows[g]
            return Given(tuple(sums), numbers[: groups[g]])

        cut = zip(*(grad[: 2 * M].view(M, 2 * D).split(self.layout.sizes) for grad in grads), strict=True)
        to_children = list(cut) if M else []
        backward = self.cell.compose_backward
        for g in range(len(self.groups), 0, -1):
            _, children, states, kept = self.groups[g - 1]
            backward(children, states, given(g), kept, to_children[g - 1])
        of_leaves = given(0)
        leaves = tuple(of_leaves.plane(p) for p in range(len(grads)))
        grad_embeddings, found = self.cell.leaf_backward(
            embeddings, tuple(plane[:U] for plane in self.planes), leaves
        )
        found |= self.cell.weight_gradients(self.children)
        give_back(*grads)
        return grad_embeddings, found

    def release(self) -> None:
        """Give back all tables; those of the states may be somebody's."""
        give_back(self.children)
        self.cell.release()
        del self.children, self.cell, self.groups, self.planes
        self.filled = False


class _ComposeGroups(torch.autograd.Function):
    """Compose group after group without a tracker. Gives the roots [R, D] and the table [L + M + 1, D]."""

    @staticmethod
    def forward(
        ctx: Any,
        composition: Composition,
        layout: Layout,
        names: tuple[str, ...],
        recorded: bool,
        embeddings: Tensor,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor]:
        tables = _Pass(composition, layout)
        planes = tables.forward(embeddings)
        if not (recorded and any(ctx.needs_input_grad)):  # nobody will go backward
            tables.release()
        ctx.tables, ctx.names = tables, names
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(embeddings, *planes, *parameters)
        # Not the table itself, which `tables` holds: it would keep its own graph alive.
        return planes[0].index_select(0, layout.roots), planes[0].detach()

    @staticmethod
    def backward(ctx: Any, grad_roots: Tensor | None, grad_table: Tensor | None) -> tuple[Any, ...]:
        refuse_second_derivatives()
        embeddings, *_ = ctx.saved_tensors  # which raises if table or weights were changed meanwhile
        tables: _Pass = ctx.tables
        with without_autocast(embeddings):
            grad_embeddings, found = tables.backward(embeddings.detach(), grad_roots, grad_table)
        return None, None, None, None, grad_embeddings, *(found.get(name) for name in ctx.names)
