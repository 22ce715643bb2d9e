"""The same TreeLSTM in DyNet with automatic batching, where DyNet is installed (``pip install dynet38``)."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import numpy as np
from torch import Tensor

from rlparse.lockstep import REDUCE
from rlparse.models.composition import BinaryTreeLSTM
from rlparse_experiments.bench.measuring import Unavailable
from rlparse_experiments.bench.workload import Sentences

MEGABYTES = 512
"""DyNet's memory to begin with; it grows."""


@functools.cache
def load_dynet() -> Any:
    """Import DyNet, with automatic batching switched on as it has to be: before its first import.

    Raises:
        Unavailable: It is not installed.
    """
    try:
        importlib.import_module("dynet_config").set(mem=MEGABYTES, autobatch=1, random_seed=1)
        return importlib.import_module("dynet")
    except ImportError as error:
        raise Unavailable(f"DyNet is not installed here ({error}); pip install dynet38") from error


class DynetTreeLSTM:
    """A `BinaryTreeLSTM` written in DyNet, node by node; DyNet batches what it can.

    Args:
        cell: Whose weights to copy; without layer norm.

    Raises:
        Unavailable: DyNet is not installed.
    """

    def __init__(self, cell: BinaryTreeLSTM) -> None:
        self.dynet = load_dynet()
        self.hidden_size = cell.hidden_size
        self.collection = self.dynet.ParameterCollection()
        self.parameters = [
            self.collection.parameters_from_numpy(_array(tensor))
            for tensor in (cell.project.weight, cell.project.bias, cell.combine.weight, cell.combine.bias)
        ]

    def load(self, batch: Sentences) -> Any:
        """Copy a batch's embeddings into a table with a gradient, one row a token."""
        vectors = np.concatenate(
            [_array(row[:n]) for row, n in zip(batch.embeddings, batch.lengths.tolist(), strict=True)]
        )
        return self.collection.lookup_parameters_from_numpy(vectors)

    def roots(self, table: Any, batch: Sentences) -> list[Any]:
        """Write down the hidden vectors of all roots; DyNet computes them when asked for a value."""
        dy, D = self.dynet, self.hidden_size
        dy.renew_cg()
        project, project_bias, combine, combine_bias = self.parameters
        front, roots = 0, []
        for derivation in batch.derivations:
            stack: list[tuple[Any, Any]] = []
            for transition in derivation:
                if transition == REDUCE:
                    (right, right_cell), (left, left_cell) = stack.pop(), stack.pop()
                    gates = dy.affine_transform([combine_bias, combine, dy.concatenate([left, right])])
                    opened = dy.logistic(dy.pick_range(gates, 0, 4 * D))
                    i, f_left, f_right, o = (dy.pick_range(opened, k * D, (k + 1) * D) for k in range(4))
                    g = dy.tanh(dy.pick_range(gates, 4 * D, 5 * D))
                    memory = dy.cmult(i, g) + dy.cmult(f_left, left_cell) + dy.cmult(f_right, right_cell)
                    stack.append((dy.cmult(o, dy.tanh(memory)), memory))
                else:
                    state = dy.affine_transform([project_bias, project, dy.lookup(table, front)])
                    stack.append((dy.pick_range(state, 0, D), dy.pick_range(state, D, 2 * D)))
                    front += 1
            roots.append(stack.pop()[0])
        return roots

    def forward_backward(self, table: Any, batch: Sentences) -> float:
        """Weigh and add up the roots, and set the gradients of weights and embeddings; give the sum."""
        dy = self.dynet
        for parameter in (*self.parameters, table):
            parameter.scale_gradient(0.0)
        roots = dy.concatenate_to_batch(self.roots(table, batch))
        weights = dy.inputTensor(_array(batch.weights).T, batched=True)
        total = dy.sum_batches(dy.dot_product(roots, weights))
        value = float(total.value())
        total.backward()
        return value


def _array(tensor: Tensor) -> Any:
    return tensor.detach().numpy()
