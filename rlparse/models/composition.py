"""Composition functions: what REDUCE computes from two children.

A node's *state* is one vector of ``state_size`` numbers, whose first ``hidden_size`` are what the rest of the model
sees (`Composition.hidden`); a TreeLSTM carries its memory cell behind them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlparse.models.cells import Cell
from rlparse.models.gated_cell import GatedCell
from rlparse.models.recomputing_cell import RecomputingCell
from rlparse.models.tree_lstm_cells import NormalisedTreeLSTMCell, TreeLSTMCell
from rlparse.models.tree_rnn_cell import TreeRNNCell


class Composition(nn.Module, ABC):
    """Turn word embeddings into leaf states and two child states into their parent's.

    Args:
        embedding_size: E.
        hidden_size: D.
        tracker_size: Width of a tracker state that every composition also reads (SPINN), or 0 for none.
        layer_norm: Normalise inside the cell (Ba et al. 2016).
    """

    state_multiple = 1  # state_size / hidden_size

    def __init__(
        self, embedding_size: int, hidden_size: int, *, tracker_size: int = 0, layer_norm: bool = False
    ) -> None:
        super().__init__()
        self.embedding_size = embedding_size
        self.hidden_size = hidden_size
        self.tracker_size = tracker_size
        self.layer_norm = layer_norm
        self.state_size = self.state_multiple * hidden_size

    @abstractmethod
    def leaf(self, embeddings: Tensor) -> Tensor:
        """Give the states of single tokens: [..., E] float to [..., state_size] float."""

    @abstractmethod
    def forward(self, left: Tensor, right: Tensor, tracker: Tensor | None = None) -> Tensor:
        """Compose M pairs of children.

        Args:
            left: [M, state_size] float.
            right: [M, state_size] float.
            tracker: [M, tracker_size] float, exactly when the composition was built with a tracker size.

        Returns:
            [M, state_size] float.
        """

    def cell(self, n_nodes: int, like: Tensor) -> Cell:
        """Begin one pass over a batch, as the stack machine asks for it.

        The compositions here have their forward and backward written by hand. One of your own works as it is, and so
        does one of these that was changed (a subclass, hooks, weights that are parametrised, shared or left out):
        backward composes every node once more and lets autograd differentiate it.

        Args:
            n_nodes: Nodes that will be composed.
            like: Gives dtype and device.
        """
        by_hand = BY_HAND.get(type(self))
        if by_hand is None or not self._is_plain():
            return RecomputingCell(self, n_nodes, like)
        return by_hand(self, n_nodes, like)

    def _is_plain(self) -> bool:
        """Tell whether nothing but its own formula and its own weights make this composition's states."""
        if any(module._forward_hooks or module._forward_pre_hooks for module in self.modules()):
            return False
        return {name for name, _ in self.named_parameters()} == self.own_weights()

    def own_weights(self) -> set[str]:
        """Give the names of the weights that the composition was published with."""
        return set()

    def hidden(self, state: Tensor) -> Tensor:
        """Give the part of a state that others read: [..., state_size] to [..., D]."""
        return state[..., : self.hidden_size]

    def _inputs(self, left: Tensor, right: Tensor, tracker: Tensor | None) -> Tensor:
        """Concatenate what the cell's matrix multiplies, after checking that a tracker came if and only if due."""
        if (tracker is None) != (self.tracker_size == 0):
            raise ValueError(
                f"composition was built with tracker_size={self.tracker_size}, "
                f"got {'no tracker state' if tracker is None else f'a tracker state {tuple(tracker.shape)}'}"
            )
        parts = [self.hidden(left), self.hidden(right)]
        return torch.cat(parts if tracker is None else [*parts, tracker], dim=-1)


class TreeRNN(Composition):
    """The recursive network: h = tanh(W [h_l; h_r (; tracker)] + b).

    Reference: Bowman et al. 2016, "A Fast Unified Model for Parsing and Sentence Understanding" (its TreeRNN);
    Socher et al. 2011.
    """

    def __init__(
        self, embedding_size: int, hidden_size: int, *, tracker_size: int = 0, layer_norm: bool = False
    ) -> None:
        super().__init__(embedding_size, hidden_size, tracker_size=tracker_size, layer_norm=layer_norm)
        self.project = nn.Linear(embedding_size, hidden_size)
        self.combine = nn.Linear(2 * hidden_size + tracker_size, hidden_size)
        self.norm = nn.LayerNorm(hidden_size) if layer_norm else None

    def own_weights(self) -> set[str]:
        """Give their names; see `Composition.own_weights`."""
        return _of("project", "combine", *(["norm"] if self.layer_norm else []))

    def leaf(self, embeddings: Tensor) -> Tensor:
        """Project the embedding: W_e e + b, squashed like every other node."""
        return torch.tanh(self.project(embeddings))

    def forward(self, left: Tensor, right: Tensor, tracker: Tensor | None = None) -> Tensor:
        """Apply the formula above."""
        pre: Tensor = self.combine(self._inputs(left, right, tracker))
        return torch.tanh(pre if self.norm is None else self.norm(pre))


class BinaryTreeLSTM(Composition):
    """The binary TreeLSTM, with a forget gate for each child.

        i, f_l, f_r, o, g = W [h_l; h_r (; tracker)] + b
        c = sigmoid(i) tanh(g) + sigmoid(f_l) c_l + sigmoid(f_r) c_r
        h = sigmoid(o) tanh(c)

    A leaf is a linear map of its embedding to (h, c), as in SPINN. With ``layer_norm`` each of the five blocks and
    the cell before its tanh are normalised. The forget gates' biases begin at 1, so that memories last.

    Reference: Tai, Socher & Manning 2015, "Improved Semantic Representations From Tree-Structured LSTM Networks".
    """

    state_multiple = 2

    def __init__(
        self, embedding_size: int, hidden_size: int, *, tracker_size: int = 0, layer_norm: bool = False
    ) -> None:
        super().__init__(embedding_size, hidden_size, tracker_size=tracker_size, layer_norm=layer_norm)
        self.project = nn.Linear(embedding_size, 2 * hidden_size)
        self.combine = nn.Linear(2 * hidden_size + tracker_size, 5 * hidden_size)
        self.cell_norm = nn.LayerNorm(hidden_size) if layer_norm else None
        if layer_norm:
            self.gain = nn.Parameter(torch.ones(5, hidden_size))
        with torch.no_grad():
            self.combine.bias[hidden_size : 3 * hidden_size] = 1.0

    def own_weights(self) -> set[str]:
        """Give their names; see `Composition.own_weights`."""
        return _of("project", "combine") | (_of("cell_norm") | {"gain"} if self.layer_norm else set())

    def leaf(self, embeddings: Tensor) -> Tensor:
        """Map the embedding linearly to (h, c)."""
        state: Tensor = self.project(embeddings)
        return state

    def forward(self, left: Tensor, right: Tensor, tracker: Tensor | None = None) -> Tensor:
        """Apply the formula above."""
        D = self.hidden_size
        inputs = self._inputs(left, right, tracker)
        if self.cell_norm is None:
            gates: Tensor = self.combine(inputs)
        else:
            blocks = F.linear(inputs, self.combine.weight).unflatten(-1, (5, D))
            blocks = F.layer_norm(blocks, (D,)) * self.gain
            gates = blocks.flatten(-2) + self.combine.bias
        forget_in = torch.sigmoid(gates[..., : 3 * D])
        i, f_left, f_right = forget_in.split(D, dim=-1)
        o = torch.sigmoid(gates[..., 3 * D : 4 * D])
        g = torch.tanh(gates[..., 4 * D :])
        c = i * g + f_left * left[..., D:] + f_right * right[..., D:]
        h = o * torch.tanh(c if self.cell_norm is None else self.cell_norm(c))
        return torch.cat((h, c), dim=-1)


class GatedRecursiveCell(Composition):
    """Ordered Memory's cell: gates choose among the left child, the right child and a new candidate.

        g_l, g_r, g_c, u = W_2 relu(W_1 [h_l; h_r (; tracker)] + b_1) + b_2
        h = norm(sigmoid(g_l) h_l + sigmoid(g_r) h_r + sigmoid(g_c) u)

    The inner layer is ``4 D`` wide. The norm has no parameters; it keeps deep trees from growing or fading and is
    on by default here because the published cell has it. A leaf is a normalised linear map of its embedding.

    Reference: Shen et al. 2019, "Ordered Memory".
    """

    def __init__(
        self, embedding_size: int, hidden_size: int, *, tracker_size: int = 0, layer_norm: bool = True
    ) -> None:
        super().__init__(embedding_size, hidden_size, tracker_size=tracker_size, layer_norm=layer_norm)
        self.project = nn.Linear(embedding_size, hidden_size)
        self.widen = nn.Linear(2 * hidden_size + tracker_size, 4 * hidden_size)
        self.combine = nn.Linear(4 * hidden_size, 4 * hidden_size)

    def own_weights(self) -> set[str]:
        """Give their names; see `Composition.own_weights`."""
        return _of("project", "widen", "combine")

    def leaf(self, embeddings: Tensor) -> Tensor:
        """Map the embedding linearly, then normalise."""
        return self._norm(self.project(embeddings))

    def forward(self, left: Tensor, right: Tensor, tracker: Tensor | None = None) -> Tensor:
        """Apply the formula above."""
        D = self.hidden_size
        blocks: Tensor = self.combine(torch.relu(self.widen(self._inputs(left, right, tracker))))
        g_left, g_right, g_new = torch.sigmoid(blocks[..., : 3 * D]).split(D, dim=-1)
        return self._norm(g_left * left + g_right * right + g_new * blocks[..., 3 * D :])

    def _norm(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (self.hidden_size,)) if self.layer_norm else x


def _of(*modules: str) -> set[str]:
    return {f"{module}.{name}" for module in modules for name in ("weight", "bias")}


def _tree_lstm_cell(composition: BinaryTreeLSTM, n_nodes: int, like: Tensor) -> Cell:
    kind = NormalisedTreeLSTMCell if composition.layer_norm else TreeLSTMCell
    return kind(composition, n_nodes, like)


BY_HAND: dict[type[Composition], Callable[[Any, int, Tensor], Cell]] = {
    TreeRNN: TreeRNNCell,
    BinaryTreeLSTM: _tree_lstm_cell,
    GatedRecursiveCell: GatedCell,
}
"""How the compositions here are computed in a pass, forward and backward."""

COMPOSITIONS: dict[str, type[Composition]] = {
    "tree_rnn": TreeRNN,
    "tree_lstm": BinaryTreeLSTM,
    "gated": GatedRecursiveCell,
}


def build_composition(
    name: str, embedding_size: int, hidden_size: int, *, tracker_size: int = 0, layer_norm: bool | None = None
) -> Composition:
    """Build a composition by the name that configurations use.

    Args:
        name: ``tree_rnn``, ``tree_lstm`` or ``gated``.
        embedding_size: E.
        hidden_size: D.
        tracker_size: Width of the tracker state it reads, 0 for none.
        layer_norm: None keeps the composition's own default (on for ``gated``, off for the others).

    Raises:
        ValueError: The name is unknown.
    """
    if name not in COMPOSITIONS:
        raise ValueError(f"unknown composition {name!r}; known: {', '.join(COMPOSITIONS)}")
    cls = COMPOSITIONS[name]
    if layer_norm is None:
        return cls(embedding_size, hidden_size, tracker_size=tracker_size)
    return cls(embedding_size, hidden_size, tracker_size=tracker_size, layer_norm=layer_norm)
