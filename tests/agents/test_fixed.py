"""Parsers that do not learn build the trees that `rlparse.trees` names, in batches and in the environment."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor
from torch.nn import functional as F

from rlparse import trees
from rlparse.corpora.batching import Batch
from rlparse.errors import CorpusError
from rlparse_agents.fixed import FIXED_PARSERS, FixedTreePolicy, fixed_derivations
from rlparse_envs import BranchingF1Reward, ShiftReduceEnv
from slow_reference import PAD, all_derivations, plain_batch

ONE_SENTENCE = {"left": trees.left_branching, "right": trees.right_branching, "balanced": trees.balanced}
ONE_SENTENCE["none"] = trees.left_branching


def policy_of(kind: str, env: ShiftReduceEnv | None = None) -> FixedTreePolicy:
    space = spaces.Dict({"length": spaces.Box(0, 9, (1,), np.int64)})
    return FixedTreePolicy(env.observation_space if env else space, spaces.Discrete(2), kind=kind)


def without_padding(transitions: Tensor) -> list[list[int]]:
    return [[t for t in row if t != PAD] for row in transitions.tolist()]


def assert_padded_after_the_end(transitions: Tensor, lengths: Tensor) -> None:
    for row, n in zip(transitions.tolist(), lengths.tolist(), strict=True):
        assert PAD not in row[: 2 * n - 1]
        assert set(row[2 * n - 1 :]) <= {PAD}


def test_the_known_parsers():
    drawn = ["random", "random_per_epoch"]
    assert list(FIXED_PARSERS) == ["left", "right", "balanced", *drawn, "gold", "gold_or_right", "none"]


@pytest.mark.parametrize("kind", ["left", "right", "balanced"])
def test_trivial_trees_are_those_of_one_sentence(kind):
    batch = plain_batch([[list(range(2, 2 + n))] for n in (5, 1, 8, 2, 5, 3, 7)])
    transitions = fixed_derivations(batch, kind)
    assert transitions.shape == (7, 15)
    assert transitions.dtype == torch.int64
    assert_padded_after_the_end(transitions, batch.lengths)
    assert without_padding(transitions) == [ONE_SENTENCE[kind](n) for n in batch.lengths.tolist()]


@pytest.mark.parametrize("kind", FIXED_PARSERS)
def test_policy_and_function_agree(kind, pairs):
    batch = pairs.batch(np.arange(len(pairs)))
    policy = policy_of(kind)
    assert list(policy.parameters()) == []
    derived = policy.derive(batch, generator=torch.Generator().manual_seed(0))
    assert torch.equal(derived, fixed_derivations(batch, kind, torch.Generator().manual_seed(0)))
    greedy = policy.derive(batch, generator=torch.Generator().manual_seed(0), greedy=True)
    assert torch.equal(greedy, derived)
    assert_padded_after_the_end(derived, batch.lengths)


def test_results_can_be_changed_without_changing_the_next():
    batch = plain_batch([[[2, 3, 4]]])
    first = fixed_derivations(batch, "left")
    kept = first.clone()
    first.fill_(7)
    assert torch.equal(fixed_derivations(batch, "left"), kept)


# ------------------------------------------------------------------------------------------------------- gold


def test_gold_parses_are_those_of_the_corpus(pairs):
    batch = pairs.batch([2, 0, 3])
    transitions = fixed_derivations(batch, "gold")
    for row, derivation in enumerate(without_padding(transitions)):
        side, example = divmod(row, 3)
        assert tuple(derivation) == pairs.sentence([2, 0, 3][example], side).transitions


def test_missing_gold_is_named(half_parsed):
    assert fixed_derivations(half_parsed.batch([0]), "gold").shape == (2, 5)
    batch = half_parsed.batch([0, 1])
    message = "parser 'gold' needs a gold parse for every sentence; sentence 1 of example 1 has none"
    with pytest.raises(CorpusError, match=message):
        fixed_derivations(batch, "gold")
    with pytest.raises(CorpusError, match=message):
        fixed_derivations(batch.repeat(3), "gold")
    with pytest.raises(CorpusError, match=r"sentence 1 of example 1 has none .*'gold_or_right'"):
        fixed_derivations(half_parsed.batch([1]), "gold")


def test_gold_where_there_is_one_else_right(half_parsed):
    batch = half_parsed.batch([0, 1])
    derivations = without_padding(fixed_derivations(batch, "gold_or_right"))
    assert derivations == [
        [0, 0, 0, 1, 1],
        [0, 0, 1, 0, 1],
        [0, 0, 1],
        trees.right_branching(4),
    ]


# ----------------------------------------------------------------------------------------------------- random


def assert_uniform_over_five_tokens(transitions: Tensor) -> None:
    """Chi-square over the 14 trees of 5 tokens; its 99.9 % point for 13 degrees of freedom is 34.5."""
    counts = dict.fromkeys(all_derivations(5), 0)
    for derivation in without_padding(transitions):
        counts[tuple(derivation)] += 1
    expected = len(transitions) / 14
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 34.5


def test_random_trees_per_epoch_are_uniform_and_drawn_anew():
    generator = torch.Generator().manual_seed(0)
    batch = plain_batch([[[2, 3, 4, 5, 6]]]).repeat(1400)
    draws = [fixed_derivations(batch, "random_per_epoch", generator) for _ in range(2)]
    assert not torch.equal(draws[0], draws[1])
    assert_uniform_over_five_tokens(torch.cat(draws))


def test_random_trees_per_epoch_follow_their_generator(pairs):
    batch = pairs.batch([0, 3]).repeat(8)
    same = [
        fixed_derivations(batch, "random_per_epoch", torch.Generator().manual_seed(seed))
        for seed in (5, 5, 6)
    ]
    assert torch.equal(same[0], same[1])
    assert not torch.equal(same[0], same[2])


def long_batch(n_examples: int = 40, n_sides: int = 2) -> Batch:
    """Examples of sentences of 9 to 13 tokens, long enough for two random trees never to be the same by chance."""
    return plain_batch([[[2] * (9 + (3 * b + s) % 5) for s in range(n_sides)] for b in range(n_examples)])


@pytest.mark.parametrize("over", ["examples", "seeds", "sides"])
def test_fixed_random_trees_are_uniform(over):
    sentence = [2, 3, 4, 5, 6]
    if over == "examples":
        trees_of = fixed_derivations(plain_batch([[sentence]] * 2800), "random", seed=3)
    elif over == "sides":
        trees_of = fixed_derivations(plain_batch([[sentence] * 1400] * 2), "random")
    else:
        one = plain_batch([[sentence]])
        trees_of = torch.cat([fixed_derivations(one, "random", seed=seed) for seed in range(1400)])
    assert_uniform_over_five_tokens(trees_of)


def test_a_fixed_random_tree_belongs_to_its_sentence():
    """Not to the batch, its order, its padding, its repeats, or the generator."""
    batch = long_batch()
    whole = fixed_derivations(batch, "random", torch.Generator().manual_seed(0), seed=7)
    again = fixed_derivations(batch, "random", torch.Generator().manual_seed(1), seed=7)
    assert torch.equal(whole, again)
    assert_padded_after_the_end(whole, batch.lengths)
    chosen = torch.tensor([31, 4, 4, 17])
    rows = torch.cat((chosen, chosen + 40))
    part = Batch(*(field[rows if len(field) == 80 else chosen] for field in batch))
    assert torch.equal(fixed_derivations(part, "random", seed=7), whole[rows])
    assert torch.equal(
        fixed_derivations(batch.repeat(3), "random", seed=7), whole.repeat_interleave(3, dim=0)
    )
    wider = batch._replace(tokens=F.pad(batch.tokens, (0, 6)))
    wide = fixed_derivations(wider, "random", seed=7)
    assert torch.equal(wide[:, : whole.shape[1]], whole)
    assert (wide[:, whole.shape[1] :] == PAD).all()


def test_fixed_random_trees_differ_between_seeds_examples_and_sides():
    batch = plain_batch([[[2] * 13] * 2] * 40)
    whole = fixed_derivations(batch, "random")
    assert len(set(map(tuple, whole.tolist()))) == 80
    for seed in (1, -1, 2**63, 2**64 - 2):
        assert (fixed_derivations(batch, "random", seed=seed) != whole).any(dim=1).all()
    assert torch.equal(fixed_derivations(batch, "random", seed=2**64), whole)  # 64 bits of a seed count


def test_the_policy_passes_its_seed_on():
    batch = long_batch()
    space = spaces.Dict({"length": spaces.Box(0, 9, (1,), np.int64)})
    for seed in (0, 5):
        policy = FixedTreePolicy(space, spaces.Discrete(2), kind="random", seed=seed)
        assert torch.equal(policy.derive(batch), fixed_derivations(batch, "random", seed=seed))
        assert policy._get_constructor_parameters()["seed"] == seed


@pytest.mark.gpu
def test_fixed_random_trees_are_the_same_on_a_gpu():
    batch = long_batch()
    expected = fixed_derivations(batch, "random", seed=7)
    found = fixed_derivations(batch.to("cuda"), "random", seed=7)
    assert found.is_cuda
    assert torch.equal(found.cpu(), expected)


def test_encoders_without_trees_get_left_branching_ones(pairs):
    batch = pairs.batch([0, 1, 2])
    assert torch.equal(fixed_derivations(batch, "none"), fixed_derivations(batch, "left"))


# ---------------------------------------------------------------------------------------------------- playing


@pytest.mark.parametrize("kind", ["left", "right", "balanced", "none"])
def test_playing_builds_the_same_trees(kind, pairs):
    """Premise, then hypothesis; alone, and in a vector of environments with automatic resets."""
    make = [lambda: ShiftReduceEnv(pairs, order="sequential", reward=BranchingF1Reward("left"))] * 2
    envs = DummyVecEnv(make)
    policy = policy_of(kind, make[0]())
    observations, finished = envs.reset(), 0
    for _ in range(60):
        actions, state = policy.predict(observations)
        assert state is None
        observations, _, dones, infos = envs.step(actions)
        for done, info in zip(dones, infos, strict=True):
            if done:
                expected = tuple(tuple(ONE_SENTENCE[kind](n)) for n in info["lengths"])
                assert tuple(tuple(d) for d in info["derivations"]) == expected
                assert info["n_illegal_actions"] == 0
                finished += 1
    assert finished >= 6
    envs.close()


@pytest.mark.parametrize("kind", ["random", "random_per_epoch", "gold", "gold_or_right"])
def test_some_parsers_cannot_play(kind, pairs):
    env = ShiftReduceEnv(pairs)
    observation, _ = env.reset()
    with pytest.raises(ValueError, match=f"a '{kind}' parser cannot play from observations alone"):
        policy_of(kind, env).predict(observation)


def test_unknown_kind(pairs):
    message = "unknown fixed parser 'centre'; known: left, right, balanced, random, random_per_epoch, gold, "
    with pytest.raises(ValueError, match=message):
        fixed_derivations(pairs.batch([0]), "centre")
    with pytest.raises(ValueError, match=message):
        policy_of("centre")
