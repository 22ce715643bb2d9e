"""A curriculum: easy examples first, harder ones once those are mastered."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from rlparse.errors import CheckpointError

IntArray = npt.NDArray[np.int64]


class Curriculum:
    """Admit the examples up to a limit of difficulty, and raise it as the learner becomes competent.

    The moving average of the training accuracy since the limit last rose decides: of at least ``memory`` batches, and
    above ``competence``. It is the plain mean of the first ``memory`` batches and forgets old ones exponentially after
    that. When the limit rises, the average starts again: what was easy says nothing about what is new.

    References: Bengio et al. 2009, "Curriculum Learning"; Platanios et al. 2019, "Competence-based Curriculum Learning
    for Neural Machine Translation" (there competence follows the clock, here it is measured).

    Args:
        difficulty: [n] int. Of every example: the length of its longest sentence, or the depth of its gold trees.
        start: Limit at the beginning; examples of this difficulty are admitted.
        grow: By how much it rises. Where no example lies between the old limit and the new one, it rises on at once.
        competence: Accuracy above which it rises.
        memory: Batches that the moving average covers.

    Attributes:
        limit: Greatest difficulty admitted now.

    Raises:
        ValueError: An option is out of range, or no example is easy enough to begin with.
    """

    def __init__(
        self,
        difficulty: npt.NDArray[np.integer],
        *,
        start: int,
        grow: int = 1,
        competence: float = 0.8,
        memory: int = 50,
    ) -> None:
        if difficulty.ndim != 1 or len(difficulty) == 0:
            raise ValueError(f"difficulty must be [n] with n >= 1 examples, got shape {difficulty.shape}")
        if grow < 1 or memory < 1:
            raise ValueError(f"grow and memory must be at least 1, got {grow} and {memory}")
        if not 0.0 <= competence < 1.0:
            raise ValueError(f"competence is an accuracy to get above, in [0, 1), got {competence}")
        self._order: IntArray = np.argsort(difficulty, kind="stable").astype(np.int64)
        self._sorted = difficulty[self._order]
        if start < self._sorted[0]:
            raise ValueError(
                f"start={start} admits no example, the easiest has difficulty {self._sorted[0]}; raise it"
            )
        self.start, self.limit = start, start
        self.grow = grow
        self.competence = competence
        self.memory = memory
        self._forget()

    def _forget(self) -> None:
        self._average, self._n_observed = 0.0, 0

    @property
    def _n_admitted(self) -> int:
        return int(np.searchsorted(self._sorted, self.limit, side="right"))

    @property
    def complete(self) -> bool:
        """Whether every example is admitted."""
        return self._n_admitted == len(self._order)

    @property
    def average(self) -> float | None:
        """Moving average of the accuracy since the limit last rose; None before the first batch."""
        return self._average if self._n_observed else None

    def admitted(self) -> IntArray:
        """Give the indices of the examples up to the limit, [m] int64, easiest first.

        A higher limit only adds at the end, so that an admitted example keeps its place.
        """
        return self._order[: self._n_admitted].copy()

    def observe(self, accuracy: float) -> bool:
        """Take in the accuracy of a training batch of admitted examples.

        Returns:
            Whether the limit rose, so that there are more examples than before.

        Raises:
            ValueError: The accuracy is not finite.
        """
        if not math.isfinite(accuracy):
            raise ValueError(f"a curriculum needs finite accuracies, got {accuracy}")
        self._n_observed += 1
        self._average += (accuracy - self._average) / min(self._n_observed, self.memory)
        if self._n_observed < self.memory or self._average <= self.competence or self.complete:
            return False
        easiest_left = int(self._sorted[self._n_admitted])
        self.limit += math.ceil((easiest_left - self.limit) / self.grow) * self.grow
        self._forget()
        return True

    def state_dict(self) -> dict[str, int | float]:
        """Give what continuing needs, as plain numbers."""
        return {"limit": self.limit, "average": self._average, "n_observed": self._n_observed}

    def load_state_dict(self, state: Mapping[str, int | float]) -> None:
        """Continue from where a state was taken.

        Raises:
            CheckpointError: It is not the state of a curriculum, or of one that began with harder examples.
        """
        own = self.state_dict()
        if set(state) != set(own):
            raise CheckpointError(f"the state of a curriculum has {sorted(own)}, found {sorted(state)}")
        if state["limit"] < self.start:
            raise CheckpointError(
                f"the stored curriculum admits examples up to {state['limit']}, this one begins with {self.start}"
            )
        self.limit, self._n_observed = int(state["limit"]), int(state["n_observed"])
        self._average = float(state["average"])
