"""The Tracker policy: legal derivations, one distribution for sampling, judging and playing, and nothing leaks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor

from rlparse.corpora.batching import Batch
from rlparse.corpora.corpus import Corpus
from rlparse.models.composition import COMPOSITIONS
from rlparse.models.nli_model import NLIModel
from rlparse.trees import check_derivation
from rlparse_agents.policy import TrackerPolicy
from rlparse_agents.rollout import Rollout, uniform_trees
from rlparse_envs import BranchingF1Reward, ShiftReduceEnv
from slow_reference import (
    PAD,
    OneSentence,
    all_derivations,
    derivation_log_prob,
    padded,
    plain_batch,
    random_derivation,
)

N_WORDS = 12
EXAMPLES = [
    [[2, 3, 4, 5], [3, 6]],
    [[7], [4, 4, 8, 2, 9, 10]],
    [[9, 2, 3], [5, 11, 5]],
]
NO_SPACE = spaces.Dict({"tokens": spaces.Box(0, N_WORDS, (1,), np.int64)})


def build(n_words: int = N_WORDS, *, seed: int = 0, scale: float = 1.0, **options) -> TrackerPolicy:
    """A policy in double precision with random weights, its head's too, which is zero in a new one."""
    torch.manual_seed(seed)
    policy = TrackerPolicy(
        NO_SPACE,
        spaces.Discrete(2),
        n_tokens=n_words,
        embedding_size=3,
        hidden_size=4,
        tracker_size=3,
        **options,
    ).double()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.normal_(std=scale)
    return policy


def model_of(n_words: int = N_WORDS, **options) -> NLIModel:
    torch.manual_seed(7)
    model = NLIModel(n_words, 3, embedding_size=3, hidden_size=4, mlp_size=5, **options).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


def sentences_of(batch: Batch) -> list[list[int]]:
    return [row[:n] for row, n in zip(batch.tokens.tolist(), batch.lengths.tolist(), strict=True)]


def same_sentence(tokens: list[int], n_rows: int) -> Batch:
    return plain_batch([[tokens]] * n_rows)


def log_probs_of_all(policy: TrackerPolicy, tokens: list[int]) -> tuple[list[tuple[int, ...]], Tensor]:
    """Every derivation of a sentence, and its log-probability as the policy judges it."""
    derivations = all_derivations(len(tokens))
    batch = same_sentence(tokens, len(derivations))
    transitions = padded(derivations)
    judged = policy.judge(Rollout.of(batch.tokens, batch.lengths, transitions)).distribution
    return derivations, judged.log_prob(transitions).sum(1)


# --------------------------------------------------------------------------------------------------- derive


@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize("composition", COMPOSITIONS)
def test_every_derivation_is_complete_and_legal(greedy, composition):
    policy = build(composition=composition, scale=3.0)
    batch = plain_batch(EXAMPLES).repeat(8)
    transitions = policy.derive(batch, generator=torch.Generator().manual_seed(0), greedy=greedy)
    assert transitions.dtype == torch.int64
    assert not transitions.requires_grad
    assert transitions.shape == batch.gold.shape
    for row, n in zip(transitions.tolist(), batch.lengths.tolist(), strict=True):
        check_derivation(row[: 2 * n - 1], n)
        assert set(row[2 * n - 1 :]) <= {PAD}


def test_greedy_parses_draw_nothing_and_are_the_same_every_time():
    policy, batch = build(), plain_batch(EXAMPLES)
    before = torch.get_rng_state()
    first = policy.derive(batch, greedy=True)
    assert torch.equal(first, policy.derive(batch, greedy=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_greedy_parses_take_the_likeliest_transition_everywhere():
    for seed in range(5):
        policy, batch = build(seed=seed), plain_batch(EXAMPLES)
        greedy = policy.derive(batch, greedy=True)
        judged = policy.judge(Rollout.of(batch.tokens, batch.lengths, greedy)).distribution
        assert torch.equal(judged.mode(), greedy)


def test_sampled_parses_follow_their_generator():
    policy, batch = build(), plain_batch(EXAMPLES).repeat(8)
    parses = [policy.derive(batch, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(parses[0], parses[1])
    assert not torch.equal(parses[0], parses[2])


def test_parses_are_sampled_as_often_as_they_are_judged_likely():
    policy, tokens, n_rows = build(seed=3), [2, 7, 4, 9, 3], 6000
    derivations, log_probs = log_probs_of_all(policy, tokens)
    sampled = policy.derive(same_sentence(tokens, n_rows), generator=torch.Generator().manual_seed(0))
    distance, cells = 0.0, 0
    for derivation, log_prob in zip(derivations, log_probs.tolist(), strict=True):
        found = int((sampled == torch.tensor(derivation)).all(dim=1).sum())
        expected = n_rows * math.exp(log_prob)
        if expected >= 5:
            distance += (found - expected) ** 2 / expected
            cells += 1
    assert cells >= 8
    assert distance < 40  # the 99.9 % point of 14 cells is 34.5


# ---------------------------------------------------------------------------------------------------- judge


@pytest.mark.parametrize("composition", COMPOSITIONS)
@pytest.mark.parametrize("catalan_prior", [False, True])
@pytest.mark.parametrize("reads", ["own", "encoder"])
def test_log_probs_and_gradients_are_sums_over_single_steps(composition, catalan_prior, reads):
    encoder = model_of(composition=composition) if reads == "encoder" else None
    policy = build(composition=composition, catalan_prior=catalan_prior, reads=reads, encoder=encoder)
    batch = plain_batch(EXAMPLES).repeat(4)
    # Any parses will do to be judged; uniform ones see to it that all kinds of nodes are read.
    transitions = uniform_trees(batch.lengths, batch.tokens.shape[1], torch.Generator().manual_seed(0))
    judged = policy.judge(Rollout.of(batch.tokens, batch.lengths, transitions)).distribution
    fast = judged.log_prob(transitions).sum(1)
    slow = torch.stack(
        [
            derivation_log_prob(policy, tokens, derivation[: 2 * len(tokens) - 1], encoder)
            for tokens, derivation in zip(sentences_of(batch), transitions.tolist(), strict=True)
        ]
    )
    # The prior is in single precision.
    tolerance = 1e-6 if catalan_prior else 1e-10
    torch.testing.assert_close(fast, slow, rtol=0, atol=tolerance)
    weights = torch.randn(len(fast), dtype=torch.float64)
    wanted = list(policy.parameters())
    for_fast, for_slow = (torch.autograd.grad((x * weights).sum(), wanted) for x in (fast, slow))
    torch.testing.assert_close(for_fast, for_slow, rtol=0, atol=tolerance)
    assert all(gradient.any() for gradient in for_slow)


@pytest.mark.parametrize("n_copies", [1, 4, 12, 24])
@pytest.mark.parametrize("reads", ["own", "encoder"])
def test_a_rollout_is_judged_as_by_stepping_through_it(n_copies, reads):
    """Enough rows, too, to be judged in groups of similar length."""
    encoder = model_of() if reads == "encoder" else None
    policy = build(seed=1, catalan_prior=False, reads=reads, encoder=encoder)
    batch = plain_batch(EXAMPLES).repeat(n_copies)
    rollout = policy.sample(batch, generator=torch.Generator().manual_seed(0))
    fast = policy.judge(rollout).distribution.log_prob(rollout.transitions).sum(1)
    rows = zip(sentences_of(batch), rollout.transitions.tolist(), strict=True)
    keys = [(tuple(tokens), tuple(derivation[: 2 * len(tokens) - 1])) for tokens, derivation in rows]
    judged = {key: derivation_log_prob(policy, *key, encoder) for key in sorted(set(keys))}
    slow = torch.stack([judged[key] for key in keys])
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-10)
    weights = torch.randn(len(fast), dtype=torch.float64)
    wanted = list(policy.parameters())
    for_fast, for_slow = (
        torch.autograd.grad((x * weights).sum(), wanted, retain_graph=x is slow) for x in (fast, slow)
    )
    torch.testing.assert_close(for_fast, for_slow, rtol=0, atol=1e-9)


@pytest.mark.parametrize("reads", ["own", "encoder"])
def test_a_rollout_is_judged_by_the_weights_of_now(reads):
    """As often as one likes, and without parsing or, where the encoder is read, encoding again."""
    encoder = model_of() if reads == "encoder" else None
    policy = build(reads=reads, encoder=encoder)
    rollout = policy.sample(plain_batch(EXAMPLES).repeat(4), generator=torch.Generator().manual_seed(0))
    replayed = Rollout.of(rollout.tokens, rollout.trace.lengths, rollout.transitions)
    assert replayed.log_probs is replayed.seen is None
    for _ in range(3):
        found, expected = (policy.judge(r).distribution.log_prob(r.transitions) for r in (rollout, replayed))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
        if encoder is not None:
            encode = encoder.machine.forward
            encoder.machine.forward = None
            policy.judge(rollout)
            encoder.machine.forward = encode
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    assert (rollout.log_probs - found).abs().max() > 0.1


@pytest.mark.parametrize("n", range(1, 7))
@pytest.mark.parametrize("catalan_prior", [False, True])
def test_probabilities_of_all_parses_sum_to_one(n, catalan_prior):
    policy = build(seed=n, catalan_prior=catalan_prior)
    _, log_probs = log_probs_of_all(policy, list(range(2, 2 + n)))
    assert log_probs.exp().sum().item() == pytest.approx(1.0, abs=1e-10)
    if n > 3:
        assert log_probs.max() - log_probs.min() > 0.5  # not all alike


@pytest.mark.parametrize("n", range(2, 7))
def test_a_new_policy_is_uniform_over_trees(n):
    policy = TrackerPolicy(NO_SPACE, spaces.Discrete(2), n_tokens=N_WORDS, tracker_size=5)
    _, log_probs = log_probs_of_all(policy, list(range(2, 2 + n)))
    torch.testing.assert_close(log_probs, torch.full_like(log_probs, -math.log(len(log_probs))))


def test_without_the_prior_a_new_policy_tosses_coins():
    policy = TrackerPolicy(NO_SPACE, spaces.Discrete(2), n_tokens=N_WORDS, catalan_prior=False)
    derivations, log_probs = log_probs_of_all(policy, [2, 3, 4, 5])
    for derivation, log_prob in zip(derivations, log_probs.tolist(), strict=True):
        free = {(0, 0, 0, 0, 1, 1, 1): 2, (0, 0, 1, 0, 1, 0, 1): 2}.get(derivation)
        if free is not None:
            assert log_prob == pytest.approx(-free * math.log(2))
    assert log_probs.exp().sum().item() == pytest.approx(1.0)
    assert log_probs.max() > log_probs.min()


def test_batch_mates_and_padding_change_nothing():
    policy, batch = build(scale=2.0), plain_batch(EXAMPLES)
    greedy = policy.derive(batch, greedy=True)
    judged = policy.judge(Rollout.of(batch.tokens, batch.lengths, greedy)).distribution
    for row, tokens in enumerate(sentences_of(batch)):
        alone = same_sentence(tokens, 1)
        n_steps = 2 * len(tokens) - 1
        own = policy.derive(alone, greedy=True)
        assert torch.equal(own[0], greedy[row, :n_steps])
        own_judged = policy.judge(Rollout.of(alone.tokens, alone.lengths, own)).distribution
        torch.testing.assert_close(
            own_judged.log_probs[0], judged.log_probs[row, :n_steps], rtol=0, atol=1e-12
        )
        assert torch.equal(own_judged.free[0], judged.free[row, :n_steps])
    order = torch.randperm(len(greedy))
    shuffled = Batch(batch.tokens[order], batch.lengths[order], *batch[2:])
    assert torch.equal(policy.derive(shuffled, greedy=True), greedy[order])


def test_what_stands_past_a_sentence_is_never_read():
    policy, batch = build(), plain_batch(EXAMPLES)
    noise = torch.randint(1, N_WORDS, batch.tokens.shape)
    past = torch.arange(batch.tokens.shape[1]) >= batch.lengths.unsqueeze(1)
    noisy = batch._replace(tokens=torch.where(past, noise, batch.tokens))
    greedy = policy.derive(batch, greedy=True)
    assert torch.equal(policy.derive(noisy, greedy=True), greedy)
    clean, other = (
        policy.judge(Rollout.of(b.tokens, b.lengths, greedy)).distribution.log_probs for b in (batch, noisy)
    )
    assert torch.equal(clean[~torch.isnan(clean)], other[~torch.isnan(other)])


# ---------------------------------------------------------------------------------------- syntax and semantics


def test_reading_the_encoder_passes_no_gradient_into_it():
    encoder = model_of()
    policy = build(reads="encoder", encoder=encoder)
    own = {id(parameter) for parameter in policy.parameters()}
    assert own.isdisjoint(id(parameter) for parameter in encoder.parameters())
    assert {name.split(".")[0] for name, _ in policy.named_parameters()} == {"tracker", "head"}
    assert policy.state_dict().keys() == dict(policy.named_parameters()).keys()

    batch = plain_batch(EXAMPLES)
    transitions = policy.derive(batch, generator=torch.Generator().manual_seed(0))
    judged = policy.judge(Rollout.of(batch.tokens, batch.lengths, transitions)).distribution
    judged.log_prob(transitions).sum().backward()
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in policy.parameters())


def test_what_is_read_is_the_encoder_as_it_is_now():
    encoder = model_of()
    policy = build(reads="encoder", encoder=encoder)
    _, before = log_probs_of_all(policy, [2, 3, 4, 5])
    with torch.no_grad():
        encoder.embedding.weight.mul_(-2)
    _, after = log_probs_of_all(policy, [2, 3, 4, 5])
    assert (before - after).abs().max() > 0.01


def test_the_policys_own_parameters_are_all_its_own():
    encoder = model_of()
    policy = build(encoder=encoder)  # given, but not read
    own = {id(parameter) for parameter in policy.parameters()}
    assert own.isdisjoint(id(parameter) for parameter in encoder.parameters())
    _, before = log_probs_of_all(policy, [2, 3, 4])
    with torch.no_grad():
        encoder.embedding.weight.zero_()
    _, after = log_probs_of_all(policy, [2, 3, 4])
    assert torch.equal(before, after)


def cooled(log_probs: Tensor, temperature: float) -> Tensor:
    """What a temperature makes of the probabilities of two actions, where both are possible."""
    powers = log_probs.exp() ** (1 / temperature)
    return (powers / powers.sum(-1, keepdim=True)).log()


@pytest.mark.parametrize("temperature", [0.5, 3.0])
@pytest.mark.parametrize("reads", ["own", "encoder"])
def test_a_temperature_divides_the_logits_prior_included(temperature, reads):
    policy = build(reads=reads, encoder=model_of() if reads == "encoder" else None)
    rollout = policy.sample(plain_batch(EXAMPLES).repeat(4), generator=torch.Generator().manual_seed(0))
    plain = policy.judge(rollout).distribution
    policy.temperature = temperature
    judged = policy.judge(rollout).distribution
    found, before = judged.log_probs[judged.free], plain.log_probs[judged.free]
    torch.testing.assert_close(found, cooled(before, temperature), rtol=0, atol=1e-12)
    assert (found - before).abs().max() > 0.1
    greedy = policy.derive(plain_batch(EXAMPLES), greedy=True)
    policy.temperature = 1.0
    assert torch.equal(policy.derive(plain_batch(EXAMPLES), greedy=True), greedy)


@pytest.mark.parametrize("reads", ["own", "encoder"])
def test_a_judgement_tells_what_the_tracker_knew(reads):
    """Its hidden vector before every step; with enough rows, too, that they are tracked in groups."""
    encoder = model_of() if reads == "encoder" else None
    policy = build(reads=reads, encoder=encoder)
    reader = encoder or policy
    for copies in (1, 24):
        batch = plain_batch(EXAMPLES).repeat(copies)
        rollout = policy.sample(batch, generator=torch.Generator().manual_seed(0))
        states = policy.judge(rollout).states
        assert states is not None
        assert states.shape == (*rollout.transitions.shape, 3)
        for row in range(0, len(batch.lengths), copies):
            tokens = sentences_of(batch)[row]
            embeddings = reader.embedding.weight[tokens]
            machine = OneSentence(reader.machine.composition, embeddings, policy.tracker)
            for step, transition in enumerate(rollout.transitions[row, : 2 * len(tokens) - 1].tolist()):
                torch.testing.assert_close(states[row, step], machine.look(), rtol=0, atol=1e-10)
                machine.take(transition)
    states.sum().backward()
    assert policy.tracker.lstm.weight_hh_l0.grad.any()


def test_judging_without_gradient():
    policy = build()
    with torch.no_grad():
        _, log_probs = log_probs_of_all(policy, [2, 3, 4])
    assert not log_probs.requires_grad
    _, with_gradient = log_probs_of_all(policy, [2, 3, 4])
    assert with_gradient.requires_grad
    assert torch.equal(log_probs, with_gradient)


def test_options_that_do_not_fit():
    with pytest.raises(ValueError, match="reads must be 'own' or 'encoder', got 'model'"):
        build(reads="model")
    with pytest.raises(
        ValueError, match="reads='encoder' needs the model whose vectors to read; pass encoder="
    ):
        build(reads="encoder")
    with pytest.raises(
        ValueError, match="cannot read a composition that is fed by a tracker; use reads='own'"
    ):
        build(reads="encoder", encoder=model_of(tracker_size=2))
    with pytest.raises(ValueError, match="unknown composition 'lstm'"):
        build(composition="lstm")


# ----------------------------------------------------------------------------------- playing in the environment


@pytest.fixture(params=["own", "encoder"])
def player(request, pairs) -> TrackerPolicy:
    """A policy for the corpus of pairs, with strong opinions."""
    n_words = len(pairs.vocabulary)
    encoder = model_of(n_words) if request.param == "encoder" else None
    policy = build(n_words, seed=2, scale=2.0, reads=request.param, encoder=encoder)
    policy.observation_space = env_of(pairs).observation_space
    return policy


def env_of(pairs: Corpus, **options) -> ShiftReduceEnv:
    return ShiftReduceEnv(pairs, reward=BranchingF1Reward("right"), order="sequential", **options)


def greedy_parses(policy: TrackerPolicy, corpus: Corpus) -> list[tuple[tuple[int, ...], ...]]:
    """Greedy derivations of every example, parsed one example at a time."""
    found = []
    for index in range(len(corpus)):
        batch = corpus.batch([index])
        rows = policy.derive(batch, greedy=True).tolist()
        found.append(tuple(tuple(t for t in row if t != PAD) for row in rows))
    return found


@pytest.mark.parametrize("keep_state", [False, True])
@pytest.mark.parametrize("max_tokens", [None, 9])
def test_playing_gives_the_greedy_parses(player, pairs, keep_state, max_tokens):
    """Premise, then hypothesis, in one episode; with the recurrent state, and rebuilt at every step without it."""
    env = env_of(pairs, max_tokens=max_tokens)
    player.observation_space = env.observation_space
    expected = greedy_parses(player, pairs)
    assert len({d for parses in expected for d in parses}) > 3
    for index in range(len(pairs)):
        observation, info = env.reset(options={"example": index})
        state, done = None, False
        while not done:
            action, new_state = player.predict(observation, state, deterministic=True)
            assert action.shape == ()
            assert info["action_mask"][int(action)]
            state = new_state if keep_state else None
            observation, _, done, _, info = env.step(action)
        assert info["derivations"] == expected[index]
        assert info["n_illegal_actions"] == 0


def test_environments_side_by_side_play_as_alone(player, pairs):
    """Episodes of different lengths, with DummyVecEnv's automatic resets between them."""
    envs = DummyVecEnv([lambda k=k: env_of(pairs.subset(np.roll(np.arange(4), k))) for k in range(3)])
    expected = greedy_parses(player, pairs)
    observations = envs.reset()
    state, starts, finished = None, np.ones(3, dtype=bool), 0
    for _ in range(60):
        actions, state = player.predict(observations, state, episode_start=starts, deterministic=True)
        assert actions.shape == (3,)
        observations, _, starts, infos = envs.step(actions)
        for k, (done, info) in enumerate(zip(starts, infos, strict=True)):
            if done:
                original = int(np.roll(np.arange(4), k)[info["example"]])
                assert info["derivations"] == expected[original]
                finished += 1
    assert finished >= 9
    envs.close()


def step_through(env: ShiftReduceEnv, index: int, transitions: list[int]) -> list[dict[str, np.ndarray]]:
    """Observations before each of the given transitions, and after the last."""
    observation, _ = env.reset(options={"example": index})
    seen = [observation]
    for transition in transitions:
        observation, *_ = env.step(transition)
        seen.append(observation)
    return seen


@pytest.mark.parametrize("keep_state", [False, True])
def test_the_tracker_reads_what_it_reads_one_sentence_at_a_time(player, pairs, keep_state):
    """Its hidden vector before every step of many parses, not only what it decides."""
    env, rng = env_of(pairs), torch.Generator().manual_seed(0)
    reader = player if player.reads == "own" else player._encoder[0]
    for index in range(len(pairs)):
        batch = pairs.batch([index])
        tokens = sentences_of(batch)[0]
        for _ in range(2):
            derivation = random_derivation(len(tokens), rng)
            machine = OneSentence(reader.machine.composition, reader.embedding.weight[tokens], player.tracker)
            state = None
            for observation, transition in zip(
                step_through(env, index, derivation[:-1]), derivation, strict=True
            ):
                _, state = player.predict(observation, state if keep_state else None)
                expected = machine.look().detach()
                torch.testing.assert_close(torch.from_numpy(state[1][0]), expected, rtol=0, atol=1e-10)
                machine.take(transition)


def same_arrays(a, b) -> bool:
    return all(np.allclose(x, y, rtol=0, atol=1e-12) for x, y in zip(a, b, strict=True))


def test_a_state_that_lags_behind_or_runs_ahead_is_brought_in_line(player, pairs):
    seen = step_through(env_of(pairs), 0, [0, 0, 1, 0, 0, 1])
    fresh = [player.predict(observation, deterministic=True) for observation in seen]
    for have in range(len(seen)):
        for now in range(len(seen)):
            action, state = player.predict(seen[now], fresh[have][1], deterministic=True)
            assert action == fresh[now][0]
            assert same_arrays(state, fresh[now][1])


def test_an_episode_start_drops_the_state(player, pairs):
    env = env_of(pairs)
    here, there = (step_through(env, index, [0, 0, 0]) for index in (0, 3))
    _, wrong = player.predict(there[1], deterministic=True)
    _, right = player.predict(here[3], deterministic=True)
    for start in (False, True):
        _, found = player.predict(here[3], wrong, episode_start=np.array([start]), deterministic=True)
        assert same_arrays(found, right) == start


def test_predicting_leaves_the_state_it_was_given_alone(player, pairs):
    seen = step_through(env_of(pairs), 0, [0, 0])
    _, state = player.predict(seen[1], deterministic=True)
    kept = [part.copy() for part in state]
    player.predict(seen[2], state, deterministic=True)
    assert all(np.array_equal(a, b) for a, b in zip(state, kept, strict=True))


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_sampled_actions_come_as_often_as_they_are_judged_likely(pairs, temperature):
    policy = build(len(pairs.vocabulary), seed=1)
    policy.temperature = temperature
    policy.observation_space = env_of(pairs).observation_space
    history, n = [0, 0], 4000
    observation = step_through(env_of(pairs), 0, history)[-1]
    many = {name: np.repeat(values[None], n, axis=0) for name, values in observation.items()}
    torch.manual_seed(0)
    actions, _ = policy.predict(many)
    tokens = pairs.batch([0]).tokens[0, : int(observation["length"][0])].tolist()
    derivations, log_probs = log_probs_of_all(policy, tokens)
    p = sum(math.exp(x) for d, x in zip(derivations, log_probs.tolist(), strict=True) if d[:3] == (0, 0, 1))
    assert 0.05 < p < 0.95
    assert abs(actions.mean() - p) < 4 * math.sqrt(p * (1 - p) / n)


def test_predicting_switches_training_mode_off(player, pairs):
    player.set_training_mode(True)
    observation, _ = env_of(pairs).reset()
    player.predict(observation)
    assert not player.training


def test_actions_come_without_state_through_the_usual_interface(player, pairs):
    """`BasePolicy._predict`, which some of Stable-Baselines3's tools call."""
    observation = step_through(env_of(pairs), 0, [0, 0])[-1]
    tensors, _ = player.obs_to_tensor(observation)
    action, _ = player.predict(observation, deterministic=True)
    with torch.no_grad():
        assert player._predict(tensors, deterministic=True).tolist() == [int(action)]
