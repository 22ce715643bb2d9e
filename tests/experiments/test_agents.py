"""`rlparse train TASK --agent NAME`: every system trains, is logged, measured and opened again."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlparse.checkpoint import load_checkpoint
from rlparse_agents.parsing_policy import EncodingPolicy, LearningPolicy
from rlparse_experiments.assembly import LEARNED_PARSERS, open_run
from rlparse_experiments.cli import main
from rlparse_experiments.config import TrainConfig
from rlparse_experiments.layered_config import (
    agent_file,
    agent_names,
    apply_settings,
    preset_file,
    read_settings,
)
from rlparse_experiments.prediction_files import predictions_of

SIZES: dict[str, Any] = {
    "device": "cpu",
    "corpus.n_train": 24,
    "corpus.n_dev": 8,
    "corpus.max_tokens": 10,
    "encoder.embedding_size": 6,
    "encoder.hidden_size": 6,
    "encoder.mlp_size": 6,
    "parser.embedding_size": 6,
    "parser.hidden_size": 6,
    "agent.epochs": 1,
    "agent.batch_size": 8,
    "run.log_interval": 2,
    "run.eval_interval": 2,
    "run.checkpoint_interval": 2,
    "run.sample_trees": 1,
}
"""How small; nothing that an agent's preset is about."""

LOGIC: dict[str, Any] = {"corpus.max_tokens": 0, "corpus.operators": (1, 2)}
ON_PAIRS = ("hypothesis_only",)
"""Agents for tasks of pairs."""

WITHOUT_TREES = ("bag_of_words", "rnn", "lstm", "gru", "peephole_lstm", "bilstm", "hypothesis_only")
Train = Callable[..., Path]


def words_for(task: str, name: str, folder: Path, cache: Path, changes: dict[str, Any]) -> list[str]:
    settings = SIZES | (LOGIC if task == "logic" else {})
    settings |= {"corpus.cache": cache, "run.folder": folder, "run.name": name} | changes
    words = ["train", task]
    for key, value in settings.items():
        if isinstance(value, bool):
            section, _, last = key.rpartition(".")
            words.append(f"--{section}.{last}" if value else f"--{section}.no-{last}")
        else:
            words += [f"--{key}", *map(str, value if isinstance(value, tuple) else (value,))]
    return words


@pytest.fixture(scope="module")
def train(session_runs, tmp_path_factory) -> Train:
    """Train in one folder, expect the exit code and give the run's folder."""
    folder = tmp_path_factory.mktemp("agents")

    def run(task: str, agent: str, *more: str, name: str = "", code: int = 0, **changes: Any) -> Path:
        changes = {key.replace("__", "."): value for key, value in changes.items()}
        words = words_for(task, name or f"{task}-{agent}", folder, session_runs.cache, changes)
        assert main([*words, "--agent", agent, *more]) == code
        return folder / (name or f"{task}-{agent}")

    return run


@pytest.fixture(scope="module")
def of_agent(train) -> Callable[[str], Path]:
    """A finished run of an agent. Not to be changed."""
    runs: dict[str, Path] = {}

    def run(agent: str) -> Path:
        if agent not in runs:
            runs[agent] = train("logic" if agent in ON_PAIRS else "listops-short", agent)
        return runs[agent]

    return run


def results_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def settings_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "config.json").read_text())["settings"]
    return found


def points_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="session")
def documented(repository) -> set[str]:
    """The tags that have a row in a table of docs/metrics.md."""
    text = (repository / "docs" / "metrics.md").read_text(encoding="utf-8")
    return set(re.findall(r"^\| `(\w+/\w+)` \|", text, re.MULTILINE))


# ----------------------------------------------------------------------------------------------- every preset


def test_the_systems_that_are_promised_are_there():
    promised = {
        *("rl_spinn", "havrylov", "yogatama", "reinforce", "rloo", "a2c", "ppo", "grpo", "dr_grpo"),
        *("st_gumbel", "spinn", "spinn_pi", "left", "right", "balanced", "random", "random_per_epoch"),
        *WITHOUT_TREES,
    }
    assert promised <= set(agent_names())


@pytest.mark.parametrize("agent", agent_names())
def test_it_trains_logs_and_is_measured(of_agent, documented, agent):
    run = of_agent(agent)
    settings, results, points = settings_of(run), results_of(run), points_of(run)
    assert settings["agent"]["system"] == results["system"] == agent
    assert results["iterations"] == 3
    tags = {tag for point in points for tag in point} - {"step"}
    assert tags <= documented
    assert all(math.isfinite(value) for point in points for value in point.values())
    has_policy = settings["parser"]["kind"] in ("tracker", "boundary", "easy_first", "shared_tracker")
    assert ("train/policy_loss" in tags) == has_policy
    assert {"train/cross_entropy", "rollout/accuracy", "eval/accuracy"} <= tags
    reads_trees = agent not in WITHOUT_TREES
    assert ("rollout/depth" in tags) == ("eval/depth" in tags) == ("eval/f1_left_nyu" in tags) == reads_trees
    assert (results["parses"] is not None) == reads_trees
    assert (run / "parses" / "dev.jsonl").is_file() == reads_trees
    assert predictions_of(run).is_file()


@pytest.mark.parametrize("agent", agent_names())
def test_it_is_evaluated_and_opened_again(of_agent, tmp_path, capsys, agent):
    run = of_agent(agent)
    out = tmp_path / "out"
    assert main(["evaluate", str(run), "--out", str(out), "--device", "cpu"]) == 0
    stored, found = results_of(run), results_of(out)
    assert found["accuracy"] == stored["dev_accuracy"]
    assert found["cross_entropy"] == pytest.approx(stored["dev_cross_entropy"])
    assert found["parses"] == stored["parses"]
    assert (out / "predictions.jsonl").read_bytes() == predictions_of(run).read_bytes()
    assert (out / "parses.jsonl").is_file() == (agent not in WITHOUT_TREES)
    opened = open_run(run, "cpu")
    learns = isinstance(opened.policy, LearningPolicy | EncodingPolicy)
    assert learns == (opened.config.parser.kind in LEARNED_PARSERS)
    capsys.readouterr()
    sentence = "( p0 or p1 ) and p2" if agent in ON_PAIRS else "[MAX 1 2 3 ]"
    code = main(["parse", sentence, "--run", str(run), "--device", "cpu"])
    printed = capsys.readouterr()
    if agent in WITHOUT_TREES:
        assert code == 2
        assert "reads no trees" in printed.err
    elif agent in ("gold", "spinn_pi"):
        assert code == 2
        assert "typed sentences come with none" in printed.err
    else:
        assert code == 0
        assert printed.out.count("(") == printed.out.count(")") == 4


@pytest.mark.parametrize("agent", agent_names())
def test_what_it_learned_changed_its_weights(of_agent, agent):
    run = of_agent(agent)
    last = load_checkpoint(run / "checkpoints")
    parser = settings_of(run)["parser"]["kind"]
    assert bool(last.weights["policy"]) == (parser in LEARNED_PARSERS)
    assert last.step == 3


def test_pairs_can_be_told_by_their_hypotheses_alone(of_agent):
    assert settings_of(of_agent("hypothesis_only"))["encoder"]["hide_premise"]


def test_hypotheses_alone_need_pairs(train, capsys):
    run = train("listops-short", "hypothesis_only", code=2, name="refused")
    assert "hide_premise needs pairs of sentences, this corpus has single ones" in capsys.readouterr().err
    assert not run.exists()


SYSTEMS = ("rl_spinn", "havrylov", "yogatama", "grpo", "st_gumbel", "spinn", "bilstm", "ppo")


@pytest.mark.parametrize("agent", SYSTEMS)
def test_systems_work_on_pairs_too(train, agent):
    assert math.isfinite(results_of(train("logic", agent))["dev_cross_entropy"])


@pytest.mark.parametrize("agent", ["gold", "spinn", "spinn_pi"])
def test_gold_trees_are_needed_where_they_are_used(train, write_snli, capsys, agent):
    data = str(write_snli(parsed=False))
    train("snli", agent, "--data", data, code=2, name="refused")
    assert "needs a gold parse for every sentence" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------- layering


def test_a_presets_settings_are_those_of_the_run(of_agent):
    """The task's, then the agent's, then those of the command line."""
    for agent in ("grpo", "havrylov", "rl_spinn"):
        expected = apply_settings(TrainConfig(), read_settings(preset_file("listops-short")))
        expected = apply_settings(expected, read_settings(agent_file(agent)))
        found = settings_of(of_agent(agent))
        for section in ("encoder", "parser", "agent", "pacing"):
            for key, value in vars(getattr(expected, section)).items():
                if f"{section}.{key}" not in SIZES and key != "system":
                    assert found[section][key] == value, (agent, section, key)


@pytest.mark.parametrize("task", ["listops", "logic-published"])
def test_controls_never_wait_for_a_competence(task):
    """A control that stayed below it would see short examples only; the estimators pace themselves as the task does."""
    estimators = ("reinforce", "rloo", "a2c", "ppo", "grpo", "dr_grpo")
    of_task = apply_settings(TrainConfig(), read_settings(preset_file(task)))
    assert of_task.pacing.curriculum == "length"
    found = {name: apply_settings(of_task, read_settings(agent_file(name))) for name in agent_names()}
    assert {name for name, config in found.items() if config.pacing.curriculum == "length"} == set(estimators)


def test_layers_are_task_agent_file_and_option(train, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("agent: {n_updates: 3, kl_coef: 0.5, clip_low: 0.1}\n", encoding="utf-8")
    run = train("listops-short", "grpo", "--config", str(file), "--agent.kl-coef", "0.25", name="layers")
    found = settings_of(run)["agent"]
    assert found["normaliser"] == "group_sd"  # the agent's, not the task's
    assert found["max_grad_norm"] == 0.5  # the task's
    assert (found["n_updates"], found["clip_low"]) == (3, 0.1)  # the file's
    assert found["kl_coef"] == 0.25  # the command line's
    assert found["system"] == "grpo"


def test_an_agent_may_stand_anywhere(train, session_runs, tmp_path):
    words = words_for("listops-short", "run", tmp_path, session_runs.cache, {})
    assert main([words[0], "--agent=left", *words[1:]]) == 0
    assert settings_of(tmp_path / "run")["parser"]["kind"] == "left"


def test_no_agent_is_no_system(train, session_runs, tmp_path):
    assert main(words_for("listops-short", "run", tmp_path, session_runs.cache, {})) == 0
    assert settings_of(tmp_path / "run")["agent"]["system"] == results_of(tmp_path / "run")["system"] == ""


def test_an_unknown_agent_is_refused(capsys):
    assert main(["train", "logic", "--agent", "gpro"]) == 2
    error = capsys.readouterr().err
    assert re.search(r"unknown agent 'gpro'; did you mean 'grpo'\? \(agents: a2c, .*yogatama\)", error)


def test_a_resumed_run_keeps_its_agent(of_agent, capsys):
    run = of_agent("left")
    assert main(["train", "--resume", str(run), "--agent", "right"]) == 2
    assert f"--resume takes every setting from {run}; remove the --agent right" in capsys.readouterr().err


def test_the_help_lists_the_agents(capsys):
    assert main(["train", "--agent", "grpo", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "--agent NAME" in shown
    assert "rl_spinn" in shown
    assert "group_sd" in shown  # its settings are the defaults shown


# ------------------------------------------------------------------------------------- what does not go together

REFUSED: list[tuple[str, dict[str, Any], str]] = [
    (
        "lstm",
        {"parser__kind": "left"},
        "encoder.architecture lstm reads no trees, parser.kind left builds some; use",
    ),
    (
        "left",
        {"parser__kind": "none"},
        "encoder.architecture tree needs trees, parser.kind none builds none; use",
    ),
    ("rloo", {"encoder__architecture": "gru"}, "encoder.architecture gru reads no trees, parser.kind"),
    ("spinn", {"encoder__tracker_size": 0}, "the model has tracker_size=0"),
    ("st_gumbel", {"encoder__tracker_size": 4}, "tracker_size=4"),
    (
        "yogatama",
        {"encoder__tracker_size": 4},
        "reads='encoder' cannot read a composition that is fed by a tracker",
    ),
    (
        "left",
        {"encoder__bidirectional": True},
        "--encoder.bidirectional does nothing with encoder.architecture tree; leave it out, or use",
    ),
    ("bag_of_words", {"encoder__truncate": 3}, "truncate"),
    (
        "lstm",
        {"encoder__tracker_size": 3},
        "--encoder.tracker-size does nothing with encoder.architecture lstm",
    ),
    (
        "havrylov",
        {"agent__baseline": "step_value", "agent__ratio": "decision"},
        "parser.kind easy_first does not tell",
    ),
    (
        "spinn",
        {"agent__n_parses": 2},
        "objective='supervised' has one gold parse an example, got agent.n_parses=2",
    ),
    ("rloo", {"agent__n_parses": 1}, "agent.baseline='leave_one_out' compares the parses of one example"),
    ("rl_spinn", {"pacing__warmup": 2}, "pacing.warmup=2 updates the policy apart from the classifier"),
    (
        "lstm",
        {"agent__reward": "gold_f1"},
        "agent.reward gold_f1 scores trees, encoder.architecture lstm reads none",
    ),
    ("rloo", {"agent__pairing": "crosswise"}, "pairing='crosswise' combines the parses of two sentences"),
    (
        "reinforce",
        {"agent__temperature_from": 0.0},
        "agent.temperature_from and agent.temperature_to must be above 0, got 0.0 and 1.0",
    ),
    (
        "reinforce",
        {"agent__temperature": "sinusoidal", "agent__temperature_from": 2.0},
        "the higher one, down to agent.temperature_from, got 1.0 and 2.0; exchange them",
    ),
    (
        "left",
        {"pacing__curriculum": "length", "pacing__curriculum_start": 1},
        "pacing.curriculum_start=1 admits no example",
    ),
    (
        "reinforce",
        {"agent__entropy": "target", "agent__entropy_coef": 0.0},
        "and agent.entropy_coef is 0.0; use one above 0, or --agent.entropy constant",
    ),
]


@pytest.mark.parametrize(("agent", "changes", "message"), REFUSED)
def test_wrong_combinations_are_refused_before_there_is_a_folder(train, capsys, agent, changes, message):
    run = train("listops-short", agent, code=2, name="refused", **changes)
    error = capsys.readouterr().err
    assert message in " ".join(error.split())
    assert "rlparse train: error: " in error
    assert not run.exists()


# ---------------------------------------------------------------------------------------------- paces and averages


def test_a_control_with_an_average_can_be_opened(train, tmp_path):
    """On the command line it would be refused, in a file that serves many systems it is not."""
    settings = tmp_path / "averaged.yaml"
    settings.write_text("pacing: {policy_average: 0.9}\n")
    run = train("listops-short", "left", "--config", str(settings), name="averaged-left")
    assert open_run(run, "cpu").policy is not None


def test_what_is_opened_is_the_average(train):
    run = train(
        "listops-short", "rloo", name="averaged", pacing__policy_average=0.5, parser__learning_rate=0.1
    )
    saved = load_checkpoint(run / "checkpoints").weights
    opened = open_run(run, "cpu").policy.state_dict()
    assert all((opened[name] == value).all() for name, value in saved["policy_average"].items())
    assert any((saved["policy"][name] != value).any() for name, value in opened.items())


# ------------------------------------------------------------------------------------------- tags of some options

WITH_TAGS: list[tuple[str, dict[str, Any], set[str]]] = [
    (
        "ppo",
        {"agent__baseline": "value", "agent__gae_lambda": 1.0},
        {"train/value_loss", "train/clip_fraction"},
    ),
    (
        "grpo",
        {"agent__entropy": "scheduled"},
        {"train/kl_reference", "train/approx_kl", "train/entropy_coef"},
    ),
    ("havrylov", {}, {"rollout/reward_greedy", "train/approx_kl"}),
    ("a2c", {"agent__entropy": "target"}, {"train/value_loss", "train/entropy_coef"}),
    (
        "rloo",
        {
            "agent__temperature": "linear",
            "agent__temperature_to": 2.0,
            "pacing__curriculum": "depth",
            "pacing__curriculum_start": 3,
        },
        {"train/temperature", "train/curriculum"},
    ),
    ("dr_grpo", {"pacing__fresh_start": True}, {"train/phase", "train/attempts"}),
]


def test_every_tag_of_some_options_only_is_drawn_with_them(train, repository):
    text = (repository / "docs" / "metrics.md").read_text(encoding="utf-8")
    (section,) = re.findall(r"### With some options only\n.*?\n## ", text, flags=re.DOTALL)
    promised = set(re.findall(r"^\| `(\w+/\w+)` \|", section, re.MULTILINE))
    seen: set[str] = set()
    for number, (agent, changes, tags) in enumerate(WITH_TAGS):
        run = train("listops-short", agent, name=f"tags-{number}", **changes)
        found = {tag for point in points_of(run) for tag in point}
        assert tags <= found
        seen |= found & promised
    assert seen == promised
