"""The same TreeLSTM in DyNet with automatic batching, where DyNet is installed (``pip install dynet38``)."""

from __future__ import annotations

import functools
import importlib
from typing import Any

from torch import Tensor, nn

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
        embedding: Whose weights to copy.
        cell: The same; without layer norm.

    Raises:
        Unavailable: DyNet is not installed.
    """

    def __init__(self, embedding: nn.Embedding, cell: BinaryTreeLSTM) -> None:
        self.dynet = load_dynet()
        self.hidden_size = cell.hidden_size
        self.collection = self.dynet.ParameterCollection()
        self.table = self.collection.lookup_parameters_from_numpy(_array(embedding.weight))
        self.parameters = [
            self.collection.parameters_from_numpy(_array(tensor))
            for tensor in (cell.project.weight, cell.project.bias, cell.combine.weight, cell.combine.bias)
        ]

    def roots(self, batch: Sentences) -> list[Any]:
        """Write down the hidden vectors of all roots; DyNet computes them when asked for a value."""
        dy, D = self.dynet, self.hidden_size
        dy.renew_cg()
        project, project_bias, combine, combine_bias = self.parameters
        roots = []
        for tokens, derivation in zip(batch.tokens.tolist(), batch.derivations, strict=True):
            front = 0
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
                    state = dy.affine_transform([project_bias, project, dy.lookup(self.table, tokens[front])])
                    stack.append((dy.pick_range(state, 0, D), dy.pick_range(state, D, 2 * D)))
                    front += 1
            roots.append(stack.pop()[0])
        return roots

    def forward_backward(self, batch: Sentences) -> float:
        """Weigh and add up the roots, and set the gradients of weights and embeddings; give the sum."""
        dy = self.dynet
        for parameter in (self.table, *self.parameters):
            parameter.scale_gradient(0.0)
        roots = dy.concatenate_to_batch(self.roots(batch))
        weights = dy.inputTensor(_array(batch.weights).T, batched=True)
        total = dy.sum_batches(dy.dot_product(roots, weights))
        value = float(total.value())
        total.backward()
        return value


def _array(tensor: Tensor) -> Any:
    return tensor.detach().numpy()
