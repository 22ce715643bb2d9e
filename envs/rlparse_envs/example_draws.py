"""Which example each of many environments plays next."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from gymnasium.utils import seeding

from rlparse_envs.game import Order

IntArray = npt.NDArray[np.int64]

BLOCK = 64
"""Examples that are drawn together for one environment: the only work per environment, once in so many episodes."""


class ExampleDraws:
    """Draws examples for every environment from a generator of its own, as `ShiftReduceEnv` does from its.

    Args:
        n_rows: Environments.
        eligible: Positions to draw from.
        order: "random", or "sequential".
    """

    def __init__(self, n_rows: int, eligible: IntArray, order: Order) -> None:
        self._eligible, self._order = eligible, order
        self._generators: list[tuple[np.random.Generator, int] | None] = [None] * n_rows
        self._drawn: IntArray = np.zeros((n_rows, BLOCK), np.int64)
        self._used: IntArray = np.full(n_rows, BLOCK)
        self._positions: IntArray = np.zeros(n_rows, np.int64)

    def seed(self, rows: IntArray, seeds: Sequence[int | None]) -> None:
        """Begin anew in some rows; None leaves a row as it is."""
        chosen = [(row, seed) for row, seed in zip(rows.tolist(), seeds, strict=True) if seed is not None]
        fresh = [(row, seeding.np_random(seed)) for row, seed in chosen]  # raises before anything is changed
        for row, generator in fresh:
            self._generators[row] = generator
            self._used[row] = BLOCK
            self._positions[row] = 0

    def generator(self, row: int) -> tuple[np.random.Generator, int]:
        """Give a row's generator and its seed."""
        known = self._generators[row]
        if known is None:
            known = self._generators[row] = seeding.np_random()
        return known

    def next(self, rows: IntArray) -> IntArray:
        """Positions of the examples that come next in some rows."""
        if self._order == "sequential":
            positions = self._positions[rows] % len(self._eligible)
            self._positions[rows] += 1
            return self._eligible[positions]
        for row in rows[self._used[rows] == BLOCK].tolist():
            self._drawn[row] = self.generator(row)[0].integers(len(self._eligible), size=BLOCK)
            self._used[row] = 0
        drawn = self._drawn[rows, self._used[rows]]
        self._used[rows] += 1
        return self._eligible[drawn]
