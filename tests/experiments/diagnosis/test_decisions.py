"""Decisions by kind of state: those of a loop over sentences and steps."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from rlparse import PAD, trees
from rlparse.corpora.corpus import Corpus
from rlparse.models.nli_model import NLIModel
from rlparse_agents.boundary_policy import BoundaryPolicy
from rlparse_agents.fixed import FixedTreePolicy
from rlparse_agents.gumbel_policy import GumbelPolicy
from rlparse_agents.parsing_policy import ParsingPolicy
from rlparse_agents.policy import TrackerPolicy
from rlparse_agents.shared_tracker import SharedTrackerPolicy
from rlparse_experiments.diagnosis.decisions import DecisionCount, judged, judges_transitions
from rlparse_experiments.diagnosis.item_kinds import ItemKinds
from slow_stack import kind_teller, states

DISCRETE = spaces.Discrete(2)


def space_of(corpus: Corpus) -> spaces.Dict:
    assert corpus.vocabulary is not None
    return spaces.Dict({"tokens": spaces.Box(0, len(corpus.vocabulary), (1,), np.int64)})


def scattered(policy: ParsingPolicy, scale: float) -> ParsingPolicy:
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in policy.parameters():
            weight.normal_(std=scale) if scale else weight.zero_()
    return policy


def boundary(corpus: Corpus, scale: float = 1.0) -> ParsingPolicy:
    sizes = {"n_tokens": len(corpus.vocabulary or ()), "embedding_size": 4, "hidden_size": 5}
    return scattered(BoundaryPolicy(space_of(corpus), DISCRETE, catalan_prior=False, **sizes), scale)


def tracker(corpus: Corpus) -> ParsingPolicy:
    sizes = {"n_tokens": len(corpus.vocabulary or ()), "embedding_size": 4, "hidden_size": 4}
    return scattered(TrackerPolicy(space_of(corpus), DISCRETE, tracker_size=4, **sizes), 1.0)


def model_of(corpus: Corpus, **options) -> NLIModel:
    sizes = {"embedding_size": 4, "hidden_size": 4, "mlp_size": 4, "n_sides": corpus.n_sides} | options
    return NLIModel(len(corpus.vocabulary or ()), len(corpus.labels), **sizes)


def reading_encoder(corpus: Corpus) -> ParsingPolicy:
    sizes = {"n_tokens": len(corpus.vocabulary or ()), "tracker_size": 4, "encoder": model_of(corpus)}
    return scattered(TrackerPolicy(space_of(corpus), DISCRETE, reads="encoder", **sizes), 1.0)


def shared(corpus: Corpus) -> ParsingPolicy:
    policy = SharedTrackerPolicy(space_of(corpus), DISCRETE, model=model_of(corpus, tracker_size=3))
    return scattered(policy, 1.0)


def derivations_of(corpus: Corpus, indices) -> Tensor:
    batch = corpus.batch(indices)
    rng = np.random.default_rng(0)
    transitions = torch.full_like(batch.gold, PAD)
    for row, n in enumerate(batch.lengths.tolist()):
        transitions[row, : 2 * n - 1] = torch.tensor(trees.uniform_tree(n, rng))
    return transitions


def kinds_of(corpus: Corpus) -> ItemKinds:
    sentences = [corpus.sentence(i, side) for i in range(len(corpus)) for side in range(corpus.n_sides)]
    return ItemKinds(sentences, corpus.n_sides)


@pytest.mark.parametrize("build", [boundary, tracker, reading_encoder, shared])
def test_a_loop_over_sentences_and_steps_finds_the_same(listops, build: Callable[[Corpus], ParsingPolicy]):
    policy = build(listops)
    count = DecisionCount(kinds_of(listops))
    kind_of = kind_teller(("operator", "digit", "bracket"))
    slow: dict[tuple[str, str], list[tuple[float, float, bool]]] = {}
    for indices in ([3, 1, 20, 7], [5, 6]):
        batch, transitions = listops.batch(indices), derivations_of(listops, indices)
        count.add(policy, batch, transitions)
        for row, index in enumerate(indices):
            sentence = listops.sentence(index, 0)
            words, gold = sentence.tokens, set(trees.spans(sentence.transitions))
            derivation = transitions[row : row + 1, : 2 * len(words) - 1]
            with torch.no_grad():
                there = judged(policy, listops.batch([index]), derivation)
            for step, top, second, words_left in states(derivation[0].tolist()):
                if words_left:
                    p = math.exp(float(there.log_probs[0, step, 1]))
                    entropy = -sum(q * math.log2(q) for q in (p, 1 - p) if q > 0)
                    key = kind_of(words, top), kind_of(words, second)
                    slow.setdefault(key, []).append((p, entropy, (second[0], top[1]) in gold))
    rows = count.by_pair()
    assert {(r.top, r.second) for r in rows} == set(slow)
    assert [r.n for r in rows] == sorted((len(found) for found in slow.values()), reverse=True)
    for r in rows:
        p, entropy, gold = map(np.mean, zip(*slow[r.top, r.second], strict=True))
        assert (r.reduce, r.entropy, r.gold) == pytest.approx((p, entropy, gold), abs=1e-5)
    for r in count.by_top():
        found = [x for (top, _), values in slow.items() if top == r.top for x in values]
        p, entropy, gold = map(np.mean, zip(*found, strict=True))
        assert (r.second, r.n) == ("", len(found))
        assert (r.reduce, r.entropy, r.gold) == pytest.approx((p, entropy, gold), abs=1e-5)


def test_a_fair_coin_is_one(listops):
    count = DecisionCount(kinds_of(listops))
    count.add(boundary(listops, scale=0.0), listops.batch([0, 1, 2]), derivations_of(listops, [0, 1, 2]))
    assert {(r.reduce, r.entropy) for r in count.by_pair()} == {(0.5, 1.0)}


def test_gold_trees_of_listops_follow_one_rule(listops):
    batch = listops.batch(range(len(listops)))
    count = DecisionCount(kinds_of(listops))
    count.add(boundary(listops), batch, batch.gold)
    rows = count.by_pair()
    assert {r.second for r in rows} == {"operator", "open"}
    assert {r.top: r.gold for r in rows} == {
        "operator": 0.0,
        "open": 0.0,
        "digit": 1.0,
        "bracket": 1.0,
        "closed": 1.0,
    }


def test_only_sentences_with_gold_count_for_gold(half_parsed):
    batch = half_parsed.batch([2])
    transitions = derivations_of(half_parsed, [2])
    count = DecisionCount(kinds_of(half_parsed))
    count.add(boundary(half_parsed), batch, transitions)
    alone = DecisionCount(kinds_of(half_parsed))
    alone.add(boundary(half_parsed), batch._replace(has_gold=torch.zeros_like(batch.has_gold)), transitions)
    assert {r.gold for r in alone.by_pair()} == {None}
    assert any(r.gold is not None for r in count.by_pair())
    assert [r[:5] for r in count.by_pair()] == [r[:5] for r in alone.by_pair()]


@pytest.mark.parametrize("kind", ["gumbel", "fixed"])
def test_parsers_without_probabilities_are_refused(listops, kind):
    model = model_of(listops)
    policy: ParsingPolicy = (
        GumbelPolicy(space_of(listops), DISCRETE, model=model)
        if kind == "gumbel"
        else FixedTreePolicy(space_of(listops), DISCRETE, kind="left")
    )
    assert not judges_transitions(policy)
    with pytest.raises(
        ValueError, match=r"Policy gives no probabilities of transitions, so that there is nothing"
    ):
        judged(policy, listops.batch([0]), derivations_of(listops, [0]))
