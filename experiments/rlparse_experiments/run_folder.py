"""A run is a folder: where its files lie, and how one is begun and opened. No torch here.

config.json       every setting, and what it ran with
corpus.json       labels, sides and files of the corpora
vocabulary.json   tokens by index
events…           TensorBoard
metrics.jsonl     the same curves as text, one line a point
curves.png        the same as a picture; missing until the run is done
checkpoints/      see `rlparse.checkpoint`
parses/           parses of the dev set, in the format that ``rlparse compare`` reads
predictions/      labels that the dev examples got, likewise
test/             what the final weights do on the test set, if that was asked for; see `measured`
results.json      final figures; missing until the run is done
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlparse.errors import CheckpointError
from rlparse_experiments.config import TrainConfig, as_json
from rlparse_experiments.layered_config import apply_settings, settings_from_mapping

if TYPE_CHECKING:
    from rlparse.vocabulary import Vocabulary


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run."""

    path: Path

    @property
    def config_file(self) -> Path:
        """Every setting."""
        return self.path / "config.json"

    @property
    def corpus_file(self) -> Path:
        """Labels, sides and files."""
        return self.path / "corpus.json"

    @property
    def vocabulary_file(self) -> Path:
        """Tokens by index."""
        return self.path / "vocabulary.json"

    @property
    def metrics_file(self) -> Path:
        """The curves as text."""
        return self.path / "metrics.jsonl"

    @property
    def picture(self) -> Path:
        """The curves as a picture."""
        return self.path / "curves.png"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def results_file(self) -> Path:
        """Final figures."""
        return self.path / "results.json"

    @property
    def dev_parses(self) -> Path:
        """Parses of the dev set."""
        return self.path / "parses" / "dev.jsonl"

    def measured(self, split: str) -> Path:
        """Folder of the figures, predictions and parses on a part of the data other than dev."""
        return self.path / split

    def read(self, file: Path) -> dict[str, Any]:
        """Read one of the run's JSON files.

        Raises:
            CheckpointError: It is missing or not JSON.
        """
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise CheckpointError(
                f"{file} is missing: {self.path} is not the folder of a run (a run is made by `rlparse train`)"
            ) from None
        except ValueError as error:
            raise CheckpointError(f"{file} is damaged: {error}") from error
        if not isinstance(found, dict):
            raise CheckpointError(f"{file} is damaged: expected a JSON object, found {type(found).__name__}")
        return found

    def read_field(self, file: Path, field: str) -> Any:
        """Read one field of one of the run's JSON files.

        Raises:
            CheckpointError: The file is missing, not JSON, or without the field.
        """
        found = self.read(file)
        if field not in found:
            raise CheckpointError(f"{file} is damaged: expected the field '{field}', found {sorted(found)}")
        return found[field]

    def config(self) -> TrainConfig:
        """Read the settings the run was made with.

        Raises:
            CheckpointError: The file is missing or not JSON.
            ConfigError: A setting is unknown to this version.
        """
        stored = self.read_field(self.config_file, "settings")
        return apply_settings(TrainConfig(), settings_from_mapping(stored, str(self.config_file)))

    def vocabulary(self) -> Vocabulary:
        """Read the tokens by index.

        Raises:
            CheckpointError: The file is missing or not a vocabulary.
        """
        from rlparse.vocabulary import Vocabulary  # here, so that help does not wait for numpy

        try:
            return Vocabulary.from_json(self.read(self.vocabulary_file))
        except ValueError as error:
            raise CheckpointError(f"{self.vocabulary_file} is damaged: {error}") from error


def config_of_run(path: Path) -> TrainConfig:
    """Read the settings of the run in a folder; see `RunFolder.config`."""
    return RunFolder(path).config()


def task_of(config: TrainConfig) -> str:
    """Name the task: the data folder's name, or the generator's."""
    if not config.data:
        return config.corpus.generator
    first = config.data[0]
    return first.name if first.suffix == "" else first.name.split(".")[0]


def new_run(config: TrainConfig) -> RunFolder:
    """Begin a run's folder; a name that was not asked for gets a number if it is taken.

    Raises:
        FileExistsError: The name was asked for and is taken.
    """
    if config.run.name:
        path = config.run.folder / config.run.name
        if path.exists():
            raise FileExistsError(
                f"{path} is there already; continue it with --resume {path}, or choose another --run.name"
            )
    else:
        name = f"{task_of(config)}-{config.agent.system or config.parser.kind}-seed{config.seed}"
        path = config.run.folder / name
        number = 2
        while path.exists():
            path = config.run.folder / f"{name}-{number}"
            number += 1
    (path / "parses").mkdir(parents=True)
    return RunFolder(path)


def settings_record(config: TrainConfig) -> dict[str, Any]:
    """Give the settings as they stand in ``config.json``."""
    return as_json(config)
