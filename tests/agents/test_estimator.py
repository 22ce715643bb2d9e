"""Options of the estimator: each is taken, and combinations that mean nothing are refused with a way out."""

from __future__ import annotations

import itertools
from typing import Any, get_args, get_type_hints

import pytest

from rlparse_agents.estimator import CHOICES, Estimator

NEEDS: dict[tuple[str, str], dict[str, Any]] = {
    ("kl_in", "reward"): {"baseline": "step_value"},
    ("normaliser", "group_sd"): {"baseline": "group_mean"},
}
"""What an option's value can only be had with."""


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in CHOICES.items() for v in values])
def test_every_value_is_taken(name, value):
    estimator = Estimator(**{name: value}, **NEEDS.get((name, value), {}))
    assert getattr(estimator, name) == value


def test_the_choices_are_those_of_the_annotations():
    hints = get_type_hints(Estimator)
    named = {name: set(get_args(hint)) for name, hint in hints.items() if get_args(hint)}
    assert named == {name: set(values) for name, values in CHOICES.items()}


@pytest.mark.parametrize("name", CHOICES)
def test_an_unknown_value_is_refused_with_those_there_are(name):
    with pytest.raises(ValueError, match=rf"unknown {name} 'best'; known: {', '.join(CHOICES[name])}"):
        Estimator(**{name: "best"})


def test_options_are_orthogonal_but_for_what_is_listed():
    """Of all combinations of names, those refused are exactly those that the rules below name."""
    names = ("objective", "baseline", "pairing", "normaliser", "average", "ratio", "kl_in")
    refused = taken = 0
    for values in itertools.product(*(CHOICES[name] for name in names)):
        options = dict(zip(names, values, strict=True))
        objective, baseline, _, normaliser, _, ratio, kl_in = values
        wrong = (
            (normaliser == "group_sd" and baseline not in ("leave_one_out", "group_mean"))
            or (kl_in == "reward" and (baseline != "step_value" or objective == "supervised"))
            or (objective == "ppo" and ratio == "tree" and baseline == "step_value")
        )
        if wrong:
            refused += 1
            with pytest.raises(ValueError, match=r"; use "):
                Estimator(kl_coef=0.1, **options)
        else:
            taken += 1
            Estimator(kl_coef=0.1, **options)
    assert refused > 100
    assert taken > 100


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": 1.1, "baseline": "step_value"}, r"gamma must be in 0..1, got 1.1"),
        ({"gamma": -0.1}, r"gamma must be in 0..1, got -0.1"),
        ({"gae_lambda": 2.0}, r"gae_lambda must be in 0..1, got 2.0"),
        ({"clip_low": -0.1}, r"clip_low must not be negative, got -0.1"),
        ({"clip_low": 1.0}, r"clip_low must be below 1, because ratios are never negative, got 1.0"),
        ({"clip_high": -0.1}, r"clip_high must not be negative, got -0.1"),
        ({"kl_coef": -1.0}, r"kl_coef must not be negative, got -1.0"),
        ({"reference_every": -1}, r"reference_every must not be negative, got -1"),
        (
            {"reference_every": 5},
            r"reference_every=5 renews a reference that kl_coef=0 never asks; give a kl_coef",
        ),
        ({"value_coef": -1.0}, r"value_coef must not be negative, got -1.0"),
        ({"policy_coef": -1.0}, r"policy_coef must not be negative, got -1.0"),
        ({"n_updates": 0, "objective": "ppo"}, r"n_updates must be at least 1, got 0"),
        (
            {"n_updates": 2},
            r"n_updates=2 goes on with parses of an older policy, which objective='reinforce' takes for the policy's "
            r"own; use n_updates=1 or objective='ppo'",
        ),
        (
            {"gamma": 0.9},
            r"gamma=0.9 needs a critic of every decision, baseline='leave_one_out' has none; use gamma=1 or "
            r"baseline='step_value'",
        ),
        (
            {"gae_lambda": 0.9, "baseline": "value"},
            r"gae_lambda=0.9 needs a critic of every decision, baseline='value' has none; use gae_lambda=1 or",
        ),
        (
            {"kl_in": "reward", "kl_coef": 0.1, "baseline": "none"},
            r"kl_in='reward' gives every decision a reward of its own, .*baseline='none' has none; use kl_in='loss'",
        ),
        (
            {"kl_in": "reward", "kl_coef": 0.1, "baseline": "step_value", "objective": "supervised"},
            r"kl_in='reward' changes rewards, which objective='supervised' does not look at; use kl_in='loss'",
        ),
        (
            {"baseline": "step_value", "normaliser": "group_sd"},
            r"normaliser='group_sd' divides the parses of a group, baseline='step_value' judges single decisions; use",
        ),
        (
            {"baseline": "none", "normaliser": "group_sd"},
            r"normaliser='group_sd' divides by next to nothing where all parses of a group earn the same, and "
            r"baseline='none' does not make their advantages 0; use baseline='group_mean' or another normaliser",
        ),
        (
            {"baseline": "step_value", "objective": "ppo", "ratio": "tree"},
            r"ratio='tree' has one advantage a parse, baseline='step_value' one a decision; use ratio='decision' or",
        ),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Estimator(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"kl_in": "reward"},  # without a weight nothing is added to rewards
        {"n_updates": 3, "objective": "supervised"},
        {"ratio": "tree", "baseline": "step_value"},  # only PPO has ratios
        {"gamma": 0.9, "gae_lambda": 0.0, "baseline": "step_value"},
        {"clip_low": 0.0, "clip_high": 5.0, "objective": "ppo"},
    ],
)
def test_what_fits_is_taken(options):
    Estimator(**options)


@pytest.mark.parametrize(
    ("options", "n_parses", "n_sides", "message"),
    [
        (
            {"objective": "supervised"},
            4,
            1,
            r"objective='supervised' has one gold parse an example, got n_parses=4; use n_parses=1",
        ),
        (
            {},
            1,
            2,
            r"baseline='leave_one_out' compares the parses of one example and needs n_parses >= 2, got 1; raise "
            r"n_parses or use baseline='none'",
        ),
        (
            {"baseline": "group_mean"},
            1,
            2,
            r"baseline='group_mean' compares .* raise n_parses or use baseline='none'",
        ),
        (
            {"pairing": "crosswise"},
            2,
            1,
            r"pairing='crosswise' combines the parses of two sentences, this corpus has examples of one; use "
            r"pairing='matched'",
        ),
    ],
)
def test_numbers_of_parses_and_sentences_that_do_not_fit(options, n_parses, n_sides, message):
    with pytest.raises(ValueError, match=message):
        Estimator(**options).check_parses(n_parses, n_sides)


@pytest.mark.parametrize(
    ("options", "n_parses", "n_sides"),
    [
        ({"objective": "supervised", "baseline": "leave_one_out"}, 1, 1),
        ({"baseline": "none"}, 1, 1),
        ({"baseline": "greedy", "pairing": "crosswise"}, 1, 2),
        ({}, 2, 1),
    ],
)
def test_numbers_that_fit(options, n_parses, n_sides):
    Estimator(**options).check_parses(n_parses, n_sides)
