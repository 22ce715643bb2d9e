"""The easy-first policy: one distribution over merges for sampling, judging, beams and playing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor

from rlparse.batched_trees import bracketing_f1, right_branching
from rlparse.corpora.batching import Batch
from rlparse.corpora.corpus import Corpus
from rlparse.merges import derivations, merges_of
from rlparse.models.composition import COMPOSITIONS
from rlparse.trees import check_derivation
from rlparse_agents.decoding import beam_search, decode
from rlparse_agents.easy_first import EasyFirstPolicy
from rlparse_agents.incremental import IncrementalPolicy
from rlparse_agents.losses import policy_gradient_loss
from rlparse_agents.rollout import Rollout
from rlparse_envs import BranchingF1Reward, ShiftReduceEnv
from slow_merges import all_merges, derivation_of, merge_distributions, tree_of
from slow_reference import PAD, plain_batch

N_WORDS = 12
EXAMPLES = [
    [[2, 3, 4, 5], [3, 6]],
    [[7], [4, 4, 8, 2, 9, 10]],
    [[9, 2, 3], [5, 11, 5, 11, 5]],
]
NO_SPACE = spaces.Dict({"tokens": spaces.Box(0, N_WORDS, (1,), np.int64)})


def build(n_words: int = N_WORDS, *, seed: int = 0, scale: float = 1.0, **options) -> EasyFirstPolicy:
    """A policy in double precision with random weights, strong enough to have opinions."""
    torch.manual_seed(seed)
    policy = EasyFirstPolicy(
        NO_SPACE, spaces.Discrete(2), n_tokens=n_words, embedding_size=3, hidden_size=4, **options
    ).double()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.normal_(std=scale)
    return policy


def sentences_of(batch: Batch) -> list[list[int]]:
    return [row[:n] for row, n in zip(batch.tokens.tolist(), batch.lengths.tolist(), strict=True)]


def same_sentence(tokens: list[int], n_rows: int) -> Batch:
    return plain_batch([[tokens]] * n_rows)


def rollout_of(batch: Batch, merges: Tensor) -> Rollout:
    """Known merges, to be judged."""
    return Rollout.of(batch.tokens, batch.lengths, derivations(merges, batch.lengths))._replace(
        actions=merges
    )


def slow_distributions(policy: EasyFirstPolicy, tokens: list[int], merges: list[int]) -> list[Tensor]:
    """Layer by layer, one sentence at a time."""
    embeddings = policy.embedding.weight[tokens]
    if policy.leaf_lstm is not None:
        embeddings = policy.leaf_lstm(embeddings)[0]
    return merge_distributions(policy.composition, policy.query, embeddings, merges, policy.temperature)


def log_probs_of_all(policy: EasyFirstPolicy, tokens: list[int]) -> tuple[list[tuple[int, ...]], Tensor]:
    """Every order of merges of a sentence, and its log-probability as the policy judges it."""
    orders = all_merges(len(tokens))
    batch, merges = same_sentence(tokens, len(orders)), torch.tensor(orders).view(len(orders), -1)
    return orders, policy.judge(rollout_of(batch, merges)).distribution.log_prob(merges).sum(1)


# -------------------------------------------------------------------------------------------- sample and derive


@pytest.mark.parametrize("composition", COMPOSITIONS)
@pytest.mark.parametrize("leaf_lstm", [False, True])
def test_sampled_parses_are_complete_and_judged_as_they_were_sampled(composition, leaf_lstm):
    policy = build(composition=composition, leaf_lstm=leaf_lstm)
    policy.temperature = 0.7
    batch = plain_batch(EXAMPLES).repeat(4)
    rollout = policy.sample(batch, generator=torch.Generator().manual_seed(0))
    n_inner = batch.tokens.shape[1] - 1
    assert rollout.decisions is rollout.actions
    assert rollout.actions.dtype == rollout.transitions.dtype == torch.int64
    assert not rollout.log_probs.requires_grad
    for row, n in enumerate(batch.lengths.tolist()):
        merges, derivation = rollout.actions[row].tolist(), rollout.transitions[row].tolist()
        assert merges[n - 1 :] == [n_inner] * (n_inner - n + 1)
        check_derivation(derivation[: 2 * n - 1], n)
        assert set(derivation[2 * n - 1 :]) <= {PAD}
        assert tuple(derivation[: 2 * n - 1]) == derivation_of(tree_of(merges[: n - 1], range(n)))
    judged = policy.judge(rollout).distribution
    torch.testing.assert_close(judged.log_prob(rollout.actions), rollout.log_probs, rtol=0, atol=1e-12)
    assert (rollout.log_probs[~judged.free] == 0).all()


def test_greedy_parses_take_the_likeliest_merge_everywhere_and_draw_nothing():
    for seed in range(5):
        policy, batch = build(seed=seed), plain_batch(EXAMPLES)
        before = torch.get_rng_state()
        greedy = policy.derive(batch, greedy=True)
        assert torch.equal(torch.get_rng_state(), before)
        policy.temperature = 5.0
        assert torch.equal(policy.derive(batch, greedy=True), greedy)
        for row, tokens in enumerate(sentences_of(batch)):
            items = list(range(len(tokens)))
            merges: list[int] = []
            while len(items) > 1:
                place = int(slow_distributions(policy, tokens, [*merges, 0])[-1].argmax())
                merges.append(place)
                items.pop()
            expected = derivation_of(tree_of(merges, range(len(tokens))))
            assert greedy[row, : len(expected)].tolist() == list(expected)


def test_sampled_parses_follow_their_generator():
    policy, batch = build(), plain_batch(EXAMPLES).repeat(8)
    parses = [policy.derive(batch, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(parses[0], parses[1])
    assert not torch.equal(parses[0], parses[2])
    sampled = policy.sample(batch, generator=torch.Generator().manual_seed(1))
    assert torch.equal(sampled.transitions, parses[0])


@pytest.mark.parametrize("temperature", [0.6, 1.0, 3.0])
def test_parses_are_sampled_as_often_as_they_are_judged_likely(temperature):
    policy, tokens, n_rows = build(seed=3, scale=0.7), [2, 7, 4, 9], 6000
    policy.temperature = temperature
    orders, log_probs = log_probs_of_all(policy, tokens)
    sampled = policy.sample(same_sentence(tokens, n_rows), generator=torch.Generator().manual_seed(0))
    distance, cells = 0.0, 0
    for merges, log_prob in zip(orders, log_probs.tolist(), strict=True):
        found = int((sampled.actions == torch.tensor(merges)).all(dim=1).sum())
        expected = n_rows * math.exp(log_prob)
        if expected >= 5:
            distance += (found - expected) ** 2 / expected
            cells += 1
    assert cells >= 5
    assert distance < 21  # the 99.9 % point of 5 degrees of freedom is 20.5


# -------------------------------------------------------------------------------------------------------- judge


@pytest.mark.parametrize("composition", COMPOSITIONS)
@pytest.mark.parametrize("leaf_lstm", [False, True])
@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_distributions_and_gradients_are_those_of_single_layers(composition, leaf_lstm, temperature):
    policy = build(composition=composition, leaf_lstm=leaf_lstm, scale=0.7)
    policy.temperature = temperature
    batch = plain_batch(EXAMPLES).repeat(3)
    rollout = policy.sample(batch, generator=torch.Generator().manual_seed(0))
    judged = policy.judge(rollout).distribution
    pairs = []
    for row, (tokens, merges) in enumerate(zip(sentences_of(batch), rollout.actions.tolist(), strict=True)):
        steps = slow_distributions(policy, tokens, merges[: len(tokens) - 1])
        for k, log_probs in enumerate(steps):
            pairs.append((judged.log_probs[row, k, : len(log_probs)], log_probs))
            assert judged.legal[row, k].sum() == len(log_probs)
        assert judged.finished[row, len(steps) :].all()
    fast, slow = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-10)
    weights, wanted = torch.randn_like(slow), list(policy.parameters())
    for_fast, for_slow = (torch.autograd.grad((x * weights).sum(), wanted) for x in (fast, slow))
    torch.testing.assert_close(for_fast, for_slow, rtol=0, atol=1e-9)
    assert all(gradient.any() for gradient in for_slow)


@pytest.mark.parametrize("n", range(1, 7))
def test_probabilities_of_all_orders_sum_to_one(n):
    _, log_probs = log_probs_of_all(build(seed=n), list(range(2, 2 + n)))
    assert log_probs.exp().sum().item() == pytest.approx(1.0, abs=1e-10)
    if n > 3:
        assert log_probs.max() - log_probs.min() > 0.5


def test_a_new_policy_has_hardly_any_preference():
    policy = EasyFirstPolicy(NO_SPACE, spaces.Discrete(2), n_tokens=N_WORDS)
    _, log_probs = log_probs_of_all(policy, [2, 3, 4, 5, 6])
    torch.testing.assert_close(log_probs, torch.full_like(log_probs, -math.log(24)), rtol=0, atol=0.1)


def test_a_rollout_is_judged_by_the_weights_of_now():
    policy = build()
    rollout = policy.sample(plain_batch(EXAMPLES).repeat(4), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        policy.query.mul_(-1.0)
    found = policy.judge(rollout).distribution.log_prob(rollout.actions)
    assert (rollout.log_probs - found).abs().max() > 0.1
    assert policy.judge(rollout).states is None


def test_trees_from_elsewhere_are_judged_by_an_order_of_merges():
    policy, batch = build(), plain_batch(EXAMPLES)
    rollout = Rollout.of(batch.tokens, batch.lengths, policy.derive(batch))
    with pytest.raises(
        ValueError, match=r"judges merges, and this rollout has only transitions; .*merges_of"
    ):
        policy.judge(rollout)
    merges = merges_of(rollout.transitions)
    judged = policy.judge(rollout._replace(actions=merges)).distribution.log_prob(merges)
    for row, tokens in enumerate(sentences_of(batch)):
        places = merges[row, : len(tokens) - 1].tolist()
        steps = slow_distributions(policy, tokens, places)
        expected = sum(log_probs[p].item() for log_probs, p in zip(steps, places, strict=True))
        assert judged[row].sum().item() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("leaf_lstm", [False, True])
def test_batch_mates_and_padding_change_nothing(leaf_lstm):
    policy, batch = build(leaf_lstm=leaf_lstm), plain_batch(EXAMPLES)
    greedy = policy.derive(batch, greedy=True)
    noise = torch.randint(1, N_WORDS, batch.tokens.shape)
    past = torch.arange(batch.tokens.shape[1]) >= batch.lengths.unsqueeze(1)
    noisy = batch._replace(tokens=torch.where(past, noise, batch.tokens))
    assert torch.equal(policy.derive(noisy, greedy=True), greedy)
    for row, tokens in enumerate(sentences_of(batch)):
        alone = policy.derive(same_sentence(tokens, 1), greedy=True)
        assert torch.equal(alone[0], greedy[row, : 2 * len(tokens) - 1])


def test_sentences_of_one_token_need_no_merge():
    policy, batch = build(), plain_batch([[[3]], [[4]]])
    rollout = policy.sample(batch)
    assert rollout.transitions.tolist() == [[0], [0]]
    assert rollout.actions.shape == rollout.log_probs.shape == (2, 0)
    assert policy.judge(rollout).distribution.legal.shape == (2, 0, 0)
    assert policy.derive(batch, greedy=True).tolist() == [[0], [0]]


@pytest.mark.parametrize("leaf_lstm", [False, True])
@pytest.mark.parametrize("sign", [1.0, 0.0])
def test_it_learns_what_is_rewarded(leaf_lstm, sign):
    """Right-branching trees; and without reward nothing."""
    torch.manual_seed(0)
    policy = EasyFirstPolicy(
        NO_SPACE, spaces.Discrete(2), n_tokens=7, embedding_size=8, hidden_size=16, leaf_lstm=leaf_lstm
    )
    optimizer = torch.optim.Adam(policy.parameters(), 2e-2)
    rng = torch.Generator().manual_seed(0)
    batch = plain_batch([[[1, 2, 3, 4, 5]], [[2, 6, 4, 1]]]).repeat(32)
    right = right_branching(batch.lengths, 9)
    for _ in range(60):
        rollout = policy.sample(batch, generator=rng)
        rewards = sign * bracketing_f1(rollout.transitions, right)
        advantages = (rewards.view(2, 32) - rewards.view(2, 32).mean(1, keepdim=True)).flatten()
        judged = policy.judge(rollout).distribution
        loss = policy_gradient_loss(judged.log_prob(rollout.decisions), advantages, judged.free)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = bracketing_f1(policy.derive(batch, greedy=True), right).mean()
    assert (found == 1.0) == (sign == 1.0)


# ------------------------------------------------------------------------------------------------------- beams


@pytest.mark.parametrize("leaf_lstm", [False, True])
def test_partial_merges_agree_with_the_judge(leaf_lstm):
    policy = build(leaf_lstm=leaf_lstm)
    policy.temperature = 0.7
    batch = plain_batch(EXAMPLES).repeat(2)
    assert isinstance(policy, IncrementalPolicy)
    rollout = policy.sample(batch, generator=torch.Generator().manual_seed(0))
    judged = policy.judge(rollout).distribution
    parses = policy.incremental(batch)
    order = torch.arange(len(batch.lengths))
    for k in range(batch.tokens.shape[1] - 1):
        there = parses.distribution()
        assert torch.equal(there.legal, judged.legal[order, k])
        assert not there.log_probs.requires_grad
        found, expected = (x[there.legal] for x in (there.log_probs, judged.log_probs[order, k]))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
        rows = torch.randperm(len(order))
        parses.select(rows)
        order = order[rows]
        parses.take(rollout.actions[order, k])
    assert parses.distribution().finished.all()
    assert torch.equal(parses.transitions(), rollout.transitions[order])


@pytest.mark.parametrize("n", range(1, 6))
def test_a_wide_beam_finds_the_likeliest_orders(n):
    policy, tokens = build(seed=n), list(range(2, 2 + n))
    orders, log_probs = log_probs_of_all(policy, tokens)
    expected, best = log_probs.detach().sort(descending=True)
    found = beam_search(policy, same_sentence(tokens, 2), len(orders))
    torch.testing.assert_close(found.log_probs, expected.expand(2, -1), rtol=0, atol=1e-10)
    likeliest = derivation_of(tree_of(orders[int(best[0])], range(n)))
    assert found.transitions[0, 0].tolist() == list(likeliest)
    if n < 4:
        greedy = decode(policy, same_sentence(tokens, 1), "beam", n=1)
        assert torch.equal(greedy, policy.derive(same_sentence(tokens, 1), greedy=True))


# ----------------------------------------------------------------------------------- playing in the environment


@pytest.fixture
def player(pairs) -> EasyFirstPolicy:
    policy = build(len(pairs.vocabulary), seed=2)
    policy.observation_space = env_of(pairs).observation_space
    return policy


def env_of(corpus: Corpus, **options) -> ShiftReduceEnv:
    return ShiftReduceEnv(corpus, reward=BranchingF1Reward("right"), order="sequential", **options)


def greedy_parses(policy: EasyFirstPolicy, corpus: Corpus) -> list[tuple[tuple[int, ...], ...]]:
    found = []
    for index in range(len(corpus)):
        rows = policy.derive(corpus.batch([index]), greedy=True).tolist()
        found.append(tuple(tuple(t for t in row if t != PAD) for row in rows))
    return found


@pytest.mark.parametrize("keep_state", [False, True])
@pytest.mark.parametrize("max_tokens", [None, 9])
def test_playing_gives_the_greedy_parses(player, pairs, keep_state, max_tokens):
    env = env_of(pairs, max_tokens=max_tokens)
    player.observation_space = env.observation_space
    expected = greedy_parses(player, pairs)
    for index in range(len(pairs)):
        observation, _ = env.reset(options={"example": index})
        state, done, info = None, False, {}
        while not done:
            action, new_state = player.predict(observation, state, deterministic=True)
            assert action.shape == ()
            state = new_state if keep_state else None
            observation, _, done, _, info = env.step(action)
        assert info["derivations"] == expected[index]
        assert info["n_illegal_actions"] == 0


@pytest.mark.parametrize("deterministic", [False, True])
def test_environments_side_by_side_play_whole_plans(player, pairs, deterministic):
    envs = DummyVecEnv([lambda k=k: env_of(pairs.subset(np.roll(np.arange(4), k))) for k in range(3)])
    expected = greedy_parses(player, pairs)
    observations, finished, parses = envs.reset(), 0, set()
    state, starts = None, np.ones(3, dtype=bool)
    for _ in range(90):
        actions, state = player.predict(
            observations, state, episode_start=starts, deterministic=deterministic
        )
        observations, _, starts, infos = envs.step(actions)
        for k, (done, info) in enumerate(zip(starts, infos, strict=True)):
            if done:
                original = int(np.roll(np.arange(4), k)[info["example"]])
                assert info["n_illegal_actions"] == 0
                parses.add(info["derivations"])
                assert not deterministic or info["derivations"] == expected[original]
                finished += 1
    assert finished >= 12
    assert (len(parses) > 4) != deterministic
    envs.close()


def test_a_game_that_left_the_plan_goes_on_legally(player, pairs):
    env = env_of(pairs)
    for first in (1, 0):
        observation, _ = env.reset(options={"example": 3})
        state, done, step, info = None, False, 0, {}
        while not done:
            action, state = player.predict(observation, state, deterministic=True)
            legal = observation["action_mask"].astype(bool)
            assert legal[int(action)]
            if step < 6 and legal[first]:
                action = np.array(first)
            observation, _, done, _, info = env.step(action)
            step += 1
        assert info["n_illegal_actions"] == 0


def test_actions_come_without_state_through_the_usual_interface(player, pairs):
    player.set_training_mode(True)
    observation, _ = env_of(pairs).reset()
    action, _ = player.predict(observation, deterministic=True)
    assert not player.training
    tensors, _ = player.obs_to_tensor(observation)
    assert player._predict(tensors, deterministic=True).tolist() == [int(action)]


@pytest.mark.parametrize("leaf_lstm", [False, True])
def test_a_saved_policy_comes_back(tmp_path, leaf_lstm):
    policy, batch = build(leaf_lstm=leaf_lstm, composition="gated").float(), plain_batch(EXAMPLES)
    policy.save(str(tmp_path / "policy.zip"))
    again = EasyFirstPolicy.load(str(tmp_path / "policy.zip"), device="cpu")
    assert torch.equal(again.derive(batch, greedy=True), policy.derive(batch, greedy=True))
    assert set(again.state_dict()) == {name for name, _ in policy.named_parameters()}


def test_unknown_compositions_are_refused():
    with pytest.raises(ValueError, match="unknown composition 'lstm'"):
        build(composition="lstm")
