"""Run an LSTM over the steps of whole derivations, for policies that judge them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from rlparse_agents.rollout import longest_first

ROWS_PER_GROUP = 32
"""Fewer are not worth a pass of their own."""

MOST_GROUPS = 4


def run_by_length(
    lstm: Callable[[Tensor], Tensor], vectors: Tensor, index: Tensor, lengths: Tensor
) -> Tensor:
    """Read all steps of every row from the zero state.

    On a CPU rows of similar length go together, so that little is computed past their ends.

    Args:
        lstm: From inputs [rows, steps, k D] to hidden vectors [rows, steps, H].
        vectors: [V, D] float.
        index: [R, T, k] int64. Which of the vectors, one after the other, are read at every step.
        lengths: [R] int64. Tokens of every row, which takes one step less than twice as many.

    Returns:
        [R, T, H] float. The hidden vector after reading each step; what follows a row's end is meaningless.
    """
    rows, n_steps = index.shape[:2]
    n_groups = 1 if index.is_cuda else max(1, min(MOST_GROUPS, rows // ROWS_PER_GROUP))
    order, back = longest_first(lengths) if n_groups > 1 else (None, None)
    sizes = [n_steps] if order is None else [2 * int(x[0]) - 1 for x in lengths[order].chunk(n_groups)]
    groups = (index if order is None else index[order]).chunk(n_groups)
    # By step, then by row, which is the order an LSTM takes them in.
    wanted = [g[:, :size].transpose(0, 1).flatten() for g, size in zip(groups, sizes, strict=True)]
    inputs = vectors.index_select(0, torch.cat(wanted)).split([len(index) for index in wanted])
    states = []
    for part, group, size in zip(inputs, groups, sizes, strict=True):
        read = lstm(part.view(size, len(group), -1).transpose(0, 1))
        states.append(F.pad(read, (0, 0, 0, n_steps - size)))
    joined = torch.cat(states)
    return joined if back is None else joined.index_select(0, back)
