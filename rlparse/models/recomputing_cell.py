"""A pass of any composition: backward composes again and lets autograd differentiate it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rlparse.models.cells import Cell, Children, Given, Gradients, Planes

if TYPE_CHECKING:
    from rlparse.models.composition import Composition


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
