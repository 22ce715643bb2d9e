"""From rewards to the loss of a policy: baseline, normaliser, objective and divergence put together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlparse.corpora.batching import Batch
from rlparse_agents.baselines import (
    BASELINES,
    MovingAverage,
    greedy_advantages,
    spread_over_rows,
    value_advantages,
)
from rlparse_agents.critics import SentenceCritic, StepCritic
from rlparse_agents.distribution import MaskedDistribution
from rlparse_agents.estimator import Estimator
from rlparse_agents.losses import (
    clipped_loss,
    imitation_loss,
    kl_penalty,
    mean_over_free,
    policy_gradient_loss,
    ratio_statistics,
    value_loss,
)
from rlparse_agents.normalisers import NORMALISERS, RunningSd
from rlparse_agents.parsing_policy import Judgement
from rlparse_agents.returns import final_rewards, gae


class Weighed(NamedTuple):
    """What the rewards say about the decisions of a rollout; the same for every update from it.

    Attributes:
        decisions: [R, M] int64. What was decided.
        advantages: [R] float, one a parse, or [R, M], one a decision; None where decisions are imitated.
        old_log_probs: [R, M] float. Of the decisions, under the policy before any update.
        reference: What the policy should stay near, or None.
        returns: What the critic learns to expect: [B, K] of parses, or [R, M] of states; None without a critic.
    """

    decisions: Tensor
    advantages: Tensor | None
    old_log_probs: Tensor
    reference: MaskedDistribution | None
    returns: Tensor | None


class PolicyLoss:
    """Holds what an estimator remembers between iterations, and computes its losses.

    Args:
        estimator: The options.
        critic: For the baselines ``value`` (a `SentenceCritic`) and ``step_value`` (a `StepCritic`); else None.
    """

    def __init__(self, estimator: Estimator, critic: SentenceCritic | StepCritic | None = None) -> None:
        self.estimator = estimator
        self.critic = critic
        self.moving_average = MovingAverage()
        self.running_sd = RunningSd()

    def weigh(
        self,
        returns: Tensor,
        decisions: Tensor,
        judgement: Judgement,
        *,
        examples: Batch,
        greedy: Tensor | None = None,
        reference: MaskedDistribution | None = None,
    ) -> tuple[Weighed, dict[str, Tensor]]:
        """Turn returns into advantages.

        Args:
            returns: [G, K] float, G = B or, of pairs scored crosswise, S * B.
            decisions: [R, M] int64.
            judgement: Of the policy that made them.
            examples: The batch, every example once.
            greedy: [G] float. Returns of greedy parses, for the baseline ``greedy``.
            reference: The reference's distribution, where there is a divergence to weigh.

        Returns:
            The weighed decisions, and metrics.
        """
        estimator, distribution = self.estimator, judgement.distribution
        old = distribution.log_prob(decisions).detach()
        n_rows = len(decisions)
        expected = None
        if estimator.baseline == "step_value":
            advantages, expected = self._of_steps(
                spread_over_rows(returns, n_rows), judgement, old, reference, decisions
            )
            judged = advantages[distribution.free]
        else:
            if estimator.baseline == "moving_average":
                advantages = self.moving_average.advantages(returns)
                self.moving_average.update(returns)
            elif estimator.baseline == "greedy":
                assert greedy is not None
                advantages = greedy_advantages(returns, greedy)
            elif estimator.baseline == "value":
                assert isinstance(self.critic, SentenceCritic)
                with torch.no_grad():
                    values = self.critic(examples.tokens, examples.lengths)
                sides = len(returns) // len(values)  # one value for all sentences of an example
                advantages = value_advantages(returns, values.repeat(sides))
                expected = returns.view(sides, len(values), -1).mean(0)
            else:
                advantages = BASELINES[estimator.baseline](returns)
            judged = advantages
        measured = {
            "train/advantage_mean": judged.mean() if judged.numel() else returns.new_zeros(()),
            "train/advantage_std": judged.std(correction=0) if judged.numel() else returns.new_zeros(()),
        }
        advantages = self._normalised(advantages, judged, distribution.free)
        if advantages.dim() == 2 and estimator.baseline != "step_value":
            advantages = spread_over_rows(advantages, n_rows)
        return Weighed(decisions, advantages, old, reference, expected), measured

    def _of_steps(
        self,
        returns: Tensor,
        judgement: Judgement,
        old: Tensor,
        reference: MaskedDistribution | None,
        decisions: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Give the advantage of every decision and what the critic should have expected: [R, M] each."""
        assert isinstance(self.critic, StepCritic)
        assert judgement.states is not None
        estimator, free = self.estimator, judgement.distribution.free
        rewards = final_rewards(returns, free)
        if reference is not None and estimator.kl_in == "reward":
            rewards = rewards - estimator.kl_coef * (old - reference.log_prob(decisions)).masked_fill(
                ~free, 0.0
            )
        with torch.no_grad():
            values = self.critic(judgement.states)
        advantages = gae(rewards, values, free, gamma=estimator.gamma, lam=estimator.gae_lambda)
        return advantages, advantages + values

    def _normalised(self, advantages: Tensor, judged: Tensor, free: Tensor) -> Tensor:
        """Scale advantages by what the normaliser makes of those that count: all, or those of free decisions."""
        name = self.estimator.normaliser
        if name == "running_sd":
            scaled = self.running_sd.normalise(advantages)
            self.running_sd.update(judged)
            return scaled
        if advantages is judged:
            return NORMALISERS[name](advantages)
        scaled = torch.zeros_like(advantages)  # decisions that do not count have none
        scaled[free] = NORMALISERS[name](judged)
        return scaled

    def __call__(
        self, weighed: Weighed, judgement: Judgement, *, examples: Batch, entropy_coef: Tensor | float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Give the loss of one update.

        Args:
            weighed: From `weigh`, or decisions to imitate.
            judgement: Of the policy as it is now.
            examples: The batch, every example once.
            entropy_coef: Weight of the normalised entropy.

        Returns:
            Scalar float, lower is better, and metrics.
        """
        estimator, distribution = self.estimator, judgement.distribution
        free = distribution.free
        log_probs = distribution.log_prob(weighed.decisions)
        measured: dict[str, Tensor] = {}
        if weighed.advantages is None:
            surrogate = imitation_loss(log_probs, free, average=estimator.average)
        elif estimator.objective == "ppo":
            surrogate = clipped_loss(
                log_probs,
                weighed.old_log_probs,
                weighed.advantages,
                free,
                clip_low=estimator.clip_low,
                clip_high=estimator.clip_high,
                ratio=estimator.ratio,
                average=estimator.average,
            )
            clipped, moved = ratio_statistics(
                log_probs,
                weighed.old_log_probs,
                free,
                clip_low=estimator.clip_low,
                clip_high=estimator.clip_high,
                ratio=estimator.ratio,
            )
            measured |= {"train/clip_fraction": clipped, "train/approx_kl": moved}
        else:
            surrogate = policy_gradient_loss(log_probs, weighed.advantages, free, average=estimator.average)
        entropy = mean_over_free(distribution.normalised_entropy(), free)
        loss = surrogate - entropy_coef * entropy
        measured |= {"rollout/entropy": entropy, "train/policy_loss": surrogate}
        if weighed.reference is not None:
            divergence = kl_penalty(distribution, weighed.reference, average=estimator.average)
            measured["train/kl_reference"] = divergence
            if estimator.kl_in == "loss":
                loss = loss + estimator.kl_coef * divergence
        if weighed.returns is not None:
            error = self._critic_error(weighed.returns, judgement, examples)
            measured["train/value_loss"] = error
            loss = loss + estimator.value_coef * error
        return loss, measured

    def _critic_error(self, returns: Tensor, judgement: Judgement, examples: Batch) -> Tensor:
        """Give the critic's mean squared error, with gradient into the critic only."""
        if isinstance(self.critic, StepCritic):
            assert judgement.states is not None
            return value_loss(self.critic(judgement.states), returns, judgement.distribution.free)
        assert isinstance(self.critic, SentenceCritic)
        return value_loss(self.critic(examples.tokens, examples.lengths), returns)

    def state_dict(self) -> dict[str, Any]:
        """Give what continuing needs, beside the critic's weights."""
        return {
            "moving_average": self.moving_average.state_dict(),
            "running_sd": self.running_sd.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from where a state was taken."""
        self.moving_average.load_state_dict(state["moving_average"])
        self.running_sd.load_state_dict(state["running_sd"])
