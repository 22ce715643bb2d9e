"""A pass of the gated recursive cell, forward and backward by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rlparse.models.cells import Cell, Children, Given, Gradients, Planes
from rlparse.models.layer_norm import normalise, normalise_backward
from rlparse.models.products import Affine, Projection
from rlparse.models.tables import room

if TYPE_CHECKING:
    from rlparse.models.composition import GatedRecursiveCell

aten = torch.ops.aten


class GatedCell(Cell):
    """`GatedRecursiveCell` by hand."""

    def __init__(self, composition: GatedRecursiveCell, n_nodes: int, like: Tensor) -> None:
        super().__init__(composition, n_nodes, like)
        D = self.size
        self.composition = composition
        self.normalised = composition.layer_norm
        self.projection = Projection(composition.project, 1)
        self.widen = Affine(composition.widen.weight, composition.widen.bias, 2 * D)
        self.combine = Affine(composition.combine.weight, composition.combine.bias, 4 * D)
        self.grad_wide = room(like, n_nodes, 4 * D)
        self.blocks = room(
            like, n_nodes, 4, D
        )  # gates and candidate, then their gradients before the squashing
        self.wide = room(like, n_nodes, 4 * D)
        self.kept = (self.wide, self.grad_wide, self.blocks)
        if self.normalised:
            self.kept += (room(like, n_nodes, D), room(like, n_nodes, 1))
            self.leaf_scale: Tensor | None = None

    def leaf(self, embeddings: Tensor, out: Planes) -> None:
        """Write the states of single tokens; see `Cell.leaf`."""
        self.projection.write(embeddings, out)
        if self.normalised:
            self.leaf_scale = embeddings.new_empty(len(embeddings), 1)
            normalise(out[0], out[0], self.leaf_scale)

    def leaf_backward(self, embeddings: Tensor, states: Planes, grads: Planes) -> tuple[Tensor, Gradients]:
        """Go backward through `leaf`; see `Cell.leaf_backward`."""
        if self.normalised:
            assert self.leaf_scale is not None
            grads = (normalise_backward(grads[0], states[0], self.leaf_scale),)
        return self.projection.backward(embeddings, grads)

    def compose(self, children: Children, out: Planes, kept: Planes, tracker: Tensor | None = None) -> None:
        """Write the states of a group; see `Cell.compose`."""
        D = self.size
        wide, _, blocks = kept[:3]
        h = out[0]
        self.widen.write(children.hidden, tracker, wide)
        self.combine.forward(wide.relu_(), blocks.view(-1, 4 * D))
        blocks[:, :3].sigmoid_()
        g_left, g_right, g_new, candidate = blocks.unbind(1)
        torch.mul(g_new, candidate, out=h)
        h.addcmul_(g_left, children.hidden[:, :D]).addcmul_(g_right, children.hidden[:, D:])
        if self.normalised:
            normalise(h, kept[3], kept[4])
            h.copy_(kept[3])

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
        D = self.size
        wide, grad_wide, blocks = kept[:3]
        grad = grads.plane(0)
        if self.normalised:
            grad = normalise_backward(grad, kept[3], kept[4])
        of_both = grad.unsqueeze(1)
        candidate = blocks[:, 3]
        through = of_both * blocks[:, :2]  # straight to the children, past the candidate
        outer = torch.empty_like(blocks)
        torch.mul(of_both, children.hidden.view(-1, 2, D), out=outer[:, :2])
        torch.mul(grad, candidate, out=outer[:, 2])
        torch.mul(grad, blocks[:, 2], out=candidate)
        blocks[:, :3] = aten.sigmoid_backward(outer[:, :3], blocks[:, :3])
        self.combine.backward(blocks.view(-1, 4 * D), grad_wide)
        aten.threshold_backward.grad_input(grad_wide, wide, 0, grad_input=grad_wide)
        self.widen.backward(grad_wide, grad_children[0])
        grad_children[0].view(-1, 2, D).add_(through)
        return self.widen.tracker_gradient(grad_wide)

    def weight_gradients(self, children: Tensor, tracker: Tensor | None = None) -> Gradients:
        """Give the gradients of the weights; see `Cell.weight_gradients`."""
        flat = self.blocks.view(-1, 4 * self.size)
        return {
            "widen.weight": self.widen.gradient(self.grad_wide, children, tracker),
            "widen.bias": self.grad_wide.sum(0),
            "combine.weight": self.combine.weight_gradient(flat, self.wide),
            "combine.bias": flat.sum(0),
        }
