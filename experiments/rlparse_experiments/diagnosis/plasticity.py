"""Whether a network can still learn: units that never or always fire, and how far an iteration moves the weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor, nn

from rlparse.models.composition import GatedRecursiveCell
from rlparse.models.nli_model import NLIModel
from rlparse.models.stack_machine import Encoding


class Units(NamedTuple):
    """ReLU units of a layer, seen on many inputs.

    Attributes:
        n: How many there are.
        dead: Share that was 0 on every input: no gradient reaches their weights.
        linear: Share that was above 0 on every input: there the layer is a linear map.
    """

    n: int
    dead: float
    linear: float


class UnitCount:
    """Watches the ReLU units of a layer, batch after batch."""

    def __init__(self) -> None:
        self._fired: Tensor | None = None
        self._rested: Tensor | None = None

    def add(self, before: Tensor) -> None:
        """Look at what a layer's units are before the ReLU: [inputs, units] float."""
        fired, rested = (before > 0).any(0), (before <= 0).any(0)
        self._fired = fired if self._fired is None else self._fired | fired
        self._rested = rested if self._rested is None else self._rested | rested

    def units(self) -> Units | None:
        """Give what was seen; None if there was no input."""
        if self._fired is None or self._rested is None:
            return None
        n = len(self._fired)
        return Units(n, 1 - int(self._fired.sum()) / n, 1 - int(self._rested.sum()) / n)


class EncoderUnits:
    """Watches the ReLU units of a classifier: those of its hidden layer, and of its composition where that has some.

    The gated composition has; one that a tracker feeds is not looked at.

    Args:
        model: The classifier.
    """

    def __init__(self, model: NLIModel) -> None:
        self.model = model
        self.classifier = UnitCount()
        self.composition = UnitCount()

    def add(self, vectors: Tensor, encoding: Encoding | None) -> None:
        """Look at a batch.

        Args:
            vectors: [R, D] float. Of its sentences, as the head is shown them.
            encoding: Of its trees; None for a model that reads none.
        """
        head = self.model.head
        watch = head.widen.register_forward_hook(lambda layer, inputs, before: self.classifier.add(before))
        try:
            head(vectors, dropout=False)
        finally:
            watch.remove()
        if encoding is None:
            return
        cell = self.model.machine.composition
        if isinstance(cell, GatedRecursiveCell) and cell.tracker_size == 0:
            pairs = encoding.table[encoding.layout.children]  # [M, 2, D]
            if len(pairs):
                self.composition.add(cell.widen(pairs.flatten(1)))

    def units(self) -> dict[str, Units]:
        """Give what was seen, by layer: ``classifier`` and perhaps ``composition``."""
        found = {"classifier": self.classifier.units(), "composition": self.composition.units()}
        return {layer: units for layer, units in found.items() if units is not None}


def copies(module: nn.Module) -> list[Tensor]:
    """Copy the weights of a module as they are, to be compared with what they become."""
    return [weight.detach().clone() for weight in module.parameters()]


def update_size(before: Iterable[Tensor], module: nn.Module) -> float | None:
    """Measure how far the weights of a module were moved: ||after - before|| / ||before||, over all of them together.

    Returns:
        None for a module without weights, or with none that is not 0.
    """
    moved = scale = 0.0
    for old, new in zip(before, module.parameters(), strict=True):
        moved += float((new.detach() - old).double().square().sum())
        scale += float(old.double().square().sum())
    return (moved / scale) ** 0.5 if scale else None
