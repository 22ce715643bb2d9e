"""Compose pairs of neighbours, of which some become items themselves: the candidates of easy-first parsing.

Where the merges are known, all candidates of one height are composed at once, with a gradient written by hand; where
they are being chosen, the first pairs of neighbours are, and then two new pairs a sentence and merge.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlparse.compiled import row_adder
from rlparse.merges import Chart
from rlparse.models.cells import Children, Given, Planes, refuse_second_derivatives, without_autocast
from rlparse.models.composition import Composition
from rlparse.models.tables import give_back, room

Prefer = Callable[[Tensor], Tensor]
"""Turn scores of candidates, [a, m] float, into keys of the same shape; the greatest legal key is merged."""


def compose_chart(composition: Composition, chart: Chart, embeddings: Tensor) -> Tensor:
    """Compose all candidates of a chart.

    Args:
        composition: Without a tracker.
        chart: Of P candidates over U leaves.
        embeddings: [U, E] float, of the leaves.

    Returns:
        [U + P + 1, D] float. Hidden vectors of leaves and candidates, and a row of zeros.
    """
    named = {name: p for name, p in composition.named_parameters() if p.requires_grad}
    weight = next(composition.parameters(), embeddings)
    with without_autocast(embeddings):
        table: Tensor = _ComposeChart.apply(  # type: ignore[no-untyped-call]  # torch does not annotate `apply`
            composition,
            chart,
            tuple(named),
            torch.is_grad_enabled(),
            embeddings.to(weight.dtype),
            *named.values(),
        )
    return table


class _ChartPass:
    """The tables of one forward and backward over a chart.

    As in `rlparse.models.groups`, but a candidate that became an item is read by several others: backward adds.
    """

    def __init__(self, composition: Composition, chart: Chart) -> None:
        self.composition, self.chart = composition, chart
        self.filled = False

    def forward(self, embeddings: Tensor) -> Planes:
        """Fill the tables, and give those of the states, of new memory: [U + P + 1, D] each, the last row zeros."""
        chart, D = self.chart, self.composition.hidden_size
        U, P = chart.n_leaves, len(chart.children)
        self.cell = self.composition.cell(P, embeddings)
        self.children = room(embeddings, P, 2 * D)
        planes = tuple(embeddings.new_empty(U + P + 1, D) for _ in range(self.composition.state_multiple))
        for plane in planes:
            plane[U + P].zero_()
        self.planes, self.filled = planes, True
        self.cell.leaf(embeddings, tuple(plane[:U] for plane in planes))
        start = 0
        self.groups = []
        for size, kept in zip(chart.sizes, self.cell.groups(chart.sizes), strict=True):
            pairs = chart.children[start : start + size].flatten()
            gathered = self.children[start : start + size]
            torch.index_select(planes[0], 0, pairs, out=gathered.view(2 * size, D))
            states = tuple(plane[U + start : U + start + size] for plane in planes)
            children = Children(gathered, planes, pairs)
            self.cell.compose(children, states, kept)
            self.groups.append((children, states, kept))
            start += size
        return planes

    def backward(self, embeddings: Tensor, grad_table: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Give the gradients of embeddings and weights."""
        if not self.filled:  # a graph that is kept for several backwards
            self.forward(embeddings)
        self.filled = False
        try:
            return self._backward(embeddings, grad_table)
        finally:
            self.release()

    def _backward(self, embeddings: Tensor, grad_table: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        U, D = self.chart.n_leaves, self.cell.size
        grads = (grad_table.clone(), *(torch.zeros_like(plane) for plane in self.planes[1:]))
        numbers = torch.arange(len(grad_table), device=grad_table.device)
        add_rows = row_adder(embeddings)
        stop = U + len(self.chart.children)
        for children, states, kept in reversed(self.groups):
            size = len(states[0])
            to_children = tuple(torch.empty_like(children.hidden) for _ in grads)
            given = Given(grads, numbers[stop - size : stop])
            self.cell.compose_backward(children, states, given, kept, to_children)
            for grad, to_child in zip(grads, to_children, strict=True):
                add_rows(grad, children.pairs, to_child.view(2 * size, D))
            stop -= size
        states, leaves = (tuple(plane[:U] for plane in planes) for planes in (self.planes, grads))
        grad_embeddings, found = self.cell.leaf_backward(embeddings, states, leaves)
        return grad_embeddings, found | self.cell.weight_gradients(self.children)

    def release(self) -> None:
        """Give back all tables; those of the states may be somebody's."""
        give_back(self.children)
        self.cell.release()
        del self.children, self.cell, self.groups, self.planes
        self.filled = False


class _ComposeChart(torch.autograd.Function):
    """Compose the candidates of a chart, height after height. Gives their hidden vectors, [U + P + 1, D]."""

    @staticmethod
    def forward(
        ctx: Any,
        composition: Composition,
        chart: Chart,
        names: tuple[str, ...],
        recorded: bool,
        embeddings: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        tables = _ChartPass(composition, chart)
        planes = tables.forward(embeddings)
        if not (recorded and any(ctx.needs_input_grad)):  # nobody will go backward
            tables.release()
        ctx.tables, ctx.names = tables, names
        ctx.save_for_backward(embeddings, *planes, *parameters)
        return planes[0].detach()  # not the table itself, which would keep its own graph alive

    @staticmethod
    def backward(ctx: Any, grad_table: Tensor) -> tuple[Any, ...]:
        refuse_second_derivatives()
        embeddings, *_ = ctx.saved_tensors  # which raises if table or weights were changed meanwhile
        with without_autocast(embeddings):
            grad_embeddings, found = ctx.tables.backward(embeddings.detach(), grad_table)
        return None, None, None, None, grad_embeddings, *(found.get(name) for name in ctx.names)


class Merging(NamedTuple):
    """A batch that was parsed by merging what scored best; rows are sorted by length, longest first.

    Attributes:
        order: [R] int64. Which row of the batch each row is.
        lengths: [R] int64.
        merges: [R, M] int64. Positions, A after a row's end.
        active: Rows that take each merge.
        scores: [a, m] float for each merge. Of the candidates before it.
        keys: The same as they were preferred by.
        items: [a, m + 1] int64 for each merge. Table rows of the items before it, of the zeros where there is none.
        candidates: [a, m] int64 for each merge. Table rows of the candidates.
        planes: [U + P + 1, D] float each. States of leaves and candidates, and a row of zeros.
        children: [P, 2] int64. Table rows of every candidate's parts.
        roots: [R] int64. Table row of the item that covers each sentence.
    """

    order: Tensor
    lengths: Tensor
    merges: Tensor
    active: list[int]
    scores: list[Tensor]
    keys: list[Tensor]
    items: list[Tensor]
    candidates: list[Tensor]
    planes: Planes
    children: Tensor
    roots: Tensor

    def in_batch(self, rows: Tensor) -> Tensor:
        """Put what is a row each back into the order of the batch."""
        return torch.empty_like(rows).index_copy_(0, self.order, rows)

    def padded(self, steps: list[Tensor]) -> Tensor:
        """Put what is there for each merge into one tensor, rows as in the batch: [R, M, A], zeros elsewhere."""
        rows, n_inner = self.merges.shape
        whole = self.planes[0].new_zeros(rows, n_inner, n_inner)
        for k, values in enumerate(steps):
            whole[: values.shape[0], k, : values.shape[1]] = values
        return self.in_batch(whole)


@torch.no_grad()
def merge(
    composition: Composition,
    query: Tensor,
    embeddings: Tensor,
    lengths: Tensor,
    words: Tensor,
    prefer: Prefer,
) -> Merging:
    """Merge, until one item is left of every sentence, the neighbours that are preferred by their score.

    A candidate's score is ``query . h``, h the hidden vector of what the composition makes of the pair.

    Args:
        composition: Without a tracker.
        query: [D] float.
        embeddings: [U, E] float, of the leaves.
        lengths: [R] int64.
        words: [R, N] int64. Leaf that each token is.
        prefer: Called before every merge.
    """
    with without_autocast(embeddings):
        return _merge(composition, query, embeddings, lengths, words, prefer)


class _Candidates:
    """A table that is filled with candidates while others are already read.

    Args:
        composition: What makes them.
        query: [D] float. Scores them.
        embeddings: [U, E] float, of the leaves.
        total: P, candidates that there will be.
        most: That will be composed at once.
    """

    def __init__(
        self, composition: Composition, query: Tensor, embeddings: Tensor, total: int, most: int
    ) -> None:
        D, self.n_leaves, self.query = composition.hidden_size, len(embeddings), query
        self.nothing, self.done = self.n_leaves + total, 0
        self.planes = tuple(query.new_empty(self.nothing + 1, D) for _ in range(composition.state_multiple))
        for plane in self.planes:
            plane[self.nothing].zero_()
        self.cell, self.gathered = composition.cell(most, query), query.new_empty(most, 2 * D)
        self.cell.leaf(embeddings.to(query.dtype), tuple(plane[: self.n_leaves] for plane in self.planes))
        self.children = torch.empty(total, 2, dtype=torch.int64, device=query.device)

    def compose(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Compose the next m pairs of table rows, [m, 2], and give the rows where they are and their scores."""
        m, start = len(pairs), self.done
        self.done += m
        self.children[start : self.done] = pairs
        gathered, rows = self.gathered[:m], pairs.flatten()
        torch.index_select(self.planes[0], 0, rows, out=gathered.view(2 * m, len(self.query)))
        states = tuple(plane[self.n_leaves + start : self.n_leaves + self.done] for plane in self.planes)
        kept = tuple(table[:m] for table in self.cell.kept)
        self.cell.compose(Children(gathered, self.planes, rows), states, kept)
        own = torch.arange(self.n_leaves + start, self.n_leaves + self.done, device=rows.device)
        return own, torch.mv(states[0], self.query)


def _merge(
    composition: Composition,
    query: Tensor,
    embeddings: Tensor,
    lengths: Tensor,
    words: Tensor,
    prefer: Prefer,
) -> Merging:
    order = torch.argsort(lengths, descending=True, stable=True)
    lengths, words = lengths[order], words[order]
    (rows, N), U, device = words.shape, len(embeddings), words.device
    A = N - 1
    number = torch.arange(N + 2, device=device)
    counts = (lengths - 1).unsqueeze(1)
    active: list[int] = [a for a in (counts > number[:A]).sum(0).tolist() if a]
    # Pairs of the same two leaves are composed once, however often they occur.
    is_pair = number[:A] < counts
    known, names = (words[:, :-1][is_pair] * U + words[:, 1:][is_pair]).unique(return_inverse=True)
    most = max(len(known), 2 * max(active[1:], default=0))
    table = _Candidates(composition, query, embeddings, len(known) + 2 * sum(active[1:]), most)
    own, points = table.compose(torch.stack((known // U, known % U), dim=1))
    # One column before the first item and pair, and all after the last, are nothing.
    items = torch.full((rows, N + 2), table.nothing, device=device)
    items[:, 1:-1] = torch.where(number[:N] < lengths.unsqueeze(1), words, table.nothing)
    pairs = torch.full((rows, A + 2), table.nothing, device=device)
    pairs[:, 1:-1][is_pair] = own[names]
    scores = query.new_zeros(rows, A + 2)
    scores[:, 1:-1][is_pair] = points[names]
    merges = torch.full((rows, A), A, dtype=torch.int64, device=device)
    roots = words[:, 0].clone()  # of sentences of one token
    sides = torch.tensor([0, 2], device=device)
    seen: tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]] = ([], [], [], [])
    for k, a in enumerate(active):
        m, following = A - k, sum(active[k + 1 : k + 2])
        keys = prefer(scores[:a, 1 : m + 1])
        place = keys.masked_fill(number[:m] >= counts[:a] - k, -torch.inf).argmax(1, keepdim=True)
        made = pairs[:a].gather(1, place + 1)
        merges[:a, k] = place.squeeze(1)
        before = (scores[:a, 1 : m + 1], keys, items[:a, 1 : m + 2], pairs[:a, 1 : m + 1])
        for steps, values in zip(seen, before, strict=True):
            steps.append(values)
        roots[following:a] = made[following:, 0]
        if not following:
            break
        place, made = place[:following], made[:following]
        items, pairs, scores = items[:following], pairs[:following], scores[:following]
        items = torch.where(number[: m + 2] <= place + 1, items[:, :-1], items[:, 1:])
        items.scatter_(1, place + 1, made)
        stays = number[: m + 1] <= place
        pairs, scores = (torch.where(stays, x[:, :-1], x[:, 1:]) for x in (pairs, scores))
        left, right = items.gather(1, place + sides).unbind(1)
        middle = made.squeeze(1)
        own, points = table.compose(torch.stack((left, middle, middle, right), dim=1).view(-1, 2))
        both = place + number[:2]
        pairs.scatter_(1, both, own.view(-1, 2))
        scores.scatter_(1, both, points.view(-1, 2))
    table.cell.release()
    return Merging(order, lengths, merges, active, *seen, table.planes, table.children, roots)
