"""Trees as orders of merging neighbours, beside shift-reduce: easy-first parsing.

A sentence is a list of items, at first its tokens. A *merge* at position p joins items p and p + 1, and n - 1 merges
leave one tree. Many orders of merges build the same tree. Before merge k there are n - 1 - k *candidates*, the pairs of
neighbours. A merge makes one of them an item, and with its two neighbours two new pairs, so that a sentence has fewer
than 3 n different candidates in all. No vectors here.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rlparse import PAD
from rlparse.errors import IllegalTransitionError
from rlparse.lockstep import REDUCE, SHIFT


def legal_merges(lengths: Tensor, n_tokens: int) -> Tensor:
    """Tell which merges there are before each of them.

    Args:
        lengths: [R] int64.
        n_tokens: Padded length N.

    Returns:
        [R, M, A] bool, M = A = N - 1. Position p before merge k is legal while p < n - 1 - k.
    """
    number = torch.arange(n_tokens - 1, device=lengths.device)
    return number + number.unsqueeze(1) < lengths.view(-1, 1, 1) - 1


def derivations(merges: Tensor, lengths: Tensor) -> Tensor:
    """Give the derivations of the trees that merges build.

    A derivation says only how many nodes end with each token: SHIFT it, then REDUCE so often. The item that a merge
    makes ends where its right part ended, so that merging is striking the left part out of the list of ends.

    Args:
        merges: [R, M] int64, M = N - 1. Positions; what stands after a sentence's n - 1 merges is not read.
        lengths: [R] int64.

    Returns:
        [R, T] int64, T = 2 N - 1, PAD after the end.

    Raises:
        ValueError: ``merges`` is not [R, M], or ``lengths`` are not [R] of 1 to M + 1.
        IllegalTransitionError: A merge is at no pair of neighbours.
    """
    if merges.dim() != 2 or lengths.shape != merges.shape[:1]:
        raise ValueError(
            f"merges must be [R, N - 1] and lengths [R], got {tuple(merges.shape)} and {tuple(lengths.shape)}"
        )
    rows, n_inner = merges.shape
    if rows and not 1 <= int(lengths.min()) <= int(lengths.max()) <= n_inner + 1:
        raise ValueError(
            f"{n_inner} merges are of sentences of 1 to {n_inner + 1} tokens, got lengths from {int(lengths.min())} "
            f"to {int(lengths.max())}"
        )
    number = torch.arange(n_inner + 1, device=merges.device)
    left = lengths.unsqueeze(1) - 1 - number[:-1]  # [R, M] candidates before each merge
    wrong = (left > 0) & ((merges < 0) | (merges >= left))
    if bool(wrong.any()):
        row, k = (int(x) for x in wrong.nonzero()[0])
        raise IllegalTransitionError(
            f"row {row}: merge {k} must be at a position from 0 to {int(left[row, k]) - 1}, "
            f"got {int(merges[row, k])}"
        )
    taken = (left > 0).long()
    ends = number.expand(rows, -1)
    reduces = torch.zeros_like(ends)  # [R, N] nodes that end with each token
    for k in range(n_inner):
        place = merges[:, k : k + 1].clamp(0, n_inner - 1 - k)
        reduces.scatter_add_(1, ends.gather(1, place + 1), taken[:, k : k + 1])
        ends = torch.where(number[: n_inner - k] < place, ends[:, :-1], ends[:, 1:])
    n_steps = 2 * n_inner + 1
    shifts = number + reduces.cumsum(1) - reduces
    steps = torch.arange(n_steps + 1, device=merges.device)
    transitions = torch.where(steps < 2 * lengths.unsqueeze(1) - 1, REDUCE, PAD)
    # The column past the last takes tokens that are not there, and is cut off.
    shifts = torch.where(number < lengths.unsqueeze(1), shifts, n_steps)
    return transitions.scatter_(1, shifts, SHIFT)[:, :-1].contiguous()


class Chart(NamedTuple):
    """All different candidates of known merges, in one table: leaves first, then candidates by height.

    Attributes:
        children: [P, 2] int64. Table rows of the left and right item of every candidate.
        sizes: Candidates of each height; they add up to P.
        candidates: [R, M, A] int64. Table row of every candidate before every merge; where there is none, U + P.
        n_leaves: U.
    """

    children: Tensor
    sizes: list[int]
    candidates: Tensor
    n_leaves: int


def lay_out_chart(merges: Tensor, lengths: Tensor, leaves: Tensor | None = None, n_leaves: int = 0) -> Chart:
    """Place the candidates of a batch in one table, so that those of one height depend on lower ones only.

    Pairs of the same two leaves are one candidate, however often they occur: with few words, or many parses of a
    sentence, a third of the work falls away.

    Args:
        merges: [R, M] int64, legal; what stands after a sentence's n - 1 merges is not read.
        lengths: [R] int64.
        leaves: [R, N] int64. Leaf that each token is; None gives every token one of its own, sentence by sentence.
        n_leaves: Of how many ``leaves`` speaks.
    """
    (rows, A), device = merges.shape, merges.device
    seen, children, heights = _walk(merges, lengths)
    N, nothing = A + 1, heights.shape[1] - 1
    number = torch.arange(N, device=device)
    is_token, is_pair = number < lengths.unsqueeze(1), number[:A] < lengths.unsqueeze(1) - 1
    if leaves is None:
        tokens, n_leaves = (is_token.flatten().cumsum(0) - 1).view(rows, N), int(lengths.sum())
    else:
        tokens = leaves
    # Pairs of neighbouring tokens, each once.
    first_pairs = torch.stack((tokens[:, :-1][is_pair], tokens[:, 1:][is_pair]), dim=1)
    names = torch.arange(len(first_pairs), device=device)
    if leaves is not None:
        known, names = (first_pairs[:, 0] * n_leaves + first_pairs[:, 1]).unique(return_inverse=True)
        first_pairs = torch.stack((known // n_leaves, known % n_leaves), dim=1)
    # All others by height, lowest first.
    there = (children != nothing).all(2)
    keys = torch.where(there, heights[:, N + A : nothing], nothing).flatten().sort(stable=True)
    others = int(there.sum())
    order = keys.indices[:others]
    begin = n_leaves + len(first_pairs)
    end = begin + others
    numbers = torch.full((rows, nothing + 1), end, device=device)
    numbers[:, :N] = tokens
    numbers[:, N : N + A][is_pair] = n_leaves + names
    later = torch.full((rows * 2 * A,), end, device=device)
    later[order] = torch.arange(begin, end, device=device)
    numbers[:, N + A : nothing] = later.view(rows, 2 * A)
    row = order // max(2 * A, 1)
    children = numbers[row.unsqueeze(1), children.view(-1, 2)[order]]
    candidates = numbers.gather(1, seen.flatten(1)).view_as(seen)
    sizes = [len(first_pairs), *torch.bincount(keys.values[:others]).tolist()]
    return Chart(
        children=torch.cat((first_pairs, children)),
        sizes=[size for size in sizes if size],
        candidates=torch.where(legal_merges(lengths, N), candidates, end),
        n_leaves=n_leaves,
    )


def _walk(merges: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Follow merges and number what comes up, in every sentence by itself.

    Numbers are: N tokens, A first pairs, two pairs for every merge (left and right of its item), nothing.

    Returns:
        The candidates before every merge, [R, M, A]; the two parts of both pairs of every merge, [R, 2 A, 2], of which
        one is nothing where there is no such pair; and the heights of all, [R, N + 3 A + 1].
    """
    (rows, A), device = merges.shape, merges.device
    N, nothing, counts = A + 1, 4 * A + 1, lengths.unsqueeze(1) - 1
    number = torch.arange(nothing, device=device)
    sides = torch.tensor([0, 2], device=device)
    # One column before the first item and pair, and all after the last, are nothing.
    items = torch.full((rows, N + 2), nothing, device=device)
    items[:, 1:-1] = torch.where(number[:N] <= counts, number[:N], nothing)
    pairs = torch.full((rows, A + 2), nothing, device=device)
    pairs[:, 1:-1] = torch.where(number[:A] < counts, number[N : N + A], nothing)
    heights = torch.zeros(rows, nothing + 1, dtype=torch.int64, device=device)
    heights[:, N : N + A] = 1
    seen = torch.full((rows, A, A), nothing, device=device)
    children = torch.full((rows, A, 4), nothing, device=device)
    for k in range(A):
        seen[:, k, : A - k] = pairs[:, 1 : A + 1 - k]
        place = merges[:, k : k + 1].clamp(0, A - 1 - k)
        made = torch.where(k < counts, pairs.gather(1, place + 1), nothing)
        items = torch.where(number[: N + 1 - k] <= place + 1, items[:, :-1], items[:, 1:])
        items.scatter_(1, place + 1, made)
        pairs = torch.where(number[: N - k] <= place, pairs[:, :-1], pairs[:, 1:])
        first = N + A + 2 * k
        pairs.scatter_(1, place + number[:2], number[first : first + 2].expand(rows, 2))
        around = items.gather(1, place + sides)
        below = torch.maximum(heights.gather(1, around), heights.gather(1, made))
        heights[:, first : first + 2] = below.add_(1)
        torch.cat((around[:, :1], made, made, around[:, 1:]), dim=1, out=children[:, k])
    return seen, children.view(rows, 2 * A, 2), heights


def merges_of(transitions: Tensor) -> Tensor:
    """Give merges that build the trees of derivations, in the order of their REDUCEs.

    Of all orders it is the one that a parser takes from left to right: REDUCE joins the two items on top of a stack of
    s, which stand at positions s - 2 and s - 1 of the list.

    Args:
        transitions: [R, T] int64. Complete derivations, PAD after the end.

    Returns:
        [R, M] int64, M = (T - 1) / 2, and M after a row's end.
    """
    reduce = transitions == REDUCE
    after = ((transitions == SHIFT).long() - reduce.long()).cumsum(1)  # stack sizes, a REDUCE took one off
    n_inner = transitions.shape[1] // 2
    columns = torch.where(reduce, reduce.cumsum(1) - 1, n_inner)
    merges = torch.full((len(transitions), n_inner + 1), n_inner, device=transitions.device)
    return merges.scatter_(1, columns, torch.where(reduce, after - 1, n_inner))[:, :-1].contiguous()
