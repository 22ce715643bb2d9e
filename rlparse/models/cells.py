"""What REDUCE computes, forward and backward, on preallocated tables: the interface that all cells keep.

A *cell* is one pass of a composition over the nodes of a batch. The stack machine hands it groups of nodes: their
children's vectors come in, their own go out, and what backward needs stays in tables that are allocated once a pass.
Backward goes through the groups in reverse and leaves the gradients of all pre-activations in those tables, so that
the gradient of every weight is one large matrix product at the end.

A node's state is held as *planes* of [nodes, D]: the hidden vectors, and for a TreeLSTM the memory cells. The
children of m nodes are [m, 2 D] in each plane, left beside right, which is what the cell's matrix multiplies.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from rlparse.models.tables import give_back

if TYPE_CHECKING:
    from rlparse.models.composition import Composition

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


def refuse_second_derivatives() -> None:
    """Raise where backward is asked to be differentiable itself: that is when autograd leaves gradients on in it."""
    if torch.is_grad_enabled():
        raise NotImplementedError(
            "this backward is written by hand and has no derivative of its own: second derivatives through it "
            "(create_graph=True) are not there; differentiate only once"
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
