"""The classifier's own tracker as the parser: one pass makes, encodes and judges a parse."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional as F

from rlparse import lockstep
from rlparse.corpora.batching import Batch
from rlparse.errors import CorpusError
from rlparse.models.composition import COMPOSITIONS
from rlparse.models.nli_model import NLIModel
from rlparse.transitions import ParserState
from rlparse_agents.losses import policy_gradient_loss
from rlparse_agents.shared_tracker import SharedTrackerPolicy
from rlparse_envs import BranchingF1Reward, ShiftReduceEnv
from slow_reference import (
    PAD,
    OneSentence,
    all_derivations,
    completions,
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


def build(
    n_words: int = N_WORDS, *, seed: int = 0, catalan_prior: bool = True, scale: float = 0.8, **options
) -> SharedTrackerPolicy:
    """A policy and its model in double precision with random weights, its head's too, which is zero in a new one."""
    torch.manual_seed(seed)
    options = {"tracker_size": 3, "n_sides": 2, **options}
    model = NLIModel(n_words, 3, embedding_size=3, hidden_size=4, mlp_size=5, **options).double()
    policy = SharedTrackerPolicy(
        NO_SPACE, spaces.Discrete(2), model=model, catalan_prior=catalan_prior
    ).double()
    with torch.no_grad():
        for parameter in (*model.parameters(), *policy.parameters()):
            parameter.normal_(std=scale)
    return policy


def model_of(policy: SharedTrackerPolicy) -> NLIModel:
    return policy._model[0]


def with_gold(examples: list[list[list[int]]], seed: int = 0) -> Batch:
    """The examples with random trees for gold."""
    rng = torch.Generator().manual_seed(seed)
    gold = [[random_derivation(len(tokens), rng) for tokens in example] for example in examples]
    return plain_batch(examples, gold=gold)


def one_by_one(policy: SharedTrackerPolicy, batch: Batch, transitions: Tensor) -> tuple[Tensor, Tensor]:
    """Roots and summed log-probabilities of given parses, one sentence and one step at a time."""
    model = model_of(policy)
    roots, totals = [], []
    for tokens, n, derivation in zip(batch.tokens, batch.lengths.tolist(), transitions.tolist(), strict=True):
        machine = OneSentence(
            model.machine.composition, model.embedding.weight[tokens[:n]], model.machine.tracker
        )
        parser, total = ParserState(n), torch.zeros((), dtype=torch.float64)
        for transition in derivation[: 2 * n - 1]:
            logits = policy.head.weight @ machine.look() + policy.head.bias
            if all(parser.legal):
                if policy.catalan_prior:
                    s, b = parser.stack_size, parser.buffer_size
                    ways = [completions(s + 1, b - 1), completions(s - 1, b)]
                    logits = logits + torch.tensor(ways, dtype=logits.dtype).log()
                logits = logits / policy.temperature
                total = total + logits[transition] - logits.exp().sum().log()
            parser.apply(transition)
            machine.take(transition)
        roots.append(machine.nodes[-1][:4])
        totals.append(total)
    return torch.stack(roots), torch.stack(totals)


@pytest.mark.parametrize("composition", COMPOSITIONS)
@pytest.mark.parametrize("catalan_prior", [False, True])
@pytest.mark.parametrize("gold", [False, True])
def test_vectors_judgement_and_gradients_are_those_of_single_steps(composition, catalan_prior, gold):
    policy = build(composition=composition, catalan_prior=catalan_prior)
    policy.temperature = 0.8
    batch = with_gold(EXAMPLES).repeat(2)
    encoded = policy.parse_and_encode(batch, generator=torch.Generator().manual_seed(0), gold=gold)
    transitions = encoded.rollout.transitions
    distribution = encoded.judgement.distribution
    fast = distribution.log_prob(transitions).sum(1)
    roots, slow = one_by_one(policy, batch, transitions)
    tolerance = 1e-5 if catalan_prior else 1e-9  # the prior is in single precision
    torch.testing.assert_close(encoded.vectors, roots, rtol=0, atol=1e-10)
    torch.testing.assert_close(fast, slow, rtol=0, atol=tolerance)
    assert encoded.judgement.states.shape == (*transitions.shape, 3)
    assert encoded.rollout.actions is None
    if gold:
        assert torch.equal(transitions, batch.gold)
        assert encoded.rollout.log_probs is None
    else:
        kept = encoded.rollout.log_probs
        assert not kept.requires_grad
        torch.testing.assert_close(kept, distribution.log_prob(transitions), rtol=0, atol=0)
    weights, judged = torch.randn_like(roots), torch.randn(len(fast), dtype=torch.float64)
    model = model_of(policy)
    wanted = [*policy.parameters(), model.embedding.weight, *model.machine.parameters()]
    for_fast, for_slow = (
        torch.autograd.grad((vectors * weights).sum() + (log_probs * judged).sum(), wanted)
        for vectors, log_probs in ((encoded.vectors, fast), (roots, slow))
    )
    torch.testing.assert_close(for_fast, for_slow, rtol=0, atol=10 * tolerance)
    assert all(gradient.any() for gradient in for_slow)


def test_greedy_parses_take_the_likeliest_transition_everywhere():
    for seed in range(5):
        policy, batch = build(seed=seed, scale=1.5), plain_batch(EXAMPLES)
        before = torch.get_rng_state()
        greedy = policy.derive(batch, greedy=True)
        assert torch.equal(torch.get_rng_state(), before)
        assert not greedy.requires_grad
        followed = policy.parse_and_encode(batch._replace(gold=greedy, has_gold=batch.lengths > 0), gold=True)
        assert torch.equal(followed.judgement.distribution.mode(), greedy)


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_parses_are_sampled_as_often_as_they_are_judged_likely(temperature):
    policy, tokens, n_rows = build(seed=3, n_sides=1), [2, 7, 4, 9], 4000
    policy.temperature = temperature
    derivations = all_derivations(4)
    known = plain_batch([[tokens]] * 5, gold=[[d] for d in derivations])
    judged = policy.parse_and_encode(known, gold=True).judgement.distribution.log_prob(padded(derivations))
    expected = judged.sum(1).exp()
    assert expected.sum().item() == pytest.approx(1.0, abs=1e-10)
    batch = plain_batch([[tokens]] * n_rows)
    sampled = policy.derive(batch, generator=torch.Generator().manual_seed(0))
    for derivation, p in zip(derivations, expected.tolist(), strict=True):
        share = (sampled == torch.tensor(derivation)).all(1).float().mean().item()
        assert abs(share - p) < 4 * math.sqrt(p * (1 - p) / n_rows) + 1e-3


@pytest.mark.parametrize("n", range(2, 7))
def test_a_new_policy_is_uniform_over_trees(n):
    torch.manual_seed(0)
    model = NLIModel(N_WORDS, 3, n_sides=1, tracker_size=5)
    policy = SharedTrackerPolicy(NO_SPACE, spaces.Discrete(2), model=model)
    derivations = all_derivations(n)
    batch = plain_batch([[list(range(2, 2 + n))]] * len(derivations), gold=[[d] for d in derivations])
    judged = policy.parse_and_encode(batch, gold=True).judgement.distribution
    log_probs = judged.log_prob(batch.gold).sum(1)
    torch.testing.assert_close(log_probs, torch.full_like(log_probs, -math.log(len(derivations))))


def test_the_models_weights_are_not_the_policys():
    policy = build()
    assert set(policy.state_dict()) == {"head.weight", "head.bias"}


def test_hidden_premises_stay_hidden():
    policy, batch = build(hide_premise=True), with_gold(EXAMPLES)
    for gold in (False, True):
        vectors = policy.parse_and_encode(batch, gold=gold).vectors
        assert not vectors[:3].any()
        assert vectors[3:].all(dim=1).all()


def test_the_parses_vectors_are_the_models_own():
    policy, batch = build(), plain_batch(EXAMPLES).repeat(4)
    encoded = policy.parse_and_encode(batch, generator=torch.Generator().manual_seed(0))
    expected = model_of(policy).encode(batch.tokens, encoded.rollout.trace)
    torch.testing.assert_close(encoded.vectors, expected, rtol=0, atol=1e-12)
    again = policy.derive(batch, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again, encoded.rollout.transitions)
    trace = lockstep.trace(again, batch.lengths)
    assert torch.equal(trace.children, encoded.rollout.trace.children)


@pytest.mark.parametrize("gold", [False, True])
def test_both_teachers_teach(gold):
    """Right-branching trees: as gold transitions, or as what is rewarded, from one backward each."""
    torch.manual_seed(0)
    model = NLIModel(6, 2, n_sides=1, embedding_size=8, hidden_size=8, tracker_size=8, mlp_size=8)
    policy = SharedTrackerPolicy(NO_SPACE, spaces.Discrete(2), model=model)
    optimizer = torch.optim.Adam([*model.parameters(), *policy.parameters()], 2e-2)
    rng = torch.Generator().manual_seed(0)
    right = [0] * 5 + [1] * 4
    batch = plain_batch([[[1, 2, 3, 4, 5]]] * 64, gold=[[right]] * 64)
    for _ in range(40):
        encoded = policy.parse_and_encode(batch, generator=rng, gold=gold)
        judged, transitions = encoded.judgement.distribution, encoded.rollout.transitions
        rewards = (transitions == batch.gold).float().mean(1)
        advantages = torch.ones(64) if gold else rewards - rewards.mean()
        gain = policy_gradient_loss(judged.log_prob(transitions), advantages, judged.free)
        loss = gain + F.cross_entropy(model.head(encoded.vectors), batch.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert policy.derive(batch.repeat(1), greedy=True)[0].tolist() == right


def test_playing_gives_the_greedy_parses(pairs):
    policy = build(len(pairs.vocabulary), scale=1.5)
    env = ShiftReduceEnv(pairs, reward=BranchingF1Reward("right"), order="sequential")
    policy.observation_space = env.observation_space
    for index in range(len(pairs)):
        expected = policy.derive(pairs.batch([index]), greedy=True).tolist()
        observation, _ = env.reset(options={"example": index})
        state, done, info = None, False, {}
        while not done:
            action, state = policy.predict(observation, state, deterministic=True)
            observation, _, done, _, info = env.step(action)
        assert info["derivations"] == tuple(tuple(t for t in row if t != PAD) for row in expected)


def test_what_does_not_fit_is_refused():
    with pytest.raises(
        ValueError, match="the model has tracker_size=0; give it a tracker_size, or use TrackerPolicy"
    ):
        build(tracker_size=0)
    with pytest.raises(ValueError, match="architecture='gru' reads none; use architecture='tree'"):
        build(tracker_size=0, architecture="gru")
    batch = plain_batch(EXAMPLES, gold=[[[0, 0, 1, 0, 1, 0, 1], [0, 0, 1]], [[0], None], [None, None]])
    with pytest.raises(CorpusError, match="needs a gold parse for every sentence; sentence 0 of example 2"):
        build().parse_and_encode(batch, gold=True)


def test_what_a_policy_is_saved_with_rebuilds_it():
    policy = build(catalan_prior=False)
    again = SharedTrackerPolicy(**policy._get_constructor_parameters()).double()
    again.load_state_dict(policy.state_dict())
    assert not again.catalan_prior
    batch = plain_batch(EXAMPLES)
    assert torch.equal(again.derive(batch, greedy=True), policy.derive(batch, greedy=True))
