from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Literal

import pytest

from rlparse.errors import ConfigError
from rlparse_experiments.layered_config import (
    apply_settings,
    changed_settings,
    preset_file,
    preset_names,
    read_settings,
    settings_from_mapping,
)


class Reward(Enum):
    ACCURACY = "accuracy"
    GOLD_F1 = "gold_f1"


@dataclass(frozen=True)
class Tracker:
    size: int = 32
    dropout: float = 0.0


@dataclass(frozen=True)
class Policy:
    learning_rate: float = 1e-3
    clip: float | None = None
    tracker: Tracker = field(default_factory=Tracker)


@dataclass(frozen=True)
class Config:
    name: str = "run"
    data: tuple[Path, ...] = ()
    betas: tuple[float, float] = (0.9, 0.999)
    steps: int = 100
    kind: Literal["tree_rnn", "tree_lstm"] = "tree_lstm"
    reward: Reward = Reward.ACCURACY
    progress: bool = True
    policy: Policy = field(default_factory=Policy)
    critic: Tracker | None = None


@pytest.fixture
def apply(tmp_path):
    """Write text as a YAML file and apply it to the defaults."""

    def apply(text: str) -> Config:
        path = tmp_path / "mine.yaml"
        path.write_text(text, encoding="utf-8")
        return apply_settings(Config(), read_settings(path))

    return apply


def test_settings_fill_nested_fields_and_leave_the_others(apply):
    config = apply(
        """
        name: other
        data: [a.jsonl, b.jsonl.gz]
        betas: [0.5, 1]
        steps: 1e3
        kind: tree_rnn
        reward: gold_f1
        progress: no
        policy:
          learning_rate: 3e-4
          clip: 1
          tracker: {size: 8}
        critic:
          size: 5
        """
    )
    assert config == Config(
        name="other",
        data=(Path("a.jsonl"), Path("b.jsonl.gz")),
        betas=(0.5, 1.0),
        steps=1000,
        kind="tree_rnn",
        reward=Reward.GOLD_F1,
        progress=False,
        policy=Policy(learning_rate=3e-4, clip=1.0, tracker=Tracker(size=8)),
        critic=Tracker(size=5),
    )
    assert isinstance(config.steps, int)
    assert isinstance(config.policy.clip, float)


@pytest.mark.parametrize(
    "text", ["", "# nothing but a comment", "{}", "policy:\n  # learning_rate: 3", "policy: {}"]
)
def test_file_without_settings_changes_nothing(apply, text):
    assert apply(text) == Config()


def test_null_is_a_value_where_the_type_has_it(apply):
    assert apply("policy: {clip: 3, tracker: {size: 4}}\n").policy.clip == 3
    assert apply("policy: {clip: null}").policy.clip is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stesp: 3", r"mine.yaml, line 1: unknown setting 'stesp'; did you mean 'steps'\?"),
        (
            "name: a\npolicy:\n  learing_rate: 3",
            r"line 3: unknown setting 'policy.learing_rate'; did you mean 'policy.le",
        ),
        (
            "policy: {learning-rate: 3}",
            r"unknown setting 'policy.learning-rate'; did you mean 'policy.learning_rate'",
        ),
        ("learning_rate: 3", r"unknown setting 'learning_rate'; did you mean 'policy.learning_rate'\?"),
        (
            "policy: {quux: 3}",
            r"unknown setting 'policy.quux' \(known here: policy.learning_rate, policy.clip\)",
        ),
        ("steps: {n: 3}", r"unknown setting 'steps.n'"),
        ("steps: many", r"line 1: steps expects a whole number, found 'many'"),
        ("steps: 1.5", r"steps expects a whole number, found 1.5"),
        ("steps: .inf", r"steps expects a whole number, found inf"),
        ("steps: true", r"steps expects a whole number, found True"),
        ("steps: null", r"steps expects a whole number, found null"),
        ("policy: {learning_rate: '3e-4'}", r"learning_rate expects a number, found '3e-4'"),
        ("policy: {clip: high}", r"policy.clip expects a number or null, found 'high'"),
        ("policy: 3", r"policy expects a mapping \(policy.learning_rate, policy.clip, policy.tracker.size, "),
        ("progress: 1", r"progress expects true or false, found 1"),
        ("name: off", r"name expects text \(in quotes if need be\), found False"),
        ("kind: lstm", r"kind expects one of 'tree_rnn', 'tree_lstm', found 'lstm'"),
        ("reward: f1", r"reward expects one of 'ACCURACY', 'GOLD_F1', found 'f1'"),
        ("data: a.jsonl", r"data expects a list of: a path, found 'a.jsonl'"),
        ("data: [a.jsonl, 3]", r"data expects a list of: a path, found \['a.jsonl', 3\]"),
        ("betas: [0.5]", r"betas expects a list of 2: a number, a number, found \[0.5\]"),
        ("steps: 1\npolicy:\n  clip: 1\nsteps: 2", r"line 4: steps is given twice, first in line 1"),
        ("policy:\n  clip: 1\n  clip: 2", r"line 3: policy.clip is given twice, first in line 2"),
        ("- steps", r"line 1: expected a mapping of settings"),
        ("a: [1", r"line 1: not valid YAML"),
        ("a: !!python/object/apply:os.getcwd []", r"not valid YAML: could not determine a constructor"),
    ],
)
def test_wrong_file_is_refused_with_file_line_and_key(apply, text, message):
    with pytest.raises(ConfigError, match=message) as raised:
        apply(text)
    assert "mine.yaml" in str(raised.value)


def test_file_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / "binary.yaml"
    path.write_bytes(b"name: \xff")
    with pytest.raises(ConfigError, match=r"binary.yaml: expected YAML in UTF-8, found byte 6 that is not"):
        read_settings(path)


def test_later_settings_win():
    first = settings_from_mapping({"steps": 1, "policy": {"clip": 1.0}}, "first")
    second = settings_from_mapping({"steps": 2}, "second")
    config = apply_settings(Config(), first + second)
    assert (config.steps, config.policy.clip) == (2, 1.0)


def test_mapping_from_json_restores_the_configuration():
    config = Config(data=(Path("a"),), steps=7, policy=Policy(learning_rate=1e-5, tracker=Tracker(size=9)))
    text = json.dumps(asdict(config) | {"reward": "ACCURACY"}, default=str)
    assert apply_settings(Config(), settings_from_mapping(json.loads(text), "config.json")) == config


def test_changed_settings_names_both_values():
    before = Config()
    after = Config(steps=5, policy=Policy(tracker=Tracker(size=1)))
    assert changed_settings(before, after) == {"steps": (100, 5), "policy.tracker.size": (32, 1)}
    assert changed_settings(before, Config()) == {}


def test_presets_are_files():
    assert {"logic", "listops-short", "listops", "snli", "sick"} <= set(preset_names())
    assert preset_file("logic").is_file()


def test_unknown_preset_lists_those_there_are():
    with pytest.raises(
        ConfigError, match=r"unknown preset 'lgic'; did you mean 'logic'\? \(presets: listops, .*snli"
    ):
        preset_file("lgic")
