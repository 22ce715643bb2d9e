"""Policies that share the classifier's weights learn with it, from one loss; the others learn beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from rlparse.corpora.corpus import Corpus
from rlparse_agents.estimator import Estimator
from rlparse_agents.policy_gradient import PolicyGradient
from rlparse_envs import BranchingF1Reward
from small_agents import agent_of, iterate, model_of, recording, same_weights, weights_of

SUPERVISED = Estimator(objective="supervised", baseline="none", policy_coef=0.7)


def shared(corpus: Corpus, **options: Any) -> PolicyGradient:
    model = model_of(corpus, tracker_size=6, dropout=0.0)
    reward = options.pop("reward", "log_likelihood")
    kwargs = {"policy": "SharedTrackerPolicy", "policy_kwargs": {"model": model}}
    return agent_of(corpus, reward, model=model, **kwargs, **options)


def own_gradients(agent: PolicyGradient) -> dict[str, torch.Tensor]:
    named = [*agent.model.named_parameters(), *agent.policy.named_parameters()]
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in named}


@pytest.mark.parametrize("supervised", [False, True])
def test_one_loss_moves_classifier_tracker_and_policy(pairs, supervised):
    estimator = SUPERVISED if supervised else Estimator(baseline="none", average="sum", policy_coef=3.0)
    n_parses = 1 if supervised else 3
    options: dict[str, Any] = {"estimator": estimator, "n_parses": n_parses, "max_grad_norm": 0.0}
    agent = shared(pairs, entropy_coef=0.2, **options)
    by_hand = shared(pairs, **options)
    state = agent.generator.get_state()
    writer = recording(agent)
    iterate(agent, 1)

    batch = agent.last_iteration.batch
    generator = torch.Generator()
    generator.set_state(state)
    encoded = by_hand.policy.parse_and_encode(batch, generator=generator, gold=supervised)
    transitions = encoded.rollout.transitions
    assert torch.equal(transitions, agent.last_iteration.transitions)
    assert torch.equal(transitions, batch.gold) == supervised
    logits = by_hand.model.head(encoded.vectors)
    judged = encoded.judgement.distribution
    log_probs, free = judged.log_prob(transitions), judged.free
    entropy = judged.normalised_entropy()[free].mean()
    if supervised:
        loss = -log_probs[free].mean()
    else:
        rewards = -F.cross_entropy(logits, batch.labels, reduction="none").detach()
        loss = -(rewards.repeat(2) * log_probs.masked_fill(~free, 0.0).sum(1)).mean()
    weight = estimator.policy_coef
    (F.cross_entropy(logits, batch.labels) + weight * (loss - 0.2 * entropy)).backward()
    found, expected = own_gradients(agent), own_gradients(by_hand)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient)
    assert any(name.startswith("machine.tracker") and g.any() for name, g in expected.items())
    assert expected["head.weight"].any()
    assert writer.curve("train/policy_loss")[0] == pytest.approx(loss.item(), abs=1e-6)
    assert ("train/advantage_mean" in writer.points[0][1]) != supervised


def test_one_optimiser_has_every_weight_once(pairs):
    agent = shared(pairs, estimator=Estimator(baseline="step_value"))
    assert agent.policy_optimizer is None
    (group,) = agent.encoder_optimizer.param_groups
    ids = [id(p) for p in group["params"]]
    wanted = [*agent.model.parameters(), *agent.policy.parameters(), *agent.critic.parameters()]
    assert sorted(ids) == sorted({id(p) for p in wanted})


def test_gold_transitions_can_be_imitated_by_a_policy_of_its_own(word_salad):
    """Few sentences, learned by heart; the classifier sees gold trees only."""
    few = word_salad.subset(range(4))
    agent = agent_of(
        few, "accuracy", model=model_of(few), estimator=SUPERVISED, n_parses=1, learning_rate=0.05
    )
    iterate(agent, 40)
    last = agent.last_iteration
    assert torch.equal(last.transitions, last.batch.gold)
    batch = few.batch(np.arange(4))
    assert torch.equal(agent.policy.derive(batch, greedy=True), batch.gold)


def test_spinn_learns_to_parse_by_itself(word_salad):
    few = word_salad.subset(range(4))
    agent = shared(few, estimator=SUPERVISED, n_parses=1, encoder_learning_rate=0.05, reward="accuracy")
    iterate(agent, 40)
    batch = few.batch(np.arange(4))
    assert torch.equal(agent.policy.derive(batch, greedy=True), batch.gold)


def test_a_gumbel_parser_learns_from_the_classifier_alone(pairs):
    model = model_of(pairs)
    options: dict[str, Any] = {"policy": "GumbelPolicy", "policy_kwargs": {"model": model}, "n_parses": 1}
    agent = agent_of(pairs, "accuracy", model=model, temperature=lambda progress: 0.5 + progress, **options)
    before = weights_of(agent.policy), weights_of(model)
    writer = recording(agent)
    iterate(agent, 2)
    assert not same_weights(before[0], weights_of(agent.policy))
    assert not same_weights(before[1], weights_of(model))
    tags = set(writer.points[0][1])
    assert not tags & {
        "rollout/entropy",
        "train/policy_loss",
        "train/advantage_std",
        "train/grad_norm_policy",
    }
    assert {"train/cross_entropy", "rollout/depth", "train/temperature"} <= tags
    assert agent.critic is None


@pytest.mark.parametrize("estimator", [Estimator(), Estimator(objective="ppo", ratio="tree", n_updates=3)])
@pytest.mark.parametrize(
    ("policy", "more"), [("EasyFirstPolicy", {"leaf_lstm": True}), ("BoundaryPolicy", {})]
)
def test_every_policy_learns_to_build_the_trees_that_are_rewarded(word_salad, policy, more, estimator):
    sizes = {"n_tokens": len(word_salad.vocabulary), "embedding_size": 8, "hidden_size": 16, **more}
    options: dict[str, Any] = {
        "policy": policy,
        "policy_kwargs": sizes,
        "estimator": estimator,
        "batch_size": 16,
    }
    agent = agent_of(word_salad, BranchingF1Reward("left"), learning_rate=0.03, entropy_coef=0.0, **options)
    writer = recording(agent)
    iterate(agent, 30)
    curve = writer.curve("rollout/reward")
    assert np.mean(curve[:2]) < 0.7
    assert np.mean(curve[-5:]) > 0.9


def test_a_shared_tracker_learns_to_build_the_trees_that_are_rewarded(word_salad):
    reward = BranchingF1Reward("right")
    agent = shared(word_salad, reward=reward, encoder_learning_rate=0.02, entropy_coef=0.0, batch_size=16)
    writer = recording(agent)
    iterate(agent, 30)
    curve = writer.curve("rollout/reward")
    assert np.mean(curve[:2]) < 0.7
    assert np.mean(curve[-5:]) > 0.9
