"""The boundary policy: what it reads, one distribution for sampling, judging and playing, and what it can express."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor

from rlparse.corpora.batching import Batch
from rlparse.trees import check_derivation
from rlparse_agents.boundary_policy import BoundaryPolicy
from rlparse_agents.rollout import Rollout, uniform_trees
from rlparse_envs import BranchingF1Reward, ShiftReduceEnv
from slow_reference import PAD, REDUCE, SHIFT, all_derivations, completions, padded, plain_batch, sigmoid

N_WORDS = 12
EXAMPLES = [
    [[2, 3, 4, 5], [3, 6]],
    [[7], [4, 4, 8, 2, 9, 10]],
    [[9, 2, 3], [5, 11, 5]],
]
NO_SPACE = spaces.Dict({"tokens": spaces.Box(0, N_WORDS, (1,), np.int64)})
NETWORKS = [
    {"bilstm": bilstm, "recurrent": recurrent}
    for bilstm, recurrent in itertools.product((False, True), repeat=2)
]


def network_name(options: dict[str, bool]) -> str:
    return "+".join(name for name, on in options.items() if on) or "plain"


each_network = pytest.mark.parametrize("network", NETWORKS, ids=network_name)


def build(n_words: int = N_WORDS, *, seed: int = 0, scale: float = 1.0, **options) -> BoundaryPolicy:
    """A policy in double precision with random weights, but for the padding's embedding."""
    torch.manual_seed(seed)
    sizes = {"embedding_size": 3, "hidden_size": 4} | options
    policy = BoundaryPolicy(NO_SPACE, spaces.Discrete(2), n_tokens=n_words, **sizes).double()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.normal_(std=scale)
        policy.reader.embedding.weight[0] = 0.0
    return policy


def sentences_of(batch: Batch) -> list[list[int]]:
    return [row[:n] for row, n in zip(batch.tokens.tolist(), batch.lengths.tolist(), strict=True)]


def test_words_begin_as_different_as_asked():
    policies = []
    for std in (1.0, 0.1):
        torch.manual_seed(0)
        policies.append(
            BoundaryPolicy(
                NO_SPACE, spaces.Discrete(2), n_tokens=N_WORDS, embedding_size=50, embedding_std=std
            )
        )
    wide, narrow = (policy.reader.embedding.weight for policy in policies)
    torch.testing.assert_close(narrow, 0.1 * wide)
    assert wide[1:].std().item() == pytest.approx(1.0, abs=0.1)


# --------------------------------------------------------------------------------------------------- slow twin


def lstm_step(weights: list[Tensor], x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """One step of an LSTM for one vector, gate by gate."""
    w_ih, w_hh, b_ih, b_hh = weights
    i, f, g, o = (w_ih @ x + b_ih + w_hh @ h + b_hh).chunk(4)
    c = sigmoid(f) * c + sigmoid(i) * torch.tanh(g)
    return sigmoid(o) * torch.tanh(c), c


def in_context(policy: BoundaryPolicy, tokens: list[int]) -> list[Tensor]:
    """What is read of every token: its embedding, or the BiLSTM's two hidden vectors, step by step."""
    embeddings = [policy.reader.embedding.weight[token] for token in tokens]
    if not policy.reader.bilstm:
        return embeddings
    found = []
    for lstm, order in zip(policy.reader.bilstm, (1, -1), strict=True):
        h = c = embeddings[0].new_zeros(lstm.hidden_size)
        states = []
        for embedding in embeddings[::order]:
            h, c = lstm_step(lstm.all_weights[0], embedding, h, c)
            states.append(h)
        found.append(states[::order])
    return [torch.cat(both) for both in zip(*found, strict=True)]


def hidden_vectors(policy: BoundaryPolicy, tokens: list[int], transitions) -> list[Tensor]:
    """What the policy knows before every step of one derivation, from lists of words."""
    vectors = in_context(policy, tokens)
    nothing = torch.zeros_like(vectors[0])
    # An item: its leftmost and rightmost word, whether it is a phrase, whether its right child is one.
    absent = (nothing, nothing, False, False)
    stack, front, found = [], 0, []
    h = c = nothing.new_zeros(policy.head.in_features)
    for transition in transitions:
        second, top = ([absent, absent, *stack])[-2:]
        following = vectors[front] if front < len(tokens) else nothing
        bits = torch.tensor([top[2], top[3], second[2], second[3]]).to(nothing)
        read = torch.cat((*second[:2], *top[:2], following, bits))
        hidden = (policy.reader.first.weight @ read + policy.reader.first.bias).clamp_min(0)
        if policy.lstm is not None:
            h, c = lstm_step(policy.lstm.all_weights[0], hidden, h, c)
            hidden = h
        found.append(hidden)
        if transition == SHIFT:
            stack.append((vectors[front], vectors[front], False, False))
            front += 1
        else:
            right, left = stack.pop(), stack.pop()
            stack.append((left[0], right[1], True, right[2]))
    return found


def slow_log_prob(policy: BoundaryPolicy, tokens: list[int], transitions, temperature: float = 1.0) -> Tensor:
    """Sum of log-probabilities of one derivation."""
    total = policy.head.weight.new_zeros(())
    size, left = 0, len(tokens)
    for transition, hidden in zip(transitions, hidden_vectors(policy, tokens, transitions), strict=True):
        if size >= 2 and left:
            logits = policy.head.weight @ hidden + policy.head.bias
            if policy.catalan_prior:
                ways = completions(size + 1, left - 1), completions(size - 1, left)
                logits = logits + torch.tensor(ways, dtype=logits.dtype).log()
            logits = logits / temperature
            total = total + logits[transition] - torch.log(torch.exp(logits).sum())
        size, left = (size + 1, left - 1) if transition == SHIFT else (size - 1, left)
    return total


def log_probs_of_all(policy: BoundaryPolicy, tokens: list[int]) -> tuple[list[tuple[int, ...]], Tensor]:
    derivations = all_derivations(len(tokens))
    batch, transitions = plain_batch([[tokens]] * len(derivations)), padded(derivations)
    judged = policy.judge(Rollout.of(batch.tokens, batch.lengths, transitions)).distribution
    return derivations, judged.log_prob(transitions).sum(1)


# ------------------------------------------------------------------------------------------------------- judge


@pytest.mark.parametrize("catalan_prior", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
@each_network
def test_log_probs_and_gradients_are_sums_over_single_steps(network, catalan_prior, temperature):
    policy = build(catalan_prior=catalan_prior, **network)
    policy.temperature = temperature
    batch = plain_batch(EXAMPLES).repeat(4)
    transitions = uniform_trees(batch.lengths, batch.tokens.shape[1], torch.Generator().manual_seed(0))
    fast = (
        policy.judge(Rollout.of(batch.tokens, batch.lengths, transitions))
        .distribution.log_prob(transitions)
        .sum(1)
    )
    slow = torch.stack(
        [
            slow_log_prob(policy, tokens, derivation[: 2 * len(tokens) - 1], temperature)
            for tokens, derivation in zip(sentences_of(batch), transitions.tolist(), strict=True)
        ]
    )
    tolerance = 1e-5 if catalan_prior else 1e-10  # the prior is in single precision
    torch.testing.assert_close(fast, slow, rtol=0, atol=tolerance)
    weights, wanted = torch.randn(len(fast), dtype=torch.float64), list(policy.parameters())
    for_fast, for_slow = (torch.autograd.grad((x * weights).sum(), wanted) for x in (fast, slow))
    torch.testing.assert_close(for_fast, for_slow, rtol=0, atol=tolerance)
    assert all(gradient.any() for gradient in for_slow)
    assert not for_fast[0][0].any()  # what stands for nothing never learns


@pytest.mark.parametrize("copies", [1, 24])
@each_network
def test_a_judgement_tells_what_was_known_before_every_step(network, copies):
    policy, batch = build(**network), plain_batch(EXAMPLES).repeat(copies)
    rollout = policy.sample(batch, generator=torch.Generator().manual_seed(0))
    states = policy.judge(rollout).states
    assert states.shape == (*rollout.transitions.shape, 4)
    for row in range(0, len(batch.lengths), copies):
        tokens = sentences_of(batch)[row]
        steps = rollout.transitions[row, : 2 * len(tokens) - 1].tolist()
        expected = torch.stack(hidden_vectors(policy, tokens, steps))
        torch.testing.assert_close(states[row, : len(steps)], expected, rtol=0, atol=1e-10)
    assert states.isfinite().all()
    states.sum().backward()
    assert policy.reader.first.weight.grad.any()


@pytest.mark.parametrize("n", range(1, 7))
@each_network
def test_probabilities_of_all_parses_sum_to_one(network, n):
    _, log_probs = log_probs_of_all(build(seed=n, **network), list(range(2, 2 + n)))
    assert log_probs.exp().sum().item() == pytest.approx(1.0, abs=1e-10)
    if n > 3:
        assert log_probs.max() - log_probs.min() > 0.1


@pytest.mark.parametrize("n", range(2, 7))
@each_network
def test_a_new_policy_is_uniform_over_trees(network, n):
    policy = BoundaryPolicy(NO_SPACE, spaces.Discrete(2), n_tokens=N_WORDS, **network)
    _, log_probs = log_probs_of_all(policy, list(range(2, 2 + n)))
    torch.testing.assert_close(log_probs, torch.full_like(log_probs, -math.log(len(log_probs))))


def test_without_the_prior_a_new_policy_tosses_coins():
    policy = BoundaryPolicy(NO_SPACE, spaces.Discrete(2), n_tokens=N_WORDS, catalan_prior=False)
    derivations, log_probs = log_probs_of_all(policy, [2, 3, 4])
    assert dict(zip(derivations, log_probs.exp().tolist(), strict=True)) == pytest.approx(
        {(0, 0, 0, 1, 1): 0.5, (0, 0, 1, 0, 1): 0.5}
    )


@each_network
def test_batch_mates_and_padding_change_nothing(network):
    policy, batch = build(scale=2.0, **network), plain_batch(EXAMPLES)
    greedy = policy.derive(batch, greedy=True)
    judged = policy.judge(Rollout.of(batch.tokens, batch.lengths, greedy)).distribution
    for row, tokens in enumerate(sentences_of(batch)):
        alone, n_steps = plain_batch([[tokens]]), 2 * len(tokens) - 1
        own = policy.derive(alone, greedy=True)
        assert torch.equal(own[0], greedy[row, :n_steps])
        own_judged = policy.judge(Rollout.of(alone.tokens, alone.lengths, own)).distribution
        torch.testing.assert_close(
            own_judged.log_probs[0], judged.log_probs[row, :n_steps], rtol=0, atol=1e-12
        )
    past = torch.arange(batch.tokens.shape[1]) >= batch.lengths.unsqueeze(1)
    noisy = batch._replace(tokens=torch.where(past, 3, batch.tokens))
    assert torch.equal(policy.derive(noisy, greedy=True), greedy)
    other = policy.judge(Rollout.of(noisy.tokens, noisy.lengths, greedy)).distribution
    assert torch.equal(other.log_probs, judged.log_probs)


# ----------------------------------------------------------------------------------------------------- sampling


@pytest.mark.parametrize("greedy", [False, True])
@each_network
def test_every_derivation_is_complete_and_legal(network, greedy):
    policy, batch = build(scale=3.0, **network), plain_batch(EXAMPLES).repeat(8)
    transitions = policy.derive(batch, generator=torch.Generator().manual_seed(0), greedy=greedy)
    assert transitions.dtype == torch.int64
    assert transitions.shape == batch.gold.shape
    for row, n in zip(transitions.tolist(), batch.lengths.tolist(), strict=True):
        check_derivation(row[: 2 * n - 1], n)
        assert set(row[2 * n - 1 :]) <= {PAD}


@pytest.mark.parametrize("catalan_prior", [False, True])
@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
@each_network
def test_every_choice_is_the_one_that_the_distribution_implies(network, temperature, catalan_prior):
    """SHIFT exactly where the uniform number is not above P(SHIFT), and log-probs of the rollout to match."""
    policy = build(scale=0.4, catalan_prior=catalan_prior, **network)
    policy.temperature = temperature
    rng = torch.Generator().manual_seed(1)
    batch = plain_batch(
        [[torch.randint(2, N_WORDS, (6,), generator=rng).tolist()] for _ in range(60)]
    ).repeat(4)
    rollout = policy.sample(batch, generator=torch.Generator().manual_seed(3))
    judged = policy.judge(rollout).distribution
    torch.testing.assert_close(judged.log_prob(rollout.transitions), rollout.log_probs, rtol=0, atol=1e-6)
    uniforms = torch.rand(11 * 240, generator=torch.Generator().manual_seed(3)).view(11, 240).t()
    implied = torch.where(uniforms <= judged.log_probs[..., SHIFT].exp(), 0, 1)
    assert torch.equal(rollout.transitions[judged.free], implied[judged.free])
    assert 0.05 < rollout.transitions[judged.free].double().mean() < 0.95


@pytest.mark.parametrize(
    "lengths", [[1], [2], [1] * 70, [9], [1, 6] * 40, [3, 12, 1, 5, 12, 2, 8, 1, 4]], ids=str
)
@each_network
def test_batches_of_every_shape_are_judged_as_they_were_sampled(network, lengths):
    rng = torch.Generator().manual_seed(0)
    batch = plain_batch([[torch.randint(2, N_WORDS, (n,), generator=rng).tolist()] for n in lengths])
    policy = build(**network)
    rollout = policy.sample(batch, generator=rng)
    log_probs = policy.judge(rollout).distribution.log_prob(rollout.transitions)
    torch.testing.assert_close(log_probs, rollout.log_probs, rtol=0, atol=1e-6)
    for row, n in zip(rollout.transitions.tolist(), lengths, strict=True):
        check_derivation(row[: 2 * n - 1], n)
    log_probs.sum().backward()
    assert all(p.grad.isfinite().all() for p in policy.parameters())


def test_parses_come_as_often_as_they_are_likely():
    policy, tokens, n_rows = build(seed=3), [2, 7, 4, 9, 3], 4000
    derivations = all_derivations(5)
    sampled = policy.derive(plain_batch([[tokens]] * n_rows), generator=torch.Generator().manual_seed(0))
    for derivation in derivations:
        p = slow_log_prob(policy, tokens, derivation).exp().item()
        found = int((sampled == torch.tensor(derivation)).all(dim=1).sum())
        assert abs(found - n_rows * p) < 5 * math.sqrt(n_rows * p * (1 - p)) + 1


@each_network
def test_greedy_parses_take_the_likeliest_transition_everywhere(network):
    policy, batch = build(scale=2.0, **network), plain_batch(EXAMPLES)
    before = torch.get_rng_state()
    greedy = policy.derive(batch, greedy=True)
    judged = policy.judge(Rollout.of(batch.tokens, batch.lengths, greedy)).distribution
    assert torch.equal(judged.mode(), greedy)
    policy.temperature = 3.0
    assert torch.equal(policy.derive(batch, greedy=True), greedy)
    assert torch.equal(torch.get_rng_state(), before)


def test_sampling_never_builds_a_graph():
    def refuse(tensor: Tensor) -> Tensor:
        raise AssertionError(f"a {tuple(tensor.shape)} tensor was saved for backward")

    for network in NETWORKS:
        policy = build(**network)
        policy.set_training_mode(True)
        with torch.autograd.graph.saved_tensors_hooks(refuse, lambda x: x):
            rollout = policy.sample(plain_batch(EXAMPLES))
        assert not rollout.log_probs.requires_grad


def test_lengths_must_fit_the_tokens():
    policy, batch = build(), plain_batch(EXAMPLES)
    for lengths in ([7] + [1] * 5, [6] * 5 + [0]):
        with pytest.raises(ValueError, match=r"lengths must be from 1 to 6, got lengths from [01] to [67]"):
            policy.derive(batch._replace(lengths=torch.tensor(lengths)))


@each_network
def test_single_precision_agrees_with_and_without_compiled_kernels(network, monkeypatch):
    policy, batch = build(hidden_size=19, **network).float(), plain_batch(EXAMPLES).repeat(12)
    found = []
    for choice in ("auto", "torch"):
        monkeypatch.setenv("RLPARSE_KERNELS", choice)
        rollout = policy.sample(batch, generator=torch.Generator().manual_seed(0))
        log_probs = policy.judge(rollout).distribution.log_prob(rollout.transitions)
        torch.testing.assert_close(log_probs, rollout.log_probs, rtol=1e-4, atol=1e-4)
        gradients = torch.autograd.grad(log_probs.sum(), list(policy.parameters()))
        found.append((rollout.transitions, gradients))
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-3, atol=1e-3)


def test_second_derivatives_are_refused_rather_than_wrong():
    policy, batch = build(), plain_batch(EXAMPLES)
    rollout = policy.sample(batch, generator=torch.Generator().manual_seed(0))
    log_probs = policy.judge(rollout).distribution.log_prob(rollout.transitions)
    with pytest.raises(NotImplementedError, match="second derivatives"):
        torch.autograd.grad(log_probs.sum(), list(policy.parameters()), create_graph=True)


@pytest.mark.gpu
@each_network
def test_parses_on_a_gpu_are_those_of_the_cpu(network):
    policy, batch = build(scale=0.5, **network), plain_batch(EXAMPLES).repeat(4)
    expected = policy.derive(batch, greedy=True)
    rollout = policy.sample(batch)
    on_cpu = policy.judge(rollout).distribution.log_probs.detach()
    policy = policy.cuda()
    assert torch.equal(policy.derive(batch.to("cuda"), greedy=True).cpu(), expected)
    on_gpu = policy.sample(batch.to("cuda"), generator=torch.Generator(device="cuda").manual_seed(0))
    judged = policy.judge(on_gpu).distribution.log_prob(on_gpu.transitions)
    torch.testing.assert_close(judged, on_gpu.log_probs, rtol=0, atol=1e-5)
    judged.sum().backward()
    there = Rollout.of(batch.tokens.cuda(), batch.lengths.cuda(), rollout.transitions.cuda())
    torch.testing.assert_close(policy.judge(there).distribution.log_probs.cpu(), on_cpu, rtol=0, atol=1e-5)


# ----------------------------------------------------------------------------------- playing in the environment


@pytest.mark.parametrize("side_by_side", [False, True])
@each_network
def test_playing_gives_the_greedy_parses(network, side_by_side, pairs):
    """In one environment, and in three at once with automatic resets between episodes."""
    policy = build(len(pairs.vocabulary), seed=2, scale=2.0, **network)
    options = {"reward": BranchingF1Reward("right"), "order": "sequential"}
    env = ShiftReduceEnv(pairs, **options)
    policy.observation_space = env.observation_space
    expected = []
    for index in range(len(pairs)):
        rows = policy.derive(pairs.batch([index]), greedy=True).tolist()
        expected.append(tuple(tuple(t for t in row if t != PAD) for row in rows))
    policy.set_training_mode(True)
    if not side_by_side:
        for index in range(len(pairs)):
            observation, info = env.reset(options={"example": index})
            done = False
            while not done:
                action, _ = policy.predict(observation, deterministic=True)
                assert action.shape == ()
                observation, _, done, _, info = env.step(action)
            assert info["derivations"] == expected[index]
            assert info["n_illegal_actions"] == 0
        assert not policy.training
        return
    shifted = [np.roll(np.arange(4), k) for k in range(3)]
    envs = DummyVecEnv(
        [lambda order=order: ShiftReduceEnv(pairs.subset(order), **options) for order in shifted]
    )
    observations, finished = envs.reset(), 0
    for _ in range(60):
        actions, _ = policy.predict(observations, deterministic=True)
        observations, _, dones, infos = envs.step(actions)
        for order, done, info in zip(shifted, dones, infos, strict=True):
            if done:
                assert info["derivations"] == expected[int(order[info["example"]])]
                finished += 1
    assert finished >= 9
    envs.close()


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_sampled_actions_come_as_often_as_they_are_judged_likely(pairs, temperature):
    policy, n = build(len(pairs.vocabulary), seed=1), 4000
    policy.temperature = temperature
    env = ShiftReduceEnv(pairs, reward=BranchingF1Reward("right"), order="sequential")
    policy.observation_space = env.observation_space
    env.reset(options={"example": 0})
    env.step(SHIFT)
    observation, *_ = env.step(SHIFT)
    torch.manual_seed(0)
    actions, _ = policy.predict({name: np.repeat(x[None], n, axis=0) for name, x in observation.items()})
    derivations, log_probs = log_probs_of_all(policy, sentences_of(pairs.batch([0]))[0])
    p = sum(math.exp(x) for d, x in zip(derivations, log_probs.tolist(), strict=True) if d[2] == REDUCE)
    assert 0.05 < p < 0.95
    assert abs(actions.mean() - p) < 4 * math.sqrt(p * (1 - p) / n)


def test_saving_and_loading_keeps_everything(tmp_path):
    policy = build(bilstm=True, recurrent=True, catalan_prior=False)
    policy.save(tmp_path / "policy.zip")
    again = BoundaryPolicy.load(tmp_path / "policy.zip", device="cpu").double()
    batch = plain_batch(EXAMPLES)
    assert not again.catalan_prior
    rollout = policy.sample(batch, generator=torch.Generator().manual_seed(0))
    found, expected = (p.judge(rollout).distribution.log_probs for p in (again, policy))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


# ----------------------------------------------------------------------------------------- what it can express


def listops(depth: int, rng: np.random.Generator) -> tuple[list[int], list[int]]:
    """A random list of digits (4), lists (2 opens, 3 closes), with its gold derivation."""
    words, derivation = [2], [SHIFT]
    for _ in range(int(rng.integers(2, 4))):
        if depth and rng.random() < 0.5:
            inner, steps = listops(depth - 1, rng)
            words += inner
            derivation += [*steps, REDUCE]
        else:
            words.append(4)
            derivation += [SHIFT, REDUCE]
    return [*words, 3], [*derivation, SHIFT, REDUCE]


def test_gold_trees_of_nested_lists_can_be_learned_from_what_is_read():
    """Lists that end in a closed list need the kind of the right child."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    policy = BoundaryPolicy(NO_SPACE, spaces.Discrete(2), n_tokens=5, embedding_size=8, hidden_size=32)
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.02)
    examples = [listops(2, rng) for _ in range(200)]
    batch = plain_batch([[words] for words, _ in examples], gold=[[steps] for _, steps in examples])
    gold = Rollout.of(batch.tokens, batch.lengths, batch.gold)
    for _ in range(80):
        optimizer.zero_grad()
        (-policy.judge(gold).distribution.log_prob(batch.gold).sum() / 200).backward()
        optimizer.step()
    fresh = [listops(3, rng) for _ in range(100)]
    batch = plain_batch([[words] for words, _ in fresh], gold=[[steps] for _, steps in fresh])
    right = (policy.derive(batch, greedy=True) == batch.gold).all(1).float().mean().item()
    assert right == 1.0
