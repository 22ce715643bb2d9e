"""The native agent, all of it, follows the exact gradient wherever its estimator is unbiased."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from stable_baselines3.common.logger import Logger
from torch import Tensor

from rlparse.corpora.batching import Batch
from rlparse.corpora.corpus import Corpus
from rlparse_agents.estimator import Estimator
from rlparse_agents.policy import TrackerPolicy
from rlparse_agents.policy_gradient import PolicyGradient
from rlparse_agents.rollout import Rollout
from rlparse_envs import ShiftReduceEnv
from slow_reference import all_derivations, derivation_log_prob, padded, plain_batch
from small_agents import model_of


class Recorder(PolicyGradient):
    """Tells the gradients of its losses instead of following them."""

    policy: TrackerPolicy

    def gradient_of(self, batch: Batch, transitions: Tensor, rewards: Tensor) -> list[Tensor]:
        rollout = Rollout.of(batch.tokens, batch.lengths, transitions)
        examples = Batch(*(field[:: self.n_parses] for field in batch))
        judgement = self.policy.judge(rollout)
        weighed = self._weigh(examples, rollout, judgement, rewards, torch.empty(0))
        loss = self._loss_of_policy(weighed, judgement, examples)
        found = torch.autograd.grad(loss, list(self.policy.parameters()), allow_unused=True)
        return [torch.zeros(()) if g is None else g for g in found]


def randomise_(module: torch.nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()


@pytest.fixture
def make_recorder(pairs: Corpus) -> Callable[..., Recorder]:
    def make(**options: Any) -> Recorder:
        sizes = {"embedding_size": 3, "hidden_size": 3, "tracker_size": 3, "catalan_prior": False}
        agent = Recorder(
            "TrackerPolicy",
            ShiftReduceEnv(pairs, reward="accuracy", model=model_of(pairs)),
            policy_kwargs={"n_tokens": len(pairs.vocabulary), **sizes},
            seed=0,
            device="cpu",
            entropy_coef=0.0,
            **options,
        )
        agent.set_logger(Logger(None, []))
        agent.policy.double()
        randomise_(agent.policy)
        if agent.critic is not None:
            agent.critic.double()
            randomise_(agent.critic)
        return agent

    return make


PREMISES, HYPOTHESES = [2, 3, 4, 5], [6, 3, 7]

UNBIASED: list[tuple[dict[str, Any], int]] = [
    ({"baseline": "none"}, 2),
    ({"baseline": "moving_average"}, 1),
    ({"baseline": "value", "value_coef": 0.0}, 1),
    ({"baseline": "value"}, 2),  # the critic's error moves the critic only
    ({"baseline": "step_value"}, 1),
    ({"baseline": "greedy"}, 2),
    ({"baseline": "leave_one_out"}, 2),
    ({"baseline": "leave_one_out", "normaliser": "running_sd"}, 2),
    ({"baseline": "leave_one_out", "objective": "ppo", "ratio": "tree"}, 2),
    ({"baseline": "step_value", "objective": "ppo"}, 1),
    ({"baseline": "leave_one_out", "pairing": "crosswise"}, 2),
    ({"baseline": "value", "pairing": "crosswise"}, 2),
    ({"baseline": "greedy", "pairing": "crosswise"}, 2),
]


@pytest.mark.parametrize("average", ["sum", "constant"])
@pytest.mark.parametrize(("options", "n_parses"), UNBIASED, ids=lambda value: str(value))
def test_unbiased_estimators_follow_the_exact_gradient(
    make_recorder, monkeypatch, options, n_parses, average
):
    """Every K-tuple of pairs of parses, weighed by its probability; the reward is of both parses together."""
    trees = all_derivations(4), all_derivations(3)
    joint = list(itertools.product(range(len(trees[0])), range(len(trees[1]))))
    rewards = torch.randn(len(joint), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    # Whether an average is steady shows after earlier batches, whose returns are far from these.
    agent = make_recorder(estimator=Estimator(average=average, **options), n_parses=n_parses)
    losses = agent.policy_loss
    losses.moving_average.update(torch.tensor([3.0, 4.0], dtype=torch.float64))
    losses.running_sd.update(torch.tensor([30.0, -30.0], dtype=torch.float64))
    memory = copy.deepcopy(losses.state_dict())
    divisor = math.sqrt(memory["running_sd"]["variance"]) if options.get("normaliser") else 1.0

    slow = [
        torch.stack([derivation_log_prob(agent.policy, tokens, d) for d in all_derivations(len(tokens))])
        for tokens in (PREMISES, HYPOTHESES)
    ]
    log_probs = torch.stack([slow[0][i] + slow[1][j] for i, j in joint])
    value = (log_probs.exp() * rewards).sum()
    exact = torch.autograd.grad(value, list(agent.policy.parameters()), allow_unused=True)
    probabilities = log_probs.detach().exp()

    drawn: tuple[int, ...] = ()

    def crosswise(examples: Batch, vectors: Tensor, n_parses: int) -> Tensor:
        earned = [[rewards[joint.index((joint[i][0], joint[j][1]))] for j in drawn] for i in drawn]
        table = torch.tensor(earned, dtype=torch.float64)
        return torch.stack((table.mean(1), table.mean(0)))

    monkeypatch.setattr(agent.examiner, "crosswise", crosswise)
    monkeypatch.setattr(agent.examiner, "greedy", lambda *_: rewards[7:8])

    batch = plain_batch([[PREMISES, HYPOTHESES]]).repeat(n_parses)
    estimated = [torch.zeros_like(parameter) for parameter in agent.policy.parameters()]
    for drawn in itertools.product(range(len(joint)), repeat=n_parses):
        transitions = padded([trees[side][joint[i][side]] for side in range(2) for i in drawn], 4)
        losses.load_state_dict(memory)
        gradient = agent.gradient_of(batch, transitions, rewards[list(drawn)])
        weight = probabilities[list(drawn)].prod()
        for total, part in zip(estimated, gradient, strict=True):
            total -= weight * part * divisor * 2 * (7 if average == "constant" else 1)  # S rows, M decisions
    for found, wanted in zip(estimated, exact, strict=True):
        torch.testing.assert_close(
            found, torch.zeros(()).double().expand_as(found) if wanted is None else wanted
        )
    assert max(g.abs().max() for g in exact if g is not None) > 1e-3
