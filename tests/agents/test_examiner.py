"""Rewards from logits that are there already are the rewards of the parses."""

from __future__ import annotations

import itertools

import pytest
import torch
from gymnasium.spaces import Dict, Discrete
from torch import Tensor

from rlparse import lockstep
from rlparse.corpora.batching import Batch
from rlparse_agents.examiner import Examiner
from rlparse_agents.fixed import FixedTreePolicy, fixed_derivations
from rlparse_envs.rewards import BranchingF1Reward, make_reward
from small_agents import model_of

OF_A_MODEL = ("accuracy", "log_likelihood", "clipped_log_likelihood", "surprisal", "margin")


def sampled(batch: Batch) -> Tensor:
    return fixed_derivations(batch, "random_per_epoch", torch.Generator().manual_seed(0))


@pytest.fixture
def examples(pairs) -> Batch:
    return pairs.batch(range(4))


@pytest.mark.parametrize("reward", [*OF_A_MODEL, "gold_f1"])
def test_logits_that_are_there_give_the_same_rewards(pairs, examples, reward):
    model = model_of(pairs).eval()
    asked = make_reward(reward, model)
    batch = examples.repeat(3)
    transitions = sampled(batch)
    logits = model(batch, transitions).detach()
    examiner = Examiner(asked, model)
    torch.testing.assert_close(examiner.rewards(batch, transitions, logits), asked(batch, transitions))
    assert not examiner.rewards(batch, transitions, None).requires_grad
    torch.testing.assert_close(examiner.rewards(batch, transitions, None), asked(batch, transitions))


def test_a_reward_of_a_model_is_not_asked_again(pairs, examples):
    asked = make_reward("accuracy", model_of(pairs))
    transitions, labels = sampled(examples), examples.labels
    told = torch.eye(3)[labels]  # not what the model would say
    assert Examiner(asked, asked.model).rewards(examples, transitions, told).tolist() == [1.0] * 4


@pytest.mark.parametrize("reward", OF_A_MODEL)
@pytest.mark.parametrize("hide_premise", [False, True])
def test_crosswise_returns_are_means_over_the_other_sentences_parses(pairs, examples, reward, hide_premise):
    K = 3
    model = model_of(pairs, hide_premise=hide_premise).eval()
    asked = make_reward(reward, model)
    batch = examples.repeat(K)
    transitions = sampled(batch)
    vectors = model.encode(batch.tokens, lockstep.trace(transitions, batch.lengths)).detach()
    found = Examiner(asked, model).crosswise(examples, vectors, K)
    parses = transitions.view(2, 4, K, -1)
    expected = torch.zeros(2, 4, K)
    for b, i, j in itertools.product(range(4), range(K), range(K)):
        pair = Batch(*(field[[b, 4 + b]] if len(field) == 8 else field[[b]] for field in examples))
        earned = asked(pair, torch.stack((parses[0, b, i], parses[1, b, j]))).item()
        expected[0, b, i] += earned / K
        expected[1, b, j] += earned / K
    torch.testing.assert_close(found, expected.view(8, K))
    assert not found.requires_grad


def right_branching() -> FixedTreePolicy:
    return FixedTreePolicy(Dict({}), Discrete(2), kind="right")


@pytest.mark.parametrize("reward", [*OF_A_MODEL, "gold_f1"])
def test_greedy_parses_are_rewarded_example_by_example(pairs, examples, reward):
    model = model_of(pairs).train()
    asked = make_reward(reward, model)
    expected = asked(examples, fixed_derivations(examples, "right"))
    torch.testing.assert_close(Examiner(asked, model).greedy(examples, right_branching()), expected)


def test_greedy_parses_can_be_rewarded_without_a_model(examples):
    assert (
        Examiner(BranchingF1Reward("right"), None).greedy(examples, right_branching()).tolist() == [1.0] * 4
    )
