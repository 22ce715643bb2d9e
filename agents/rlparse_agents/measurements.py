"""The numbers of an iteration, read all at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rlparse.errors import NonFiniteLossError


class Measurements:
    """Keeps numbers where they were computed until all are there: a GPU is waited for once, instead of once for each.

    An iteration waits for it elsewhere only where what comes next depends on values: the replay and the layout of the
    derivations, and a batch's distinct words.
    """

    def __init__(self) -> None:
        self._values: dict[str, Tensor] = {}

    def put(self, tag: str, value: Tensor) -> None:
        """Put a scalar aside, without its gradient; the later one of a tag counts."""
        self._values[tag] = value.detach()

    def forget(self) -> None:
        """Drop what an iteration that raised has left."""
        self._values.clear()

    def read(self, iteration: int, *, updated: int = 0) -> dict[str, float]:
        """Give all numbers by their tags, and forget them.

        ``loss_encoder`` and ``loss_policy`` are only looked at, and with them ``train/grad_norm_…``.

        Args:
            iteration: For the error.
            updated: Updates of the policy that this iteration has made before, for the error.

        Raises:
            NonFiniteLossError: A loss, or the norm of a gradient, is not finite.
        """
        values = torch.stack([value.double() for value in self._values.values()]).tolist()
        measured = dict(zip(self._values, values, strict=True))
        self._values.clear()
        kept = "no weights were changed"
        if updated:
            kept = f"this was update {updated + 1} from the same parses, and those before it were made"
        for whose in ("encoder", "policy"):
            loss, norm = measured.pop(f"loss_{whose}", 0.0), measured.get(f"train/grad_norm_{whose}", 0.0)
            if not math.isfinite(loss):
                raise NonFiniteLossError(
                    f"the {whose}'s loss is {loss} at iteration {iteration}; {kept}. "
                    "A smaller learning rate or max_grad_norm usually mends it"
                )
            if not math.isfinite(norm):
                raise NonFiniteLossError(
                    f"the norm of the {whose}'s gradient is {norm} at iteration {iteration}; {kept}. "
                    "A smaller learning rate usually mends it"
                )
        return measured
