"""Folders of runs: their names, what is read back, and what a damaged one says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rlparse.errors import CheckpointError, ConfigError
from rlparse_experiments.config import (
    AgentConfig,
    CorpusConfig,
    EncoderConfig,
    ParserConfig,
    RunConfig,
    TrainConfig,
)
from rlparse_experiments.run_folder import RunFolder, config_of_run, new_run, settings_record, task_of


def in_folder(path: Path, **changes) -> TrainConfig:
    return TrainConfig(run=RunConfig(folder=path), **changes)


@pytest.mark.parametrize(
    ("data", "task"),
    [
        ((), "logic"),
        (("../shared/data/snli",), "snli"),
        (("data/snli_1.0_train.jsonl.gz", "more.tsv"), "snli_1"),
        (("sick.zip",), "sick"),
    ],
)
def test_a_task_is_named_for_its_data(data, task):
    assert task_of(TrainConfig(data=tuple(map(Path, data)))) == task


def test_a_generated_task_is_named_for_its_generator():
    assert task_of(TrainConfig(corpus=CorpusConfig(generator="listops"))) == "listops"


def test_runs_without_a_name_are_numbered(tmp_path):
    config = in_folder(tmp_path, seed=5, parser=ParserConfig(kind="left"))
    names = [new_run(config).path.name for _ in range(3)]
    assert names == ["logic-left-seed5", "logic-left-seed5-2", "logic-left-seed5-3"]
    assert all((tmp_path / name / "parses").is_dir() for name in names)


def test_runs_without_a_name_are_called_after_their_agent(tmp_path):
    config = in_folder(tmp_path, parser=ParserConfig(kind="boundary"), agent=AgentConfig(system="grpo"))
    assert new_run(config).path.name == "logic-grpo-seed0"


def test_a_name_that_was_asked_for_is_taken_once(tmp_path):
    config = TrainConfig(run=RunConfig(folder=tmp_path / "deep" / "runs", name="mine"))
    assert new_run(config).path == tmp_path / "deep" / "runs" / "mine"
    with pytest.raises(
        FileExistsError, match=r"mine is there already; continue it with --resume .*/mine, or choose"
    ):
        new_run(config)


EVERYTHING_ELSE = TrainConfig(
    data=(Path("a/train.tsv"), Path("b/train.tsv")),
    dev=(Path("dev.tsv"),),
    seed=7,
    device="cpu",
    threads=2,
    corpus=CorpusConfig(
        "none", 1, 2, 8, (3, 4), (5, 6), "dropped", 5, 9, True, 6, 7, True, True, cache=Path("cache")
    ),
    encoder=EncoderConfig(
        composition="gated", layer_norm=False, schedule="by_step", glove=Path("glove.txt"), dropout=0.0
    ),
    parser=ParserConfig("gold_or_right", reads="encoder", catalan_prior=False),
    agent=AgentConfig("a system", "gold_f1", epochs=0.5, baseline="none"),
    run=RunConfig(Path("elsewhere"), "name", progress=False),
)


@pytest.mark.parametrize("config", [TrainConfig(), EVERYTHING_ELSE], ids=["defaults", "everything else"])
def test_settings_survive_the_folder(tmp_path, config):
    (tmp_path / "config.json").write_text(json.dumps({"settings": settings_record(config)}))
    assert config_of_run(tmp_path) == config


def test_settings_that_came_later_take_their_defaults(tmp_path):
    record = settings_record(TrainConfig())
    del record["run"]["sample_trees"], record["corpus"]["test_operators"]
    (tmp_path / "config.json").write_text(json.dumps({"settings": record}))
    assert config_of_run(tmp_path) == TrainConfig()


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, CheckpointError, "config.json is missing: .* is not the folder of a run"),
        ("{", CheckpointError, "config.json is damaged: "),
        ("[]", CheckpointError, "config.json is damaged: expected a JSON object, found list"),
        ("{}", CheckpointError, r"config.json is damaged: expected the field 'settings', found \[\]"),
        ('{"settings": {"agent": {"epocs": 2}}}', ConfigError, "unknown setting 'agent.epocs'; did you mean"),
        ('{"settings": {"agent": {"epochs": "two"}}}', ConfigError, "agent.epochs"),
    ],
)
def test_a_damaged_folder_says_which_file(tmp_path, content, error, message):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(error, match=message):
        config_of_run(tmp_path)


@pytest.mark.parametrize("path", ["nowhere", "file/below"])
def test_no_folder_is_no_run(tmp_path, path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="is not the folder of a run"):
        config_of_run(tmp_path / path)


@pytest.mark.parametrize("content", ["{}", '{"lowercase": false, "tokens": ["a", "a"]}', '{"tokens": 3}'])
def test_a_damaged_vocabulary_says_so(tmp_path, content):
    folder = RunFolder(tmp_path)
    folder.vocabulary_file.write_text(content)
    with pytest.raises(CheckpointError, match=r"vocabulary.json is damaged: "):
        folder.vocabulary()


def test_paths_are_as_documented(tmp_path):
    folder = RunFolder(tmp_path)
    named = (
        folder.config_file,
        folder.corpus_file,
        folder.vocabulary_file,
        folder.metrics_file,
        folder.checkpoints,
        folder.results_file,
        folder.dev_parses,
    )
    assert [str(path.relative_to(tmp_path)) for path in named] == [
        "config.json",
        "corpus.json",
        "vocabulary.json",
        "metrics.jsonl",
        "checkpoints",
        "results.json",
        "parses/dev.jsonl",
    ]


def test_settings_are_frozen():
    with pytest.raises(AttributeError):
        TrainConfig().seed = 3
    assert replace(TrainConfig(), seed=3).seed == 3
