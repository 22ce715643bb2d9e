"""A moving average of weights: steadier to evaluate than the weights that are being trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rlparse.errors import CheckpointError


class WeightAverage:
    """An exponential moving average of a module's weights.

        average <- d average + (1 - d) weights,   d = min(decay, t / (t + 1)) at update t = 0, 1, ...

    The first 1 / (1 - decay) updates are so averaged evenly, and the untrained weights have no share. Buffers are
    averaged too where they are floating-point, else copied.

    References: Polyak & Juditsky 1992, "Acceleration of Stochastic Approximation by Averaging"; Tarvainen & Valpola
    2017, "Mean Teachers Are Better Role Models".

    Args:
        module: Whose weights are averaged. `applied` changes them and changes them back, `adopt` for good.
        decay: Share of the old average that is kept, in [0, 1).

    Raises:
        ValueError: ``decay`` is out of range.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"decay must be in [0, 1), got {decay}")
        self.module = module
        self.decay = decay
        self.n_updates = 0
        self._averages = {name: value.clone() for name, value in module.state_dict().items()}
        self._in_place = False

    @torch.no_grad()
    def update(self) -> None:
        """Take the module's weights of now into the average.

        Raises:
            ValueError: The weights of now are the average itself.
        """
        if self._in_place:
            raise ValueError("update() within applied() would average the average; leave applied() first")
        decay = min(self.decay, self.n_updates / (self.n_updates + 1))
        for name, value in self.module.state_dict().items():
            average = self._averages[name]
            if average.is_floating_point():
                average.lerp_(value, 1.0 - decay)
            else:
                average.copy_(value)
        self.n_updates += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average in the module's place, and the module's own weights back at the end, bit for bit.

        Values are copied, so that tensors stay where they are: optimisers and CUDA graphs notice nothing. Whatever
        changes the module meanwhile is lost.

        Raises:
            ValueError: It is in place already.
        """
        if self._in_place:
            raise ValueError("applied() is in place already; leave it before entering it again")
        own = {name: value.clone() for name, value in self.module.state_dict().items()}
        self._in_place = True
        try:
            _write(self.module, self._averages)
            yield
        finally:
            _write(self.module, own)
            self._in_place = False

    def adopt(self) -> None:
        """Let the module go on from the average: its weights become that, where they lie.

        Raises:
            ValueError: The weights of now are the average itself, and are going to be put back.
        """
        if self._in_place:
            raise ValueError("adopt() within applied() would be undone at its end; leave applied() first")
        _write(self.module, self._averages)

    def state_dict(self) -> dict[str, Any]:
        """Give what continuing needs: a number and copies of the averages."""
        averages = {name: value.clone() for name, value in self._averages.items()}
        return {"n_updates": self.n_updates, "averages": averages}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from where a state was taken.

        Raises:
            CheckpointError: It is not the state of an average, or of another module.
        """
        if set(state) != {"n_updates", "averages"}:
            raise CheckpointError(
                f"the state of an average of weights has n_updates and averages, found {sorted(state)}"
            )
        shapes, found = (
            {name: tuple(value.shape) for name, value in averages.items()}
            for averages in (self._averages, state["averages"])
        )
        differing = sorted(name for name in {*shapes, *found} if shapes.get(name) != found.get(name))
        if differing:
            name = differing[0]
            raise CheckpointError(
                f"the stored average belongs to another module: {len(differing)} weights differ, the first is {name}, "
                f"here {shapes.get(name, 'missing')}, stored {found.get(name, 'missing')}"
            )
        self.n_updates = int(state["n_updates"])
        for name, average in self._averages.items():
            average.copy_(state["averages"][name])


@torch.no_grad()
def _write(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Copy values into a module's weights where they lie."""
    for name, place in module.state_dict().items():
        place.copy_(values[name])
