"""Compose trees that are known beforehand, group after group of a layout, forward and backward."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlparse.compiled import row_adder
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
    parents: Tensor  # [m] where backward finds the gradients of their states
    states: Planes  # [m, D] each: their own
    kept: Planes  # what the cell keeps of them


class _Pass:
    """The tables of one forward and backward over a batch of trees.

    Gradients lie by the parent: row ``2 m + side`` of a table holds the gradient of the m-th node's child on that
    side, and the roots' gradients follow, ``2 M + r``. `Layout.parents` tells every token and node where that is.
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
        for gathered, children, _, states, kept in self.groups:
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
            self.layout.parents[self.layout.n_tokens :].split(sizes),
            zip(*own, strict=True),
            self.cell.groups(sizes),
            strict=True,
        )
        if not sizes:
            return []
        return [
            _Group(gathered, Children(hidden, planes, pairs), parents, states, kept)
            for gathered, hidden, pairs, parents, states, kept in parts
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
        of_nodes = None
        if grad_table is not None:
            of_nodes = grad_table.clone()
            of_nodes[:U].zero_()  # leaves get theirs once, however often they occur
            grads[0][2 * M :].add_(of_nodes.index_select(0, self.layout.roots))
        cut = zip(*(grad[: 2 * M].view(M, 2 * D).split(self.layout.sizes) for grad in grads), strict=True)
        to_children = list(cut) if M else []
        backward = self.cell.compose_backward
        for group, grad_children in zip(reversed(self.groups), reversed(to_children), strict=True):
            _, children, parents, states, kept = group
            backward(children, states, Given(grads, parents), kept, grad_children)
            if of_nodes is not None:
                grad_children[0].add_(of_nodes.index_select(0, children.pairs).view(-1, 2 * D))
        leaves = tuple(self._of_leaves(grad) for grad in grads)
        if grad_table is not None:
            leaves[0].add_(grad_table[:U])
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

    def _of_leaves(self, grad: Tensor) -> Tensor:
        """Add up the gradients of the tokens that share a leaf: [U, D]."""
        tokens = self.layout.tokens
        of_tokens = grad.index_select(0, self.layout.parents[: self.layout.n_tokens])
        if tokens is None:
            return of_tokens
        of_leaves = grad.new_zeros(self.n_leaves, grad.shape[1])
        row_adder(grad)(of_leaves, tokens, of_tokens)
        return of_leaves


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
