"""The straight-through Gumbel parser, on the classifier's own composition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.nn import functional as F

from rlparse import lockstep
from rlparse.models.composition import COMPOSITIONS
from rlparse.models.nli_model import NLIModel
from rlparse.trees import check_derivation
from rlparse_agents.gumbel_policy import GumbelPolicy
from rlparse_envs import BranchingF1Reward, ShiftReduceEnv
from slow_merges import straight_through
from slow_reference import PAD, plain_batch

N_WORDS = 12
EXAMPLES = [
    [[2, 3, 4, 5], [3, 6]],
    [[7], [4, 4, 8, 2, 9, 10]],
    [[9, 2, 3], [5, 11, 5, 11, 5]],
]
NO_SPACE = spaces.Dict({"tokens": spaces.Box(0, N_WORDS, (1,), np.int64)})


def build(n_words: int = N_WORDS, *, seed: int = 0, **options) -> GumbelPolicy:
    """A policy and its model in double precision with random weights."""
    torch.manual_seed(seed)
    model = NLIModel(n_words, 3, embedding_size=3, hidden_size=4, mlp_size=5, **options).double()
    policy = GumbelPolicy(NO_SPACE, spaces.Discrete(2), model=model).double()
    with torch.no_grad():
        for parameter in (*model.parameters(), *policy.parameters()):
            parameter.normal_()
    return policy


def model_of(policy: GumbelPolicy) -> NLIModel:
    return policy._model[0]


@pytest.mark.parametrize("composition", COMPOSITIONS)
def test_the_model_encodes_the_parses_to_the_same_vectors(composition):
    policy, batch = build(composition=composition), plain_batch(EXAMPLES).repeat(3)
    model = model_of(policy).eval()
    encoded = policy.parse_and_encode(batch, generator=torch.Generator().manual_seed(0))
    rollout = encoded.rollout
    assert encoded.judgement is None
    assert rollout.log_probs is None
    torch.testing.assert_close(encoded.vectors, model.encode(batch.tokens, rollout.trace), rtol=0, atol=1e-10)
    torch.testing.assert_close(model.head(encoded.vectors), model(batch, rollout.transitions))
    again = policy.derive(batch, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again, rollout.transitions)
    for row, n in enumerate(batch.lengths.tolist()):
        check_derivation(rollout.transitions[row, : 2 * n - 1].tolist(), n)
        assert set(rollout.transitions[row, 2 * n - 1 :].tolist()) <= {PAD}
        assert (rollout.actions[row, n - 1 :] == batch.tokens.shape[1] - 1).all()


def test_greedy_parses_merge_the_best_and_draw_nothing():
    policy, batch = build(), plain_batch(EXAMPLES)
    before = torch.get_rng_state()
    greedy = policy.derive(batch, greedy=True)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(policy.derive(batch.repeat(8)), greedy.repeat_interleave(8, 0))
    model = model_of(policy)
    vectors = model.encode(batch.tokens, lockstep.trace(greedy, batch.lengths))
    for row, n in enumerate(batch.lengths.tolist()):
        embeddings = model.embedding.weight[batch.tokens[row, :n]]
        root, _ = straight_through(
            model.machine.composition, policy.query, embeddings, lambda k: torch.zeros(9)
        )
        torch.testing.assert_close(vectors[row], root, rtol=0, atol=1e-10)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_one_loss_teaches_classifier_and_query(temperature):
    """Against the published layers with the noise that was drawn."""
    batch = plain_batch([[[3, 4, 5, 2, 6]], [[2, 7, 2, 9, 3]]], labels=[1, 2])
    torch.manual_seed(0)
    model = NLIModel(N_WORDS, 3, n_sides=1, embedding_size=3, hidden_size=4, mlp_size=5).double().eval()
    policy = GumbelPolicy(NO_SPACE, spaces.Discrete(2), model=model).double()
    policy.temperature = temperature
    with torch.no_grad():
        policy.query.normal_()
    encoded = policy.parse_and_encode(batch, generator=torch.Generator().manual_seed(3))
    rng = torch.Generator().manual_seed(3)
    noise = [-torch.empty(2, 4 - k, dtype=torch.float64).exponential_(generator=rng).log() for k in range(4)]
    slow = torch.stack(
        [
            straight_through(
                model.machine.composition,
                policy.query,
                model.embedding.weight[tokens],
                lambda k, row=row: noise[k][row],
                temperature,
            )[0]
            for row, tokens in enumerate(batch.tokens)
        ]
    )
    wanted = [*policy.parameters(), *model.parameters()]
    fast, exact = (
        torch.autograd.grad(F.cross_entropy(model.head(vectors), batch.labels), wanted)
        for vectors in (encoded.vectors, slow)
    )
    torch.testing.assert_close(fast, exact, rtol=0, atol=1e-12)
    assert fast[0].any()


def test_the_models_weights_are_not_the_policys():
    policy = build()
    assert [name for name, _ in policy.named_parameters()] == ["query"]
    assert set(policy.state_dict()) == {"query"}


def test_hidden_premises_stay_hidden():
    policy, batch = build(hide_premise=True), plain_batch(EXAMPLES)
    vectors = policy.parse_and_encode(batch).vectors
    assert not vectors[:3].any()
    assert vectors[3:].all(dim=1).all()


def test_a_straight_through_parser_learns_what_the_label_asks_for():
    """The label is the sentence's first of two kinds of words: what is merged matters little, the loss falls."""
    torch.manual_seed(0)
    model = NLIModel(4, 2, n_sides=1, embedding_size=8, hidden_size=8, mlp_size=16, dropout=0.0)
    policy = GumbelPolicy(NO_SPACE, spaces.Discrete(2), model=model)
    optimizer = torch.optim.Adam([*model.parameters(), *policy.parameters()], 1e-2)
    rng = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(80):
        tokens = torch.randint(1, 4, (64, 5), generator=rng)
        batch = plain_batch([[row] for row in tokens.tolist()], labels=(tokens[:, 0] == 1).long().tolist())
        encoded = policy.parse_and_encode(batch, generator=rng)
        loss = F.cross_entropy(model.head(encoded.vectors), batch.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < 0.3 < 0.5 < np.mean(losses[:5])


def test_playing_gives_the_greedy_parses(pairs):
    policy = build(len(pairs.vocabulary))
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
    policy, batch = build(), plain_batch(EXAMPLES)
    with pytest.raises(ValueError, match=r"gold=True has nothing to teach a GumbelPolicy.*FixedTreePolicy"):
        policy.parse_and_encode(batch, gold=True)
    with pytest.raises(ValueError, match="the model has tracker_size=2; use tracker_size=0"):
        build(tracker_size=2)
    with pytest.raises(ValueError, match="architecture='lstm' reads none; use architecture='tree'"):
        build(architecture="lstm")


def test_what_a_policy_is_saved_with_rebuilds_it():
    policy = build()
    options = policy._get_constructor_parameters()
    again = GumbelPolicy(**options).double()
    again.load_state_dict(policy.state_dict())
    batch = plain_batch(EXAMPLES)
    assert torch.equal(again.derive(batch, greedy=True), policy.derive(batch, greedy=True))
