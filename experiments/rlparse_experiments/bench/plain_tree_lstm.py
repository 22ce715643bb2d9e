"""The plainest TreeLSTM, for comparison: the formula, and a recursion over nodes. The same weights and values."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rlparse.lockstep import REDUCE
from rlparse.models.composition import BinaryTreeLSTM
from rlparse_experiments.bench.workload import Sentences

Pair = tuple[Tensor, Tensor]
"""Hidden vectors and memory cells of some nodes, each [M, D] float."""


def compose(cell: BinaryTreeLSTM, left: Pair, right: Pair, tracker: Tensor | None = None) -> Pair:
    """Apply the binary TreeLSTM's formula.

    Args:
        cell: Whose weights; without layer norm.
        left: Children's hidden vectors and memory cells.
        right: The same.
        tracker: [M, H] float, if the cell was built to read one.
    """
    read = [left[0], right[0]] if tracker is None else [left[0], right[0], tracker]
    i, f_left, f_right, o, g = cell.combine(torch.cat(read, dim=1)).chunk(5, dim=1)
    c = i.sigmoid() * g.tanh() + f_left.sigmoid() * left[1] + f_right.sigmoid() * right[1]
    return o.sigmoid() * c.tanh(), c


def encode_one_by_one(embedding: nn.Embedding, cell: BinaryTreeLSTM, batch: Sentences) -> Tensor:
    """Encode one sentence after the other, one node at a time: how it is done without batching.

    Returns:
        [R, D] float. Hidden vectors of the roots.
    """
    roots = []
    for tokens, derivation in zip(batch.tokens, batch.derivations, strict=True):
        words = embedding(tokens[: (len(derivation) + 1) // 2])
        hidden, memory = cell.project(words).chunk(2, dim=1)
        leaves = iter(zip(hidden.split(1), memory.split(1), strict=True))
        stack: list[Pair] = []
        for transition in derivation:
            if transition == REDUCE:
                right, left = stack.pop(), stack.pop()
                stack.append(compose(cell, left, right))
            else:
                stack.append(next(leaves))
        roots.append(stack.pop()[0])
    return torch.cat(roots)
