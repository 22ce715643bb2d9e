"""Messages about arguments of Python functions reach the command line in its own words."""

from __future__ import annotations

from typing import get_args

import pytest

from rlparse_agents.policy_gradient import PolicyGradient
from rlparse_experiments.config import ParserKind
from rlparse_experiments.option_names import POLICIES, with_option_names


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("baseline='greedy' needs n_parses >= 2", "agent.baseline='greedy' needs agent.n_parses >= 2"),
        ("warmup=2 rests; SharedTrackerPolicy", "pacing.warmup=2 rests; parser.kind shared_tracker"),
        ("such as TrackerPolicy", "such as parser.kind tracker"),
        (
            "architecture='tree', leave truncate=3 out",
            "encoder.architecture='tree', leave encoder.truncate=3 out",
        ),
        ("start=2 admits nothing", "pacing.curriculum_start=2 admits nothing"),
        (
            "a reward of the average parse, kl_in='reward'",
            "a reward of the average parse, agent.kl_in='reward'",
        ),
        ("agent.epochs=0, restart=1, MyTrackerPolicy", "agent.epochs=0, restart=1, MyTrackerPolicy"),
    ],
)
def test_arguments_are_called_by_their_settings(message, expected):
    assert with_option_names(message) == expected


def test_policies_are_called_by_their_kinds():
    assert set(POLICIES) | {"FixedTreePolicy"} == set(PolicyGradient.policy_aliases)
    assert set(POLICIES.values()) < set(get_args(ParserKind))
