"""A run that was stopped, however and whenever, ends with the numbers of one that never was."""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rlparse import checkpoint as checkpoint_module
from rlparse.checkpoint import load_checkpoint
from rlparse_agents import policy_gradient
from rlparse_agents.policy_gradient import PolicyGradient
from rlparse_experiments import callbacks, train
from rlparse_experiments.cli import main

MEASURED = ("seconds", "peak_memory_gib", "command")
SPEEDS = ("time/examples_per_second", "time/transitions_per_second", "time/data_wait")
ITERATIONS = (
    10  # of the tiny run: points at 4, 8 and 10, evaluations at 5 and 10, checkpoints at 0, 3, 6, 9 and 10
)


class PowerCut(BaseException):
    """Ends the process for all that training can do about it."""


def same_values(a: Any, b: Any) -> bool:
    """Bit for bit, whatever is nested."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_values(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same_values, a, b))
    return bool(a == b)


def points_of(run: Path) -> list[dict[str, float]]:
    points = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{tag: value for tag, value in point.items() if tag not in SPEEDS} for point in points]


def check_same_run(run: Path, reference: Path) -> None:
    ours, theirs = (load_checkpoint(folder / "checkpoints") for folder in (run, reference))
    assert ours.step == theirs.step
    assert not ours.damaged
    for part in theirs.weights:
        for name, tensor in theirs.weights[part].items():
            assert torch.equal(ours.weights[part][name], tensor), f"{part}.{name}"
    assert same_values(ours.states, theirs.states)
    for facts in (ours.facts, theirs.facts):
        for key in ("seconds", "peak_memory_gib"):
            del facts[key]
    assert ours.facts == theirs.facts
    assert points_of(run) == points_of(reference)
    results = [json.loads((folder / "results.json").read_text()) for folder in (run, reference)]
    for found in results:
        for key in MEASURED:
            del found[key]
    assert results[0] == results[1]
    files = ["predictions/dev.jsonl"] + ["parses/dev.jsonl"] * (results[0]["parses"] is not None)
    for file in files:
        assert (run / file).read_bytes() == (reference / file).read_bytes()
    check_same_events(run, reference)


def check_same_events(run: Path, reference: Path) -> None:
    """What TensorBoard shows: every step once, with the reference's values."""
    shown = []
    for folder in (run, reference):
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0}).Reload()
        scalars = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
        for tag, series in scalars.items():
            steps = [step for step, _ in series]
            assert steps == sorted(set(steps)), f"{folder.name} {tag}"
        # This reader hides no text, so one may stand there twice, but not with two values.
        texts = {
            (e.step, str(e.tensor_proto)) for tag in events.Tags()["tensors"] for e in events.Tensors(tag)
        }
        assert len(texts) == len({step for step, _ in texts})
        assert events.PluginTagToContent("hparams")
        shown.append(({tag: series for tag, series in scalars.items() if tag not in SPEEDS}, texts))
    assert shown[0] == shown[1]


@pytest.fixture
def cut_power(monkeypatch):
    """Stop at a method of an object's class once its agent has done so many iterations."""

    def install(owner: Any, method: str, iteration: int, stop: Any = None) -> None:
        original = getattr(owner, method)

        def cut(self, *args, **kwargs):
            agent = self if isinstance(self, PolicyGradient) else self.agent
            if agent.n_iterations == iteration:
                if stop is None:
                    raise PowerCut
                stop()
            return original(self, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(owner, method, cut)
            yield

    def run_until(options: list[str], owner: Any, method: str, iteration: int) -> None:
        for _ in install(owner, method, iteration):
            with pytest.raises(PowerCut):
                main(options)

    def run_to_signal(options: list[str], iteration: int, number: int) -> int:
        for _ in install(PolicyGradient, "_update_encoder", iteration, lambda: os.kill(os.getpid(), number)):
            return main(options)
        raise AssertionError

    run_until.signal = run_to_signal
    return run_until


# ------------------------------------------------------------------------------------------- stopped by power cut


@pytest.mark.parametrize(
    ("owner", "method", "iteration", "why"),
    [
        (PolicyGradient, "_iterate", 1, "before any checkpoint but the first"),
        (PolicyGradient, "_iterate", 4, "right after a point of the curves"),
        (PolicyGradient, "_iterate", 5, "right after an evaluation, between points, after a checkpoint"),
        (PolicyGradient, "_iterate", 6, "right after a checkpoint"),
        (PolicyGradient, "_weigh", 7, "when the encoder is a step ahead of the policy"),
        (PolicyGradient, "dump_logs", 8, "after the step, before its point"),
        (callbacks.Checkpoints, "_on_rollout_end", 9, "before the checkpoint of an iteration that is done"),
        (callbacks.DevEvaluation, "evaluate", 10, "before the last evaluation"),
        (train.Training, "save", 10, "after the last point, before the last checkpoint"),
        (train.Training, "finish", 10, "when only the results are missing"),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) and " " in value else None,
)
def test_a_power_cut_changes_no_number(runs, logic_run, cut_power, capsys, owner, method, iteration, why):
    cut_power(runs.options("run"), owner, method, iteration)
    run = runs.folder / "run"
    assert not (run / "results.json").exists()
    before = load_checkpoint(run / "checkpoints").step
    assert main(["train", "--resume", str(run)]) == 0
    assert f"{run}: going on from iteration {before} of {ITERATIONS}\n" in capsys.readouterr().out
    check_same_run(run, logic_run)


def test_two_power_cuts_change_no_number(runs, logic_run, cut_power):
    run = runs.folder / "run"
    cut_power(runs.options("run"), PolicyGradient, "_iterate", 5)
    cut_power(["train", "--resume", str(run)], PolicyGradient, "_iterate", 4)
    cut_power(["train", "--resume", str(run)], PolicyGradient, "_weigh", 8)
    assert main(["train", "--resume", str(run)]) == 0
    check_same_run(run, logic_run)
    assert [entry["iteration"] for entry in json.loads((run / "config.json").read_text())["continued"]] == [
        3,
        3,
        6,
    ]


def test_a_power_cut_while_a_checkpoint_is_written(runs, logic_run, monkeypatch):
    run = runs.folder / "run"
    rename = Path.rename

    def cut(path, target):
        if Path(target).name == "00000006":
            raise PowerCut
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", cut)
        with pytest.raises(PowerCut):
            main(runs.options("run"))
    assert list((run / "checkpoints").glob(".*.tmp"))
    assert main(["train", "--resume", str(run)]) == 0
    check_same_run(run, logic_run)
    assert not list((run / "checkpoints").glob(".*.tmp"))


def test_a_line_of_metrics_cut_in_two_is_written_again(runs, logic_run, cut_power):
    run = runs.folder / "run"
    cut_power(runs.options("run"), PolicyGradient, "_iterate", 8)
    metrics = run / "metrics.jsonl"
    metrics.write_text(metrics.read_text()[:-40])
    assert main(["train", "--resume", str(run)]) == 0
    check_same_run(run, logic_run)


def test_curves_are_on_the_disk_before_the_checkpoint_that_counts_on_them(runs, monkeypatch):
    order: list[str] = []

    def noting(name: str):
        original = getattr(train, name)

        def note(*args, **kwargs):
            order.append(name)
            return original(*args, **kwargs)

        return note

    for name in ("sync", "save_checkpoint"):
        monkeypatch.setattr(train, name, noting(name))
    runs.train("run", {"agent.epochs": 1})
    assert order == ["sync", "save_checkpoint"] * 3  # at 0, 3 and 5


@pytest.mark.parametrize(
    "changes",
    [
        {"corpus.generator": "listops", "corpus.max_tokens": 12, "encoder.composition": "gated"},
        {"parser.kind": "random"},
        {"parser.kind": "gold", "encoder.composition": "tree_rnn"},
        {"agent.reward": "log_likelihood", "encoder.tracker_size": 4, "encoder.schedule": "by_step"},
        {"parser.reads": "encoder", "agent.normaliser": "batch_sd", "agent.baseline": "none"},
        {
            "parser.kind": "boundary",
            "parser.bilstm": True,
            "parser.recurrent": True,
            "agent.pairing": "crosswise",
        },
        {
            "parser.kind": "easy_first",
            "agent.objective": "ppo",
            "agent.ratio": "tree",
            "agent.baseline": "greedy",
        },
        {"parser.kind": "shared_tracker", "encoder.tracker_size": 4, "agent.baseline": "step_value"},
        {"parser.kind": "gumbel", "agent.temperature": "linear", "agent.temperature_to": 0.5},
        {"parser.kind": "none", "encoder.architecture": "gru", "encoder.composition": None},
        {"parser.optimizer": "adadelta", "encoder.optimizer": "rmsprop", "encoder.rate_schedule": "cosine"},
        {"parser.optimizer": "sgd", "agent.entropy": "scheduled", "agent.grad_norm": "max"},
        {"pacing.fresh_start": True, "pacing.explorer_size": 4},
        {"run.log_interval": 1, "run.eval_interval": 1, "run.checkpoint_interval": 1},
        {"run.log_interval": 5, "run.eval_interval": 5, "run.checkpoint_interval": 5},
    ],
    ids=lambda changes: ",".join(f"{key.split('.')[1]}={value}" for key, value in changes.items()),
)
def test_every_kind_of_run_goes_on_as_if_never_stopped(runs, cut_power, changes):
    reference = runs.train("reference", changes)
    run = runs.folder / "run"
    cut_power(runs.options("run", changes), PolicyGradient, "_iterate", 7)
    assert main(["train", "--resume", str(run)]) == 0
    check_same_run(run, reference)


AT_ONCE = {
    "agent.entropy": "target",
    "agent.temperature": "sinusoidal",
    "agent.temperature_to": 2.0,
    "agent.objective": "ppo",
    "agent.n_updates": 2,
    "agent.kl_coef": 0.1,
    "agent.reference_every": 3,
    "parser.learning_rate": 0.05,
    "pacing.policy_average": 0.5,
    "pacing.curriculum": "length",
    "encoder.learning_rate": 0.02,
    "pacing.curriculum_start": 2,
    "pacing.curriculum_step": 1,
    "pacing.curriculum_competence": 0.0,
}
"""Everything that an agent remembers between iterations, but for what excludes each other."""


@pytest.mark.parametrize(
    ("iteration", "changes"),
    [
        (4, AT_ONCE | {"agent.baseline": "value", "agent.normaliser": "running_sd"}),
        (
            8,
            AT_ONCE | {"agent.baseline": "step_value", "agent.kl_in": "reward", "pacing.curriculum": "depth"},
        ),
        (7, AT_ONCE | {"agent.baseline": "moving_average", "pacing.warmup": 2, "pacing.policy_every": 2}),
    ],
    ids=["value", "step_value", "moving_average"],
)
def test_whatever_an_agent_remembers_goes_on_as_if_never_stopped(
    runs, cut_power, monkeypatch, changes, iteration
):
    if changes["pacing.curriculum"] == "depth":
        changes = changes | {"pacing.curriculum_start": 1}
    soon = functools.partial(policy_gradient.Curriculum, memory=2)
    monkeypatch.setattr(policy_gradient, "Curriculum", soon)
    reference = runs.train("reference", changes)
    run = runs.folder / "run"
    cut_power(runs.options("run", changes), PolicyGradient, "_iterate", iteration)
    before = load_checkpoint(run / "checkpoints").states["learning"]
    assert main(["train", "--resume", str(run)]) == 0
    check_same_run(run, reference)
    after = load_checkpoint(run / "checkpoints").states["learning"]
    assert (
        before.keys()
        == after.keys()
        >= {"policy_loss", "reference", "policy_average", "curriculum", "entropy"}
    )
    assert [part for part in before if same_values(before[part], after[part])] in ([], ["policy_loss"])
    assert after["curriculum"]["limit"] >= before["curriculum"]["limit"] > changes["pacing.curriculum_start"]


def test_files_as_data_go_on_as_if_never_stopped(runs, cut_power, write_snli):
    changes = {"data": write_snli(), "corpus.generator": None}
    reference = runs.train("reference", changes)
    run = runs.folder / "run"
    cut_power(runs.options("run", changes), PolicyGradient, "_iterate", 5)
    assert main(["train", "--resume", str(run)]) == 0
    check_same_run(run, reference)


# ------------------------------------------------------------------------------------------------ stopped by signal


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"]
)
def test_a_signal_saves_and_says_how_to_go_on(runs, logic_run, cut_power, capfd, number, code):
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    assert cut_power.signal(runs.options("run"), 4, number) == code
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    run = runs.folder / "run"
    captured = capfd.readouterr()
    assert "stopping after this iteration; once more stops at once" in captured.err
    assert (
        f"stopped at iteration 5 of {ITERATIONS}; a checkpoint is saved. Continue with: rlparse train --resume {run}\n"
    ) in captured.out
    assert load_checkpoint(run / "checkpoints").step == 5
    assert not (run / "results.json").exists()
    assert main(["train", "--resume", str(run)]) == 0
    check_same_run(run, logic_run)


def test_a_signal_in_the_last_iteration_comes_too_late(runs, logic_run, cut_power):
    assert cut_power.signal(runs.options("run"), ITERATIONS - 1, signal.SIGTERM) == 0
    check_same_run(runs.folder / "run", logic_run)


def test_a_second_signal_stops_at_once(runs, logic_run, cut_power, capfd):
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    iterate = PolicyGradient._iterate

    def cut(agent):
        if agent.n_iterations == 4:
            twice()
        iterate(agent)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PolicyGradient, "_iterate", cut)
        assert main(runs.options("run")) == 130
    assert "rlparse train: error: interrupted" in capfd.readouterr().err
    run = runs.folder / "run"
    assert load_checkpoint(run / "checkpoints").step == 3
    assert main(["train", "--resume", str(run)]) == 0
    check_same_run(run, logic_run)


# ----------------------------------------------------------------------------------------- real processes

LONG = {"agent.epochs": 8, "run.log_interval": 7, "run.eval_interval": 25, "run.checkpoint_interval": 2}


SLOWLY = """
import sys, time
from rlparse_agents.policy_gradient import PolicyGradient
from rlparse_experiments.cli import main
iterate = PolicyGradient._iterate
PolicyGradient._iterate = lambda agent: (time.sleep(0.2), iterate(agent))
sys.exit(main())
"""
"""The command line, so slow that no signal comes too late on a busy machine."""


@pytest.fixture(scope="module")
def long_run(session_runs) -> Path:
    return session_runs.train("long", LONG)


def start(options: list[str], checkpoints: Path, saved: int) -> subprocess.Popen[str]:
    """Start `rlparse` in a process of its own and wait until it has a checkpoint of iteration `saved` or later."""
    command = [sys.executable, "-c", SLOWLY, *options, "--threads", "1"]
    # The same packages as here, installed or not.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    deadline = time.monotonic() + 300
    while not any(int(folder.name) >= saved for folder in checkpoints.glob("[0-9]*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return process


def test_kill_9_changes_no_number(runs, long_run):
    run = runs.folder / "run"
    process = start(runs.options("run", LONG), run / "checkpoints", 4)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (run / "results.json").exists()
    assert main(["train", "--resume", str(run)]) == 0
    check_same_run(run, long_run)


@pytest.mark.slow
def test_signals_to_processes_change_no_number(runs, long_run):
    run = runs.folder / "run"
    options, saved = runs.options("run", LONG), 4
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        process = start(options, run / "checkpoints", saved)
        process.send_signal(number)
        out, err = process.communicate(timeout=300)
        assert process.returncode == code, err
        assert "Traceback" not in err
        stopped = re.search(r"stopped at iteration (\d+) of 40; a checkpoint is saved", out)
        assert stopped
        assert load_checkpoint(run / "checkpoints").step == int(stopped[1])
        options, saved = ["train", "--resume", str(run)], int(stopped[1]) + 2
    assert main(options) == 0
    check_same_run(run, long_run)


# --------------------------------------------------------------------------------------------- damaged checkpoints


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "a byte of the weights": lambda folder: flip_a_byte(folder / "model.safetensors"),
    "half of the optimiser": lambda folder: (folder / "states.pt").write_bytes(
        (folder / "states.pt").read_bytes()[:100]
    ),
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "an empty file": lambda folder: (folder / "facts.json").write_text(""),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(runs, logic_run, cut_power, capsys, damage):
    run = runs.folder / "run"
    cut_power(runs.options("run"), PolicyGradient, "_iterate", 8)
    DAMAGE[damage](run / "checkpoints" / "00000006")
    capsys.readouterr()
    assert main(["train", "--resume", str(run)]) == 0
    out = capsys.readouterr().out
    assert re.search(rf"passed over a checkpoint: .*{run}/checkpoints/00000006", out)
    assert f"{run}: going on from iteration 3 of {ITERATIONS}\n" in out
    check_same_run(run, logic_run)


def test_evaluate_and_parse_fall_back_too(runs, capsys):
    run = runs.train("run")
    flip_a_byte(run / "checkpoints" / "00000010" / "policy.safetensors")
    capsys.readouterr()
    assert main(["evaluate", str(run)]) == 0
    assert "passed over a checkpoint" in capsys.readouterr().out
    assert main(["parse", "--run", str(run), "a or b"]) == 0
    captured = capsys.readouterr()
    assert "passed over a checkpoint" in captured.err
    assert captured.out.count("\n") == 1


@pytest.mark.parametrize("command", [["train", "--resume"], ["evaluate"], ["parse", "a", "--run"]])
def test_no_whole_checkpoint_is_bad_input(runs, capsys, command):
    run = runs.train("run")
    for folder in (run / "checkpoints").iterdir():
        flip_a_byte(folder / "model.safetensors")
    capsys.readouterr()
    before = (run / "metrics.jsonl").read_bytes()
    assert main([*command, str(run)]) == 2
    error = capsys.readouterr().err
    assert f"error: no checkpoint in {run}/checkpoints can be used: " in error
    assert error.count("is damaged: its SHA-256") == 2
    assert (run / "metrics.jsonl").read_bytes() == before


# ------------------------------------------------------------------------------------- what --resume takes and keeps


def test_resuming_a_finished_run_changes_nothing(runs, logic_run):
    run = runs.train("run")
    assert main(["train", "--resume", str(run)]) == 0
    check_same_run(run, logic_run)


def test_more_epochs_can_be_asked_for_and_are_remembered(runs, cut_power, capsys):
    run = runs.train("run")
    longer = ["train", "--resume", str(run), "--agent.epochs", "4"]
    cut_power(longer, PolicyGradient, "_iterate", 17)
    assert not (run / "results.json").exists()
    assert main(["train", "--resume", str(run)]) == 0
    assert "going on from iteration 15 of 20" in capsys.readouterr().out
    results = json.loads((run / "results.json").read_text())
    assert results["iterations"] == 20
    assert [entry["iteration"] for entry in results["history"]] == [5, 10, 15, 20]
    steps = [point["step"] for point in points_of(run) if "eval/accuracy" in point]
    assert steps == sorted(set(steps))
    check_same_events(run, run)


def test_a_changed_corpus_is_refused(runs, write_snli, capsys):
    data = write_snli()
    run = runs.train("run", {"data": data, "corpus.generator": None})
    train_file = data / "snli_1.0_train.jsonl"
    train_file.write_text(train_file.read_text().replace("tall", "thin"))
    capsys.readouterr()
    assert main(["train", "--resume", str(run)]) == 2
    assert f"{run} cannot go on: its training examples are not those it began with" in capsys.readouterr().err


def test_a_setting_of_the_run_cannot_change(runs, capsys):
    run = runs.train("run")
    assert main(["train", "--resume", str(run), "--agent.batch-size", "4"]) == 2
    assert "agent.batch_size (8 to 4) cannot change" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["train", "--resume"], ["evaluate"], ["parse", "a", "--run"]])
def test_a_folder_that_is_no_run_is_bad_input(tmp_path, capsys, command):
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert main([*command, str(folder)]) == 2
        error = capsys.readouterr().err
        assert f"{folder}/config.json is missing: {folder} is not the folder of a run" in error


def test_a_run_killed_before_its_first_checkpoint_says_so(runs, monkeypatch, capsys):
    def cut(*args, **kwargs):
        raise PowerCut

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module, "save_file", cut)
        with pytest.raises(PowerCut):
            main(runs.options("run"))
    assert main(["train", "--resume", str(runs.folder / "run")]) == 2
    assert f"there is no checkpoint in {runs.folder}/run/checkpoints" in capsys.readouterr().err
