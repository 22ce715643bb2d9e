"""Ask the environment's reward, and the model behind it, what parses are worth."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rlparse import lockstep
from rlparse.corpora.batching import Batch
from rlparse.models.nli_model import NLIModel
from rlparse_agents.baselines import crosswise_returns
from rlparse_agents.parsing_policy import ParsingPolicy
from rlparse_envs.rewards import Reward


class Examiner:
    """Rewards parses, from logits that are there already wherever the reward reads nothing else.

    Args:
        reward: The environment's.
        model: The environment's, if it has one.
    """

    def __init__(self, reward: Reward, model: NLIModel | None) -> None:
        self.reward = reward
        self.model = model
        self._from_logits: Callable[[Tensor, Tensor], Tensor] | None = getattr(reward, "from_logits", None)

    def rewards(self, batch: Batch, transitions: Tensor, logits: Tensor | None) -> Tensor:
        """Reward one parse of each example.

        Args:
            batch: Of R rows.
            transitions: [R, T] int64.
            logits: [B, C] float. The model's for these parses, without dropout; None where there is no model.

        Returns:
            [B] float, without gradient.
        """
        if self._from_logits is not None and logits is not None:
            return self._from_logits(logits, batch.labels)
        with torch.no_grad():
            return self.reward(batch, transitions)

    @torch.no_grad()
    def crosswise(self, examples: Batch, vectors: Tensor, n_parses: int) -> Tensor:
        """Score every parse of a premise with every parse of its hypothesis; see `crosswise_returns`.

        Args:
            examples: B pairs, each once.
            vectors: [2 * B * K, D] float. Of their parses.
            n_parses: K.

        Returns:
            [2 B, K] float.
        """
        assert self.model is not None
        assert self._from_logits is not None
        logits = self.model.head.pair_crosswise(vectors, n_parses, dropout=False)
        rewards = self._from_logits(logits, examples.labels.repeat_interleave(n_parses**2))
        return crosswise_returns(rewards.view(-1, n_parses, n_parses))

    @torch.no_grad()
    def greedy(self, examples: Batch, policy: ParsingPolicy) -> Tensor:
        """Reward the likeliest parse of every example: [B] float."""
        transitions = policy.derive(examples, greedy=True)
        if self.model is None or self._from_logits is None:
            return self.reward(examples, transitions)
        vectors = self.model.encode(examples.tokens, lockstep.trace(transitions, examples.lengths))
        return self.rewards(examples, transitions, self.model.head(vectors, dropout=False))
