"""When parser and encoder learn, and from which examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch

from rlparse import lockstep
from rlparse.corpora.batching import sequential_batches
from rlparse.corpora.corpus import Corpus
from rlparse_agents.fresh_start import FreshStart

CurriculumName = Literal["none", "length", "depth"]

_COUNTED_AT_ONCE = 1024
"""Examples whose gold depths are counted together."""


@dataclass(frozen=True)
class Pacing:
    """How the two learners take turns.

    Attributes:
        warmup: Iterations in which only the encoder learns, from random trees, all equally likely and drawn anew.
        policy_every: Update the policy in one iteration of so many.
        encoder_every: Update the encoder in one iteration of so many, once it is warmed up.
        policy_average: Decay of a moving average of the policy's weights, which is what is evaluated; 0 for none.
        curriculum: Admit examples by the ``length`` of their longest sentence, or by the ``depth`` of their deepest
            gold tree, more of them as training accuracy allows.
        curriculum_start: Limit at the beginning.
        curriculum_step: By how much it rises.
        curriculum_competence: Moving average of the training accuracy above which it rises.
        fresh_start: Let the encoder begin again once the parses have settled, see `rlparse_agents.fresh_start`.
        settled: Normalised entropy of the policy below which they have.
        explore_until: Share of the run after which they are taken as they are.
        competence: Training accuracy above which the fresh encoder knows enough for the policy to go on.
        patience: Iterations after which it does not, and the parses have to be mended first.
        explore_tokens: While exploring, the encoder learns only from examples whose sentences have at most so many
            tokens; 0 from all. Parses are rewarded on all of them, so for what lets it read longer ones than it knows.
        refine_every: Update the policy in one iteration of so many from then on.

    Raises:
        ValueError: An option is unknown or out of range, or two exclude each other.
    """

    warmup: int = 0
    policy_every: int = 1
    encoder_every: int = 1
    policy_average: float = 0.0
    curriculum: CurriculumName = "none"
    curriculum_start: int = 6
    curriculum_step: int = 2
    curriculum_competence: float = 0.8
    fresh_start: bool = False
    settled: float = 0.1
    explore_until: float = 0.6
    competence: float = 0.9
    patience: int = 1500
    explore_tokens: int = 0
    refine_every: int = 4

    def __post_init__(self) -> None:
        bounds = {"warmup": 0, "explore_tokens": 0}
        bounds |= dict.fromkeys(("policy_every", "encoder_every", "curriculum_step", "refine_every"), 1)
        for name, least in bounds.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.policy_every > 1 and self.encoder_every > 1:
            raise ValueError(
                f"policy_every={self.policy_every} and encoder_every={self.encoder_every} would both rest in most "
                "iterations; set one of them to 1"
            )
        if not 0.0 <= self.policy_average < 1.0:
            raise ValueError(f"policy_average must be in [0, 1), got {self.policy_average}")
        if not 0.0 <= self.curriculum_competence < 1.0:
            raise ValueError(
                f"curriculum_competence is an accuracy to get above, in [0, 1), got {self.curriculum_competence}"
            )
        self.make_fresh_start()
        if self.curriculum not in get_args(CurriculumName):
            raise ValueError(
                f"unknown curriculum {self.curriculum!r}; known: {', '.join(get_args(CurriculumName))}"
            )

    def make_fresh_start(self) -> FreshStart:
        """Build what follows the phases of a fresh start.

        Raises:
            ValueError: An option is out of range.
        """
        return FreshStart(
            settled=self.settled,
            explore_until=self.explore_until,
            competence=self.competence,
            patience=self.patience,
        )


def difficulty_of(corpus: Corpus, by: Literal["length", "depth"]) -> npt.NDArray[np.int64]:
    """Say how hard every example is.

    Args:
        corpus: Bound to a vocabulary.
        by: ``length`` of the longest sentence in tokens, or ``depth``: edges above the deepest token of its gold trees.

    Returns:
        [n] int64.

    Raises:
        ValueError: A gold tree is needed and missing.
    """
    if by == "length":
        return np.asarray(corpus.lengths.max(axis=1), dtype=np.int64)
    missing = int((~np.array(corpus.has_gold).reshape(len(corpus), -1).all(axis=1)).sum())
    if missing:
        raise ValueError(
            f"curriculum='depth' counts the levels of gold trees, and {missing:,} of {len(corpus):,} examples have "
            "none; use curriculum='length'"
        )
    depths = np.zeros(len(corpus), dtype=np.int64)
    for indices in sequential_batches(corpus.lengths, _COUNTED_AT_ONCE):
        batch = corpus.batch(indices)
        heights = lockstep.trace(batch.gold, batch.lengths).heights
        deepest = torch.nn.functional.pad(heights, (1, 0)).amax(1).view(batch.n_sides, -1).amax(0)
        depths[indices] = deepest.numpy()
    return depths
