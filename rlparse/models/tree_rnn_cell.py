"""A pass of the recursive network, forward and backward by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rlparse.models.cells import Cell, Children, Given, Gradients, Planes
from rlparse.models.layer_norm import normalise, normalise_backward
from rlparse.models.products import Affine, Projection
from rlparse.models.tables import room

if TYPE_CHECKING:
    from rlparse.models.composition import TreeRNN

aten = torch.ops.aten


class TreeRNNCell(Cell):
    """`TreeRNN` by hand."""

    def __init__(self, composition: TreeRNN, n_nodes: int, like: Tensor) -> None:
        super().__init__(composition, n_nodes, like)
        D = self.size
        self.projection = Projection(composition.project, 1)
        self.affine = Affine(composition.combine.weight, composition.combine.bias, 2 * D)
        self.norm = composition.norm
        self.grad_pre = room(like, n_nodes, D)
        self.kept = (self.grad_pre,)
        if self.norm is not None:
            # What the norm gave, 1 / sd, and the gradient behind the norm, which that of its gain needs.
            self.kept += (room(like, n_nodes, D), room(like, n_nodes, 1), room(like, n_nodes, D))

    def leaf(self, embeddings: Tensor, out: Planes) -> None:
        """Write the states of single tokens; see `Cell.leaf`."""
        self.projection.write(embeddings, out)
        out[0].tanh_()

    def leaf_backward(self, embeddings: Tensor, states: Planes, grads: Planes) -> tuple[Tensor, Gradients]:
        """Go backward through `leaf`; see `Cell.leaf_backward`."""
        pre = aten.tanh_backward(grads[0], states[0])
        return self.projection.backward(embeddings, (pre,))

    def compose(self, children: Children, out: Planes, kept: Planes, tracker: Tensor | None = None) -> None:
        """Write the states of a group; see `Cell.compose`."""
        h = out[0]
        self.affine.write(children.hidden, tracker, h)
        if self.norm is not None:
            normalise(h, kept[1], kept[2])
            torch.addcmul(self.norm.bias, kept[1], self.norm.weight, out=h)
        h.tanh_()

    def compose_backward(
        self,
        children: Children,
        states: Planes,
        grads: Given,
        kept: Planes,
        grad_children: Planes,
        tracker: Tensor | None = None,
    ) -> Tensor | None:
        """Write the gradients of a group's children; see `Cell.compose_backward`."""
        pre = kept[0]
        aten.tanh_backward.grad_input(grads.plane(0), states[0], grad_input=pre)
        if self.norm is not None:
            kept[3].copy_(pre)
            pre.copy_(normalise_backward(pre * self.norm.weight, kept[1], kept[2]))
        self.affine.backward(pre, grad_children[0])
        return self.affine.tracker_gradient(pre)

    def weight_gradients(self, children: Tensor, tracker: Tensor | None = None) -> Gradients:
        """Give the gradients of the weights; see `Cell.weight_gradients`."""
        found = {
            "combine.weight": self.affine.gradient(self.grad_pre, children, tracker),
            "combine.bias": self.grad_pre.sum(0),
        }
        if self.norm is not None:
            normed, outer = self.kept[1], self.kept[3]
            found["norm.weight"] = (outer * normed).sum(0)
            found["norm.bias"] = outer.sum(0)
        return found
