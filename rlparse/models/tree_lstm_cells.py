"""Passes of the binary TreeLSTM, without and with layer norm, forward and backward by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rlparse.compiled import gate_kernels
from rlparse.models.cells import Cell, Children, Given, Gradients, Planes
from rlparse.models.layer_norm import normalise, normalise_backward
from rlparse.models.products import Affine, Projection
from rlparse.models.tables import room

if TYPE_CHECKING:
    from rlparse.models.composition import BinaryTreeLSTM

aten = torch.ops.aten


class TreeLSTMCell(Cell):
    """`BinaryTreeLSTM` without layer norm, by hand.

    tanh(x) = 2 sigmoid(2 x) - 1, and a vectorised sigmoid costs a fifth of a tanh on a CPU; so the rows of g are
    doubled once a pass, one sigmoid squashes all five blocks, and backward multiplies all five by s (1 - s) at once.
    """

    def __init__(self, composition: BinaryTreeLSTM, n_nodes: int, like: Tensor) -> None:
        super().__init__(composition, n_nodes, like)
        D = self.size
        self.projection = Projection(composition.project, 2)
        weight, bias = composition.combine.weight.clone(), composition.combine.bias.clone()
        weight[4 * D :].mul_(2.0)
        bias[4 * D :].mul_(2.0)
        self.kernels = gate_kernels(like)
        self.bias = bias  # fused gates add it themselves, which is cheaper than a product does
        self.affine = Affine(weight, bias if self.kernels is None else None, 2 * D)
        self.minus_one = like.new_full((), -1.0)
        self.gates = room(like, n_nodes, 5 * D)
        self.kept = (self.gates, room(like, n_nodes, D))  # the second is tanh(c)

    def leaf(self, embeddings: Tensor, out: Planes) -> None:
        """Write the states of single tokens; see `Cell.leaf`."""
        self.projection.write(embeddings, out)

    def leaf_backward(self, embeddings: Tensor, states: Planes, grads: Planes) -> tuple[Tensor, Gradients]:
        """Go backward through `leaf`; see `Cell.leaf_backward`."""
        return self.projection.backward(embeddings, grads)

    def compose(self, children: Children, out: Planes, kept: Planes, tracker: Tensor | None = None) -> None:
        """Write the states of a group; see `Cell.compose`."""
        D = self.size
        gates, squashed = kept
        h, c = out
        self.affine.write(children.hidden, tracker, gates)
        if self.kernels is not None:
            cells = children.planes[1]
            self.kernels.tree_lstm_forward(gates, self.bias, cells, children.pairs, h, c, squashed)
            return
        c_left, c_right = children.plane(1).split(D, dim=1)
        i, f_left, f_right, o, g = gates.sigmoid_().view(-1, 5, D).unbind(1)
        # c = i (2 g - 1) + f_l c_l + f_r c_r
        torch.mul(f_left, c_left, out=c)
        c.addcmul_(f_right, c_right).sub_(i).addcmul_(i, g, value=2.0)
        torch.mul(c, 2.0, out=squashed)
        torch.add(self.minus_one, squashed.sigmoid_(), alpha=2.0, out=squashed)
        torch.mul(o, squashed, out=h)

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
        gates, squashed = kept
        if self.kernels is None:
            self._gates_backward(children.plane(1), grads.plane(0), grads.plane(1), kept, grad_children[1])
        else:
            cells, (grad_h, grad_c) = children.planes[1], grads.tables
            self.kernels.tree_lstm_backward(
                gates, cells, children.pairs, squashed, grad_h, grad_c, grads.rows, grad_children[1]
            )
        self.affine.backward(gates, grad_children[0])
        return self.affine.tracker_gradient(gates)

    def _gates_backward(
        self, cells: Tensor, grad_h: Tensor, grad_c: Tensor, kept: Planes, grad_cells: Tensor
    ) -> None:
        """Turn gates into the gradients of what they were squashed from, and write those of the children's cells."""
        D = self.size
        gates, squashed = kept
        m = len(grad_h)
        values, outer = gates.view(m, 5, D), torch.empty_like(gates)
        i, o, g, forget = values[:, 0], values[:, 3], values[:, 4], values[:, 1:3]
        blocks = outer.view(m, 5, D)
        torch.mul(grad_h, squashed, out=blocks[:, 3])
        grad_h.mul_(o)
        aten.tanh_backward.grad_input(grad_h, squashed, grad_input=grad_h)
        grad_c.add_(grad_h)
        of_both = grad_c.unsqueeze(1)
        torch.mul(of_both, forget, out=grad_cells.view(m, 2, D))
        torch.mul(of_both, cells.view(m, 2, D), out=blocks[:, 1:3])
        torch.add(self.minus_one, g, alpha=2.0, out=grad_h)
        torch.mul(grad_c, grad_h, out=blocks[:, 0])
        torch.mul(grad_c.mul_(2.0), i, out=blocks[:, 4])
        aten.sigmoid_backward.grad_input(outer, gates, grad_input=gates)

    def weight_gradients(self, children: Tensor, tracker: Tensor | None = None) -> Gradients:
        """Give the gradients of the weights; see `Cell.weight_gradients`."""
        D = self.size
        weight = self.affine.gradient(self.gates, children, tracker)
        bias = self.gates.sum(0)
        weight[4 * D :].mul_(2.0)
        bias[4 * D :].mul_(2.0)
        return {"combine.weight": weight, "combine.bias": bias}


class NormalisedTreeLSTMCell(Cell):
    """`BinaryTreeLSTM` with layer norm, by hand."""

    def __init__(self, composition: BinaryTreeLSTM, n_nodes: int, like: Tensor) -> None:
        super().__init__(composition, n_nodes, like)
        D = self.size
        self.composition = composition
        self.projection = Projection(composition.project, 2)
        self.affine = Affine(composition.combine.weight, None, 2 * D)
        self.gates = room(like, n_nodes, 5, D)  # then the gradient of what follows the affine map
        self.outer = room(like, n_nodes, 5, D)  # gradient of the gates before they are squashed
        self.kept = (
            self.gates,
            room(like, n_nodes, 5, D),  # normalised blocks
            room(like, n_nodes, 5, 1),  # and their 1 / sd
            room(like, n_nodes, D),  # normalised c
            room(like, n_nodes, 1),  # and its 1 / sd
            room(like, n_nodes, D),  # tanh of it, then its gradient
            self.outer,
        )

    def leaf(self, embeddings: Tensor, out: Planes) -> None:
        """Write the states of single tokens; see `Cell.leaf`."""
        self.projection.write(embeddings, out)

    def leaf_backward(self, embeddings: Tensor, states: Planes, grads: Planes) -> tuple[Tensor, Gradients]:
        """Go backward through `leaf`; see `Cell.leaf_backward`."""
        return self.projection.backward(embeddings, grads)

    def compose(self, children: Children, out: Planes, kept: Planes, tracker: Tensor | None = None) -> None:
        """Write the states of a group; see `Cell.compose`."""
        D = self.size
        gates, normed, scale, normed_c, scale_c, squashed, _ = kept
        h, c = out
        norm = self.composition.cell_norm
        assert norm is not None
        self.affine.write(children.hidden, tracker, gates.view(-1, 5 * D))
        normalise(gates, normed, scale)
        torch.addcmul(self.composition.combine.bias.view(5, D), normed, self.composition.gain, out=gates)
        gates[:, :4].sigmoid_()
        gates[:, 4].tanh_()
        i, f_left, f_right, o, g = gates.unbind(1)
        c_left, c_right = children.plane(1).split(D, dim=1)
        torch.mul(i, g, out=c)
        c.addcmul_(f_left, c_left).addcmul_(f_right, c_right)
        normalise(c, normed_c, scale_c)
        torch.addcmul(norm.bias, normed_c, norm.weight, out=squashed)
        torch.mul(o, squashed.tanh_(), out=h)

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
        gates, normed, scale, normed_c, scale_c, squashed, outer = kept
        grad_h, grad_c = grads.plane(0), grads.plane(1)
        norm = self.composition.cell_norm
        assert norm is not None
        i, _, _, o, g = gates.unbind(1)
        both = children.plane(1).view(-1, 2, D)
        torch.mul(grad_h, squashed, out=outer[:, 3])
        grad_h.mul_(o)
        aten.tanh_backward.grad_input(grad_h, squashed, grad_input=squashed)
        grad_c.add_(normalise_backward(squashed * norm.weight, normed_c, scale_c))
        of_both = grad_c.unsqueeze(1)
        torch.mul(of_both, gates[:, 1:3], out=grad_children[1].view(-1, 2, D))
        torch.mul(of_both, both, out=outer[:, 1:3])
        torch.mul(grad_c, g, out=outer[:, 0])
        torch.mul(grad_c, i, out=outer[:, 4])
        outer[:, :4] = aten.sigmoid_backward(outer[:, :4], gates[:, :4])
        outer[:, 4] = aten.tanh_backward(outer[:, 4], g)
        gates.copy_(normalise_backward(outer * self.composition.gain, normed, scale))
        flat = gates.view(-1, 5 * D)
        self.affine.backward(flat, grad_children[0])
        return self.affine.tracker_gradient(flat)

    def weight_gradients(self, children: Tensor, tracker: Tensor | None = None) -> Gradients:
        """Give the gradients of the weights; see `Cell.weight_gradients`."""
        _, normed, _, normed_c, _, grad_squashed, outer = self.kept
        flat = self.gates.view(-1, 5 * self.size)
        return {
            "combine.weight": self.affine.gradient(flat, children, tracker),
            "combine.bias": outer.sum(0).flatten(),
            "gain": (outer * normed).sum(0),
            "cell_norm.weight": (grad_squashed * normed_c).sum(0),
            "cell_norm.bias": grad_squashed.sum(0),
        }
