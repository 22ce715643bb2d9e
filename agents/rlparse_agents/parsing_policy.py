"""What an agent needs from a policy that parses whole batches, beside what Stable-Baselines3 asks of it."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, NamedTuple

import torch
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor

from rlparse.corpora.batching import Batch
from rlparse_agents.distribution import MaskedDistribution
from rlparse_agents.rollout import Rollout


class Judgement(NamedTuple):
    """What a policy thinks of every decision of a rollout, with gradient.

    Attributes:
        distribution: Over [R, M] states.
        states: [R, M, H] float. What it knew before each decision, for a critic; finite, but meaningless past a row's
            end; None where it keeps nothing.
    """

    distribution: MaskedDistribution
    states: Tensor | None = None


class Encoded(NamedTuple):
    """Parses of a batch that were encoded while they were made.

    Attributes:
        rollout: The parses.
        vectors: [R, D] float. Hidden vector of each sentence's root, with gradient.
        judgement: Of the decisions; None where no score function is needed.
    """

    rollout: Rollout
    vectors: Tensor
    judgement: Judgement | None


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
    """A parsing policy with parameters, which can judge derivations that were sampled from it.

    Attributes:
        temperature: Sampled parses come from, and `judge` gives, the distribution of logits / temperature. The
            likeliest decision does not depend on it.
        chooses_transitions: Whether its decisions are transitions, so that it can imitate gold ones.
        judges: Whether it learns by the score function; if not, the classifier's gradient is all it needs.
    """

    temperature: float = 1.0
    chooses_transitions: ClassVar[bool] = True
    judges: ClassVar[bool] = True

    @abstractmethod
    def sample(self, batch: Batch, *, generator: torch.Generator | None = None) -> Rollout:
        """Parse every sentence of a batch as `derive` does, and keep what `judge` can use.

        Args:
            batch: Of R rows.
            generator: Source of randomness.
        """

    @abstractmethod
    def judge(self, rollout: Rollout) -> Judgement:
        """Give the distribution before every decision of known parses, with gradient.

        It is that of the policy's weights of now, so that one rollout serves many updates.

        Args:
            rollout: From `sample`, or `Rollout.of` derivations.
        """


class EncodingPolicy(ParsingPolicy):
    """A policy that shares the classifier's weights, and encodes while it parses.

    Its own parameters are those that are not the classifier's; both learn from one loss.

    Attributes:
        temperature: As in `LearningPolicy`.
        chooses_transitions: As in `LearningPolicy`.
        judges: As in `LearningPolicy`.
    """

    temperature: float = 1.0
    chooses_transitions: ClassVar[bool] = True
    judges: ClassVar[bool] = True

    @abstractmethod
    def parse_and_encode(
        self, batch: Batch, *, generator: torch.Generator | None = None, gold: bool = False
    ) -> Encoded:
        """Parse and encode every sentence of a batch.

        Args:
            batch: Of R rows.
            generator: Source of randomness of sampled parses.
            gold: Follow the batch's gold derivations instead of sampling.

        Raises:
            ValueError: Gold derivations were asked for and cannot be followed.
        """
