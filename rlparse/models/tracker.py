"""SPINN's Tracker: an LSTM that reads, before every transition, the buffer front and the two stack tops."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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
