"""What the curves hold: the documented tags, finite numbers, nothing twice."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from stable_baselines3.common.logger import Logger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from rlparse.errors import NonFiniteLossError
from rlparse_experiments import curves as curves_module
from rlparse_experiments.curves import JsonLines, curves, write_point

SECTIONS = ("rollout", "train", "eval", "time", "samples")


def events_of(run: Path) -> EventAccumulator:
    return EventAccumulator(str(run), size_guidance={"scalars": 0, "tensors": 0}).Reload()


def tags_of(run: Path) -> set[str]:
    tags = events_of(run).Tags()
    return {*tags["scalars"], *(tag.removesuffix("/text_summary") for tag in tags["tensors"])}


def series_of(run: Path) -> dict[str, list[tuple[int, float]]]:
    events = events_of(run)
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def lines_of(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture(scope="session")
def documented(repository) -> set[str]:
    """The tags that have a row in the tables of docs/metrics.md, but for those of some options only."""
    text = (repository / "docs" / "metrics.md").read_text(encoding="utf-8")
    text = re.sub(r"### With some options only.*?\n## ", "", text, flags=re.DOTALL)
    return set(re.findall(rf"^\| `((?:{'|'.join(SECTIONS)})/[a-z0-9_]+)` \|", text, re.MULTILINE))


# ------------------------------------------------------------------------------------------------- tags of real runs


@pytest.mark.parametrize("run", ["logic_run", "listops_run"])
def test_a_run_with_gold_has_exactly_the_documented_tags(request, documented, run):
    assert tags_of(request.getfixturevalue(run)) == documented


def test_a_run_without_gold_lacks_only_what_needs_gold(runs, write_snli, documented):
    run = runs.train("run", {"data": write_snli(parsed=False), "corpus.generator": None})
    assert documented - tags_of(run) == {tag for tag in documented if "gold" in tag}
    assert tags_of(run) <= documented


def test_a_control_lacks_only_what_needs_a_policy(runs, documented, repository):
    run = runs.train("run", {"parser.kind": "left", "run.sample_trees": 0})
    missing = documented - tags_of(run)
    text = (repository / "docs" / "metrics.md").read_text(encoding="utf-8")
    row = next(line for line in text.splitlines() if line.startswith("Runs with a fixed parser"))
    assert missing - {"samples/dev_trees"} == set(re.findall(r"`(\w+/\w+)`", row))


def test_both_formats_hold_the_same_points(logic_run):
    series = series_of(logic_run)
    lines = lines_of(logic_run / "metrics.jsonl")
    for tag, points in series.items():
        written = [(point["step"], point[tag]) for point in lines if tag in point]
        assert [step for step, _ in points] == [step for step, _ in written]
        assert [value for _, value in points] == pytest.approx([value for _, value in written], rel=1e-6)
    assert {tag for point in lines for tag in point} - {"step"} == set(series)


def test_the_x_axis_counts_transitions(logic_run):
    series = series_of(logic_run)
    assert [step for step, _ in series["time/total_timesteps"]] == [
        int(value) for _, value in series["time/total_timesteps"]
    ]
    assert [value for _, value in series["time/iterations"]] == [4, 8, 10]
    assert [value for _, value in series["time/epochs"]] == pytest.approx([0.8, 1.6, 2.0])


def test_signs_and_ranges_are_as_documented(logic_run):
    series = {tag: [value for _, value in points] for tag, points in series_of(logic_run).items()}
    for tag, values in series.items():
        if "f1" in tag or (tag.endswith(("accuracy", "entropy", "reward")) and "cross" not in tag):
            assert all(0 <= value <= 1 for value in values), tag
        if tag.startswith(("time/", "train/grad_norm", "train/learning_rate")) or "cross_entropy" in tag:
            assert all(value > 0 for value in values), tag
    assert series["train/advantage_mean"] == pytest.approx([0, 0, 0], abs=1e-6)  # leave-one-out
    assert series["train/learning_rate_policy"] == sorted(series["train/learning_rate_policy"], reverse=True)


def test_hyper_parameters_name_every_setting_and_existing_curves(logic_run):
    content = events_of(logic_run).PluginTagToContent("hparams")
    start = HParamsPluginData.FromString(content["_hparams_/session_start_info"]).session_start_info
    assert start.hparams["agent.n_parses"].number_value == 2
    assert start.hparams["encoder.composition"].string_value == "tree_lstm"
    experiment = HParamsPluginData.FromString(content["_hparams_/experiment"]).experiment
    metrics = {info.name.tag for info in experiment.metric_infos}
    assert metrics >= {"eval/accuracy", "rollout/reward"}
    assert metrics <= tags_of(logic_run)


def test_sample_trees_are_text_that_keeps_its_columns(logic_run):
    texts = [
        e.tensor_proto.string_val[0].decode()
        for e in events_of(logic_run).Tensors("samples/dev_trees/text_summary")
    ]
    assert len(texts) == 2  # evaluations
    for text in texts:
        assert text.count("```") == 4  # two sentences, each set in a typewriter face
        assert text.count("learned") == text.count("gold") == 2
        assert "┐" in text


# ------------------------------------------------------------------------------------------------------- the writers


def test_lines_after_the_checkpoint_are_dropped_and_so_are_torn_ones(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text(
        '{"step": 5, "a/b": 1.0}\n{"step": 10, "a/b": 2.0}\n{"step": 15, "a/b": 3.0}\n{"step": 7, "a/'
    )
    writer = JsonLines(file, 10)
    writer.write({"a/b": 4.0}, {}, 12)
    writer.close()
    assert lines_of(file) == [{"step": 5, "a/b": 1.0}, {"step": 10, "a/b": 2.0}, {"step": 12, "a/b": 4.0}]


def test_a_line_without_its_end_does_not_swallow_the_next(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 5, "a/b": 1.0}')
    writer = JsonLines(file, 10)
    writer.write({"a/b": 4.0}, {}, 12)
    writer.close()
    assert [point["step"] for point in lines_of(file)] == [5, 12]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_is_in_neither_format(tmp_path, value):
    logger = curves(tmp_path, tmp_path / "metrics.jsonl")
    logger.record("train/policy_loss", 0.5)
    logger.record("train/cross_entropy", value)
    with pytest.raises(
        NonFiniteLossError, match=rf"metric train/cross_entropy is {value} at step 7, expected a finite"
    ):
        logger.dump(7)
    with pytest.raises(NonFiniteLossError, match="metric eval/accuracy is"):
        write_point(logger, {"eval/accuracy": value}, 7)
    logger.close()
    assert (tmp_path / "metrics.jsonl").read_text() == ""
    assert tags_of(tmp_path) == set()


def test_texts_are_left_to_tensorboard(tmp_path):
    logger = curves(tmp_path, tmp_path / "metrics.jsonl")
    write_point(logger, {"samples/dev_trees": "( a b )"}, 3)
    logger.close()
    assert (tmp_path / "metrics.jsonl").read_text() == ""
    assert tags_of(tmp_path) == {"samples/dev_trees"}


def test_a_point_of_its_own_leaves_what_is_being_collected(tmp_path):
    logger = curves(tmp_path, tmp_path / "metrics.jsonl")
    logger.record_mean("rollout/reward", 1.0)
    write_point(logger, {"eval/accuracy": 0.5}, 3)
    logger.record_mean("rollout/reward", 2.0)
    logger.dump(4)
    logger.close()
    assert lines_of(tmp_path / "metrics.jsonl") == [
        {"step": 3, "eval/accuracy": 0.5},
        {"step": 4, "rollout/reward": 1.5},
    ]


def test_points_after_the_checkpoint_are_hidden_in_tensorboard(tmp_path):
    logger = curves(tmp_path, tmp_path / "metrics.jsonl")
    for step in (5, 10, 15, 20):
        write_point(logger, {"eval/accuracy": step / 100}, step)
    logger.close()
    logger = curves(tmp_path, tmp_path / "metrics.jsonl", resumed_at=10)
    for step in (15, 25):
        write_point(logger, {"eval/accuracy": step / 50}, step)
    logger.close()
    assert series_of(tmp_path)["eval/accuracy"] == [
        (5, pytest.approx(0.05)),
        (10, pytest.approx(0.1)),
        (15, pytest.approx(0.3)),
        (25, pytest.approx(0.5)),
    ]
    assert [point["step"] for point in lines_of(tmp_path / "metrics.jsonl")] == [5, 10, 15, 25]


@pytest.mark.parametrize(
    ("age", "waits"), [(0.0, True), (0.7, True), (1.0, False), (60.0, False), (-60.0, False)]
)
def test_event_files_sort_in_the_order_they_were_begun(tmp_path, monkeypatch, age, waits):
    (tmp_path / "events.out.tfevents.1700000000.host.9.0").touch()
    slept: list[float] = []
    monkeypatch.setattr(curves_module.time, "time", lambda: 1_700_000_000 + age)
    monkeypatch.setattr(curves_module.time, "sleep", slept.append)
    curves_module._wait_for_a_later_name(tmp_path)
    assert slept == ([pytest.approx(1 - age)] if waits else [])


def test_sync_reaches_the_disk(tmp_path, monkeypatch):
    logger = curves(tmp_path, tmp_path / "metrics.jsonl")
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    curves_module.sync(logger)
    assert len(synced) == 1
    curves_module.sync(Logger(None, []))
    logger.close()
