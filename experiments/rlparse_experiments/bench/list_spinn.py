"""SPINN with Python lists of vectors for stacks and buffers, batched by hand at every step, for comparison.

This is the form in which SPINN has been published for PyTorch: the vectors of the rows that do the same are bundled
(``torch.cat``), computed together, and taken apart again (``torch.split``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlparse.lockstep import REDUCE, SHIFT
from rlparse.models.composition import BinaryTreeLSTM
from rlparse_experiments.bench.plain_tree_lstm import Pair, compose
from rlparse_experiments.bench.rl_spinn import Parsed, RLSpinn
from rlparse_experiments.bench.workload import Sentences


def bundle(states: Sequence[Tensor]) -> Pair:
    """Put M states [1, 2 D] under each other, as hidden vectors and memory cells."""
    hidden, memory = torch.cat(list(states)).chunk(2, dim=1)
    return hidden, memory


def unbundle(state: Pair) -> tuple[Tensor, ...]:
    """Take them apart again."""
    rows: tuple[Tensor, ...] = torch.cat(state, dim=1).split(1)
    return rows


def fill_buffers(embedding: nn.Embedding, cell: BinaryTreeLSTM, batch: Sentences) -> list[list[Tensor]]:
    """Give the states of every sentence's tokens, each [1, 2 D], last first."""
    leaves = cell.project(embedding(batch.tokens))
    return [list(row.split(1)[:n])[::-1] for row, n in zip(leaves, batch.lengths.tolist(), strict=True)]


def encode_with_lists(embedding: nn.Embedding, cell: BinaryTreeLSTM, batch: Sentences) -> Tensor:
    """Encode a batch along its derivations.

    Returns:
        [R, D] float. Hidden vectors of the roots.
    """
    buffers = fill_buffers(embedding, cell, batch)
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
            made = unbundle(compose(cell, bundle(lefts), bundle(rights)))
            for stack, node in zip(reducing, made, strict=True):
                stack.append(node)
    return bundle([stack.pop() for stack in stacks])[0]


def encode_with_lean_lists(embedding: nn.Embedding, cell: BinaryTreeLSTM, batch: Sentences) -> Tensor:
    """Do the same with less: padding is not projected, and hidden vector and memory cell are moved as one.

    Returns:
        [R, D] float. Hidden vectors of the roots.
    """
    D = cell.hidden_size
    leaves = iter(cell.project(embedding(batch.tokens[batch.tokens > 0])).unbind())
    buffers = [[next(leaves) for _ in range(n)][::-1] for n in batch.lengths.tolist()]
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
            left, right = torch.stack(lefts), torch.stack(rights)
            h, c = compose(cell, (left[:, :D], left[:, D:]), (right[:, :D], right[:, D:]))
            for stack, node in zip(reducing, torch.cat((h, c), dim=1).unbind(), strict=True):
                stack.append(node)
    return torch.stack([stack.pop() for stack in stacks])[:, :D]


def parse_with_lists(
    model: RLSpinn,
    batch: Sentences,
    *,
    running_only: bool = False,
    generator: torch.Generator | None = None,
    derivations: Sequence[Sequence[int]] | None = None,
) -> Parsed:
    """Choose every transition by the policy while composing, all of it recorded for autograd.

    Args:
        model: The weights.
        batch: Sentences, longest first.
        running_only: Let the tracker read only the rows that are still running, where published SPINNs let it read
            all of them until the longest sentence ends.
        generator: Source of randomness.
        derivations: Transitions to take instead of sampling.
    """
    cell, weight, rows = model.cell, model.embedding.weight, len(batch.lengths)
    last_step = [2 * n - 2 for n in batch.lengths.tolist()]
    buffers = fill_buffers(model.embedding, cell, batch)
    stacks: list[list[Tensor]] = [[] for _ in buffers]
    taken: list[list[int]] = [[] for _ in buffers]
    nothing = weight.new_zeros(1, cell.state_size)
    hidden = memory = weight.new_zeros(rows, model.tracker.hidden_size)
    log_probs, n_free = weight.new_zeros(rows), 0
    for t in range(last_step[0] + 1):
        running = sum(t <= last for last in last_step)
        read = running if running_only else rows
        seen = (
            bundle([buffer[-1] if buffer else nothing for buffer in buffers[:read]])[0],
            bundle([stack[-1] if stack else nothing for stack in stacks[:read]])[0],
            bundle([stack[-2] if len(stack) > 1 else nothing for stack in stacks[:read]])[0],
        )
        hidden, memory = torch.lstm_cell(
            torch.cat(seen, dim=1), (hidden[:read], memory[:read]), *model.tracker.lstm.all_weights[0]
        )
        legal = torch.tensor(
            [
                (bool(buffer), len(stack) > 1)
                for buffer, stack in zip(buffers[:running], stacks[:running], strict=True)
            ],
            device=hidden.device,
        )
        free = legal.all(dim=1)
        choices = F.log_softmax(model.head(hidden[:running]).masked_fill(~legal, -math.inf), dim=1)
        if derivations is None:
            draws = torch.rand(running, generator=generator, device=hidden.device)
            actions = torch.where(free, draws >= choices[:, SHIFT].exp(), legal[:, REDUCE]).long()
        else:
            actions = torch.tensor([row[t] for row in derivations[:running]], device=hidden.device)
        n_free += int(free.sum())
        chosen = choices.gather(1, actions.unsqueeze(1)).squeeze(1).masked_fill(~free, 0.0)
        log_probs = log_probs + F.pad(chosen, (0, rows - running))
        lefts, rights, reducing = [], [], []
        for row, action in enumerate(actions.tolist()):
            taken[row].append(action)
            if action == SHIFT:
                stacks[row].append(buffers[row].pop())
            else:
                rights.append(stacks[row].pop())
                lefts.append(stacks[row].pop())
                reducing.append(row)
        if reducing:
            made = unbundle(compose(cell, bundle(lefts), bundle(rights), hidden[reducing]))
            for row, node in zip(reducing, made, strict=True):
                stacks[row].append(node)
    roots = bundle([stack.pop() for stack in stacks])[0]
    return Parsed(roots, log_probs, n_free, taken)
