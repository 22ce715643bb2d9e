"""Slow, obvious versions of what the library does fast. Tests compare; nothing else may import this."""

from __future__ import annotations

import torch
from torch import Tensor

from rlparse.models.composition import Composition
from rlparse.models.tracker import Tracker

SHIFT, REDUCE = 0, 1


def encode_one(
    composition: Composition, embeddings: Tensor, transitions: list[int], tracker: Tracker | None = None
) -> tuple[Tensor, Tensor | None]:
    """Parse one sentence with Python lists: [n, E] and 2n - 1 transitions to its root state and [2n - 1, H] tracker."""
    buffer = [composition.leaf(e.unsqueeze(0)) for e in embeddings]
    stack: list[Tensor] = []
    nothing = torch.zeros(1, composition.hidden_size, dtype=embeddings.dtype)
    tracked = []
    if tracker is not None:
        state = tracker.initial(1, embeddings)
    for transition in transitions:
        fed = None
        if tracker is not None:
            read = [buffer[0] if buffer else None]
            read += [stack[-1] if stack else None, stack[-2] if len(stack) > 1 else None]
            inputs = torch.cat([nothing if r is None else composition.hidden(r) for r in read], dim=1)
            state = tracker.step(inputs, state)
            fed = state[0]
            tracked.append(fed)
        if transition == SHIFT:
            stack.append(buffer.pop(0))
        else:
            right, left = stack.pop(), stack.pop()
            stack.append(composition(left, right, fed))
    assert len(stack) == 1
    assert not buffer
    return stack[0], torch.cat(tracked) if tracked else None


def tree_lstm_formula(cell: object, left: Tensor, right: Tensor) -> Tensor:
    """Tai et al.'s equations, one gate at a time, read off the weights of a `BinaryTreeLSTM` without options."""
    D = cell.hidden_size  # type: ignore[attr-defined]
    W, b = cell.combine.weight, cell.combine.bias  # type: ignore[attr-defined]
    x = torch.cat((left[:D], right[:D]))
    gate = [W[k * D : (k + 1) * D] @ x + b[k * D : (k + 1) * D] for k in range(5)]
    i, fl, fr, o = (1 / (1 + torch.exp(-gate[k])) for k in range(4))
    c = i * torch.tanh(gate[4]) + fl * left[D:] + fr * right[D:]
    return torch.cat((o * torch.tanh(c), c))
