"""A fresh start: once the parses have settled, the encoder that saw them change begins again, on what they are now."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, get_args

from rlparse.errors import CheckpointError

Phase = Literal["explore", "relearn", "mend", "refine"]

PHASES: tuple[str, ...] = get_args(Phase)

_MENDING = 4
"""Mending takes one of so many iterations of patience."""


class FreshStart:
    """Say in which of four phases an agent is, from nothing but its entropy and its accuracy in training.

        explore   Parser and encoder learn together, until the parser is sure of its parses.
        relearn   The encoder begins again from its first weights and learns alone, from the likeliest parses.
        refine    Once it is competent, the parser goes on too, to the end.
        mend      If it is not competent after ``patience`` iterations, the parses are not good enough: the parser goes
                  on with what the encoder does know, for a quarter as long; then the encoder relearns.

    An encoder that has learned for long from bad trees learns hard functions (ListOps' sum modulo 10) late on good
    ones, or never; a fresh one does so soon. Without time for another relearning, mending becomes refining.

    What decides are moving averages over ``memory`` iterations of the phase. Reference: Nikishin et al. 2022, "The
    Primacy Bias in Deep Reinforcement Learning", who reset parts of an agent by the clock.

    Args:
        settled: Normalised entropy, mean over free decisions, below which exploring ends.
        explore_until: Share of the run after which it ends at the latest, settled or not.
        competence: Accuracy in training above which the encoder is competent.
        patience: Iterations of relearning after which it is not.
        memory: Iterations that the averages cover.

    Attributes:
        phase: The phase of now.
        since: Share of the run that was done when it began.
        attempts: How often relearning began.

    Raises:
        ValueError: An option is out of range.
    """

    def __init__(
        self,
        *,
        settled: float = 0.1,
        explore_until: float = 0.6,
        competence: float = 0.9,
        patience: int = 1500,
        memory: int = 100,
    ) -> None:
        shares = {"settled": settled, "explore_until": explore_until, "competence": competence}
        for name, value in shares.items():
            if not 0.0 < value < 1.0:
                raise ValueError(f"{name} must be between 0 and 1, got {value}")
        for name, count in (("patience", patience), ("memory", memory)):
            if count < 1:
                raise ValueError(f"{name} must be at least 1, got {count}")
        self.settled = settled
        self.explore_until = explore_until
        self.competence = competence
        self.patience = patience
        self.memory = memory
        self.phase: Phase = "explore"
        self.since = 0.0
        self.attempts = 0
        self._average, self._n_observed = 0.0, 0

    def explored(self, progress: float) -> float:
        """Give the share of the run that schedules of exploration follow: the progress, and 1 once it is over.

        Args:
            progress: Share of the run that is done.
        """
        return progress if self.phase == "explore" else 1.0

    def unrefined(self, progress: float) -> float:
        """Give the share of refining that is to come, which learning rates follow: 1 before it begins, 0 at its end.

        Args:
            progress: Share of the run that is done.
        """
        if self.phase != "refine":
            return 1.0
        return (1.0 - progress) / (1.0 - self.since) if self.since < 1.0 else 0.0

    def observe(self, progress: float, *, entropy: float | None, accuracy: float) -> Phase | None:
        """Take in what an iteration has measured.

        Args:
            progress: Share of the run that is done.
            entropy: Normalised entropy of the parser's free decisions, in 0..1; None where it had none.
            accuracy: Of the training batch, in 0..1.

        Returns:
            The phase that begins with the next iteration, or None if nothing changes.

        Raises:
            ValueError: A figure is not a number.
        """
        if self.phase == "explore" and progress >= self.explore_until:
            return self._begin("relearn", progress)
        value = entropy if self.phase == "explore" else accuracy
        if self.phase == "refine" or value is None:
            return None
        if not math.isfinite(value):
            raise ValueError(f"phases follow finite entropies and accuracies, got {value}")
        self._n_observed += 1
        self._average += (value - self._average) / min(self._n_observed, self.memory)
        enough = self._n_observed >= self.memory
        if self.phase == "explore":
            return self._begin("relearn", progress) if enough and self._average < self.settled else None
        if self.phase == "mend":
            over = self._n_observed * _MENDING >= self.patience
            return self._begin("relearn", progress) if over else None
        if enough and self._average > self.competence:
            return self._begin("refine", progress)
        if self._n_observed >= self.patience:
            in_time = progress - self.since <= 1.0 - progress
            return self._begin("mend" if in_time else "refine", progress)
        return None

    def _begin(self, phase: Phase, progress: float) -> Phase:
        self.phase, self.since = phase, progress
        self.attempts += phase == "relearn"
        self._average, self._n_observed = 0.0, 0
        return phase

    def state_dict(self) -> dict[str, int | float | str]:
        """Give what continuing needs, as plain values."""
        return {
            "phase": self.phase,
            "since": self.since,
            "attempts": self.attempts,
            "average": self._average,
            "n_observed": self._n_observed,
        }

    def load_state_dict(self, state: Mapping[str, int | float | str]) -> None:
        """Continue from where a state was taken.

        Raises:
            CheckpointError: It is not the state of a fresh start.
        """
        own = self.state_dict()
        if set(state) != set(own) or state["phase"] not in PHASES:
            raise CheckpointError(
                f"the state of a fresh start has {sorted(own)} and a phase of {', '.join(PHASES)}, found {dict(state)}"
            )
        self.phase = next(phase for phase in get_args(Phase) if phase == state["phase"])
        self.since = float(state["since"])
        self.attempts = int(state["attempts"])
        self._average, self._n_observed = float(state["average"]), int(state["n_observed"])
