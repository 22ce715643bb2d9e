"""Options that a policy, an estimator, a pace and a corpus cannot work with together."""

from __future__ import annotations

from typing import Any

import pytest

from rlparse.corpora.corpus import Corpus
from rlparse_agents.estimator import Estimator
from rlparse_agents.pacing import Pacing
from rlparse_agents.policy_gradient import PolicyGradient
from small_agents import agent_of, model_of


def build(
    corpus: Corpus, policy: str, *, estimator: dict[str, Any], pacing: dict[str, Any], **options
) -> PolicyGradient:
    model = model_of(corpus, tracker_size=4 if policy == "SharedTrackerPolicy" else 0)
    kwargs: dict[str, Any] | None = {
        "FixedTreePolicy": {"kind": "left"},
        "SharedTrackerPolicy": {"model": model},
        "GumbelPolicy": {"model": model},
        "EasyFirstPolicy": {"n_tokens": len(corpus.vocabulary), "embedding_size": 4, "hidden_size": 4},
    }.get(policy)
    return agent_of(
        corpus,
        options.pop("reward", "accuracy"),
        model=model,
        policy=policy,
        policy_kwargs=kwargs,
        estimator=Estimator(**estimator),
        pacing=Pacing(**pacing),
        **options,
    )


SUPERVISED = {"objective": "supervised", "baseline": "none"}

REFUSED: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any], str]] = [
    (
        "GumbelPolicy",
        {"pairing": "crosswise", "baseline": "none"},
        {},
        {"n_parses": 2},
        r"pairing='crosswise' pairs rewards, GumbelPolicy learns from the classifier's gradient alone; use",
    ),
    ("TrackerPolicy", {}, {}, {"n_parses": 1}, r"baseline='leave_one_out' compares .* use baseline='none'"),
    (
        "SharedTrackerPolicy",
        {},
        {},
        {"n_parses": 1},
        r"baseline='leave_one_out' compares .* use baseline='none'",
    ),
    (
        "TrackerPolicy",
        SUPERVISED,
        {},
        {},
        r"objective='supervised' has one gold parse an example, got n_parses=4",
    ),
    (
        "TrackerPolicy",
        {"pairing": "crosswise"},
        {},
        {"reward": "gold_f1"},
        r"pairing='crosswise' asks a model about every pair of parses, reward GoldF1Reward looks at the parses "
        r"themselves; use a reward that the model gives, or pairing='matched'",
    ),
    (
        "EasyFirstPolicy",
        SUPERVISED,
        {},
        {"n_parses": 1},
        r"objective='supervised' imitates gold transitions, EasyFirstPolicy merges neighbours in an order that gold "
        r"trees do not tell; use a policy that chooses transitions, such as TrackerPolicy or SharedTrackerPolicy",
    ),
    (
        "GumbelPolicy",
        SUPERVISED,
        {},
        {"n_parses": 1},
        r"objective='supervised' imitates gold transitions, GumbelPolicy merges neighbours",
    ),
    (
        "TrackerPolicy",
        {},
        {"warmup": 3},
        {"train_encoder": False},
        r"warmup=3 is about an encoder that learns, and none does .*; leave warmup out",
    ),
    (
        "TrackerPolicy",
        {},
        {"encoder_every": 3},
        {"train_encoder": False},
        r"encoder_every=3 is about an encoder that learns, and none does .*; leave encoder_every out",
    ),
    (
        "SharedTrackerPolicy",
        {},
        {},
        {"train_encoder": False},
        r"SharedTrackerPolicy learns with the classifier, which train_encoder=False keeps from learning; leave that "
        r"out, or use a policy of its own, such as TrackerPolicy",
    ),
    (
        "GumbelPolicy",
        {"baseline": "step_value"},
        {},
        {"train_encoder": False},
        r"GumbelPolicy learns with the classifier, which train_encoder=False keeps from learning",
    ),
    *(
        (
            policy,
            estimator,
            pacing,
            {},
            rf"{said} updates the policy apart from the classifier, {policy} shares its weights; leave it out, or "
            r"use a policy of its own, such as TrackerPolicy",
        )
        for policy in ("SharedTrackerPolicy", "GumbelPolicy")
        for estimator, pacing, said in [
            ({"objective": "ppo"}, {}, "objective='ppo'"),
            ({"kl_coef": 0.1}, {}, "kl_coef=0.1"),
            ({}, {"warmup": 2}, "warmup=2"),
            ({}, {"policy_every": 2}, "policy_every=2"),
            ({}, {"encoder_every": 2}, "encoder_every=2"),
            ({}, {"policy_average": 0.9}, "policy_average=0.9"),
        ]
    ),
    (
        "SharedTrackerPolicy",
        SUPERVISED | {"n_updates": 2},
        {},
        {"n_parses": 1},
        r"n_updates=2 updates the policy apart from the classifier, SharedTrackerPolicy shares its weights",
    ),
    (
        "EasyFirstPolicy",
        {"baseline": "step_value"},
        {},
        {},
        r"baseline='step_value' values what a policy knows before each decision, EasyFirstPolicy does not tell; use "
        r"baseline='value'",
    ),
]


@pytest.mark.parametrize(("policy", "estimator", "pacing", "options", "message"), REFUSED)
def test_what_does_not_fit_is_refused(pairs, policy, estimator, pacing, options, message):
    with pytest.raises(ValueError, match=message):
        build(pairs, policy, estimator=estimator, pacing=pacing, **options)


def test_pairs_are_needed_to_score_crosswise(word_salad):
    with pytest.raises(ValueError, match="pairing='crosswise' combines the parses of two sentences"):
        build(word_salad, "TrackerPolicy", estimator={"pairing": "crosswise"}, pacing={})


@pytest.mark.parametrize("policy", ["TrackerPolicy", "SharedTrackerPolicy"])
def test_gold_parses_are_needed_to_imitate_them(half_parsed, policy):
    message = r"objective='supervised' needs a gold parse for every sentence, 1 have none; leave their examples out "
    with pytest.raises(ValueError, match=message):
        build(half_parsed, policy, estimator=SUPERVISED, pacing={}, n_parses=1)


@pytest.mark.parametrize(
    ("policy", "estimator", "pacing", "options"),
    [
        # A policy that does not learn takes whatever there is.
        (
            "FixedTreePolicy",
            {"objective": "ppo", "n_updates": 3, "kl_coef": 1.0},
            {"warmup": 2},
            {"n_parses": 1},
        ),
        ("FixedTreePolicy", SUPERVISED, {"policy_average": 0.5}, {"train_encoder": False}),
        # One that learns without a score function needs no second parse, and no critic.
        ("GumbelPolicy", {}, {}, {"n_parses": 1}),
        ("GumbelPolicy", {"baseline": "step_value"}, {}, {"n_parses": 1}),
        ("SharedTrackerPolicy", SUPERVISED, {"curriculum": "length", "curriculum_start": 3}, {"n_parses": 1}),
        ("TrackerPolicy", SUPERVISED | {"n_updates": 2}, {"policy_every": 2}, {"n_parses": 1}),
        ("TrackerPolicy", {"pairing": "crosswise"}, {}, {"reward": "log_likelihood"}),
    ],
)
def test_what_fits_is_built(pairs, policy, estimator, pacing, options):
    agent = build(pairs, policy, estimator=estimator, pacing=pacing, **options)
    assert agent.critic is None
    assert type(agent.policy).__name__ == policy
