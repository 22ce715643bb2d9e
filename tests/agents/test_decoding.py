"""Beam search, the best of several samples, and the one-decision-at-a-time interface under them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from rlparse.corpora.batching import Batch
from rlparse.errors import IllegalTransitionError
from rlparse.models.nli_model import NLIModel
from rlparse_agents.boundary_policy import BoundaryPolicy
from rlparse_agents.decoding import DECODERS, beam_search, decode, sample_n_best
from rlparse_agents.fixed import FixedTreePolicy
from rlparse_agents.incremental import IncrementalPolicy
from rlparse_agents.parsing_policy import LearningPolicy
from rlparse_agents.policy import TrackerPolicy
from rlparse_agents.rollout import Rollout
from slow_reference import PAD, SHIFT, all_derivations, catalan, padded, plain_batch

N_WORDS = 12
NO_SPACE = spaces.Dict({"tokens": spaces.Box(0, N_WORDS, (1,), np.int64)})
EXAMPLES = [
    [[2, 3, 4, 5], [3, 6]],
    [[7], [4, 4, 8, 2, 9, 10]],
    [[9, 2, 3], [5, 11, 5]],
]
KINDS = (
    *("own", "own, no prior", "gated", "encoder"),
    *("boundaries", "boundaries, recurrent", "boundaries, bilstm"),
)


def build(kind: str, *, seed: int = 0, scale: float = 1.0) -> LearningPolicy:
    torch.manual_seed(seed)
    options = {"n_tokens": N_WORDS, "embedding_size": 3, "hidden_size": 4}
    space = NO_SPACE, spaces.Discrete(2)
    policy: LearningPolicy
    if kind == "encoder":
        encoder = NLIModel(N_WORDS, 3, embedding_size=3, hidden_size=4, mlp_size=5).double()
        policy = TrackerPolicy(*space, **options, tracker_size=3, reads="encoder", encoder=encoder)
    elif kind.startswith("boundaries"):
        policy = BoundaryPolicy(*space, **options, recurrent="recurrent" in kind, bilstm="bilstm" in kind)
    else:
        composition = "gated" if kind == "gated" else "tree_lstm"
        prior = "no prior" not in kind
        policy = TrackerPolicy(
            *space, **options, tracker_size=3, catalan_prior=prior, composition=composition
        )
    policy = policy.double()
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            parameter.normal_(std=scale)
            if name == "reader.embedding.weight":
                parameter[0] = 0.0
    return policy


def judged(policy: LearningPolicy, tokens: list[int], derivations) -> Tensor:
    """Log-probabilities of derivations of one sentence."""
    batch, transitions = plain_batch([[tokens]] * len(derivations)), padded(derivations)
    judgement = policy.judge(Rollout.of(batch.tokens, batch.lengths, transitions))
    return judgement.distribution.log_prob(transitions).sum(1).detach()


def rows_of(batch: Batch) -> list[list[int]]:
    return [row[:n] for row, n in zip(batch.tokens.tolist(), batch.lengths.tolist(), strict=True)]


def found_in(ranked, row: int, n: int) -> dict[tuple[int, ...], float]:
    """The parses of a row that are there, with their log-probs."""
    pairs = zip(ranked.transitions[row].tolist(), ranked.log_probs[row].tolist(), strict=True)
    return {tuple(t[: 2 * n - 1]): x for t, x in pairs if x > -math.inf}


def slow_beam(policy: LearningPolicy, tokens: list[int], width: int) -> list[tuple[int, ...]]:
    """Beam search over prefixes, whose probabilities are sums over all the parses that begin with them."""
    derivations = all_derivations(len(tokens))
    log_probs = dict(zip(derivations, judged(policy, tokens, derivations).exp().tolist(), strict=True))
    beam: list[tuple[int, ...]] = [()]
    for step in range(2 * len(tokens) - 1):
        longer = {d[: step + 1] for d in derivations if d[:step] in beam}
        mass = {p: sum(x for d, x in log_probs.items() if d[: step + 1] == p) for p in longer}
        beam = sorted(longer, key=lambda p: -mass[p])[:width]
    return beam


# ------------------------------------------------------------------------------------------- one decision at a time


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_single_decisions_have_the_probabilities_of_a_judge(kind, temperature):
    policy, batch = build(kind), plain_batch(EXAMPLES).repeat(4)
    policy.temperature = temperature
    assert isinstance(policy, IncrementalPolicy)
    rollout = policy.sample(batch, generator=torch.Generator().manual_seed(0))
    expected = policy.judge(rollout).distribution
    parses = policy.incremental(batch)
    for t in range(rollout.transitions.shape[1]):
        there = parses.distribution()
        assert torch.equal(there.legal, expected.legal[:, t])
        going = ~there.finished
        torch.testing.assert_close(
            there.log_probs[going], expected.log_probs[going, t].detach(), rtol=0, atol=1e-6
        )
        parses.take(rollout.transitions[:, t])
    assert parses.distribution().finished.all()
    assert torch.equal(parses.transitions(), rollout.transitions)
    assert not parses.distribution().log_probs.requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_rows_can_be_copied_left_out_and_left_waiting(kind):
    policy, tokens = build(kind), [2, 7, 4, 9]
    parses = policy.incremental(plain_batch([[[3, 3, 3, 3]], [tokens]]))
    parses.take(torch.tensor([SHIFT, SHIFT]))
    parses.take(torch.tensor([SHIFT, SHIFT]))
    parses.select(torch.tensor([1, 1, 1, 0]))
    parses.take(torch.tensor([0, 1, PAD, PAD]))
    there = parses.distribution()
    derivations = all_derivations(4)
    mass = judged(policy, tokens, derivations).exp().tolist()

    def share(prefix: tuple[int, ...], following: int) -> float:
        of = {d: x for d, x in zip(derivations, mass, strict=True) if d[: len(prefix)] == prefix}
        return sum(x for d, x in of.items() if d[len(prefix)] == following) / sum(of.values())

    for row, prefix in enumerate([(0, 0, 0), (0, 0, 1), (0, 0)]):
        assert there.log_probs[row, SHIFT].exp().item() == pytest.approx(share(prefix, SHIFT), abs=1e-6)
    parses.select(torch.tensor([1]))
    assert parses.distribution().legal.tolist() == [[True, False]]
    with pytest.raises(IllegalTransitionError, match="row 0: REDUCE at step 3 needs 2 items"):
        parses.take(torch.tensor([1]))


# ------------------------------------------------------------------------------------------------------ beam search


@pytest.mark.parametrize("n", range(1, 7))
@pytest.mark.parametrize("kind", KINDS)
def test_a_wide_beam_finds_every_parse_with_its_probability(kind, n):
    policy, tokens = build(kind, seed=n), [4, 2, 9, 9, 3, 7][:n]
    derivations = all_derivations(n)
    expected = dict(zip(derivations, judged(policy, tokens, derivations).tolist(), strict=True))
    width = catalan(n - 1) + 2
    ranked = beam_search(policy, plain_batch([[tokens], [[5, 5]]]), width)
    assert found_in(ranked, 0, n) == pytest.approx(expected, abs=1e-5)
    assert torch.equal(ranked.log_probs, ranked.log_probs.sort(dim=1, descending=True).values)
    best = max(expected, key=expected.__getitem__)
    assert ranked.transitions[0, 0, : 2 * n - 1].tolist() == list(best)
    assert (ranked.log_probs[0, -2:] == -math.inf).all()
    assert (ranked.transitions[0, -2:] == PAD).all()
    assert ranked.transitions.shape == (2, width, 2 * max(n, 2) - 1)
    assert ranked.log_probs.shape == (2, width)


@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_narrow_beam_keeps_the_likeliest_beginnings(kind, width):
    policy, batch = build(kind, seed=2), plain_batch(EXAMPLES)
    ranked = beam_search(policy, batch, width)
    for row, tokens in enumerate(rows_of(batch)):
        assert set(found_in(ranked, row, len(tokens))) == set(slow_beam(policy, tokens, width))
    if width == 1:
        assert torch.equal(ranked.transitions[:, 0], policy.derive(batch, greedy=True))


def test_a_beam_can_be_better_than_greedy():
    better = 0
    for seed in range(8):
        policy, batch = build("own", seed=seed, scale=0.5), plain_batch(EXAMPLES)
        wide, narrow = (beam_search(policy, batch, width).log_probs[:, 0] for width in (42, 1))
        assert (wide >= narrow - 1e-9).all()
        better += int((wide > narrow + 1e-6).sum())
    assert better > 5


def test_a_beam_follows_the_temperature():
    policy, batch = build("boundaries"), plain_batch([[[2, 3, 4]]])
    plain = found_in(beam_search(policy, batch, 2), 0, 3)
    policy.temperature = 2.0
    warm = found_in(beam_search(policy, batch, 2), 0, 3)
    halves = {parse: math.exp(x / 2) for parse, x in plain.items()}  # one free decision
    expected = {parse: math.log(x / sum(halves.values())) for parse, x in halves.items()}
    assert warm == pytest.approx(expected, abs=1e-6)


# ------------------------------------------------------------------------------------------------- best of n samples


@pytest.mark.parametrize("kind", KINDS)
def test_samples_are_different_and_come_with_their_probability(kind):
    policy, batch = build(kind, scale=0.3), plain_batch(EXAMPLES)
    ranked = sample_n_best(policy, batch, 20, generator=torch.Generator().manual_seed(0))
    assert ranked.transitions.shape == (6, 20, 11)
    assert torch.equal(ranked.log_probs, ranked.log_probs.sort(dim=1, descending=True).values)
    for row, tokens in enumerate(rows_of(batch)):
        there = found_in(ranked, row, len(tokens))
        n_found = int((ranked.log_probs[row] > -math.inf).sum())
        assert len(there) == n_found <= catalan(len(tokens) - 1)
        assert (ranked.transitions[row, n_found:] == PAD).all()
        log_probs = judged(policy, tokens, list(there)).tolist()
        assert list(there.values()) == pytest.approx(log_probs, abs=1e-5)
    again = sample_n_best(policy, batch, 20, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ranked.transitions, again.transitions)


def test_enough_samples_find_every_parse():
    policy = BoundaryPolicy(NO_SPACE, spaces.Discrete(2), n_tokens=N_WORDS)  # uniform: all parses tie
    ranked = sample_n_best(
        policy, plain_batch([[[2, 3, 4, 5]]]), 100, generator=torch.Generator().manual_seed(0)
    )
    there = found_in(ranked, 0, 4)
    assert set(there) == set(all_derivations(4))
    assert list(there.values()) == pytest.approx([-math.log(5)] * 5)


# ----------------------------------------------------------------------------------------------------------- decode


def test_decoding_takes_the_best():
    policy, batch = build("own", scale=2.0), plain_batch(EXAMPLES)
    assert DECODERS == ("greedy", "beam", "sample")
    assert torch.equal(decode(policy, batch), policy.derive(batch, greedy=True))
    assert torch.equal(decode(policy, batch, "beam", n=5), beam_search(policy, batch, 5).transitions[:, 0])
    best = sample_n_best(policy, batch, 5, generator=torch.Generator().manual_seed(1)).transitions[:, 0]
    assert torch.equal(decode(policy, batch, "sample", n=5, generator=torch.Generator().manual_seed(1)), best)


def test_what_cannot_be_decoded():
    policy, batch = build("boundaries"), plain_batch(EXAMPLES)
    fixed = FixedTreePolicy(NO_SPACE, spaces.Discrete(2), kind="left")
    assert decode(fixed, batch, "greedy").shape == batch.gold.shape
    with pytest.raises(ValueError, match="unknown way to decode 'best'; known: greedy, beam, sample"):
        decode(policy, batch, "best")
    with pytest.raises(ValueError, match="how='greedy' finds one parse, got n=3; leave n out"):
        decode(policy, batch, n=3)
    for how in ("beam", "sample"):
        with pytest.raises(ValueError, match=f"how='{how}' needs n, the number of parses to choose from"):
            decode(policy, batch, how)
    with pytest.raises(ValueError, match=r"how='beam' needs a policy .* FixedTreePolicy cannot"):
        decode(fixed, batch, "beam", n=2)
    with pytest.raises(ValueError, match=r"how='sample' needs a policy .* FixedTreePolicy has none"):
        decode(fixed, batch, "sample", n=2)
    with pytest.raises(ValueError, match="a beam must be at least 1 wide, got width = 0"):
        beam_search(policy, batch, 0)
    with pytest.raises(ValueError, match="at least 1 parse must be sampled, got n = 0"):
        sample_n_best(policy, batch, 0)
