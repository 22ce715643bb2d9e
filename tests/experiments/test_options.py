from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rlparse.errors import ConfigError
from rlparse_experiments import layered_config
from rlparse_experiments.options import configure, read_options, read_train_options


@dataclass(frozen=True)
class Policy:
    learning_rate: float = 1e-3
    """Step size of the policy."""
    clip: float | None = None
    """Largest gradient norm."""


@dataclass(frozen=True)
class Config:
    data: tuple[Path, ...] = ()
    """Files to train on."""
    steps: int = 100
    """Updates."""
    progress: bool = True
    """Show a bar."""
    policy: Policy = field(default_factory=Policy)
    """Who parses."""

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ConfigError(f"steps must not be negative, got {self.steps}")


@dataclass(frozen=True)
class Measure:
    run: Path
    """The run folder."""
    split: str = "dev"
    """Which part."""


@pytest.fixture(autouse=True)
def presets(tmp_path, monkeypatch):
    """Two presets of our own in place of the real ones."""
    folder = tmp_path / "presets"
    folder.mkdir()
    (folder / "logic.yaml").write_text("steps: 10\n", encoding="utf-8")
    (folder / "snli.yaml").write_text("steps: 20\npolicy: {learning_rate: 0.5, clip: 1}\n", encoding="utf-8")
    monkeypatch.setattr(layered_config, "PRESETS", folder)


@pytest.fixture
def yaml_file(tmp_path):
    def write(text: str, name: str = "mine.yaml") -> str:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def read_train(*argv: str, before: Config | None = None) -> tuple[Config, Path | None]:
    return read_train_options(
        Config,
        argv,
        prog="rlparse train",
        description="Train.",
        config_of_run=lambda run: before or Config(steps=77, policy=Policy(clip=7.0)),
        changeable=("steps",),
    )


def test_layers_are_defaults_preset_file_command_line(yaml_file):
    file = yaml_file("policy: {learning_rate: 0.25}\nsteps: 30\n")
    assert read_train("snli")[0] == Config(steps=20, policy=Policy(0.5, 1.0))
    assert read_train("snli", "--config", file)[0] == Config(steps=30, policy=Policy(0.25, 1.0))
    last = read_train("snli", "--policy.learning-rate", "0.125", f"--config={file}", "--data", "a", "b")[0]
    assert last == Config(data=(Path("a"), Path("b")), steps=30, policy=Policy(0.125, 1.0))


def test_default_preset_is_logic():
    assert read_train() == (Config(steps=10), None)
    assert read_train("--no-progress")[0] == Config(steps=10, progress=False)


def test_of_several_files_the_later_wins(yaml_file):
    first, second = yaml_file("steps: 1\nprogress: false", "a.yaml"), yaml_file("steps: 2", "b.yaml")
    assert read_train("--config", first, "--config", second)[0] == Config(steps=2, progress=False)


def test_preset_may_follow_a_config_file(yaml_file):
    assert read_train("--config", yaml_file("steps: 1"), "snli")[0].policy.clip == 1.0


@pytest.mark.parametrize("argv", [("--steps", "3", "snli"), ("logic", "snli"), ("logic", "--debug", "snli")])
def test_preset_is_one_word_before_the_options(argv):
    with pytest.raises(ConfigError, match=r"unexpected 'snli': PRESET is one word before the options"):
        read_train(*argv)


def test_unknown_preset_is_refused():
    with pytest.raises(ConfigError, match=r"'snlj'; did you mean 'snli'\? \(presets: logic, snli\)"):
        read_train("snlj")


def test_unknown_option_is_refused_with_the_closest_one(capsys):
    with pytest.raises(SystemExit) as stop:
        read_train("--policy.learing-rate", "1")
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Unrecognized options: --policy.learing-rate" in captured.err
    assert "--policy.learning-rate FLOAT" in captured.err


@pytest.mark.parametrize(
    "argv",
    [
        ("--steps", "x"),
        ("--steps",),
        ("--stepss", "1"),
        ("--policy.clip", "high"),
        ("--config",),
    ],
)
def test_wrong_usage_exits_with_2_and_says_so_on_stderr(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        read_train(*argv)
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err


def test_help_shows_the_defaults_of_the_preset(capsys):
    with pytest.raises(SystemExit) as stop:
        read_train("snli", "--help")
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for words in ("usage: rlparse train", "(default: snli)", "Updates. (default: 20)", "(default: 0.5)"):
        assert words in text
    for option in ("--config FILE", "--resume RUN", "--debug", "--policy.clip"):
        assert option in text


def test_help_has_no_resume_where_there_is_none(capsys):
    with pytest.raises(SystemExit):
        read_options(Config, ["--help"], prog="rlparse measure", description="")
    assert "--resume" not in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        read_options(Config, ["--resume", "x"], prog="rlparse measure", description="")
    assert stop.value.code == 2


def test_value_that_the_dataclass_refuses_is_an_error_of_ours():
    with pytest.raises(ConfigError, match="steps must not be negative, got -1"):
        read_train("--steps", "-1")


def test_field_without_default_may_come_from_the_line_or_a_file(yaml_file, capsys):
    def read(*argv: str) -> Measure:
        return read_options(Measure, argv, prog="rlparse measure", description="Measure.")

    assert read("--run", "a") == Measure(Path("a"))
    assert read("--config", yaml_file("run: b")) == Measure(Path("b"))
    with pytest.raises(SystemExit) as stop:
        read("--split", "test")
    assert stop.value.code == 2
    assert "--run" in capsys.readouterr().err


def test_resumed_run_keeps_its_settings():
    run = Path("runs/one")
    assert read_train("--resume", "runs/one") == (Config(steps=77, policy=Policy(clip=7.0)), run)
    assert read_train("--resume", "runs/one", "--steps", "200") == (
        Config(steps=200, policy=Policy(clip=7.0)),
        run,
    )
    assert read_train("--policy.clip", "7", "--resume", "runs/one")[1] == run  # no change, no complaint


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--policy.clip", "1"), r"policy.clip \(7.0 to 1.0\) cannot change, only steps can"),
        (("--steps", "2", "--no-progress"), r"progress \(True to False\) cannot change"),
    ],
)
def test_resumed_run_refuses_other_settings(argv, message):
    with pytest.raises(ConfigError, match=message):
        read_train("--resume", "runs/one", *argv)


def test_resumed_run_refuses_a_preset_and_a_file(yaml_file):
    with pytest.raises(ConfigError, match=r"every setting from runs.one; remove the preset 'snli'"):
        read_train("snli", "--resume", "runs/one")
    with pytest.raises(ConfigError, match=r"remove the --config .*mine.yaml"):
        read_train("--resume", "runs/one", "--config", yaml_file("steps: 1"))


def test_configure_takes_layers_by_name(yaml_file):
    config = configure(
        Config,
        ["--policy.clip", "None"],
        prog="p",
        description="",
        defaults=Config(progress=False),
        preset="snli",
        config_files=[Path(yaml_file("steps: 5"))],
    )
    assert config == Config(progress=False, steps=5, policy=Policy(0.5, None))
