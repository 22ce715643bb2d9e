from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import rlparse
from rlparse.errors import CheckpointError, ConfigError, CorpusError, NonFiniteLossError
from rlparse_experiments import cli
from rlparse_experiments.cli import Command, main
from rlparse_experiments.config import AgentConfig, TrainConfig, as_json
from rlparse_experiments.layered_config import (
    apply_settings,
    preset_file,
    preset_names,
    read_settings,
    settings_from_mapping,
)

COMMANDS = ("train", "seeds", "evaluate", "compare", "parse", "data", "bench")
DATA_COMMANDS = ("listops", "logic", "inspect")


@pytest.fixture
def ends_with(monkeypatch):
    """Let `rlparse fake` raise an error (or return a code), and return (exit code, stdout, stderr)."""

    def install(outcome: BaseException | int) -> None:
        def run(argv, prog):
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        monkeypatch.setattr(cli, "COMMANDS", (Command("fake", "for this test", run),))

    return install


def test_help_lists_the_commands(capsys):
    assert main(["--help"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("usage: rlparse COMMAND [OPTIONS]")
    assert captured.err == ""
    for name in COMMANDS:
        assert re.search(rf"^  {name} +\w", captured.out, re.MULTILINE), name


def test_data_help_lists_the_corpora(capsys):
    assert main(["data", "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: rlparse data COMMAND")
    for name in DATA_COMMANDS:
        assert re.search(rf"^  {name} +\w", text, re.MULTILINE), name


def test_version_is_the_package_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"rlparse {rlparse.__version__}\n"


@pytest.mark.parametrize("argv", [[], ["data"]])
def test_no_command_is_bad_usage_and_shows_the_help(argv, capsys):
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "commands:" in captured.err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["trian"],
            "rlparse: error: unknown command 'trian'; did you mean 'train'? (commands: train, seeds,",
        ),
        (
            ["data", "logics"],
            "rlparse data: error: unknown command 'logics'; did you mean 'logic'? (commands: lis",
        ),
        (["--steps", "3"], "rlparse: error: unknown command '--steps' (commands: train"),
    ],
)
def test_unknown_command_is_bad_usage(argv, message, capsys):
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(message)


@pytest.mark.parametrize(
    ("outcome", "code", "message"),
    [
        (0, 0, ""),
        (7, 7, ""),
        (SystemExit(3), 3, ""),
        (SystemExit(None), 0, ""),
        (SystemExit("no"), 1, "rlparse fake: error: no\n"),
        (ConfigError("steps must be positive"), 2, "rlparse fake: error: steps must be positive\n"),
        (CorpusError("a.jsonl, line 3: no label"), 2, "rlparse fake: error: a.jsonl, line 3: no label\n"),
        (CheckpointError("runs/x is damaged"), 2, "rlparse fake: error: runs/x is damaged\n"),
        (NonFiniteLossError("loss is nan at step 3"), 1, "rlparse fake: error: loss is nan at step 3\n"),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "a.jsonl"),
            2,
            "rlparse fake: error: No such file or directory: a.jsonl\n",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "x"),
            2,
            "rlparse fake: error: Permission denied: x\n",
        ),
        (FileExistsError("out is there already"), 2, "rlparse fake: error: out is there already\n"),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            1,
            "rlparse fake: error: OSError: [Errno 28] No",
        ),
        (
            ZeroDivisionError("by zero"),
            1,
            "rlparse fake: error: ZeroDivisionError: by zero (this is a fault",
        ),
        (KeyboardInterrupt(), 130, "rlparse fake: error: interrupted\n"),
    ],
)
def test_end_of_a_command_sets_exit_code_and_message(outcome, code, message, ends_with, capsys):
    ends_with(outcome)
    assert main(["fake"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(message)
    assert "Traceback" not in captured.err
    assert message or not captured.err


def test_debug_shows_the_traceback_and_keeps_the_exit_code(ends_with, capsys):
    ends_with(ConfigError("steps must be positive"))
    assert main(["fake", "--debug"]) == 2
    text = capsys.readouterr().err
    assert text.startswith("Traceback (most recent call last)")
    assert text.endswith("rlparse fake: error: steps must be positive\n")


def test_handler_of_sigterm_is_put_back(ends_with):
    before = signal.getsignal(signal.SIGTERM)
    ends_with(0)
    main(["fake"])
    assert signal.getsignal(signal.SIGTERM) is before


def start(code: str) -> subprocess.Popen[str]:
    """Start the command line with a command ``fake`` that prints 'ready', then runs ``code``."""
    script = (
        "import os, sys, time\n"
        "from rlparse_experiments import cli\n"
        "def run(argv, prog):\n"
        "    print('ready', flush=True)\n"
        f"    {code}\n"
        "    return 0\n"
        "cli.COMMANDS = (cli.Command('fake', '', run),)\n"
        "sys.exit(cli.main(['fake']))\n"
    )
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", script], stdout=pipe, stderr=pipe, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_ends_the_command_with_its_exit_code(signum, code):
    process = start("time.sleep(60)")
    time.sleep(0.05)
    process.send_signal(signum)
    _, err = process.communicate(timeout=20)
    assert process.returncode == code
    assert "Traceback" not in err


def test_reader_that_goes_away_is_no_error():
    process = start("sys.stdout.writelines('x' * 1000 + chr(10) for _ in range(10_000))")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=20) == 128 + signal.SIGPIPE
    assert err == ""


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        *([name, "--help"] for name in COMMANDS),
        *(["data", name, "--help"] for name in DATA_COMMANDS),
    ],
    ids=" ".join,
)
def test_help_needs_no_torch(argv):
    script = (
        "import sys\n"
        "from rlparse_experiments.cli import main\n"
        f"code = main({argv!r})\n"
        "heavy = {'torch', 'gymnasium', 'stable_baselines3', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(code or ' '.join(heavy) or 0)\n"
    )
    wide = os.environ | {"COLUMNS": "120"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=wide)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.startswith(f"usage: rlparse {' '.join(argv[:-1])}".rstrip())


def test_top_help_needs_no_tyro():
    script = (
        "import sys\n"
        "from rlparse_experiments.cli import main\n"
        "sys.exit(main(['--help']) or 'tyro' in sys.modules or 'numpy' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True).returncode == 0


@pytest.mark.parametrize("preset", preset_names())
def test_preset_names_settings_that_exist(preset):
    config = apply_settings(TrainConfig(), read_settings(preset_file(preset)))
    assert isinstance(config, TrainConfig)


def test_settings_that_a_resumed_run_may_change_exist():
    stored = settings_from_mapping(as_json(TrainConfig()), "config.json")
    assert set(cli.CHANGEABLE_ON_RESUME) <= {".".join(setting.key) for setting in stored}


def test_settings_of_a_run_survive_its_folder():
    config = TrainConfig(seed=3, data=(Path("a"), Path("b.gz")), agent=AgentConfig(epochs=0.5))
    stored = json.loads(json.dumps(as_json(config)))
    assert apply_settings(TrainConfig(), settings_from_mapping(stored, "config.json")) == config


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["train", "lgic"], "rlparse train: error: unknown preset 'lgic'; did you mean 'logic'?"),
        (
            ["train", "--resume", "nothing"],
            "rlparse train: error: nothing/config.json is missing",
        ),
        (
            ["train", "--config", "nothing.yaml"],
            "train: error: No such file or directory: nothing.yaml",
        ),
        (["train", "--seed", "one"], "invalid literal for int"),
        (["train", "--agnet.epochs", "1"], "--agent.epochs FLOAT"),
        (["parse", "--rnu", "x"], "--run PATH"),
        (["evaluate"], "RUN"),
    ],
)
def test_bad_usage_of_a_real_command_ends_with_2(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert "Traceback" not in captured.err
