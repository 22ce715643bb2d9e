"""Call the arguments that libraries complain about by the names of the settings they came from. No torch here."""

from __future__ import annotations

import re
from dataclasses import fields

from rlparse_experiments.config import AgentConfig, PacingConfig

OF_THE_ENCODER = ("architecture", "bidirectional", "truncate", "hide_premise")
"""Arguments of the classifier that no parser has, too."""

POLICIES = {
    "TrackerPolicy": "tracker",
    "BoundaryPolicy": "boundary",
    "EasyFirstPolicy": "easy_first",
    "SharedTrackerPolicy": "shared_tracker",
    "GumbelPolicy": "gumbel",
}
"""Kind of parser by the name of its policy."""

SETTINGS = {
    **{field.name: f"agent.{field.name}" for field in fields(AgentConfig)},
    **{field.name: f"pacing.{field.name}" for field in fields(PacingConfig)},
    **{name: f"encoder.{name}" for name in OF_THE_ENCODER},
    "start": "pacing.curriculum_start",
}
"""Setting by the name of its argument."""

# A word such as `reward` is a name only where a value follows; one with an underscore always is.
NAMES = re.compile(
    rf"(?<![\w.])(?:(?P<policy>{'|'.join(POLICIES)})\b"
    rf"|(?P<valued>{'|'.join(SETTINGS)})(?==)"
    rf"|(?P<spelled>{'|'.join(name for name in SETTINGS if '_' in name)})\b)"
)


def with_option_names(message: str) -> str:
    """Give a message about arguments of Python functions in the words of the command line.

    ``"baseline='none' … n_parses >= 2; use TrackerPolicy"`` becomes
    ``"agent.baseline='none' … agent.n_parses >= 2; use parser.kind tracker"``.
    """

    def option(found: re.Match[str]) -> str:
        name = found[0]
        return f"parser.kind {POLICIES[name]}" if found["policy"] else SETTINGS[name]

    return NAMES.sub(option, message)
