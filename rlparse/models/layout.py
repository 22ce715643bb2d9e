"""Where the nodes of a batch of trees lie, and which of them are composed together."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
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

    Tokens that share a leaf make subtrees that are the same. By level, every subtree is a node once, however often it
    occurs in the batch: M counts those that differ.

    Attributes:
        position: [R, 2N - 1] int64. Table row of each node id; where there is no node, that of the zeros at the end.
        children: [M, 2] int64. Table rows of the left and right child of the m-th composed node.
        rows: [M] int64. Batch row it belongs to; None where it may belong to several.
        roots: [R] int64. Table row of the node that covers each sentence.
        uses: [2M + R] int64. Where table rows are used, sorted by them: ``2 m + side`` as a child of the m-th composed
            node, ``2 M + r`` as the root of batch row r.
        starts: [U + M] int64. For every table row, where among the uses of its group its own begin, leaves being a
            group; None where every one has one use.
        use_sizes: Uses of the leaves, then of the nodes in each group; they add up to 2M + R.
        sizes: Nodes in each group; they add up to M.
        n_leaves: U, leaves in the table.
    """

    position: Tensor
    children: Tensor
    rows: Tensor | None
    roots: Tensor
    uses: Tensor
    starts: Tensor | None
    use_sizes: list[int]
    sizes: list[int]
    n_leaves: int


class _Placed(NamedTuple):
    """The fields of `Layout` of these names."""

    position: Tensor
    children: Tensor
    rows: Tensor | None
    roots: Tensor
    sizes: list[int]
    n_leaves: int


def lay_out(trace: Trace, schedule: str, leaves: Tensor | None = None, n_leaves: int = 0) -> Layout:
    """Place the nodes of a batch in one table, group after group.

    Args:
        trace: Of the batch.
        schedule: ``by_step`` or ``by_level``.
        leaves: [R, N] int64. Leaf that each token is; None gives every token one of its own, sentence by sentence. By
            level, nodes that have the same children are then one node.
        n_leaves: Of how many ``leaves`` speaks.

    Raises:
        ValueError: The schedule is unknown or, where compiled functions look, a token is none of the leaves.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"unknown schedule {schedule!r}; known: {', '.join(SCHEDULES)}")
    keys, shared = SCHEDULES[schedule](trace), leaves is not None and schedule == "by_level"
    kernels = replay_kernels()
    if kernels is None:
        place = _place_shared if shared else _place
        return _with_uses(None, place(trace, keys, leaves, n_leaves), leaves is not None)
    known = [field.cpu().contiguous() for field in (trace.lengths, trace.children, keys)]
    own = None if leaves is None else leaves.long().cpu().contiguous()
    place_compiled = _place_shared_compiled if shared else _place_compiled
    placed = place_compiled(kernels, known, trace.tops.shape[1] + 1, own, n_leaves)
    return _on(trace.lengths.device, _with_uses(kernels, placed, leaves is not None))


def _place(trace: Trace, keys: Tensor, leaves: Tensor | None, n_leaves: int) -> _Placed:
    """Place every node, with torch."""
    is_token, made, own_key, below = _in_order(trace, keys)
    rows, width = is_token.shape[0], 2 * is_token.shape[1] - 1
    device, M = made.device, len(made)
    if leaves is None:
        n_leaves = M + rows
        leaves = (is_token.flatten().cumsum(0) - 1).view(is_token.shape)
    nothing = n_leaves + M
    position = torch.full((rows, width), nothing, device=device)
    position[:, : is_token.shape[1]] = torch.where(is_token, leaves, nothing)
    flat = position.view(-1)
    flat[made] = torch.arange(n_leaves, nothing, device=device)
    sizes = [size for size in torch.bincount(own_key).tolist() if size]
    roots = flat[_last_ids(trace)]
    return _Placed(position, flat[below], made // width, roots, sizes, n_leaves)


def _place_shared(trace: Trace, keys: Tensor, leaves: Tensor | None, n_leaves: int) -> _Placed:
    """Place nodes with the same children once, with torch: level after level, as children have to be known."""
    assert leaves is not None
    is_token, made, own_key, below = _in_order(trace, keys)
    (rows, n_tokens), device = is_token.shape, made.device
    position = torch.zeros(rows, 2 * n_tokens - 1, dtype=torch.int64, device=device)
    position[:, :n_tokens] = leaves
    flat, start, stride = position.view(-1), n_leaves, n_leaves + len(made)
    levels = [size for size in torch.bincount(own_key).tolist() if size]
    children, sizes = [below[:0]], []
    for ids, pair_ids in zip(made.split(levels), below.split(levels), strict=True) if levels else ():
        pairs = flat[pair_ids]
        distinct, which = (pairs[:, 0] * stride + pairs[:, 1]).unique(return_inverse=True)
        # In the order in which they are met, as the compiled function has it.
        met = torch.arange(len(which), device=device)
        first = torch.empty_like(distinct).scatter_reduce_(0, which, met, "amin", include_self=False).sort()
        rank = torch.empty_like(distinct)
        rank[first.indices] = torch.arange(len(distinct), device=device)
        flat[ids] = start + rank[which]
        children.append(pairs[first.values])
        sizes.append(len(distinct))
        start += len(distinct)
    is_node = torch.zeros_like(flat, dtype=torch.bool)
    is_node[made] = True
    is_node.view(position.shape)[:, :n_tokens] = is_token
    flat[~is_node] = start
    return _Placed(position, torch.cat(children), None, flat[_last_ids(trace)], sizes, n_leaves)


def _in_order(trace: Trace, keys: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sort composed nodes by their keys; ids are counted through the batch, 2N - 1 a row.

    Returns:
        Which places hold a token, [R, N] bool; ids of the nodes [M], their keys [M], and ids of their children [M, 2].
    """
    n_inner = trace.steps.shape[1]
    is_token = torch.arange(n_inner + 1, device=keys.device) < trace.lengths.unsqueeze(1)
    # A sentence of n tokens has n - 1 nodes, and they come first.
    at = is_token[:, 1:].flatten().nonzero().squeeze(1)
    order = keys.flatten()[at].sort(stable=True)
    made = at[order.indices]
    first_id = made // max(n_inner, 1) * (2 * n_inner + 1)
    below = trace.children.view(-1, 2)[made] + first_id.unsqueeze(1)
    return is_token, first_id + n_inner + 1 + made % max(n_inner, 1), order.values, below


def _last_ids(trace: Trace) -> Tensor:
    """Give the id of every root, counted through the batch: [R] int64."""
    rows, n_inner = trace.steps.shape
    own = torch.where(trace.lengths > 1, n_inner + trace.lengths - 1, 0)
    return torch.arange(rows, device=own.device) * (2 * n_inner + 1) + own


def _place_compiled(
    kernels: Kernels, known: list[Tensor], n_keys: int, leaves: Tensor | None, n_leaves: int
) -> _Placed:
    """Do what `_place` does in one pass over the nodes."""
    lengths, _, keys = known
    rows, n_inner = keys.shape
    L = int(lengths.sum())
    if leaves is None:
        n_leaves = L
    shapes = [(rows, 2 * n_inner + 1), (L - rows, 2), (L - rows,), (rows,), (n_keys,)]
    position, children, node_rows, roots, counts = map(lengths.new_empty, shapes)
    tables = (*known, position, children, node_rows, roots, counts)
    if not kernels.lay_out(n_leaves, *tables, leaves=leaves):
        raise ValueError(_no_leaf(n_leaves))
    sizes = [size for size in counts.tolist() if size]
    return _Placed(position, children, node_rows, roots, sizes, n_leaves)


def _place_shared_compiled(
    kernels: Kernels, known: list[Tensor], n_keys: int, leaves: Tensor | None, n_leaves: int
) -> _Placed:
    """Do what `_place_shared` does in one pass over the nodes."""
    assert leaves is not None
    lengths, _, keys = known
    rows, n_inner = keys.shape
    most = int(lengths.sum()) - rows
    # Twice as many slots as there may be nodes, or more, so that few are asked in vain.
    shapes = [(2 << most.bit_length(),), (most, 2), (most,), (most,)]
    slots, pairs, levels, ranks = map(lengths.new_empty, shapes)
    shapes = [(rows, 2 * n_inner + 1), (most, 2), (rows,), (n_keys,)]
    position, children, roots, counts = map(lengths.new_empty, shapes)
    tables = (*known, leaves, slots, pairs, levels, ranks, position, children, roots, counts)
    M = kernels.lay_out_shared(n_leaves, *tables)
    if M < 0:
        raise ValueError(_no_leaf(n_leaves))
    sizes = [size for size in counts.tolist() if size]
    return _Placed(position, children[:M], None, roots, sizes, n_leaves)


def _no_leaf(n_leaves: int) -> str:
    return f"leaves must be from 0 to {n_leaves - 1}, some token's is not"


def _with_uses(kernels: Kernels | None, placed: _Placed, several: bool) -> Layout:
    """Find where every table row is used, which may be in ``several`` places."""
    position, children, rows, roots, sizes, n_leaves = placed
    n_rows, n_uses, device = n_leaves + len(children), children.numel() + len(roots), roots.device
    groups = torch.tensor([n_leaves, *sizes], device=device)
    if kernels is None:
        in_order, uses = torch.cat((children.flatten(), roots)).sort(stable=True)
        starts = torch.searchsorted(in_order, torch.arange(n_rows + 1, device=device))
        begins = starts[torch.tensor([0, *accumulate((n_leaves, *sizes))], device=device)]
        starts = starts[:-1] - begins[:-1].repeat_interleave(groups, output_size=n_rows)
        use_sizes = begins.diff()
    else:
        uses, starts, use_sizes = (roots.new_empty(size) for size in (n_uses, n_rows, len(groups)))
        kernels.find_uses(children, roots, groups, uses, starts, use_sizes)
    return Layout(
        position,
        children,
        rows,
        roots,
        uses,
        starts if several else None,
        use_sizes.tolist(),
        sizes,
        n_leaves,
    )


def _on(device: torch.device, layout: Layout) -> Layout:
    """Move a layout from the CPU to a device; nobody waits for it."""
    if device.type != "cuda":
        return layout

    def moved(table: Tensor) -> Tensor:
        return table.pin_memory().to(device, non_blocking=True)

    return layout._replace(
        position=moved(layout.position),
        children=moved(layout.children),
        rows=None if layout.rows is None else moved(layout.rows),
        roots=moved(layout.roots),
        uses=moved(layout.uses),
        starts=None if layout.starts is None else moved(layout.starts),
    )


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
