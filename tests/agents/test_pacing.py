"""Who learns when, and from which examples."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rlparse import lockstep
from rlparse.corpora.corpus import Corpus
from rlparse.errors import CheckpointError
from rlparse.trees import random_merges
from rlparse_agents.estimator import Estimator
from rlparse_agents.pacing import Pacing, difficulty_of
from rlparse_agents.policy_gradient import PolicyGradient
from small_agents import agent_of, iterate, model_of, moved, recording, same_weights, weights_of


def learner(corpus: Corpus, pacing: dict[str, Any], **options: Any) -> PolicyGradient:
    return agent_of(corpus, "accuracy", model=model_of(corpus), pacing=Pacing(**pacing), **options)


# ----------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warmup": -1}, "warmup must be at least 0, got -1"),
        ({"policy_every": 0}, "policy_every must be at least 1, got 0"),
        ({"encoder_every": 0}, "encoder_every must be at least 1, got 0"),
        (
            {"policy_every": 2, "encoder_every": 3},
            "policy_every=2 and encoder_every=3 would both rest in most iterations; set one of them to 1",
        ),
        ({"policy_average": 1.0}, r"policy_average must be in \[0, 1\), got 1.0"),
        ({"policy_average": -0.1}, r"policy_average must be in \[0, 1\), got -0.1"),
        ({"curriculum": "words"}, "unknown curriculum 'words'; known: none, length, depth"),
        ({"curriculum_step": 0}, "curriculum_step must be at least 1, got 0"),
        (
            {"curriculum_competence": 1.0},
            r"curriculum_competence is an accuracy to get above, in \[0, 1\), got 1.0",
        ),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        Pacing(**options)


# ------------------------------------------------------------------------------------------------ taking turns


def test_both_learn_in_every_iteration_unless_told_otherwise(pairs):
    assert moved(learner(pairs, {}), 3) == ["pe"] * 3


def test_warming_up_trains_only_the_encoder(pairs):
    agent = learner(pairs, {"warmup": 2})
    writer = recording(agent)
    assert moved(agent, 4) == ["e", "e", "pe", "pe"]
    told = [
        {"train/policy_loss", "train/grad_norm_policy", "rollout/entropy"} <= set(v) for _, v in writer.points
    ]
    assert told == [False, False, True, True]
    assert all("train/cross_entropy" in values for _, values in writer.points)


def test_warming_up_draws_random_trees_anew_whatever_the_policy_prefers(pairs):
    agent = learner(pairs, {"warmup": 100}, n_parses=16)
    with torch.no_grad():
        agent.policy.head.bias[:] = torch.tensor([-50.0, 50.0])  # would build left-branching trees only
    seen, trees = [], []
    for _ in range(20):
        iterate(agent, 1)
        last = agent.last_iteration
        rows = last.batch.lengths == 4
        seen.append(last.transitions)
        trees += [tuple(row) for row in last.transitions[rows][:, :7].tolist()]
    assert not torch.equal(seen[0], seen[1])
    counts = np.array([trees.count(tree) for tree in set(trees)])
    assert len(counts) == 5  # binary trees over four tokens
    assert counts.min() > 0.12 * counts.sum()  # each a fifth


@pytest.mark.parametrize(
    ("pacing", "expected"),
    [
        ({"policy_every": 3}, ["pe", "e", "e", "pe", "e", "e"]),
        ({"encoder_every": 3}, ["pe", "p", "p", "pe", "p", "p"]),
        ({"policy_every": 2, "warmup": 3}, ["e", "e", "e", "e", "pe", "e"]),
        ({"encoder_every": 2, "warmup": 3}, ["e", "e", "e", "p", "pe", "p"]),
    ],
)
def test_one_of_them_rests(pairs, pacing, expected):
    agent = learner(pairs, pacing)
    writer = recording(agent)
    assert moved(agent, 6) == expected
    for (_, values), who in zip(writer.points, expected, strict=True):
        assert ("train/policy_loss" in values) == ("p" in who)
        assert ("train/learning_rate_policy" in values) == ("p" in who)
        assert ("train/cross_entropy" in values) == ("e" in who)
        assert ("train/learning_rate_encoder" in values) == ("e" in who)
        assert "rollout/accuracy" in values
        assert "rollout/reward" in values


def test_a_resting_encoder_still_rewards(pairs):
    agent = learner(pairs, {"encoder_every": 2})
    iterate(agent, 1)
    frozen = model_of(pairs)
    frozen.load_state_dict(agent.model.state_dict())
    iterate(agent, 1)
    last = agent.last_iteration
    expected = frozen.eval()(last.batch, last.transitions).argmax(1) == last.batch.labels
    assert torch.equal(last.rewards, expected.float())


def test_several_updates_of_the_policy_for_one_of_the_encoder(pairs):
    """``encoder_every`` = 2 with PPO's two updates: four of the policy to one of the encoder."""
    agent = learner(pairs, {"encoder_every": 2}, estimator=Estimator(objective="ppo", n_updates=2))
    iterate(agent, 4)
    steps = [
        {int(state["step"]) for state in optimizer.state.values()}
        for optimizer in (agent.policy_optimizer, agent.encoder_optimizer)
    ]
    assert steps == [{8}, {2}]


# ------------------------------------------------------------------------------------------ an average of weights


def test_the_average_of_the_policys_weights_is_what_is_evaluated(pairs):
    agent = learner(pairs, {"policy_average": 0.5}, learning_rate=0.05)
    with agent.evaluated_policy() as policy:  # before any update, the weights themselves
        assert same_weights(weights_of(policy), weights_of(agent.policy))
    expected: dict[str, Tensor] = {}
    for t in range(5):
        iterate(agent, 1)
        decay = min(0.5, t / (t + 1))
        now = weights_of(agent.policy)
        expected = {
            name: decay * expected.get(name, 0.0) + (1 - decay) * value for name, value in now.items()
        }
    own = weights_of(agent.policy)
    with agent.evaluated_policy() as policy:
        assert policy is agent.policy
        averaged = weights_of(policy)
    for name, value in expected.items():
        torch.testing.assert_close(averaged[name], value)
    assert not same_weights(averaged, own)
    assert same_weights(weights_of(agent.policy), own)


def test_only_updates_of_the_policy_count_in_its_average(pairs):
    agent = learner(
        pairs,
        {"policy_average": 0.9, "warmup": 2, "policy_every": 2},
        estimator=Estimator(objective="ppo", n_updates=3),
    )
    counts = []
    for _ in range(6):
        iterate(agent, 1)
        counts.append(agent.policy_average.n_updates)
    assert counts == [0, 0, 1, 1, 2, 2]  # once for an iteration that updates, however often


def test_without_an_average_the_policy_itself_is_lent(pairs):
    agent = learner(pairs, {})
    with agent.evaluated_policy() as policy:
        assert policy is agent.policy
    assert agent.policy_average is None


# --------------------------------------------------------------------------------------------------- curriculum


def depth_of(transitions: tuple[int, ...]) -> int:
    """Edges above the deepest token of a tree."""
    stack: list[int] = []
    for transition in transitions:
        stack.append(0 if transition == 0 else 1 + max(stack.pop(), stack.pop()))
    (height,) = stack
    return height


@pytest.mark.parametrize("corpus", ["pairs", "word_salad"])
def test_difficulty_is_the_longest_sentence_or_the_deepest_tree(request, corpus):
    corpus = request.getfixturevalue(corpus)
    sentences = [[corpus.sentence(i, s) for s in range(corpus.n_sides)] for i in range(len(corpus))]
    lengths = [max(len(sentence.tokens) for sentence in example) for example in sentences]
    depths = [max(depth_of(sentence.transitions) for sentence in example) for example in sentences]
    for by, expected in (("length", lengths), ("depth", depths)):
        found = difficulty_of(corpus, by)
        assert found.dtype == np.int64
        assert found.tolist() == expected


def test_depths_are_counted_in_many_batches(word_salad, monkeypatch):
    whole = difficulty_of(word_salad, "depth")
    monkeypatch.setattr("rlparse_agents.pacing._COUNTED_AT_ONCE", 7)
    assert np.array_equal(difficulty_of(word_salad, "depth"), whole)
    rng = np.random.default_rng(0)
    assert depth_of(tuple(random_merges(1, rng))) == 0


def test_depths_need_gold_trees(half_parsed):
    message = r"curriculum='depth' counts the levels of gold trees, and 1 of 2 examples have none; use"
    with pytest.raises(ValueError, match=message):
        agent_of(half_parsed, pacing=Pacing(curriculum="depth"))


def test_a_curriculum_that_admits_nothing_is_refused(word_salad):
    with pytest.raises(ValueError, match="admits no example, the easiest has difficulty 3"):
        agent_of(word_salad, pacing=Pacing(curriculum="length", curriculum_start=2))


def in_batches(agent: PolicyGradient, by: str) -> int:
    """The greatest difficulty in the last batch."""
    batch = agent.last_iteration.batch
    if by == "length":
        return int(batch.lengths.max())
    return int(lockstep.trace(batch.gold, batch.lengths).heights.max())


@pytest.mark.parametrize(("by", "start", "step"), [("length", 3, 2), ("depth", 2, 1)])
def test_harder_examples_are_admitted_once_easy_ones_are_mastered(word_salad, by, start, step):
    accuracies = {"now": 0.0}

    def reward(batch, transitions):
        return torch.full((batch.n_examples,), accuracies["now"])

    pacing = Pacing(curriculum=by, curriculum_start=start, curriculum_step=step, curriculum_competence=0.5)
    agent = agent_of(word_salad, reward, pacing=pacing, batch_size=8)
    agent.curriculum.memory = 2
    writer = recording(agent)
    difficulty = difficulty_of(word_salad, by)
    limits = []
    for t in range(16):
        accuracies["now"] = 0.0 if t < 4 else 1.0
        before = agent.curriculum.limit
        assert len(agent.batches.corpus) == (difficulty <= before).sum()
        iterate(agent, 1)
        assert in_batches(agent, by) <= before
        limits.append(agent.curriculum.limit)
    assert writer.curve("train/curriculum") == limits
    assert limits[:4] == [start] * 4
    assert limits[4:8] == [
        start,
        start + step,
        start + step,
        start + 2 * step,
    ]  # 4, after averages of 1/2 and 3/4
    assert agent.curriculum.complete
    assert len(agent.batches.corpus) == len(word_salad)
    assert limits[-1] == limits[-2]


def test_an_epoch_of_a_stage_visits_what_is_admitted(word_salad):
    agent = agent_of(
        word_salad, pacing=Pacing(curriculum="length", curriculum_start=4), batch_size=5, n_parses=2
    )
    easy = difficulty_of(word_salad, "length") <= 4
    words = []
    for _ in range(agent.order.batches_per_epoch):
        iterate(agent, 1)
        batch = agent.last_iteration.batch
        words += [tuple(row) for row in batch.tokens[::2].tolist()]
    assert len(words) == easy.sum()
    expected = [word_salad.batch(np.array([i])).tokens[0].tolist() for i in easy.nonzero()[0]]
    assert sorted(tuple(w for w in row if w) for row in words) == sorted(tuple(row) for row in expected)


def test_accuracy_drives_it_where_there_is_a_classifier(pairs):
    agent = learner(pairs, {"curriculum": "length", "curriculum_start": 3})
    seen = []
    observe = agent.curriculum.observe
    agent.curriculum.observe = lambda accuracy: (seen.append(accuracy), observe(accuracy))[1]
    writer = recording(agent)
    iterate(agent, 3)
    assert seen == writer.curve("rollout/accuracy")


def test_it_goes_on_where_it_was(word_salad):
    """State, then order, as a continued run loads them: the same batches as without a stop."""
    pacing = Pacing(curriculum="length", curriculum_start=3, curriculum_step=1, curriculum_competence=0.1)

    def made() -> PolicyGradient:
        agent = agent_of(word_salad, pacing=pacing, batch_size=8)
        agent.curriculum.memory = 3
        return agent

    whole = made()
    iterate(whole, 7)
    assert whole.curriculum.limit > 3
    other = made()
    other.load_learning_state(whole.learning_state())
    other.order.load_state_dict(whole.order.state_dict())
    assert other.curriculum.state_dict() == whole.curriculum.state_dict()
    for one, two in itertools.islice(zip(whole.batches, other.batches, strict=False), 6):
        assert torch.equal(one.tokens, two.tokens)
    for agent in (whole, other):
        agent.batches.close()
    with pytest.raises(CheckpointError, match="order"):  # of a stage that admits fewer
        made().order.load_state_dict(whole.order.state_dict())
