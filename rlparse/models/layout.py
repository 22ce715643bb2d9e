"""Where the nodes of a batch of trees lie, and which of them are composed together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from rlparse.compiled import Kernels, replay_kernels
from rlparse.lockstep import Trace

ScheduleName = Literal["by_step", "by_level"]

SCHEDULES: dict[str, Callable[[Trace], Tensor]] = {
    "by_step": lambda trace: trace.steps,
    "by_level": lambda trace: trace.heights,
}
"""What the nodes of one group share: [R, N - 1] int64, ascending in an order in which children come first."""


class Layout(NamedTuple):
    """Where every node of a batch lies in the table: all leaves first, then the groups in order.

    Attributes:
        position: [R, 2N - 1] int64. Table row of each node id; where there is no node, that of the zeros at the end.
        tokens: [L] int64. Table row of every token, sentence by sentence; None where that is 0 .. L - 1.
        children: [M, 2] int64. Table rows of the left and right child of the m-th composed node.
        rows: [M] int64. Batch row it belongs to.
        roots: [R] int64. Table row of the node that covers each sentence.
        parents: [L + M] int64. For every token, then for every composed node: ``2 m + side`` where it is a
            child of the m-th composed node, ``2 M + r`` where it is the root of batch row r.
        sizes: Nodes in each group; they add up to M.
        n_tokens: L.
        n_leaves: U, leaves in the table: tokens may share one.
    """

    position: Tensor
    tokens: Tensor | None
    children: Tensor
    rows: Tensor
    roots: Tensor
    parents: Tensor
    sizes: list[int]
    n_tokens: int
    n_leaves: int


def lay_out(trace: Trace, schedule: str, leaves: Tensor | None = None, n_leaves: int = 0) -> Layout:
    """Place the nodes of a batch in one table, group after group.

    Args:
        trace: Of the batch.
        schedule: ``by_step`` or ``by_level``.
        leaves: [R, N] int64. Leaf that each token is; None gives every token one of its own, sentence by sentence.
        n_leaves: Of how many ``leaves`` speaks.

    Raises:
        ValueError: The schedule is unknown.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"unknown schedule {schedule!r}; known: {', '.join(SCHEDULES)}")
    kernels = replay_kernels()
    if kernels is not None:
        return _lay_out_compiled(kernels, trace, SCHEDULES[schedule](trace), leaves, n_leaves)
    lengths, device = trace.lengths, trace.lengths.device
    rows, n_inner = trace.steps.shape
    n_tokens = n_inner + 1
    L = int(lengths.sum())
    M = L - rows
    places = torch.arange(n_tokens, device=device)
    is_token = places < lengths.unsqueeze(1)
    # Numbers in the batch: tokens 0 .. L - 1, sentence by sentence, then composed nodes group by group, then nothing.
    keys = SCHEDULES[schedule](trace)
    order = torch.where(is_token[:, 1:], keys, trace.tops.shape[1] + 1).flatten().sort(stable=True)
    inner = torch.empty_like(order.indices)
    inner[order.indices] = torch.arange(L, L + inner.shape[0], device=device)
    first_token = (lengths.cumsum(0) - lengths).unsqueeze(1)
    tokens = torch.where(is_token, first_token + places, L + M)
    numbers = torch.cat((tokens, inner.view(rows, n_inner).clamp_max_(L + M)), dim=1)
    made = order.indices[:M]
    node_rows = made // max(n_inner, 1)
    ids = trace.children.view(-1, 2)[made] + (node_rows * numbers.shape[1]).unsqueeze(1)
    children = numbers.flatten()[ids]
    roots = numbers.gather(1, torch.where(lengths > 1, n_inner + lengths - 1, 0).unsqueeze(1)).squeeze(1)
    parents = torch.empty(L + M, dtype=torch.int64, device=device)
    parents[children.flatten()] = torch.arange(2 * M, device=device)
    parents[roots] = torch.arange(2 * M, 2 * M + rows, device=device)
    sizes = [size for size in torch.bincount(order.values[:M]).tolist() if size]
    if leaves is None:
        return Layout(numbers, None, children, node_rows, roots, parents, sizes, L, L)
    own = leaves.flatten()[is_token.flatten().nonzero().squeeze(1)]
    table_rows = torch.cat((own, torch.arange(n_leaves, n_leaves + M + 1, device=device)))
    return Layout(
        table_rows[numbers],
        own,
        table_rows[children],
        node_rows,
        table_rows[roots],
        parents,
        sizes,
        L,
        n_leaves,
    )


def _lay_out_compiled(
    kernels: Kernels, trace: Trace, keys: Tensor, leaves: Tensor | None, n_leaves: int
) -> Layout:
    """Do the same in one pass over the nodes, on the CPU."""
    device = trace.lengths.device
    lengths = trace.lengths.cpu().contiguous()
    rows, n_inner = trace.steps.shape
    L = int(lengths.sum())
    M = L - rows
    if leaves is None:
        n_leaves = L
    shapes = [(rows, 2 * n_inner + 1), (rows, 2 * n_inner + 1), (L,), (M, 2), (M,), (rows,), (L + M,)]
    numbers, position, tokens, children, node_rows, roots, parents = map(lengths.new_empty, shapes)
    counts = lengths.new_empty(trace.tops.shape[1] + 1)
    kernels.lay_out(
        L,
        len(counts),
        n_leaves,
        lengths,
        trace.children.cpu().contiguous(),
        keys.cpu().contiguous(),
        numbers,
        position,
        tokens,
        children,
        node_rows,
        roots,
        parents,
        counts,
        leaves=None if leaves is None else leaves.long().cpu().contiguous(),
    )
    sizes = [size for size in counts.tolist() if size]
    if device.type == "cuda":
        placed = (position, tokens, children, node_rows, roots, parents)
        position, tokens, children, node_rows, roots, parents = (
            table.pin_memory().to(device, non_blocking=True) for table in placed
        )
    own = None if leaves is None else tokens
    return Layout(position, own, children, node_rows, roots, parents, sizes, L, n_leaves)


def distinct_words(tokens: Tensor, n_types: int) -> tuple[Tensor, Tensor]:
    """Find the words of a batch, each once, so that a word is embedded and projected once however often it occurs.

    Args:
        tokens: [R, N] int64. Vocabulary indices.
        n_types: Entries of the vocabulary.

    Returns:
        The vocabulary indices of the words, [U] int64 ascending, and for every token which of them it is, [R, N] int64.
    """
    seen = torch.zeros(n_types, dtype=torch.int64, device=tokens.device)
    seen[tokens.flatten()] = 1
    return seen.nonzero().squeeze(1), (seen.cumsum(0) - 1)[tokens]
