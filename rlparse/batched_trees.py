"""Trees of a whole batch as tensors: trivial and random ones, the spans of any, and how far two of them agree.

What `rlparse.trees` and `rlparse.parse_scores` do for one sentence and for files, for the derivations of a training
batch, without a Python loop over sentences.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from rlparse import PAD, trees
from rlparse.lockstep import REDUCE, SHIFT

Branching = Literal["left", "right", "balanced"]


def span_keys(transitions: Tensor) -> Tensor:
    """Name the span that every REDUCE builds by one integer, without a loop over rows or steps.

    After step t, ``c[t]`` tokens are shifted and ``z[t]`` items are on the stack. A REDUCE at t leaves its
    node at height ``z[t]``, so the node begins with the last token that was shifted to just that height:

        end = c[t],   start = c[u] - 1,   u = max {u <= t : step u is a SHIFT and z[u] = z[t]}
        key = end * N + (N - 1 - start)

    A stable sort by height brings the steps of equal height together in order of time, and a running
    maximum over the SHIFTs in it finds every u at once. Along a row keys grow with time: ends never fall,
    and among spans with the same end the later is the wider.

    Args:
        transitions: [R, T] int64. Complete derivations, PAD after the end.

    Returns:
        [R, T] int64. Key of the span made at each step, 0 where a step makes none. Spans of more than one
        token have keys of at least 2N.
    """
    shift, reduce = transitions == SHIFT, transitions == REDUCE
    n_tokens = (transitions.shape[1] + 1) // 2
    shifted = shift.long().cumsum(dim=1)  # [R, T]
    height = shifted - reduce.long().cumsum(dim=1)
    order = height.argsort(dim=1, stable=True)
    place = torch.arange(order.shape[1], device=order.device).expand_as(order)
    last_shift = torch.where(shift.gather(1, order), place, 0).cummax(dim=1).values
    start = shifted.gather(1, order).gather(1, last_shift) - 1
    start = torch.empty_like(start).scatter_(1, order, start)  # back to the order of time
    return torch.where(reduce, shifted * n_tokens + n_tokens - 1 - start, 0)


def bracketing_f1(predicted: Tensor, gold: Tensor, *, root: bool = True) -> Tensor:
    """Score each row's tree against another tree over the same tokens.

    Two binary trees over n tokens have n - 1 spans each, so precision, recall and F1 are the same number.

    Args:
        predicted: [R, T] int64. Complete derivations, PAD after the end.
        gold: [R, T] int64. Likewise.
        root: Count the span of the whole sentence, which every tree has right.

    Returns:
        [R] float32, from 0 to 1; 1 where no span counts.

    Raises:
        ValueError: The shapes differ, or a row's two trees are over different numbers of tokens.
    """
    if predicted.shape != gold.shape or predicted.dim() != 2:
        raise ValueError(
            f"predicted and gold must both be [R, T], got {tuple(predicted.shape)} and {tuple(gold.shape)}"
        )
    n_spans = (predicted == REDUCE).sum(dim=1)  # [R]
    expected = (gold == REDUCE).sum(dim=1)
    if not torch.equal(n_spans, expected):
        row = int((n_spans != expected).nonzero()[0])
        raise ValueError(
            f"row {row}: the predicted tree has {int(n_spans[row])} spans, the gold tree "
            f"{int(expected[row])}; both must be complete derivations over the same tokens"
        )
    found = span_keys(predicted)
    known = span_keys(gold).cummax(dim=1).values  # sorted: keys grow with time, and repeats do no harm
    at = torch.searchsorted(known, found).clamp_max(known.shape[1] - 1)
    matched = ((known.gather(1, at) == found) & (found > 0)).sum(dim=1)
    if not root:  # every tree has it right
        matched, n_spans = (matched - 1).clamp_min(0), (n_spans - 1).clamp_min(0)
    return torch.where(n_spans > 0, matched / n_spans.clamp_min(1), 1.0).float()


def right_branching(lengths: Tensor, n_steps: int) -> Tensor:
    """Derive ``( a ( b ( c d ) ) )`` for every row: all tokens are shifted, then reduced.

    Args:
        lengths: [R] int64.
        n_steps: T, at least 2n - 1 for the longest row.

    Returns:
        [R, T] int64, PAD after the end.
    """
    step, n = _steps(lengths, n_steps)
    return _padded(torch.where(step < n, SHIFT, REDUCE), step, n)


def left_branching(lengths: Tensor, n_steps: int) -> Tensor:
    """Derive ``( ( ( a b ) c ) d )`` for every row: every token after the first is reduced at once.

    Args:
        lengths: [R] int64.
        n_steps: T, at least 2n - 1 for the longest row.

    Returns:
        [R, T] int64, PAD after the end.
    """
    step, n = _steps(lengths, n_steps)
    return _padded(torch.where((step % 2 == 1) | (step == 0), SHIFT, REDUCE), step, n)


def balanced(lengths: Tensor, n_steps: int) -> Tensor:
    """Derive the tree split at floor(n / 2) for every row; the loop is over different lengths, not rows.

    Args:
        lengths: [R] int64.
        n_steps: T, at least 2n - 1 for the longest row.

    Returns:
        [R, T] int64, PAD after the end.
    """
    table = torch.full(((n_steps + 1) // 2 + 1, n_steps), PAD, dtype=torch.int64)
    for n in set(lengths.tolist()):
        table[n, : 2 * n - 1] = torch.tensor(trees.balanced(n, split="floor"))
    return table.to(lengths.device)[lengths]


def shuffled_trees(keys: Tensor, lengths: Tensor) -> Tensor:
    """Turn random numbers into random trees, every binary tree over a row's tokens equally likely.

    Sorting the first 2n - 1 keys of a row shuffles n SHIFTs and n - 1 REDUCEs. Of the 2n - 1 rotations of any such
    arrangement, all different, exactly one is a derivation: the one that begins after the last place where SHIFTs less
    REDUCEs, counted from the left, are fewest. There is no loop over rows or steps, and what a row becomes depends on
    its own first 2n - 1 keys only.

    Reference: Dvoretzky & Motzkin 1947, "A Problem of Arrangements" (the cycle lemma).

    Args:
        keys: [R, T] int64. Independent and with more bits than could ever tie.
        lengths: [R] int64.

    Returns:
        [R, T] int64, PAD after the end.
    """
    n_steps = keys.shape[1]
    step, n = _steps(lengths, n_steps)
    end = 2 * n - 1
    inside = step < end
    order = keys.masked_fill(~inside, torch.iinfo(torch.int64).max).argsort(dim=1, stable=True)
    rank = torch.empty_like(order).scatter_(1, order, step.expand_as(order))
    is_shift = rank < n  # [R, T]
    balance = torch.where(is_shift, 1, -1).cumsum(1)
    lowest = (balance * n_steps - step).masked_fill(~inside, n_steps * n_steps).argmin(dim=1, keepdim=True)
    rotated = is_shift.gather(1, (lowest + 1 + step) % end)
    return _padded(torch.where(rotated, SHIFT, REDUCE), step, n)


def _steps(lengths: Tensor, n_steps: int) -> tuple[Tensor, Tensor]:
    return torch.arange(n_steps, device=lengths.device).unsqueeze(0), lengths.unsqueeze(1)  # [1, T], [R, 1]


def _padded(transitions: Tensor, step: Tensor, n: Tensor) -> Tensor:
    return torch.where(step < 2 * n - 1, transitions, PAD)


BRANCHINGS: dict[Branching, Callable[[Tensor, int], Tensor]] = {
    "left": left_branching,
    "right": right_branching,
    "balanced": balanced,
}
"""Trivial trees by name: [R] lengths and T to [R, T] derivations."""
