"""The plainest ways to compute a TreeLSTM, for comparison: the same weights and values, none of the engine."""

from __future__ import annotations

import torch
from torch import Tensor

from rlparse.lockstep import REDUCE, SHIFT
from rlparse.models.composition import BinaryTreeLSTM
from rlparse_experiments.bench.workload import Sentences


def compose(cell: BinaryTreeLSTM, left: Tensor, right: Tensor, tracker: Tensor | None = None) -> Tensor:
    """Apply the binary TreeLSTM's formula.

    Args:
        cell: Whose weights; without layer norm.
        left: [M, 2 D] float. Hidden vector and memory cell.
        right: The same.
        tracker: [M, H] float, if the cell was built to read one.

    Returns:
        [M, 2 D] float.
    """
    D = cell.hidden_size
    read = [left[:, :D], right[:, :D]] + ([] if tracker is None else [tracker])
    i, f_left, f_right, o, g = cell.combine(torch.cat(read, dim=1)).chunk(5, dim=1)
    c = i.sigmoid() * g.tanh() + f_left.sigmoid() * left[:, D:] + f_right.sigmoid() * right[:, D:]
    return torch.cat((o.sigmoid() * c.tanh(), c), dim=1)


def encode_one_by_one(cell: BinaryTreeLSTM, batch: Sentences) -> Tensor:
    """Encode one sentence after the other, one node at a time: how it is done without batching.

    Returns:
        [R, D] float. Hidden vectors of the roots.
    """
    roots = []
    for embeddings, derivation in zip(batch.embeddings, batch.derivations, strict=True):
        leaves = iter(cell.project(embeddings[: (len(derivation) + 1) // 2]).split(1))
        stack: list[Tensor] = []
        for transition in derivation:
            if transition == REDUCE:
                right, left = stack.pop(), stack.pop()
                stack.append(compose(cell, left, right))
            else:
                stack.append(next(leaves))
        roots.append(stack.pop())
    return torch.cat(roots)[:, : cell.hidden_size]


def leaf_lists(cell: BinaryTreeLSTM, batch: Sentences) -> list[list[Tensor]]:
    """Give the leaves of every sentence, last first, each [2 D]."""
    token_mask = torch.arange(batch.embeddings.shape[1]) < batch.lengths.unsqueeze(1)
    leaves = iter(cell.project(batch.embeddings[token_mask]).unbind())
    return [[next(leaves) for _ in range(n)][::-1] for n in batch.lengths.tolist()]


def encode_with_lists(cell: BinaryTreeLSTM, batch: Sentences) -> Tensor:
    """Encode a batch in lockstep with a list of vectors for every stack: SPINN as plainly as one would write it.

    At every step the children of all rows that REDUCE are stacked, composed together and taken apart again.

    Returns:
        [R, D] float. Hidden vectors of the roots.
    """
    buffers = leaf_lists(cell, batch)
    stacks: list[list[Tensor]] = [[] for _ in buffers]
    for t in range(max(map(len, batch.derivations))):
        lefts, rights, reducing = [], [], []
        for derivation, buffer, stack in zip(batch.derivations, buffers, stacks, strict=True):
            if t >= len(derivation):
                continue
            if derivation[t] == SHIFT:
                stack.append(buffer.pop())
            else:
                rights.append(stack.pop())
                lefts.append(stack.pop())
                reducing.append(stack)
        if reducing:
            made = compose(cell, torch.stack(lefts), torch.stack(rights)).unbind()
            for stack, node in zip(reducing, made, strict=True):
                stack.append(node)
    return torch.stack([stack.pop() for stack in stacks])[:, : cell.hidden_size]
