"""What REDUCE computes, forward and backward, written out by hand on preallocated tables.

A *cell* is one pass of a composition over the nodes of a batch. The stack machine hands it groups of nodes: their
children's vectors come in, their own go out, and what backward needs stays in tables that are allocated once a pass.
Backward goes through the groups in reverse and leaves the gradients of all pre-activations in those tables, so that
the gradient of every weight is one large matrix product at the end.

A node's state is held as *planes* of [nodes, D]: the hidden vectors, and for a TreeLSTM the memory cells. The
children of m nodes are [m, 2 D] in each plane, left beside right, which is what the cell's matrix multiplies.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from rlparse.compiled import gate_kernels
from rlparse.models.products import Product
from rlparse.models.tables import give_back, room

if TYPE_CHECKING:
    from rlparse.models.composition import BinaryTreeLSTM, Composition, GatedRecursiveCell, TreeRNN

aten = torch.ops.aten

Planes = tuple[Tensor, ...]
"""One tensor for every plane of a state."""


class Children(NamedTuple):
    """The children of a group of m nodes.

    Attributes:
        hidden: [m, 2 D] float. Their hidden vectors, left beside right.
        planes: [nodes, D] float each. The states of all nodes.
        pairs: [2 m] int64. The children's rows in ``planes``, left and right in turn.
    """

    hidden: Tensor
    planes: Planes
    pairs: Tensor

    def plane(self, p: int) -> Tensor:
        """Gather another plane of their states: [m, 2 D] float."""
        return self.planes[p].index_select(0, self.pairs).view(self.hidden.shape)


class Given(NamedTuple):
    """The gradients of the states of a group of m nodes.

    Attributes:
        tables: [..., D] float each, one for every plane.
        rows: [m] int64. Where in them.
    """

    tables: Planes
    rows: Tensor

    def plane(self, p: int) -> Tensor:
        """Gather a plane of them, into memory of its own: [m, D] float."""
        return self.tables[p].index_select(0, self.rows)


Gradients = dict[str, Tensor]
"""Gradients by the name that the parameter has in the composition."""

EPSILON = 1e-5
"""Added to a variance before its root, as `torch.nn.functional.layer_norm` does."""


def refuse_second_derivatives() -> None:
    """Raise where backward is asked to be differentiable itself: that is when autograd leaves gradients on in it."""
    if torch.is_grad_enabled():
        raise NotImplementedError(
            "the stack machine's backward is written by hand and has no derivative of its own: second derivatives "
            "through a tree encoder (create_graph=True) are not there; differentiate only once"
        )


def without_autocast(like: Tensor) -> AbstractContextManager[None]:
    """Compute in the dtype that tensors have: what is written into preallocated tables cannot be cast on the way."""
    kind = like.device.type
    if kind not in ("cpu", "cuda") or not torch.is_autocast_enabled(kind):
        return nullcontext()
    return torch.autocast(kind, enabled=False)


class Cell(ABC):
    """One pass of a composition over the leaves and nodes of a batch.

    Args:
        composition: Whose weights are read; they must not change before backward is done.
        n_nodes: M, nodes that will be composed.
        like: Gives dtype and device.
    """

    def __init__(self, composition: Composition, n_nodes: int, like: Tensor) -> None:
        self.size = composition.hidden_size
        self.kept: Planes = ()

    def groups(self, sizes: Sequence[int]) -> list[Planes]:
        """Cut what is kept for backward into groups of consecutive nodes, as `compose` takes it."""
        if not self.kept:
            return [()] * len(sizes)
        return list(zip(*(table.split(list(sizes)) for table in self.kept), strict=True))

    def release(self) -> None:
        """Give the tables back, once nobody asks this cell for anything more."""
        give_back(*self.kept)
        self.kept = ()

    @abstractmethod
    def leaf(self, embeddings: Tensor, out: Planes) -> None:
        """Write the states of single tokens.

        Args:
            embeddings: [L, E] float.
            out: [L, D] float each.
        """

    @abstractmethod
    def leaf_backward(self, embeddings: Tensor, states: Planes, grads: Planes) -> tuple[Tensor, Gradients]:
        """Give the gradients of embeddings, [L, E], and of the leaf's weights.

        Args:
            embeddings: [L, E] float.
            states: What `leaf` wrote.
            grads: [L, D] float each; may be overwritten.
        """

    @abstractmethod
    def compose(self, children: Children, out: Planes, kept: Planes, tracker: Tensor | None = None) -> None:
        """Write the states of a group of m nodes.

        Args:
            children: Of the group.
            out: [m, D] float each.
            kept: This group's share of `kept`, see `groups`.
            tracker: [m, H] float, where the composition reads one.
        """

    @abstractmethod
    def compose_backward(
        self,
        children: Children,
        states: Planes,
        grads: Given,
        kept: Planes,
        grad_children: Planes,
        tracker: Tensor | None = None,
    ) -> Tensor | None:
        """Write the gradients of a group's children.

        Args:
            children: Of the group, as they were.
            states: [m, D] float each, as `compose` wrote them.
            grads: Of the group's states.
            kept: This group's share of `kept`; overwritten.
            grad_children: [m, 2 D] float each, written.
            tracker: [m, H] float, as it was.

        Returns:
            [m, H] float, gradient of ``tracker``, or None without one.
        """

    @abstractmethod
    def weight_gradients(self, children: Tensor, tracker: Tensor | None = None) -> Gradients:
        """Give the gradients of the weights that `compose` reads, once every group went backward.

        Args:
            children: [M, 2 D] float. Hidden vectors of all nodes' children.
            tracker: [M, H] float, of all nodes.
        """


class _Affine(Product):
    """W [x; tracker] + b, whose two parts have a product each."""

    def __init__(self, weight: Tensor, bias: Tensor | None, width: int) -> None:
        super().__init__(weight[:, :width], bias)
        self.tracker = Product(weight[:, width:], None) if weight.shape[1] > width else None

    def write(self, x: Tensor, tracker: Tensor | None, out: Tensor) -> None:
        self.forward(x, out)
        if self.tracker is not None and tracker is not None:
            self.tracker.add(tracker, out)

    def tracker_gradient(self, grad: Tensor) -> Tensor | None:
        return None if self.tracker is None else self.tracker.backward(grad)

    def gradient(self, grad: Tensor, x: Tensor, tracker: Tensor | None) -> Tensor:
        """Give the gradient of the whole weight, [outputs, width + H]."""
        own = self.weight_gradient(grad, x)
        if self.tracker is None or tracker is None:
            return own
        return torch.cat((own, self.tracker.weight_gradient(grad, tracker)), dim=1)


class _Projection:
    """The linear map from embeddings to leaves, a product for each plane."""

    def __init__(self, project: nn.Linear, n_planes: int) -> None:
        blocks = zip(project.weight.chunk(n_planes), project.bias.chunk(n_planes), strict=True)
        self.products = [Product(weight, bias) for weight, bias in blocks]

    def write(self, embeddings: Tensor, out: Planes) -> None:
        for product, plane in zip(self.products, out, strict=True):
            product.forward(embeddings, plane)

    def backward(self, embeddings: Tensor, grads: Planes) -> tuple[Tensor, Gradients]:
        pairs = list(zip(self.products, grads, strict=True))
        grad_embeddings = pairs[0][0].backward(pairs[0][1])
        for product, grad in pairs[1:]:
            grad_embeddings += product.backward(grad)
        weight = torch.cat([product.weight_gradient(grad, embeddings) for product, grad in pairs])
        return grad_embeddings, {
            "project.weight": weight,
            "project.bias": torch.cat([grad.sum(0) for grad in grads]),
        }


def _normalise(x: Tensor, out: Tensor, scale: Tensor) -> None:
    """Write layer norm of the last dimension without gain and bias, and 1 / sd: [..., D] and [..., 1]."""
    normed, _, spread = torch.native_layer_norm(x, x.shape[-1:], None, None, EPSILON)
    out.copy_(normed)
    scale.copy_(spread)


def _normalise_backward(grad: Tensor, normed: Tensor, scale: Tensor) -> Tensor:
    """Go backward through `_normalise`: (g - mean(g) - x mean(g x)) / sd."""
    centred = grad - grad.mean(-1, keepdim=True)
    along = (grad * normed).mean(-1, keepdim=True)
    return centred.addcmul_(normed, along, value=-1).mul_(scale)


class TreeRNNCell(Cell):
    """`TreeRNN` by hand."""

    def __init__(self, composition: TreeRNN, n_nodes: int, like: Tensor) -> None:
        super().__init__(composition, n_nodes, like)
        D = self.size
        self.projection = _Projection(composition.project, 1)
        self.affine = _Affine(composition.combine.weight, composition.combine.bias, 2 * D)
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
            _normalise(h, kept[1], kept[2])
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
            pre.copy_(_normalise_backward(pre * self.norm.weight, kept[1], kept[2]))
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


class TreeLSTMCell(Cell):
    """`BinaryTreeLSTM` without layer norm, by hand.

    tanh(x) = 2 sigmoid(2 x) - 1, and a vectorised sigmoid costs a fifth of a tanh on a CPU; so the rows of g are
    doubled once a pass, one sigmoid squashes all five blocks, and backward multiplies all five by s (1 - s) at once.
    """

    def __init__(self, composition: BinaryTreeLSTM, n_nodes: int, like: Tensor) -> None:
        super().__init__(composition, n_nodes, like)
        D = self.size
        self.projection = _Projection(composition.project, 2)
        weight, bias = composition.combine.weight.clone(), composition.combine.bias.clone()
        weight[4 * D :].mul_(2.0)
        bias[4 * D :].mul_(2.0)
        self.kernels = gate_kernels(like)
        self.bias = bias  # fused gates add it themselves, which is cheaper than a product does
        self.affine = _Affine(weight, bias if self.kernels is None else None, 2 * D)
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
        self.projection = _Projection(composition.project, 2)
        self.affine = _Affine(composition.combine.weight, None, 2 * D)
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
        _normalise(gates, normed, scale)
        torch.addcmul(self.composition.combine.bias.view(5, D), normed, self.composition.gain, out=gates)
        gates[:, :4].sigmoid_()
        gates[:, 4].tanh_()
        i, f_left, f_right, o, g = gates.unbind(1)
        c_left, c_right = children.plane(1).split(D, dim=1)
        torch.mul(i, g, out=c)
        c.addcmul_(f_left, c_left).addcmul_(f_right, c_right)
        _normalise(c, normed_c, scale_c)
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
        grad_c.add_(_normalise_backward(squashed * norm.weight, normed_c, scale_c))
        of_both = grad_c.unsqueeze(1)
        torch.mul(of_both, gates[:, 1:3], out=grad_children[1].view(-1, 2, D))
        torch.mul(of_both, both, out=outer[:, 1:3])
        torch.mul(grad_c, g, out=outer[:, 0])
        torch.mul(grad_c, i, out=outer[:, 4])
        outer[:, :4] = aten.sigmoid_backward(outer[:, :4], gates[:, :4])
        outer[:, 4] = aten.tanh_backward(outer[:, 4], g)
        gates.copy_(_normalise_backward(outer * self.composition.gain, normed, scale))
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


class GatedCell(Cell):
    """`GatedRecursiveCell` by hand."""

    def __init__(self, composition: GatedRecursiveCell, n_nodes: int, like: Tensor) -> None:
        super().__init__(composition, n_nodes, like)
        D = self.size
        self.composition = composition
        self.normalised = composition.layer_norm
        self.projection = _Projection(composition.project, 1)
        self.widen = _Affine(composition.widen.weight, composition.widen.bias, 2 * D)
        self.combine = _Affine(composition.combine.weight, composition.combine.bias, 4 * D)
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
            _normalise(out[0], out[0], self.leaf_scale)

    def leaf_backward(self, embeddings: Tensor, states: Planes, grads: Planes) -> tuple[Tensor, Gradients]:
        """Go backward through `leaf`; see `Cell.leaf_backward`."""
        if self.normalised:
            assert self.leaf_scale is not None
            grads = (_normalise_backward(grads[0], states[0], self.leaf_scale),)
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
            _normalise(h, kept[3], kept[4])
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
            grad = _normalise_backward(grad, kept[3], kept[4])
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


class RecomputingCell(Cell):
    """Any composition: backward composes each group once more and lets autograd differentiate it.

    Each time in the state that torch's generators had, so that dropout and other noise is the same.
    """

    def __init__(self, composition: Composition, n_nodes: int, like: Tensor) -> None:
        super().__init__(composition, n_nodes, like)
        self.composition = composition
        self.weights = {name: p for name, p in composition.named_parameters() if p.requires_grad}
        self.found: Gradients = {}
        self.devices = [like.device.index or 0] if like.is_cuda else []
        self.randomness: list[tuple[Tensor, list[Tensor]]] = []

    def leaf(self, embeddings: Tensor, out: Planes) -> None:
        """Write the states of single tokens; see `Cell.leaf`."""
        self._remember()
        for plane, states in zip(out, self.composition.leaf(embeddings).split(self.size, dim=1), strict=True):
            plane.copy_(states)

    def leaf_backward(self, embeddings: Tensor, states: Planes, grads: Planes) -> tuple[Tensor, Gradients]:
        """Go backward through `leaf`; see `Cell.leaf_backward`."""
        with self._as_before(), torch.enable_grad():
            embeddings = embeddings.detach().requires_grad_()
            made = self.composition.leaf(embeddings)
        return self._differentiate(made, (embeddings,), torch.cat(grads, dim=1))[0], {}

    def compose(self, children: Children, out: Planes, kept: Planes, tracker: Tensor | None = None) -> None:
        """Write the states of a group; see `Cell.compose`."""
        self._remember()
        states = self.composition(*self._sides(children), tracker)
        for plane, made in zip(out, states.split(self.size, dim=1), strict=True):
            plane.copy_(made)

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
        asked = [side.requires_grad_() for side in self._sides(children)]
        if tracker is not None:
            tracker = tracker.detach().requires_grad_()
        with self._as_before(), torch.enable_grad():
            made = self.composition(*asked, tracker)
        if tracker is not None:
            asked.append(tracker)
        given = torch.cat([grads.plane(p) for p in range(len(grads.tables))], dim=1)
        left, right, *rest = self._differentiate(made, asked, given)
        for p, grad in enumerate(grad_children):
            span = slice(p * self.size, (p + 1) * self.size)
            torch.cat((left[:, span], right[:, span]), dim=1, out=grad)
        return rest[0] if rest else None

    def weight_gradients(self, children: Tensor, tracker: Tensor | None = None) -> Gradients:
        """Give the gradients of the weights; see `Cell.weight_gradients`."""
        found, self.found = self.found, {}
        return found

    def _remember(self) -> None:
        """Note the state of torch's generators before a composition; backward takes the notes from the end."""
        self.randomness.append(
            (torch.get_rng_state(), [torch.cuda.get_rng_state(device) for device in self.devices])
        )

    @contextmanager
    def _as_before(self) -> Iterator[None]:
        """Put the generators into the state that was noted last, for a while."""
        of_cpu, of_devices = self.randomness.pop()
        with torch.random.fork_rng(self.devices):
            torch.set_rng_state(of_cpu)
            for device, state in zip(self.devices, of_devices, strict=True):
                torch.cuda.set_rng_state(state, device)
            yield

    def _sides(self, children: Children) -> list[Tensor]:
        """Give the states of left and right children, [m, state_size] each, of their own memory."""
        D = self.size
        planes = [children.hidden, *(children.plane(p) for p in range(1, len(children.planes)))]
        return [torch.cat([plane[:, span] for plane in planes], dim=1) for span in (slice(D), slice(D, None))]

    def _differentiate(self, made: Tensor, asked: Sequence[Tensor], grad: Tensor) -> list[Tensor]:
        """Give the gradients of ``asked`` and add up those of the weights."""
        wanted = (*asked, *self.weights.values())
        grads = torch.autograd.grad(made, wanted, grad, allow_unused=True)
        for name, found in zip(self.weights, grads[len(asked) :], strict=True):
            if found is not None:
                self.found[name] = self.found[name].add_(found) if name in self.found else found.clone()
        pairs = zip(asked, grads[: len(asked)], strict=True)
        return [torch.zeros_like(x) if found is None else found for x, found in pairs]
