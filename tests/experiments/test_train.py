from __future__ import annotations

import json
import math
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rlparse.checkpoint import load_checkpoint
from rlparse.parse_scores import score_parses
from rlparse_agents.examiner import Examiner
from rlparse_agents.policy_gradient import PolicyGradient
from rlparse_experiments import callbacks, train
from rlparse_experiments.assembly import make_corpora
from rlparse_experiments.cli import main
from rlparse_experiments.config import TrainConfig
from rlparse_experiments.layered_config import apply_settings, settings_from_mapping
from rlparse_experiments.measured_figures import group_rows, read_measured
from rlparse_experiments.parse_files import read_parses
from rlparse_experiments.report.learning_page import learning_page
from rlparse_experiments.report.tables import sibling_accuracies
from rlparse_experiments.run_folder import RunFolder

LISTOPS = {"corpus.generator": "listops", "corpus.max_tokens": 12}
SHORT = {"agent.epochs": 1, "run.eval_interval": 0, "run.sample_trees": 0}
TREE_ROWS = ("gold", "left", "right", "balanced (floor)", "balanced (ceil)", "random")
POLICY_METRICS = {
    "rollout/entropy",
    "train/policy_loss",
    "train/advantage_mean",
    "train/advantage_std",
    "train/grad_norm_policy",
    "train/learning_rate_policy",
}


def metrics_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def tags_of(run: Path) -> set[str]:
    return {tag for point in metrics_of(run) for tag in point} - {"step"}


def results_of(run: Path) -> dict:
    return json.loads((run / "results.json").read_text())


def numbers_in(value: object) -> list[float]:
    if isinstance(value, dict):
        return [number for item in value.values() for number in numbers_in(item)]
    if isinstance(value, list):
        return [number for item in value for number in numbers_in(item)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


def check_finished(run: Path) -> dict:
    """Whatever trained: all files are there, and all numbers finite."""
    config = json.loads((run / "config.json").read_text())
    assert {"settings", "versions", "command", "commit", "cpus", "device"} <= set(config)
    for name in (
        "corpus.json",
        "vocabulary.json",
        "metrics.jsonl",
        "results.json",
        "parses/dev.jsonl",
        "curves.png",
    ):
        assert (run / name).stat().st_size > 0, name
    assert len(list(run.glob("events.out.tfevents.*"))) == 1
    assert not list(run.rglob("*.tmp"))
    results = results_of(run)
    assert len(numbers_in(results)) > 10
    assert all(map(math.isfinite, numbers_in(results)))
    assert all(math.isfinite(value) for point in metrics_of(run) for value in point.values())
    assert load_checkpoint(run / "checkpoints").step == results["iterations"]
    parses = read_parses(run / "parses" / "dev.jsonl").records
    assert len(parses) == results["parses"]["n_sentences"]
    return results


# ------------------------------------------------------------------------------------- every kind runs to its end


@pytest.mark.parametrize("kind", ["left", "right", "balanced", "random", "gold", "gold_or_right"])
@pytest.mark.parametrize("corpus", [{}, LISTOPS], ids=["logic", "listops"])
def test_every_fixed_parser_trains_an_encoder_and_no_policy(runs, kind, corpus):
    run = runs.train(kind, {**SHORT, **corpus, "parser.kind": kind})
    check_finished(run)
    tags = tags_of(run)
    assert not tags & POLICY_METRICS
    assert {"train/cross_entropy", "rollout/reward", "rollout/accuracy", "eval/accuracy"} <= tags
    assert load_file(run / "checkpoints" / "00000005" / "policy.safetensors") == {}


@pytest.mark.parametrize(
    ("kind", "row"),
    [("left", "left"), ("right", "right"), ("balanced", "balanced_floor"), ("gold", None)],
)
def test_a_fixed_parser_builds_the_trees_of_its_row(runs, kind, row):
    table = check_finished(runs.train(kind, {**SHORT, "parser.kind": kind}))["parses"]
    if row is None:
        assert table["against_gold"]["learned"] == {"nyu": 1.0, "prpn": 1.0, "evalb": 1.0}
        assert table["exact"] == 1.0
    else:
        assert table["against_gold"]["learned"] == table["against_gold"][row]
        assert table["agreement"][row]["nyu"] == 1.0


@pytest.mark.parametrize("composition", ["tree_rnn", "tree_lstm", "gated"])
@pytest.mark.parametrize("corpus", [{}, LISTOPS], ids=["logic", "listops"])
def test_every_composition_trains_with_a_learning_parser(runs, composition, corpus):
    changes = {"encoder.composition": composition, "parser.composition": composition}
    run = runs.train(composition, {**SHORT, **corpus, **changes})
    check_finished(run)
    assert tags_of(run) >= POLICY_METRICS


@pytest.mark.parametrize(
    "changes",
    [
        {"agent.reward": "log_likelihood"},
        {"agent.reward": "gold_f1"},
        {"agent.baseline": "none", "agent.n_parses": 1},
        {"agent.normaliser": "batch_sd", "parser.rate_schedule": "constant"},
        {"parser.reads": "encoder", "parser.catalan_prior": False},
        {"encoder.tracker_size": 4, "encoder.schedule": "by_step"},
        {"encoder.layer_norm": "True", "encoder.weight_decay": 0.1, "parser.weight_decay": 0.1},
        {"encoder.hide_premise": True},
        {"corpus.train_limit": 20, "corpus.min_count": 3, "corpus.lowercase": True},
        {"corpus.max_tokens": 5, "run.progress": False},
    ],
    ids=lambda changes: ",".join(f"{key.split('.')[1]}={value}" for key, value in changes.items()),
)
def test_every_other_setting_trains(runs, changes):
    check_finished(runs.train("run", {**SHORT, **changes}))


@pytest.mark.parametrize("glove", [True, False])
@pytest.mark.parametrize("freeze", [True, False])
def test_frozen_embeddings_stay_as_they_began(runs, tmp_path, glove, freeze):
    changes = {**SHORT, "encoder.freeze_embeddings": freeze, "run.keep_checkpoints": 9}
    if glove:
        changes["encoder.glove"] = tmp_path / "glove.txt"
        changes["encoder.glove"].write_text("or" + " 0.5" * 8 + "\nand" + " -0.25" * 8 + "\n")
    run = runs.train("run", changes)
    first, last = (
        load_file(run / "checkpoints" / step / "model.safetensors")["embedding.weight"]
        for step in ("00000000", "00000005")
    )
    assert torch.equal(first, last) == freeze
    if glove:
        index = RunFolder(run).vocabulary().index("or")
        assert torch.equal(first[index], torch.full((8,), 0.5))


def test_brackets_can_be_tokens(runs, capsys):
    run = runs.train("run", {**SHORT, "corpus.brackets": "tokens", "run.sample_trees": 1})
    check_finished(run)
    records = read_parses(run / "parses" / "dev.jsonl").records
    assert any("(" in record.tokens for record in records)
    assert "-LRB-" in (run / "parses" / "dev.jsonl").read_text()
    assert main(["evaluate", str(run)]) == 0


def test_reward_is_what_the_name_says(runs):
    by_accuracy = metrics_of(runs.train("accuracy", SHORT))[0]
    assert by_accuracy["rollout/reward"] == pytest.approx(by_accuracy["rollout/accuracy"])
    by_likelihood = metrics_of(runs.train("likelihood", {**SHORT, "agent.reward": "log_likelihood"}))[0]
    assert by_likelihood["rollout/reward"] < 0
    by_gold = metrics_of(runs.train("gold", {**SHORT, "agent.reward": "gold_f1", "run.log_interval": 1}))[0]
    assert by_gold["rollout/reward"] == pytest.approx(by_gold["rollout/f1_gold_nyu"])


# --------------------------------------------------------------------------------------------- files as data


def test_parsed_files_train_with_recall_by_label(runs, write_snli, capsys):
    run = runs.train("run", {"data": write_snli(), "corpus.generator": None})
    table = check_finished(run)["parses"]
    assert table["n_gold"] == table["n_sentences"] == 12
    assert set(table["recall"]) == {"S", "NP", "VP"}
    assert "recall by gold label (nyu): " in capsys.readouterr().out


def test_unparsed_files_train_without_gold(runs, write_snli, capsys):
    run = runs.train("run", {"data": write_snli(parsed=False), "corpus.generator": None})
    table = check_finished(run)["parses"]
    assert table["n_gold"] == 0
    assert table["against_gold"] == {}
    assert table["exact"] is None
    assert not [tag for tag in tags_of(run) if "gold" in tag]
    out = capsys.readouterr().out
    assert "no gold parses to compare with" in out
    assert "F1 nyu  " not in out
    assert "learned\n" in out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"agent.reward": "gold_f1"},
            "agent.reward gold_f1 needs a gold parse for every sentence; 24 of 48 training",
        ),
        (
            {"parser.kind": "gold"},
            "parser.kind gold needs a gold parse for every sentence; 24 of 48 training",
        ),
        ({"parser.kind": "gold", "corpus.parsed_only": True}, "6 of 6 dev examples have none"),
    ],
)
def test_missing_gold_is_refused_before_training(runs, write_snli, capsys, changes, message):
    unparsed = write_snli("unparsed", parsed=False)
    parsed = write_snli("parsed", words=("then", "later"))
    train = [folder / "snli_1.0_train.jsonl" for folder in (parsed, unparsed)]
    changes = {"data": train, "dev": unparsed / "snli_1.0_dev.jsonl", "corpus.generator": None, **changes}
    runs.train("run", changes, code=2)
    error = capsys.readouterr().err
    assert message in error
    assert "fault" not in error
    assert not runs.folder.exists()


def test_files_with_and_without_parses_train_together(runs, write_snli):
    unparsed = write_snli("unparsed", parsed=False)
    parsed = write_snli("parsed", words=("then", "later"))
    train = [folder / "snli_1.0_train.jsonl" for folder in (parsed, unparsed)]
    data = {"data": train, "dev": parsed / "snli_1.0_dev.jsonl", "corpus.generator": None}
    for kind in ("tracker", "gold_or_right"):
        table = check_finished(runs.train(kind, {**SHORT, **data, "parser.kind": kind}))["parses"]
        assert table["n_gold"] == table["n_sentences"] == 12
    assert table["exact"] == 1.0


# -------------------------------------------------------------------------------------- what a run leaves behind


def test_config_json_reads_back_as_the_settings(runs):
    changes = {
        "agent.epochs": 0.4,
        "encoder.layer_norm": "False",
        "corpus.operators": (0, 2),
        "parser.kind": "right",
        "run.sample_trees": 0,
    }
    run = runs.train("run", changes)
    stored = json.loads((run / "config.json").read_text())["settings"]
    config = apply_settings(TrainConfig(), settings_from_mapping(stored, "config.json"))
    assert config == RunFolder(run).config()
    assert (config.agent.epochs, config.encoder.layer_norm) == (0.4, False)
    assert (config.corpus.operators, config.parser.kind) == ((0, 2), "right")
    assert config.run.folder == runs.folder
    assert config.threads == torch.get_num_threads()
    assert results_of(run)["iterations"] == 2


def test_stored_figures_follow_from_the_stored_parses(logic_run):
    results = results_of(logic_run)
    records = read_parses(logic_run / "parses" / "dev.jsonl").records
    ours, gold = [r.transitions for r in records], [r.gold for r in records]
    words = [r.tokens for r in records]
    for convention in ("nyu", "prpn", "evalb"):
        f1 = score_parses(ours, gold, words, convention).f1
        assert results["parses"]["against_gold"]["learned"][convention] == pytest.approx(f1)


def test_the_curves_are_also_a_picture(runs, monkeypatch, plot_run, capsys):
    monkeypatch.setattr(train, "plot_run", plot_run)
    run = runs.train("run", SHORT)
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert f"picture:     {run}/curves.png\n" in capsys.readouterr().out


def test_every_evaluation_is_a_point_where_it_happened(logic_run):
    evaluated = [point for point in metrics_of(logic_run) if "eval/accuracy" in point]
    logged = {
        point["time/iterations"]: point["step"]
        for point in metrics_of(logic_run)
        if "train/cross_entropy" in point
    }
    history = results_of(logic_run)["history"]
    assert [entry["iteration"] for entry in history] == [5, 10]
    assert [point["step"] for point in evaluated] == [entry["step"] for entry in history]
    assert [point["eval/accuracy"] for point in evaluated] == [entry["eval/accuracy"] for entry in history]
    assert history[-1]["eval/accuracy"] == results_of(logic_run)["dev_accuracy"]
    # Every fourth iteration, and the two that were left at the end.
    assert set(logged) == {4, 8, 10}
    assert logged[10] == results_of(logic_run)["transitions"]


def test_a_run_shorter_than_every_interval_still_has_curves(runs):
    run = runs.train("run", {"agent.epochs": 0.2, "run.log_interval": 50, "run.eval_interval": 50})
    assert {"rollout/reward", "rollout/f1_gold_nyu", "train/policy_loss", "eval/accuracy"} <= tags_of(run)


def test_steps_count_transitions(runs):
    run = runs.train("run", SHORT)
    lengths = [
        len(json.loads(line)["tokens"]) for line in (run / "parses" / "dev.jsonl").read_text().splitlines()
    ]
    assert results_of(run)["transitions"] == metrics_of(run)[-1]["step"]
    assert lengths  # the dev set does not count: only what training took
    corpora_steps = results_of(run)["transitions"] / 2  # n_parses
    assert corpora_steps == int(corpora_steps)
    assert results_of(run)["iterations"] == 5


def test_the_same_seed_gives_the_same_run_and_another_seed_another(runs):
    first = results_of(runs.train("first", SHORT))
    again = results_of(runs.train("again", SHORT))
    other = results_of(runs.train("other", {**SHORT, "seed": 4}))
    for differing in ("seconds", "peak_memory_gib"):
        del first[differing], again[differing], other[differing]
    assert first == again
    assert first["history"] != other["history"]


# ------------------------------------------------------------------------------------------------- what is shown


def test_the_final_table_names_conventions_and_trees(runs, capsys):
    run = runs.train("run")
    out = capsys.readouterr().out
    header = next(line for line in out.splitlines() if "trees" in line and "accuracy" in line)
    assert " ".join(header.split()) == "trees accuracy F1 nyu F1 prpn F1 evalb depth vs run"
    rows = re.findall(r"^  (\S+(?: \(\w+\))?)  +[\d.–]+ ", out, re.MULTILINE)
    assert rows == ["learned", *TREE_ROWS]
    results = results_of(run)
    learned = next(line for line in out.splitlines() if line.startswith("  learned "))
    shown = [
        results["dev_accuracy"],
        *(results["parses"]["against_gold"]["learned"][c] for c in ("nyu", "prpn", "evalb")),
    ]
    assert learned.split()[1:5] == [f"{100 * value:.2f}" for value in shown]
    assert "24 of 24 sentences have a gold parse" in out
    assert f"run:         {run}\n" in out
    assert f"curves:      tensorboard --logdir {run.parent}\n" in out
    assert f"measure:     rlparse evaluate {run}\n" in out
    assert f"parse:       rlparse parse --run {run} " in out


def test_nothing_is_wider_than_100_columns_but_paths(runs, capsys):
    run = runs.train("run", {"run.sample_trees": 3})
    lines = capsys.readouterr().out.replace(str(run.parent), "RUNS").splitlines()
    assert max(map(len, lines)) <= 100
    assert sum("learned" in line and "gold" in line for line in lines) == 3  # three trees beside gold


def test_the_suggested_parse_command_works(runs, capsys):
    runs.train("run", {**SHORT, "corpus.brackets": "tokens"})
    command = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("parse:"))
    words = shlex.split(command.removeprefix("parse:"))
    assert words[0] == "rlparse"
    assert main(words[1:]) == 0
    assert "-LRB-" in capsys.readouterr().out


def test_accuracies_of_controls_come_from_runs_beside(runs, capsys):
    accuracy = {
        kind: results_of(runs.train(kind, {"parser.kind": kind}))["dev_accuracy"] for kind in ("gold", "left")
    }
    runs.train("another-seed", {"parser.kind": "right", "seed": 4})
    runs.train("another-encoder", {"parser.kind": "right", "encoder.hidden_size": 4})
    runs.train("fewer-epochs", {"parser.kind": "right", "agent.epochs": 1})
    (runs.folder / "no-run").mkdir()
    (runs.folder / "no-run" / "results.json").write_text("{}")
    capsys.readouterr()
    runs.train("run")
    rows = {
        line.split()[0]: line.split()[1]
        for line in capsys.readouterr().out.splitlines()
        if re.match(r"  \w", line)
    }
    assert rows["gold"] == f"{100 * accuracy['gold']:.2f}"
    assert rows["left"] == f"{100 * accuracy['left']:.2f}"
    assert rows["right"] == "–"


@pytest.mark.parametrize(("system", "option"), [("", "--agent"), ("havrylov", "--parser.kind")])
def test_controls_that_fit_are_named(runs, capsys, system, option):
    runs.train("run", {"agent.system": system})
    expected = f"accuracy of other trees: run the same with {option} gold, left, right, balanced or random\n"
    assert expected in capsys.readouterr().out


def test_gold_is_no_control_where_there_is_none(runs, write_snli, capsys):
    runs.train("run", {"data": write_snli(parsed=False)})
    assert "run the same with --agent left, right, balanced or random\n" in capsys.readouterr().out


def test_one_random_tree_a_sentence_is_the_control_of_random_trees(runs):
    run = RunFolder(runs.train("run"))
    accuracies = {"a": 0.1, "random": 0.2, "z": 0.3}
    for name, accuracy in accuracies.items():
        kind = "random" if name == "random" else "random_per_epoch"
        results = runs.train(name, {"parser.kind": kind, "agent.epochs": 2}) / "results.json"
        results.write_text(json.dumps(json.loads(results.read_text()) | {"dev_accuracy": accuracy}))
    assert sibling_accuracies(run.config(), run) == {"uniform": 0.2}


def test_without_a_terminal_every_evaluation_is_a_line(runs, capsys):
    runs.train("run")
    lines = capsys.readouterr().err.splitlines()
    number = r"\d+\.\d"
    assert len(lines) == 2
    assert re.fullmatch(
        rf"iteration 5/10  reward {number}\d\d  dev accuracy {number}  F1 nyu {number}  \d+ s left", lines[0]
    )
    assert re.fullmatch(
        rf"iteration 10/10  reward {number}\d\d  dev accuracy {number}  F1 nyu {number}", lines[1]
    )


def test_progress_can_be_silent(runs, capsys):
    runs.train("run", {**SHORT, "run.progress": False})
    assert capsys.readouterr().err == ""


def test_on_a_terminal_there_is_a_bar(runs, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    runs.train("run")
    err = capsys.readouterr().err
    assert "10/10" in err
    assert "dev accuracy" in err
    assert "iteration 5/10" not in err


@pytest.mark.parametrize(("seconds", "shown"), [(50, "50 s"), (700, "12 min"), (9000, "2.5 h")])
def test_time_left_is_in_the_fitting_unit(monkeypatch, seconds, shown):
    progress = callbacks.Progress(300, None, shown=True)
    progress.model = object.__new__(PolicyGradient)
    progress.model.n_iterations = 200
    progress._began = (100, 1000.0)
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: 1000.0 + seconds)
    assert progress._time_left() == shown


# ------------------------------------------------------------------------------------------------ what goes wrong


def test_an_absurd_learning_rate_ends_with_what_was_good(runs, capsys):
    changes = {"encoder.learning_rate": 1e30, "run.checkpoint_interval": 1, "run.eval_interval": 50}
    run = runs.train("run", changes, code=1)
    error = capsys.readouterr().err
    assert re.search(r"rlparse train: error: the encoder's loss is (nan|inf) at iteration \d", error)
    kept = load_checkpoint(run / "checkpoints")
    assert f"The last good checkpoint, iteration {kept.step}, is kept in {run}/checkpoints" in error
    assert all(
        bool(torch.isfinite(tensor).all()) for part in kept.weights.values() for tensor in part.values()
    )
    assert not (run / "results.json").exists()


def test_a_policy_that_diverges_keeps_the_checkpoint_before(runs, capsys, monkeypatch):
    rewards, asked = Examiner.rewards, []

    def broken(examiner, batch, transitions, logits):
        asked.append(batch)
        found = rewards(examiner, batch, transitions, logits)
        return found * float("nan") if len(asked) == 8 else found

    monkeypatch.setattr(Examiner, "rewards", broken)
    run = runs.train("run", code=1)
    error = capsys.readouterr().err
    assert re.search(
        r"the policy's (loss|gradient) is nan at iteration 7|gradient is nan at iteration 7", error
    )
    assert "The last good checkpoint, iteration 6, is kept" in error
    assert load_checkpoint(run / "checkpoints").step == 6


def test_a_metric_that_is_not_finite_stops_the_run(runs, capsys, monkeypatch):
    measure = callbacks.measure

    def broken(*args, **kwargs):
        return measure(*args, **kwargs)._replace(cross_entropy=float("inf"))

    monkeypatch.setattr(callbacks, "measure", broken)
    run = runs.train("run", code=1)
    assert "metric eval/cross_entropy is inf at step" in capsys.readouterr().err
    assert not (run / "results.json").exists()
    assert not [point for point in metrics_of(run) if "eval/accuracy" in point]


def test_a_taken_name_is_refused_and_nothing_is_touched(runs, capsys):
    run = runs.train("run", SHORT)
    before = sorted(path for path in run.rglob("*"))
    runs.train("run", SHORT, code=2)
    assert "is there already; continue it with --resume" in capsys.readouterr().err
    assert sorted(path for path in run.rglob("*")) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"agent.epochs": 0}, "agent.epochs must be more than 0, got 0"),
        ({"run.log_interval": 0}, "run.log_interval must be at least 1, got 0"),
        ({"run.checkpoint_interval": 0}, "run.checkpoint_interval must be at least 1, got 0"),
        ({"run.keep_checkpoints": 1}, "run.keep_checkpoints must be at least 2, got 1"),
        (
            {"corpus.max_tokens": 1, "corpus.operators": (1, 2)},
            "training examples is left; loosen --corpus.max-tokens",
        ),
        ({"corpus.generator": "none"}, "name the folder or files with --data"),
        ({"dev": "some.tsv"}, "--dev names files to evaluate on, but without --data"),
        ({"agent.n_parses": 1}, "needs agent.n_parses >= 2, got 1"),
        ({"parser.reads": "encoder", "encoder.tracker_size": 4}, "use reads='own'"),
    ],
)
def test_settings_that_do_not_fit_leave_no_folder(runs, capsys, changes, message):
    runs.train("run", changes, code=2)
    assert message in capsys.readouterr().err
    assert not runs.folder.exists() or not list(runs.folder.iterdir())


def test_a_missing_corpus_leaves_no_folder(runs, capsys, tmp_path):
    runs.train("run", {"data": tmp_path / "nowhere", "corpus.generator": None}, code=2)
    assert "nowhere" in capsys.readouterr().err
    assert not runs.folder.exists()


def test_a_run_can_be_moved(runs, capsys):
    run = runs.train("run", SHORT)
    moved = runs.folder / "elsewhere"
    shutil.move(run, moved)
    capsys.readouterr()
    assert main(["evaluate", str(moved)]) == 0
    assert main(["train", "--resume", str(moved)]) == 0
    assert results_of(moved)["iterations"] == 5


# --------------------------------------------------------------------------------------------------- the test set


@pytest.mark.parametrize(
    "changes",
    [
        {"corpus.n_test": 20, "parser.kind": "boundary", "pacing.policy_average": 0.5},
        {**LISTOPS, "corpus.n_test": 30, "corpus.test_max_tokens": -1},
        {"parser.kind": "random_per_epoch"},
        {"parser.kind": "none", "encoder.architecture": "gru", "encoder.composition": None},
    ],
    ids=["averaged", "listops", "random", "gru"],
)
def test_the_final_weights_are_measured_on_the_test_set(runs, tmp_path, capsys, changes):
    run = runs.train("run", {**SHORT, **changes, "run.test": True})
    printed = capsys.readouterr().out
    again = tmp_path / "again"
    assert main(["evaluate", str(run), "--split", "test", "--detail", "--out", str(again)]) == 0
    there = sorted(path.name for path in (run / "test").iterdir())
    assert there == sorted(path.name for path in again.iterdir())
    for name in set(there) - {"results.json"}:
        assert (run / "test" / name).read_bytes() == (again / name).read_bytes()
    ours, theirs = results_of(run / "test"), results_of(again)
    for results in (ours, theirs):
        results["corpus"] = [line.partition(";")[0] for line in results["corpus"]]
    assert ours == theirs
    n = changes.get("corpus.n_test", 12)
    assert len((run / "test" / "predictions.jsonl").read_text().splitlines()) == n
    assert f"-test: {n} examples" in printed[printed.index("dev: 12 examples") :]
    assert "in detail (%): accuracy" in printed


def test_measuring_on_the_test_set_changes_nothing_else(runs):
    plain = runs.train("plain", SHORT)
    tested = runs.train("tested", {**SHORT, "run.test": True})
    assert not (plain / "test").exists()
    for name in ("parses/dev.jsonl", "predictions/dev.jsonl"):
        assert (plain / name).read_bytes() == (tested / name).read_bytes()
    assert results_of(plain)["history"] == results_of(tested)["history"]


def test_the_test_set_of_files_is_measured_on(runs, write_snli):
    data = write_snli()
    changes = {**SHORT, "data": data, "corpus.generator": None, "run.test": True}
    (data / "snli_1.0_test.jsonl").write_text((data / "snli_1.0_dev.jsonl").read_text())
    run = runs.train("run", changes)
    assert results_of(run / "test")["accuracy"] == results_of(run)["dev_accuracy"]
    assert results_of(run / "test")["parses"] == results_of(run)["parses"]


def test_a_missing_test_set_is_refused_before_training(runs, write_snli, capsys):
    changes = {**SHORT, "data": write_snli(), "corpus.generator": None, "run.test": True}
    run = runs.train("run", changes, code=2)
    assert "run.test measures on a test set, and snli has none; leave it out" in capsys.readouterr().err
    assert not run.exists()


def test_gold_parses_are_missed_in_the_test_set_before_training(runs, write_snli, capsys):
    data = write_snli()
    (data / "snli_1.0_test.jsonl").write_text(
        (write_snli("plain", parsed=False) / "snli_1.0_dev.jsonl").read_text()
    )
    changes = {**SHORT, "data": data, "corpus.generator": None, "run.test": True, "parser.kind": "gold"}
    runs.train("run", changes, code=2)
    assert "needs a gold parse for every sentence; 6 of 6 test examples have none" in capsys.readouterr().err


def test_a_run_that_goes_on_is_measured_again(runs):
    run = runs.train("run", {**SHORT, "run.test": True})
    (run / "test" / "results.json").write_text("{}")
    assert main(["train", "--resume", str(run), "--agent.epochs", "2", "--run.no-progress"]) == 0
    assert 0 <= results_of(run / "test")["accuracy"] <= 1


def test_the_test_expressions_may_be_longer(runs):
    config = {**SHORT, **LISTOPS, "corpus.n_test": 40, "run.test": True}
    for cap, longest in ((0, 12), (20, 20), (-1, 10_000)):
        run = runs.train(f"cap{cap}", {**config, "corpus.test_max_tokens": cap})
        lengths = [len(r.tokens) for r in read_parses(run / "test" / "parses.jsonl").records]
        assert len(lengths) == 40
        assert max(lengths) <= longest
        assert (max(lengths) > 12) == (cap != 0)
        assert max(len(r.tokens) for r in read_parses(run / "parses" / "dev.jsonl").records) <= 12
    # As results are published: by length and depth, F1 with and without the root, of lists only, exact.
    found = results_of(run / "test")["diagnosis"]
    scores = {"f1_nyu", "f1_nyu_root_out", "f1_lists_nyu", "f1_lists_nyu_root_out", "exact"}
    assert all(set(row["scores"]) == scores for rows in found["groups"].values() for row in rows)
    assert {"length, up to", "nesting", "depth"} <= set(found["groups"])
    # Where training has no limit, the test has none anyway.
    unlimited = apply_settings(
        TrainConfig(),
        settings_from_mapping({"corpus": {"generator": "listops", "test_max_tokens": -1, "n_train": 9}}, ""),
    )
    assert make_corpora(unlimited).train.lengths.max() > 0


def test_formulas_may_be_tested_by_operators(runs):
    """Every bin of the test is measured for itself: in the run's folder, the tables and the page."""
    changes = {**SHORT, "corpus.n_test": 13, "corpus.test_operators": (7, 12), "run.test": True}
    run = runs.train("run", changes)
    found = results_of(run / "test")["diagnosis"]["groups"]["operators"]
    bins = ["7", "8", "9", "10", "11", "12+"]
    assert [(row["name"], row["n"]) for row in found] == list(zip(bins, [3, 2, 2, 2, 2, 2], strict=True))
    rows = {row[0]: row[1:] for row in group_rows([read_measured(run)])}
    page = learning_page([run])
    for row in found:
        cells = [f"{100 * value:.2f}" for value in (row["accuracy"], row["scores"]["f1_nyu"])]
        assert rows[f"operators {row['name']}"][:3] == [str(row["n"]), *cells]
        for cell in cells:
            assert f"| operators {row['name']} | {row['n']} | {cell} |" in page
    assert any("of 1 to 3 operators, tested on 13 of 7 to 12+. " in line for line in page)


def test_which_bins_are_tested_changes_nothing_else(runs):
    folders = [
        runs.train(f"from{first}", {**SHORT, "run.test": True, "corpus.test_operators": (first, last)})
        for first, last in ((4, 6), (7, 12))
    ]
    for name in ("parses/dev.jsonl", "predictions/dev.jsonl"):
        assert len({(folder / name).read_bytes() for folder in folders}) == 1
    assert results_of(folders[0])["history"] == results_of(folders[1])["history"]


def test_the_bins_of_training_are_no_other_bins(runs):
    """Asked for again, they are the same test set, out of the same cache."""
    first = runs.train("first", {**SHORT, "run.test": True})
    again = runs.train("again", {**SHORT, "run.test": True, "corpus.test_operators": (1, 3)})
    for name in ("parses.jsonl", "predictions.jsonl"):
        assert (first / "test" / name).read_bytes() == (again / "test" / name).read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corpus.n_test": -1}, "corpus.n_test must be at least 0 (as many as for dev), got -1"),
        (
            {**LISTOPS, "corpus.test_max_tokens": -2},
            "corpus.test_max_tokens must be -1 (no limit), 0 (as corpus.max_tokens) or more, got -2",
        ),
        (
            {**LISTOPS, "corpus.test_max_tokens": 11},
            "corpus.test_max_tokens must not be below corpus.max_tokens (12), got 11: training, dev and test",
        ),
        (
            {**LISTOPS, "corpus.max_tokens": 0, "corpus.test_max_tokens": 100},
            "corpus.test_max_tokens must not be below corpus.max_tokens (no limit), got 100",
        ),
        (
            {"corpus.test_operators": (7, 13)},
            "corpus.test_operators must be the first and the last bin, 0 <= first <= last <= 12 (which takes longer",
        ),
        ({"corpus.test_operators": (9, 8)}, "0 0 (as corpus.operators), got 9 8"),
        (
            {"corpus.test_operators": (3, 9)},
            "corpus.test_operators must not overlap corpus.operators (1 3) without being equal, got 3 9: the dev set",
        ),
        (
            {"corpus.operators": (13, 14), "corpus.test_operators": (7, 12)},
            "must not overlap corpus.operators (13 14) without being equal, got 7 12",
        ),
        (
            {"corpus.test_operators": (7, 12), "corpus.n_test": 5},
            "corpus.n_test must be at least 6, an example for each bin of corpus.test_operators (7 12), got 5",
        ),
        (
            {"corpus.test_operators": (4, 12), "corpus.n_dev": 8},
            "corpus.n_test must be at least 9, an example for each bin of corpus.test_operators (4 12), got 8",
        ),
    ],
)
def test_test_sets_that_cannot_be_generated_are_refused(runs, capsys, changes, message):
    runs.train("run", {**SHORT, **changes}, code=2)
    assert message in capsys.readouterr().err
