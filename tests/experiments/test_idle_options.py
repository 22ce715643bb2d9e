"""Options that would change nothing are refused, and say which other one switches them off."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest

from rlparse.errors import ConfigError
from rlparse_experiments.cli import main
from rlparse_experiments.config import TrainConfig
from rlparse_experiments.idle_options import NEEDS, refuse_idle_options


def with_setting(config: TrainConfig, name: str, value: Any) -> TrainConfig:
    section, field = name.split(".")
    return replace(config, **{section: replace(getattr(config, section), **{field: value})})


def settings_of(config: Any, prefix: str = "") -> set[str]:
    names = set()
    for field in fields(config):
        value = getattr(config, field.name)
        names |= settings_of(value, f"{field.name}.") if is_dataclass(value) else {prefix + field.name}
    return names


def test_every_name_is_a_setting():
    known = settings_of(TrainConfig())
    assert set(NEEDS) <= known
    assert {needs.option for needs in NEEDS.values()} <= known


@pytest.mark.parametrize("name", NEEDS)
def test_an_option_is_refused_exactly_where_it_does_nothing(name):
    option, values = NEEDS[name]
    for value in values:
        refuse_idle_options(with_setting(TrainConfig(), option, value), [name])
    idle = {"parser.kind": "none", "encoder.architecture": "bag_of_words", "agent.objective": "reinforce"}
    config = with_setting(TrainConfig(), option, idle.get(option, "none"))
    refuse_idle_options(config, [])  # nobody has asked for it
    message = f"--{name.replace('_', '-')} does nothing with {option} {idle.get(option, 'none')}; leave it out, or use"
    with pytest.raises(ConfigError, match=re.escape(message)):
        refuse_idle_options(config, [name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "--agent rloo --agent.clip-low 0.3",
            "--agent.clip-low does nothing with agent.objective reinforce; leave it out, or use --agent.objective ppo",
        ),
        (
            "--agent.temperature-to 3",
            "does nothing with agent.temperature constant; leave it out, or use --agent.temperature linear or",
        ),
        ("--agent lstm --parser.recurrent", "--parser.recurrent does nothing with parser.kind none"),
        ("--agent rl_spinn --parser.learning-rate 0.1", "does nothing with parser.kind shared_tracker"),
        ("--agent left --agent.baseline none", "--agent.baseline does nothing with parser.kind left"),
        ("--agent gru --encoder.composition tree_rnn", "does nothing with encoder.architecture gru"),
    ],
)
@pytest.mark.parametrize("command", ["train", "seeds"])
def test_the_commands_refuse_them(tmp_path, monkeypatch, capsys, command, options, message):
    monkeypatch.chdir(tmp_path)
    assert main([command, "listops-short", *options.split()]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_a_preset_brings_along_may_be_idle(tmp_path, monkeypatch, capsys):
    """The task's entropy target stays there when a control takes the policy's place; a width may serve many systems."""
    monkeypatch.chdir(tmp_path)
    assert main(["train", "listops-short", "--agent", "lstm", "--parser.hidden-size", "8", "--help"]) == 0
    capsys.readouterr()
