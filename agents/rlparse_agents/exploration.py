"""Exploration: how much entropy is rewarded, and how hot parses are sampled, in the course of a run.

A schedule is a function of progress, the share of the run that is done, from 0 to 1. Three serve the entropy's weight,
its target and the temperature alike; what reacts to the policy itself is `EntropyTarget`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from rlparse.errors import CheckpointError

Schedule = Callable[[float], float]
"""Progress in 0..1 to a value. One that has passed 1, as a run that is continued may, counts as 1."""

Shape = Literal["linear", "cosine"]

SHAPES: tuple[str, ...] = get_args(Shape)


@dataclass(frozen=True)
class Constant:
    """The same value from beginning to end.

    Args:
        value: It.
    """

    value: float

    def __call__(self, progress: float) -> float:
        """Give the value."""
        return self.value


@dataclass(frozen=True)
class Interpolated:
    """Go from one value to another over a share of the run, and stay there.

        linear: start + (end - start) x,     cosine: end + (start - end) (1 + cos(pi x)) / 2,     x = progress / over

    Args:
        start: Value at progress 0.
        end: Value from progress ``over`` on.
        over: Share of the run that it takes, in (0, 1].
        shape: ``linear``, or ``cosine``, which leaves and arrives slowly.

    Raises:
        ValueError: ``over`` is not in (0, 1], or ``shape`` is unknown.
    """

    start: float
    end: float
    over: float = 1.0
    shape: Shape = "linear"

    def __post_init__(self) -> None:
        if not 0.0 < self.over <= 1.0:
            raise ValueError(f"over must be in (0, 1], got {self.over}")
        if self.shape not in SHAPES:
            raise ValueError(f"unknown shape {self.shape!r}; known: {', '.join(SHAPES)}")

    def __call__(self, progress: float) -> float:
        """Give the value at ``progress``."""
        x = min(max(progress / self.over, 0.0), 1.0)
        if self.shape == "cosine":
            x = (1.0 - math.cos(math.pi * x)) / 2.0
        return (1.0 - x) * self.start + x * self.end


@dataclass(frozen=True)
class Sinusoidal:
    """Swing between two values, beginning at the high one: "wake" and "sleep" by turns.

        low + (high - low) (1 + cos(2 pi cycles progress)) / 2

    As a temperature it lets the parser explore and settle by turns; as the weight of the policy's loss it lets parser
    and encoder learn by turns. Reference: the options for confidence and soft wake and sleep in the code of Williams et
    al. 2018, "Do latent tree learning models identify meaningful structure in sentences?".

    Args:
        low: Smallest value.
        high: Largest value, at progress 0.
        cycles: Full swings in a run, > 0.

    Raises:
        ValueError: ``low`` is above ``high``, or ``cycles`` is not positive.
    """

    low: float
    high: float
    cycles: float = 10.0

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"low must not be above high, got {self.low} and {self.high}")
        if self.cycles <= 0.0:
            raise ValueError(f"cycles must be positive, got {self.cycles}")

    def __call__(self, progress: float) -> float:
        """Give the value at ``progress``."""
        wave = (1.0 + math.cos(2.0 * math.pi * self.cycles * min(progress, 1.0))) / 2.0
        return self.low + (self.high - self.low) * wave


class EntropyTarget:
    """Weigh the entropy just so much that it stays at a target: a dual variable.

        log w <- log w + rate (target(progress) - entropy)

    The weight is the multiplier of the constraint "entropy >= target": it rises as long as the policy is surer than it
    should be, and falls, towards its lowest value, once it is not. Reference: Haarnoja et al. 2018, "Soft Actor-Critic
    Algorithms and Applications".

    Args:
        target: Normalised entropy in 0..1, mean over free decisions; a number or a schedule of it.
        start: Weight at the beginning.
        rate: Step size of the logarithm, > 0. At 0.05, 0.1 below the target for 140 updates doubles the weight.
        lowest: The weight never falls below it, > 0, so that it can rise again in time.
        highest: Nor rises above it.

    Attributes:
        weight: The weight of now.

    Raises:
        ValueError: ``rate`` is not positive, or not 0 < ``lowest`` <= ``start`` <= ``highest``.
    """

    def __init__(
        self,
        target: float | Schedule,
        *,
        start: float = 0.01,
        rate: float = 0.05,
        lowest: float = 1e-5,
        highest: float = 10.0,
    ) -> None:
        if rate <= 0.0:
            raise ValueError(f"rate must be positive, got {rate}")
        if not 0.0 < lowest <= start <= highest:
            raise ValueError(
                f"the entropy's weight must start between a positive lowest value and a highest one, "
                f"got lowest {lowest}, start {start}, highest {highest}"
            )
        self.target: Schedule = target if callable(target) else Constant(target)
        self.rate = rate
        self.lowest = lowest
        self.highest = highest
        self.weight = start

    def update(self, entropy: float, progress: float) -> None:
        """Move the weight by what an iteration has measured.

        Args:
            entropy: Normalised entropy, mean over free decisions.
            progress: Share of the run that is done.

        Raises:
            ValueError: The entropy is not a number.
        """
        if not math.isfinite(entropy):
            raise ValueError(f"the entropy that moves its weight must be finite, got {entropy}")
        moved = self.weight * math.exp(self.rate * (self.target(progress) - entropy))
        self.weight = min(max(moved, self.lowest), self.highest)

    def state_dict(self) -> dict[str, float]:
        """Give what continuing needs, as plain numbers."""
        return {"weight": self.weight}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Continue from where a state was taken.

        Raises:
            CheckpointError: It is not the state of an entropy target.
        """
        if set(state) != {"weight"}:
            raise CheckpointError(f"the state of an entropy target has weight, found {sorted(state)}")
        self.weight = float(state["weight"])
