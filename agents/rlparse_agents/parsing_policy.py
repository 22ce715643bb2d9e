"""What an agent needs from a policy that parses whole batches, beside what Stable-Baselines3 asks of it."""

from __future__ import annotations

from abc import abstractmethod

import torch
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor

from rlparse.corpora.batching import Batch
from rlparse.lockstep import Trace
from rlparse_agents.distribution import TransitionDistribution


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
    def judge(self, tokens: Tensor, trace: Trace) -> TransitionDistribution:
        """Give the distribution before every step of known derivations, with gradient.

        Args:
            tokens: [R, N] int64.
            trace: What `lockstep.trace` makes of the derivations.

        Returns:
            A distribution over [R, T] states.
        """
