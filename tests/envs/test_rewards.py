"""Rewards agree with slow, obvious versions of themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from rlparse import PAD, parse_scores, trees
from rlparse.batched_trees import left_branching, right_branching
from rlparse.corpora.batching import Batch
from rlparse_envs.rewards import (
    AccuracyReward,
    BranchingF1Reward,
    ClippedLogLikelihoodReward,
    GoldF1Reward,
    LogLikelihoodReward,
    MarginReward,
    SurprisalReward,
    make_reward,
)
from slow_reference import random_derivations, slow_f1


def padded(derivations, n_steps=None):
    """[R, T] of derivations of different lengths."""
    n_steps = n_steps or max(map(len, derivations))
    return torch.tensor([list(d) + [PAD] * (n_steps - len(d)) for d in derivations])


def batch_of(gold, n_sides=1):
    """A batch with these gold derivations (None: no gold), side-major; its words do not matter."""
    n_steps = max(len(d) for d in gold if d is not None)
    filled = [[PAD] * n_steps if d is None else list(d) for d in gold]
    n_examples = len(gold) // n_sides
    lengths = torch.tensor([(len(d) + 1) // 2 if d is not None else 1 for d in gold])
    return Batch(
        tokens=torch.ones(len(gold), (n_steps + 1) // 2, dtype=torch.int64),
        lengths=lengths,
        labels=torch.zeros(n_examples, dtype=torch.int64),
        gold=padded(filled, n_steps),
        has_gold=torch.tensor([d is not None for d in gold]),
        indices=torch.arange(n_examples) + 100,
    )


def test_gold_f1_is_the_mean_over_the_sentences_of_each_example():
    rng = np.random.default_rng(3)
    lengths = [4, 9, 6, 1, 2, 7]  # rows: premises of three examples, then their hypotheses
    gold, predicted = random_derivations(rng, lengths), random_derivations(rng, lengths)
    scores = [slow_f1(p, g) for p, g in zip(predicted, gold, strict=True)]
    rewards = GoldF1Reward()(batch_of(gold, n_sides=2), padded(predicted))
    assert rewards.tolist() == pytest.approx([(scores[b] + scores[b + 3]) / 2 for b in range(3)])
    single = GoldF1Reward()(batch_of(gold), padded(predicted))
    assert single.tolist() == pytest.approx(scores)


def test_gold_f1_without_the_root():
    left, right = trees.left_branching(5), trees.right_branching(5)
    reward = GoldF1Reward("nyu-root")
    assert reward(batch_of([left]), padded([right])).tolist() == [0.0]
    assert reward(batch_of([[0, 0, 1]]), padded([[0, 0, 1]])).tolist() == [1.0]


def test_gold_f1_does_not_invent_gold():
    left = trees.left_branching(3)
    with pytest.raises(
        ValueError,
        match=r"2 of 4 rows have none; the first is row 1, sentence 0 of corpus example 101",
    ):
        GoldF1Reward()(batch_of([left, None, left, None], n_sides=2), padded([left] * 4))


@pytest.mark.parametrize("convention", ["nyu", "nyu-root", "prpn+punctuation"])
def test_gold_f1_agrees_with_the_parse_scores(convention):
    rng = np.random.default_rng(5)
    lengths = [1, 2, 3, 11, 30, 8, 8, 17]
    gold, predicted = random_derivations(rng, lengths), random_derivations(rng, lengths)
    rewards = GoldF1Reward(convention)(batch_of(gold), padded(predicted))
    expected = [
        parse_scores.score_parses([p], [g], None, convention).f1 for p, g in zip(predicted, gold, strict=True)
    ]
    assert rewards.tolist() == pytest.approx(expected)
    assert rewards.mean().item() == pytest.approx(
        parse_scores.score_parses(predicted, gold, None, convention).f1
    )


@pytest.mark.parametrize("convention", ["evalb", "prpn", "nyu-punctuation"])
def test_conventions_that_no_reward_can_follow(convention):
    with pytest.raises(
        ValueError, match=f"takes the mean over sentences and keeps punctuation.*, got '{convention}'"
    ):
        GoldF1Reward(convention)


def test_unknown_convention():
    with pytest.raises(ValueError, match="parseval"):
        GoldF1Reward("parseval")


@pytest.mark.parametrize("branching", ["right", "left", "balanced"])
def test_branching_reward_is_one_for_that_tree_only(branching):
    tree = {"right": trees.right_branching, "left": trees.left_branching, "balanced": trees.balanced}
    batch = batch_of([tree[branching](7)] * 3)
    derivations = padded([tree[name](7) for name in ("right", "left", "balanced")])
    rewards = BranchingF1Reward(branching)(batch, derivations).tolist()
    assert [reward == 1.0 for reward in rewards] == [
        name == branching for name in ("right", "left", "balanced")
    ]


def test_unknown_branching():
    with pytest.raises(ValueError, match="branching must be one of left, right, balanced, got 'up'"):
        BranchingF1Reward("up")


def test_model_rewards_read_the_logits(pairs, model):
    batch = pairs.batch([0, 1, 2, 3])
    transitions = right_branching(batch.lengths, batch.gold.shape[1])
    model.eval()
    with torch.no_grad():
        logits = model(batch, transitions)
    log_probs = logits.log_softmax(1)
    labels = batch.labels.tolist()
    assert AccuracyReward(model)(batch, transitions).tolist() == [
        float(max(range(3), key=lambda c: row[c]) == label)
        for row, label in zip(logits.tolist(), labels, strict=True)
    ]
    expected = [log_probs[b, label].item() for b, label in enumerate(labels)]
    assert LogLikelihoodReward(model)(batch, transitions).tolist() == pytest.approx(expected)
    probs = [[math.exp(log_prob) for log_prob in row] for row in log_probs.tolist()]
    surprisals = [-math.log(1 - row[label]) for row, label in zip(probs, labels, strict=True)]
    assert SurprisalReward(model)(batch, transitions).tolist() == pytest.approx(surprisals, abs=1e-6)
    margins = [
        row[label] - max(row[:label] + row[label + 1 :]) for row, label in zip(probs, labels, strict=True)
    ]
    assert MarginReward(model)(batch, transitions).tolist() == pytest.approx(margins, abs=1e-6)


def test_rewards_from_given_logits():
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 0.0, 0.0]], requires_grad=True)
    labels = torch.tensor([0, 2])
    accuracy, likelihood = (
        AccuracyReward.from_logits(logits, labels),
        LogLikelihoodReward.from_logits(logits, labels),
    )
    assert accuracy.tolist() == [1.0, 0.0]
    assert likelihood[1].item() == pytest.approx(-math.log(3))
    assert likelihood[0].item() == pytest.approx(F.log_softmax(logits, 1)[0, 0].item())
    assert not accuracy.requires_grad
    assert not likelihood.requires_grad
    assert likelihood.dtype == torch.float32


def test_a_clipped_log_likelihood_counts_no_miss_for_more_than_four_nats():
    logits = torch.tensor([[0.0, 3.0], [0.0, 3.0], [0.0, 50.0]], requires_grad=True)
    found = ClippedLogLikelihoodReward.from_logits(logits, torch.tensor([1, 0, 0]))
    assert found.tolist() == pytest.approx([-math.log1p(math.exp(-3)), -3 - math.log1p(math.exp(-3)), -4.0])
    assert not found.requires_grad


def test_surprisal_and_margin_from_given_logits():
    third = math.log(3)  # class 0 has half of the probability, or as much as the two others together
    logits = torch.tensor([[third + math.log(2 / 3), 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 5.0, 0.0]])
    logits.requires_grad_()
    labels = torch.tensor([0, 1, 2])
    surprisal, margin = (kind.from_logits(logits, labels) for kind in (SurprisalReward, MarginReward))
    lost = 1 / (2 + math.exp(5))
    assert surprisal.tolist() == pytest.approx([math.log(2), -math.log(2 / 3), -math.log1p(-lost)], abs=1e-6)
    assert margin.tolist() == pytest.approx([0.25, 0.0, lost * (1 - math.exp(5))], abs=1e-6)
    for reward in (surprisal, margin):
        assert not reward.requires_grad
        assert reward.dtype == torch.float32


@pytest.mark.parametrize("lead", [12.0, 15.0, 40.0, 1e4, math.inf])
def test_the_surprisal_of_a_certain_model_stays_finite(lead):
    """Up to float32's own limit it is exact; -log(1 - p) itself would be inf from a lead of about 17 on."""
    certain, sure_of_another = SurprisalReward.from_logits(
        torch.tensor([[lead, 0.0], [lead, 0.0]]).nan_to_num(posinf=3e38), torch.tensor([0, 1])
    ).tolist()
    assert certain == pytest.approx(min(math.log1p(math.exp(min(lead, 100.0))), SurprisalReward.LARGEST))
    assert certain <= SurprisalReward.LARGEST == pytest.approx(15.94, abs=0.01)
    assert 0.0 <= sure_of_another < 1e-5


def test_the_sign_of_the_margin_is_accuracy():
    logits = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(50) % 4
    right = AccuracyReward.from_logits(logits, labels)
    assert torch.equal((MarginReward.from_logits(logits, labels) > 0).float(), right)
    assert 0 < right.mean() < 1


@pytest.mark.parametrize(
    "reward_class",
    [AccuracyReward, LogLikelihoodReward, ClippedLogLikelihoodReward, SurprisalReward, MarginReward],
)
def test_model_rewards_ignore_dropout_and_leave_the_model_as_it_was(pairs, model, reward_class):
    batch = pairs.batch([0, 1])
    transitions = left_branching(batch.lengths, batch.gold.shape[1])
    model.head.eval()  # a part that somebody froze stays so
    modes = [module.training for module in model.modules()]
    assert any(modes)
    assert not all(modes)
    rewards = [reward_class(model)(batch, transitions) for _ in range(4)]
    assert all(torch.equal(rewards[0], reward) for reward in rewards)
    assert not rewards[0].requires_grad
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())


def test_rewards_by_name(model):
    assert isinstance(make_reward("gold_f1"), GoldF1Reward)
    assert isinstance(make_reward("accuracy", model), AccuracyReward)
    assert isinstance(make_reward("log_likelihood", model), LogLikelihoodReward)
    assert isinstance(make_reward("surprisal", model), SurprisalReward)
    assert isinstance(make_reward("margin", model), MarginReward)
    own = BranchingF1Reward("left")
    assert make_reward(own) is own


def test_unknown_reward():
    with pytest.raises(
        ValueError,
        match="one of gold_f1, accuracy, log_likelihood, clipped_log_likelihood, surprisal, margin or a callable, "
        "got 'f1'",
    ):
        make_reward("f1")
    with pytest.raises(
        ValueError, match=r"a reward is a name or a callable \(batch, transitions\) -> \[B\], got 3"
    ):
        make_reward(3)


@pytest.mark.parametrize(
    "name", ["accuracy", "log_likelihood", "clipped_log_likelihood", "surprisal", "margin"]
)
def test_a_model_reward_needs_a_model(name):
    with pytest.raises(ValueError, match=f"reward '{name}' is what a model says of the parses: pass model="):
        make_reward(name)
