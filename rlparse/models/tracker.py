"""SPINN's Tracker: an LSTM that reads, before every transition, the buffer front and the two stack tops."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlparse.compiled import gate_kernels
from rlparse.models.products import Product


class Tracker(nn.Module):
    """An LSTM over the parser's steps.

    Its input is ``[h(buffer front); h(stack top); h(second of stack)]``, with zeros where there is none. One set of
    weights serves two uses that agree: `step` while transitions are being chosen, `forward` over whole derivations.

    Reference: Bowman et al. 2016, "A Fast Unified Model for Parsing and Sentence Understanding".

    Args:
        input_size: Width D of one node's hidden vector.
        hidden_size: Width H of the tracker's own state.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.lstm = nn.LSTM(3 * input_size, hidden_size, batch_first=True)

    def initial(self, rows: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Give the zero state before the first step: hidden and cell, each [R, H], of ``like``'s dtype and device."""
        zeros = like.new_zeros(rows, self.hidden_size)
        return zeros, zeros.clone()

    def step(self, inputs: Tensor, tracker_state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Read one step.

        Args:
            inputs: [R, 3 D] float.
            tracker_state: hidden and cell, each [R, H] float.

        Returns:
            The new hidden and cell, each [R, H] float.
        """
        hidden, cell = tracker_state
        w_ih, w_hh, b_ih, b_hh = self.lstm.all_weights[0]
        gates = F.linear(inputs, w_ih, b_ih) + F.linear(hidden, w_hh, b_hh)
        i, f, g, o = gates.chunk(4, dim=-1)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(cell), cell

    def forward(self, inputs: Tensor) -> Tensor:
        """Read whole derivations from the zero state.

        Args:
            inputs: [R, T, 3 D] float.

        Returns:
            [R, T, H] float. The hidden vector after reading each step; what follows a row's end is meaningless.
        """
        states, _ = self.lstm(inputs)
        return states  # type: ignore[no-any-return]  # nn.LSTM.forward is not annotated


class TrackerCell:
    """One pass of a tracker over the steps of a batch, forward and backward, without autograd.

    As `rlparse.models.cells` does for compositions: what backward needs stays in tables of [S, ...], one row for each
    row of the batch that still runs at each step, and the weights' gradients are one product each at the end. What the
    gates owe to the buffer's front depends on the leaf that stands there and on nothing else, so that it is one product
    over all leaves, and its gradient too.

    Args:
        tracker: Whose weights are read; they must not change before backward is done.
        active: Rows that run at each step, falling; they add up to S.
        like: Gives dtype and device.
    """

    def __init__(self, tracker: Tracker, active: Sequence[int], like: Tensor) -> None:
        D, H, total = tracker.input_size, tracker.hidden_size, sum(active)
        self.size = H
        w_ih, w_hh, b_ih, b_hh = (weight.detach().clone() for weight in tracker.lstm.all_weights[0])
        # tanh(x) = 2 sigmoid(2 x) - 1, so that one sigmoid squashes all four blocks.
        for tensor in (w_ih, w_hh, b_ih, b_hh):
            tensor[2 * H : 3 * H].mul_(2.0)
        self.from_front = Product(w_ih[:, :D], b_ih + b_hh)
        self.from_stack, self.from_hidden = Product(w_ih[:, D:], None), Product(w_hh, None)
        self.kernels = gate_kernels(like)
        self.minus_one = like.new_full((), -1.0)
        self.stacks = like.new_empty(total, 2 * D)
        self.gates = like.new_empty(total, 4 * H)
        self.hidden, self.cells, self.squashed = (like.new_empty(total, H) for _ in range(3))
        self.active = list(active)
        self.starts = [0, *accumulate(self.active)]
        nothing = like.new_zeros(active[0], H)
        self.before, self.cells_before = (
            [rows[:a] for rows, a in zip((nothing, *table.split(self.active)[:-1]), self.active, strict=True)]
            for table in (self.hidden, self.cells)
        )
        blocks = self.gates.view(total, 4, H)
        views = (self.gates, *blocks.unbind(1), self.squashed, self.cells, self.hidden)
        self.views: list[tuple[Tensor, ...]] = list(
            zip(*(view.split(self.active) for view in views), strict=True)
        )
        self.stack_views = self.stacks.split(self.active)
        self.ahead = like.new_empty(0)

    def start(self, leaves: Tensor) -> None:
        """Take the hidden vectors of all leaves, [U, D]; row U of what is made of them is an empty buffer's."""
        self.ahead = leaves.new_empty(leaves.shape[0] + 1, self.gates.shape[1])
        self.from_front.forward(leaves, self.ahead[:-1])
        assert self.from_front.bias is not None
        self.ahead[-1] = self.from_front.bias

    def step(self, t: int, nodes: Tensor, fronts: Tensor, pairs: Tensor) -> Tensor:
        """Read step t and give the hidden vectors after it: [a, H].

        Args:
            t: The step.
            nodes: [nodes, D] float. Hidden vectors.
            fronts: [a] int64. Leaf at each buffer's front, U where it is empty.
            pairs: [2 a] int64. Rows of ``nodes``: each stack's top and the second beneath it.
        """
        gates, i, f, g, o, squashed, cell, hidden = self.views[t]
        stacks, before = self.stack_views[t], self.cells_before[t]
        torch.index_select(nodes, 0, pairs, out=stacks.view(len(pairs), -1))
        torch.index_select(self.ahead, 0, fronts, out=gates)
        self.from_stack.add(stacks, gates)
        if t:
            self.from_hidden.add(self.before[t], gates)
        if self.kernels is not None:
            self.kernels.lstm_forward(gates, before, hidden, cell, squashed)
            return hidden
        gates.sigmoid_()
        # c = f c + i (2 g - 1)
        torch.mul(f, before, out=cell)
        cell.sub_(i).addcmul_(i, g, value=2.0)
        torch.mul(cell, 2.0, out=squashed)
        torch.add(self.minus_one, squashed.sigmoid_(), alpha=2.0, out=squashed)
        torch.mul(o, squashed, out=hidden)
        return hidden

    def step_backward(self, t: int, grad_hidden: Tensor, grad_cell: Tensor) -> Tensor:
        """Go backward through step t.

        Args:
            t: The step.
            grad_hidden: [a, H] float, of the hidden vectors after it, then of those before it.
            grad_cell: [a, H] float, of the cells after it, then of those before it.

        Returns:
            [a, 2 D] float, gradients of top and second.
        """
        gates, i, f, g, o, squashed, _, _ = self.views[t]
        before = self.cells_before[t]
        if self.kernels is not None:
            self.kernels.lstm_backward(gates, before, squashed, grad_hidden, grad_cell)
        else:
            outer = torch.empty_like(gates)
            of_i, of_f, of_g, of_o = outer.view(-1, 4, self.size).unbind(1)
            torch.mul(grad_hidden, squashed, out=of_o)
            grad_hidden.mul_(o)
            grad_cell.add_(torch.ops.aten.tanh_backward(grad_hidden, squashed))
            torch.mul(grad_cell, before, out=of_f)
            torch.mul(grad_cell, torch.add(self.minus_one, g, alpha=2.0), out=of_i)
            torch.mul(grad_cell, i, out=of_g).mul_(2.0)
            grad_cell.mul_(f)
            torch.ops.aten.sigmoid_backward.grad_input(outer, gates, grad_input=gates)
        self.from_hidden.backward(gates, grad_hidden)
        return self.from_stack.backward(gates)

    def finish(self, fronts: Sequence[Tensor], leaves: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Give what is left once every step went backward.

        Args:
            fronts: As `step` took them, step by step.
            leaves: [U, D] float. As `start` took them.

        Returns:
            The gradient of the leaves, [U, D], and those of the weights by their names in `Tracker`.
        """
        H = self.size
        of_fronts = self.ahead.zero_().index_add_(0, torch.cat(list(fronts)), self.gates)[:-1]
        weights = (
            self.from_front.weight_gradient(of_fronts, leaves),
            self.from_stack.weight_gradient(self.gates, self.stacks),
        )
        found = {
            "lstm.weight_ih_l0": torch.cat(weights, dim=1),
            "lstm.weight_hh_l0": self.from_hidden.weight_gradient(self.gates, torch.cat(self.before)),
            "lstm.bias_ih_l0": self.gates.sum(0),
        }
        for gradient in found.values():
            gradient[2 * H : 3 * H].mul_(2.0)
        found["lstm.bias_hh_l0"] = found["lstm.bias_ih_l0"].clone()
        return self.from_front.backward(of_fronts), found
