"""One iteration of training as callbacks see it."""

from __future__ import annotations

from typing import NamedTuple

from stable_baselines3.common.callbacks import ProgressBarCallback
from torch import Tensor

from rlparse.corpora.batching import Batch
from rlparse.lockstep import Trace


class Iteration(NamedTuple):
    """What one training iteration did, for callbacks: ``algorithm.last_iteration``.

    Attributes:
        batch: The examples, each K times.
        transitions: [R, T] int64. The parses, R = S * B * K.
        trace: The same, replayed.
        rewards: [B * K] float.
        logits: [B * K, C] float, without dropout; None where no classifier is trained.
        seconds: Wall time of the iteration.
    """

    batch: Batch
    transitions: Tensor
    trace: Trace
    rewards: Tensor
    logits: Tensor | None
    seconds: float


class TransitionBar(ProgressBarCallback):
    """Stable-Baselines3's progress bar, moved by the transitions that an iteration took."""

    def _on_training_start(self) -> None:
        super()._on_training_start()
        self._before = self.model.num_timesteps

    def _on_step(self) -> bool:
        self.pbar.update(self.model.num_timesteps - self._before - self.pbar.n)
        return True
