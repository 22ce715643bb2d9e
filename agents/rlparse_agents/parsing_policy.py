"""What an agent needs from a policy that parses whole batches, beside what Stable-Baselines3 asks of it."""

from __future__ import annotations

from abc import abstractmethod

import torch
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor

from rlparse.corpora.batching import Batch
from rlparse_agents.distribution import TransitionDistribution
from rlparse_agents.rollout import Rollout


class ParsingPolicy(BasePolicy):
    """A policy that parses whole batches in lockstep."""

    @abstractmethod
    def derive(
        self, batch: Batch, *, generator: torch.Generator | None = None, greedy: bool = False
    ) -> Tensor:
        """Parse every sentence of a batch, without gradient.

        Args:
            batch: Of R rows.
            generator: Source of randomness of sampled parses.
            greedy: Take the likeliest transition at every step instead of sampling.

        Returns:
            [R, T] int64 derivations.
        """


class LearningPolicy(ParsingPolicy):
    """A parsing policy with parameters, which can judge derivations that were sampled from it."""

    @abstractmethod
    def sample(self, batch: Batch, *, generator: torch.Generator | None = None) -> Rollout:
        """Parse every sentence of a batch as `derive` does, and keep what `judge` can use.

        Args:
            batch: Of R rows.
            generator: Source of randomness.
        """

    @abstractmethod
    def judge(self, rollout: Rollout) -> TransitionDistribution:
        """Give the distribution before every step of known derivations, with gradient.

        It is that of the policy's weights of now, so that one rollout serves many updates.

        Args:
            rollout: From `sample`, or `Rollout.of` derivations.

        Returns:
            A distribution over [R, T] states.
        """
