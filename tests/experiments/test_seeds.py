"""`rlparse seeds`: begins, goes on with and skips runs as their folders say, and compares them at the end."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from made_runs import make_measured, make_run
from rlparse.errors import ConfigError
from rlparse_experiments import seeds
from rlparse_experiments.cli import main
from rlparse_experiments.parse_files import read_parses
from rlparse_experiments.processes import Task, run_tasks
from rlparse_experiments.seeds import epochs_done, read_plan, tasks_of

FAKE_TRAIN = """
import json, os, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from made_runs import make_run
arguments = sys.argv[1:]
value = lambda name: arguments[arguments.index(name) + 1]
if "--resume" in arguments:
    folder = Path(value("--resume"))
    stored = json.loads((folder / "config.json").read_text())
    finished = make_run(folder.with_name("." + folder.name), accuracy=0.9, seed=stored["settings"]["seed"])
    for name in ("results.json", "parses"):
        (finished / name).rename(folder / name)
    (finished / "config.json").unlink()
    finished.rmdir()
else:
    seed = int(value("--seed"))
    if seed == {fails}:
        print("one", "two", "three", "four", "five", "the reason", sep="\\n")
        sys.exit({code})
    settings = {{name: int(value("--" + name.replace("__", "."))) for name in ("seed", "corpus__seed", "threads")}}
    make_run(Path(os.environ["RUNS"]) / value("--run.name"), accuracy=0.5 + seed / 100, **settings)
print(*arguments, os.environ["OMP_NUM_THREADS"])
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder for runs; `logic` has the default settings there."""
    empty = tmp_path / "logic.yaml"
    empty.write_text("{}\n")
    monkeypatch.setattr("rlparse_experiments.options.preset_file", lambda name, *folder: empty)
    monkeypatch.setenv("RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


@pytest.fixture
def fake_train(folder, tmp_path, monkeypatch):
    """Put a script in place of training; give what changes its behaviour."""

    def install(*, fails=-1, code=1):
        script = tmp_path / "train.py"
        script.write_text(FAKE_TRAIN.format(tests=str(Path(__file__).parents[1]), fails=fails, code=code))
        monkeypatch.setattr(seeds, "TRAIN", (sys.executable, str(script)))

    install()
    return install


def command(folder, *options):
    return ["seeds", "logic", "--run.folder", str(folder), *options]


def stop(run, checkpoint=True):
    """Make a finished run one that was stopped."""
    (run / "results.json").unlink()
    for file in (run / "parses").iterdir():
        file.unlink()
    (run / "parses").rmdir()
    if checkpoint:
        (run / "checkpoints" / "000004").mkdir(parents=True)
    return run


# --------------------------------------------------------------------------------------------------- planning


def test_every_seed_is_a_run_with_its_own_name(folder):
    plan = read_plan(
        ["logic", "--seeds", "3", "--first-seed", "2", "--agent.n-parses", "8"], prog="rlparse seeds"
    )
    assert [run.name for run in plan.runs] == [f"logic-tracker-seed{seed}" for seed in (2, 3, 4)]
    assert [run.config.seed for run in plan.runs] == [2, 3, 4]
    assert {run.state for run in plan.runs} == {"new"}
    (first, *_) = tasks_of(plan)
    assert first.command == (
        *seeds.TRAIN,
        *("logic", "--agent.n-parses", "8", "--seed", "2", "--run.name", "logic-tracker-seed2"),
        *("--threads", "1", "--corpus.seed", "0", "--run.no-progress"),
    )
    assert first.log == Path("runs/.logs/logic-tracker-seed2.log")


def test_the_preset_may_stand_behind_the_agent(folder):
    for words in (["listops-short", "--agent", "ppo"], ["--agent", "ppo", "listops-short"]):
        plan = read_plan([*words, "--seeds", "1"], prog="rlparse seeds")
        assert [run.name for run in plan.runs] == ["listops-short-ppo-seed0"]


def test_names_threads_and_corpus_can_be_chosen(folder, monkeypatch):
    monkeypatch.setattr(seeds, "_cores", lambda: 7)
    options = ["--name", "mine", "--threads", "2", "--corpus.seed", "5", "--parser.kind", "right"]
    plan = read_plan(options, prog="rlparse seeds")
    assert [run.name for run in plan.runs] == [f"mine-seed{seed}" for seed in range(5)]
    assert plan.jobs == 3
    assert tasks_of(plan)[0].command[-5:] == ("--threads", "2", "--corpus.seed", "5", "--run.no-progress")
    assert read_plan([*options, "--jobs", "2"], prog="rlparse seeds").jobs == 2
    assert read_plan(["--parser.kind", "right"], prog="rlparse seeds").runs[0].name == "logic-right-seed0"
    assert read_plan(["--threads", "9"], prog="rlparse seeds").jobs == 1
    assert seeds._cores() == 7


def test_an_agent_names_its_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = read_plan(["listops-short", "--agent", "left", "--seeds", "1"], prog="rlparse seeds")
    assert plan.runs[0].name == "listops-short-left-seed0"
    assert plan.runs[0].config.agent.system == "left"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["--first-seed", "-1"], "--first-seed must be at least 0, got -1"),
        (["--jobs", "-1"], "--jobs must be at least 0, got -1"),
        (["--seed", "3"], "--seed is of one run: --first-seed and --seeds choose the seeds"),
        (["--run.name=x"], "--run.name is of one run: --name NAME calls the runs NAME-seed0 and so on"),
        (["--resume", "runs/x"], "--resume is of one run: the same command goes on with every run that was"),
    ],
)
def test_options_of_one_run_are_refused(folder, options, message):
    with pytest.raises(ConfigError, match=message):
        read_plan(options, prog="rlparse seeds")


def test_a_name_in_a_file_is_refused_too(folder, tmp_path):
    (tmp_path / "named.yaml").write_text("run:\n  name: x\n")
    with pytest.raises(ConfigError, match=r"run\.name is of one run: --name NAME"):
        read_plan(["--config", str(tmp_path / "named.yaml")], prog="rlparse seeds")


def test_folders_say_what_is_left_to_do(folder):
    make_run(folder / "logic-tracker-seed0", seed=0, corpus__seed=0, threads=4)
    stop(make_run(folder / "logic-tracker-seed2", seed=2, corpus__seed=0))
    plan = read_plan(["--seeds", "3", "--run.folder", str(folder)], prog="rlparse seeds")
    assert [run.state for run in plan.runs] == ["finished", "new", "stopped"]
    resumed, begun = tasks_of(plan)
    assert resumed.command[-3:] == ("--resume", str(folder / "logic-tracker-seed2"), "--run.no-progress")
    assert begun.name == "logic-tracker-seed1"


def test_a_folder_with_another_run_is_refused(folder):
    make_run(folder / "logic-tracker-seed0", seed=0, corpus__seed=0, agent__n_parses=2)
    with pytest.raises(
        ConfigError,
        match=r"seed0 is there already with other settings: agent\.n_parses \(2, asked for 4\); .* with --name",
    ):
        read_plan(["--run.folder", str(folder)], prog="rlparse seeds")


def test_a_run_without_checkpoint_is_refused(folder):
    stop(make_run(folder / "logic-tracker-seed0", seed=0, corpus__seed=0), checkpoint=False)
    with pytest.raises(ConfigError, match="seed0 was stopped before its first checkpoint; remove it"):
        read_plan(["--run.folder", str(folder)], prog="rlparse seeds")


# --------------------------------------------------------------------------------------------------- training


def test_runs_are_trained_continued_skipped_and_compared(folder, fake_train, capsys):
    make_run(folder / "logic-tracker-seed0", seed=0, corpus__seed=0, accuracy=0.5)
    stop(make_run(folder / "logic-tracker-seed1", seed=1, corpus__seed=0))
    assert main(command(folder, "--seeds", "3", "--jobs", "2")) == 0
    out = capsys.readouterr().out
    assert "logic-tracker-seed0: finished already\n" in out
    assert f"2 runs, 2 at a time; what they print: {folder}/.logs\n" in out
    assert "logic-tracker-seed1: goes on\n" in out
    assert "logic-tracker-seed1: accuracy 90.00 %, 1.5 minutes\n" in out
    assert "logic-tracker-seed2: begins\n" in out
    assert "logic-tracker-seed2: accuracy 52.00 %" in out
    assert re.search(r"tracker │ +3 │ 64\.00 ± 22\.54", out)
    assert "compare with others: rlparse compare " in out
    assert (folder / ".logs" / "logic-tracker-seed2.log").read_text().endswith("--run.no-progress 1\n")
    # Given again, there is nothing left to do.
    assert main(command(folder, "--seeds", "3")) == 0
    again = capsys.readouterr().out
    assert again.count("finished already") == 3
    assert "at a time" not in again
    assert re.search(r"tracker │ +3 │ 64\.00 ± 22\.54", again)


FAKE_EVALUATE = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from made_runs import make_measured
folder = Path(sys.argv[1])
if folder.name.endswith({fails!r}):
    sys.exit("the reason")
make_measured(folder, accuracy=0.25, f1_nyu=0.75)
print(*sys.argv[2:])
"""


@pytest.fixture
def fake_evaluate(tmp_path, monkeypatch):
    """Put a script in place of measuring; runs of a name that ends in ``fails`` cannot be measured."""

    def install(*, fails="none"):
        script = tmp_path / "evaluate.py"
        script.write_text(FAKE_EVALUATE.format(tests=str(Path(__file__).parents[1]), fails=fails))
        monkeypatch.setattr(seeds, "EVALUATE", (sys.executable, str(script)))

    return install


def test_the_test_set_has_tables_of_its_own(folder, fake_train, fake_evaluate, capsys):
    for seed, accuracy in enumerate((0.5, 0.25)):
        run = make_run(folder / f"logic-tracker-seed{seed}", seed=seed, corpus__seed=0, accuracy=0.9)
        make_measured(run, accuracy=accuracy, f1_nyu=0.8, exact=0.1 + seed / 10)
    fake_evaluate(fails="seed0")  # nothing is left to measure
    assert main(command(folder, "--seeds", "2", "--run.test")) == 0
    out = capsys.readouterr().out
    assert out.index("Systems on logic: mean") < out.index("Systems on test of logic: mean")
    assert re.search(r"tracker │ +2 │ 37\.50 ± 17\.68", out)
    assert "Every seed on test: 3 examples, %" in out
    cells = [re.findall(r"[\w.()≤]+", line) for line in out[out.index("Every seed") :].splitlines()]
    for row in (
        ["seed", "accuracy", "F1", "nyu", "exact"],
        ["0", "50.00", "80.00", "10.00"],
        ["1", "25.00", "80.00", "20.00"],
        ["mean", "37.50", "80.00", "15.00"],
        ["sd", "17.68", "0.00", "7.07"],
        ["min", "25.00", "80.00", "10.00"],
        ["length", "≤", "3", "2", "18.75", "(12.50)", "80.00", "(80.00)", "15.00", "(10.00)"],
        ["nesting", "1", "3", "37.50", "(25.00)", "80.00", "(80.00)", "15.00", "(10.00)"],
        ["all", "3", "37.50", "(25.00)", "80.00", "(80.00)", "15.00", "(10.00)"],
    ):
        assert row in cells
    assert main(command(folder, "--seeds", "2")) == 0
    assert "on test" not in capsys.readouterr().out


def test_runs_made_without_a_test_are_measured_later(folder, fake_train, fake_evaluate, capsys):
    fake_evaluate()
    make_run(folder / "logic-tracker-seed0", seed=0, corpus__seed=0)
    assert main(command(folder, "--seeds", "2", "--run.test")) == 0
    out = capsys.readouterr().out
    assert out.count(": measured on test\n") == 2
    assert "Every seed on test" in out
    log = (folder / ".logs" / "logic-tracker-seed0-test.log").read_text()
    assert log == f"--split test --detail --out {folder}/logic-tracker-seed0/test --device auto\n"


def test_a_run_that_cannot_be_measured_is_told(folder, fake_train, fake_evaluate, capsys):
    fake_evaluate(fails="seed1")
    assert main(command(folder, "--seeds", "2", "--run.test")) == 1
    out = capsys.readouterr().out
    assert re.search(r"seed1: failed with exit code 1; .*seed1-test\.log ends:\n  the reason\n", out)
    assert re.search(r"tracker │ +1 │ +25\.00", out)


def test_one_seed_says_what_cannot_be_computed(folder, fake_train, capsys):
    assert main(command(folder, "--seeds", "1")) == 0
    assert "one run each, hence no sd, no interval over runs, no self-F1: tracker" in capsys.readouterr().out


def test_a_failed_run_does_not_stop_the_others(folder, fake_train, capsys):
    fake_train(fails=0)
    assert main(command(folder, "--seeds", "2", "--jobs", "1")) == 1
    out = capsys.readouterr().out
    assert "seed0: failed with exit code 1; " in out
    assert ".log ends:\n  two\n  three\n  four\n  five\n  the reason\n" in out
    assert "seed1: accuracy 51.00 %" in out
    assert not (folder / "logic-tracker-seed0").exists()


def test_bad_usage_would_fail_every_run(folder, fake_train, capsys):
    fake_train(fails=0, code=2)
    assert main(command(folder, "--seeds", "3", "--jobs", "1")) == 1
    out = capsys.readouterr().out
    assert "failed with exit code 2" in out
    assert "seed1: begins" not in out
    assert "Systems" not in out


def test_an_interruption_says_how_to_go_on(folder, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("rlparse_experiments.seeds.run_tasks", interrupt)
    assert main(command(folder, "--seeds", "2")) == 130
    assert capsys.readouterr().out.endswith("stopped; the same command goes on\n")


def test_progress_is_read_from_the_curves(tmp_path):
    assert epochs_done(tmp_path) == 0.0
    lines = [json.dumps({"step": 1, "time/epochs": 0.5}), json.dumps({"step": 2, "eval/accuracy": 1.0})]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 3, "time/epochs": 0.']))
    assert epochs_done(tmp_path) == 0.5
    (tmp_path / "metrics.jsonl").write_text("")
    assert epochs_done(tmp_path) == 0.0


def test_real_runs_are_measured_on_the_test_set(tmp_path, session_runs, capsys):
    changes = {"seed": None, "agent.epochs": 0.4, "corpus.generator": "listops", "run.name": None}
    changes |= {"corpus.max_tokens": 12, "corpus.test_max_tokens": -1, "corpus.n_test": 20, "run.test": True}
    options = session_runs.in_folder(tmp_path).options("", changes)[1:]
    assert main(["seeds", *options, "--seeds", "2", "--jobs", "2", "--name", "tiny"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"tiny-seed0: accuracy [\d.]+ %, on test [\d.]+ %, ", out)
    for title in (
        "Systems on test of listops",
        "Every seed on test: 20 examples, %",
        "nesting 1",
        "length ≤ ",
    ):
        assert title in out
    parses = [read_parses(tmp_path / f"tiny-seed{i}" / "test" / "parses.jsonl").records for i in (0, 1)]
    assert [r.tokens for r in parses[0]] == [r.tokens for r in parses[1]]


def test_real_runs_begin_and_end(tmp_path, session_runs, monkeypatch, capsys):
    options = session_runs.in_folder(tmp_path).options("x", {"seed": None, "agent.epochs": 0.4})[1:]
    name = options.index("--run.name")
    del options[name : name + 2]
    assert main(["seeds", *options, "--seeds", "2", "--jobs", "2", "--name", "tiny"]) == 0
    assert re.search(r"tracker │ +2 │", capsys.readouterr().out)
    configs = [json.loads((tmp_path / f"tiny-seed{i}" / "config.json").read_text()) for i in (0, 1)]
    assert [c["settings"]["seed"] for c in configs] == [0, 1]
    assert [c["settings"]["threads"] for c in configs] == [1, 1]
    parses = [read_parses(tmp_path / f"tiny-seed{i}" / "parses" / "dev.jsonl").records for i in (0, 1)]
    tokens = [[record.tokens for record in records] for records in parses]
    assert tokens[0] == tokens[1]  # measured on the same sentences


# --------------------------------------------------------------------------------------------------- processes


def python(code):
    return (sys.executable, "-c", code)


def test_so_many_run_at_a_time(tmp_path):
    alive, most = 0, 0

    def started(task):
        nonlocal alive, most
        alive += 1
        most = max(most, alive)

    def ended(task, code):
        nonlocal alive
        alive -= 1
        return True

    tasks = [Task(str(i), python(f"import sys; sys.exit({i})"), tmp_path / f"{i}.log") for i in range(5)]
    codes = run_tasks(tasks, 2, started=started, ended=ended)
    assert codes == {str(i): i for i in range(5)}
    assert most == 2


def test_a_log_is_locked_while_its_command_runs(tmp_path):
    task = Task("x", python("import time; time.sleep(60)"), tmp_path / "x.log")

    def again(_):
        run_tasks([task], 1)

    with pytest.raises(ConfigError, match=r"x is being run by another process: .*x\.log is locked"):
        run_tasks([task], 1, started=again)
    # The first one was stopped, hence there is no lock any more.
    assert run_tasks([task._replace(command=python(""))], 1) == {"x": 0}


def test_an_interrupted_command_is_asked_to_stop_and_waited_for(tmp_path):
    code = (
        "import signal, sys, time\n"
        "def save(*_):\n    time.sleep(0.3); print('saved'); sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, save); print('ready', flush=True); time.sleep(60)"
    )
    log = tmp_path / "x.log"

    def interrupt():
        if log.read_text() == "ready\n":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_tasks([Task("x", python(code), log)], 1, waiting=interrupt)
    assert log.read_text() == "ready\nsaved\n"


def test_a_second_interrupt_kills(tmp_path):
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    script = (
        "from pathlib import Path\nimport sys\nfrom rlparse_experiments.processes import Task, run_tasks\n"
        f"run_tasks([Task('x', (sys.executable, '-c', {code!r}), Path({str(tmp_path / 'x.log')!r}))], 1)"
    )
    process = subprocess.Popen(python(script), stderr=subprocess.DEVNULL)
    log = tmp_path / "x.log"
    while not (log.is_file() and log.read_text()):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None  # it waits for the command, which does not listen
    process.send_signal(signal.SIGINT)
    process.wait()
    assert run_tasks([Task("x", python(""), log)], 1) == {"x": 0}  # not locked: nothing is left of it
