"""Files of predictions: the label that a run gave every example. No torch here.

Those of dev are ``RUN/predictions/dev.jsonl``, those of another part ``RUN/SPLIT/predictions.jsonl``.

One line an example, in the corpus's order, whatever the run's encoder reads:

    {"example": "12", "gold": "neutral", "predicted": "entailment"}

They are what differences in accuracy can be bootstrapped from: the same examples are hard for every run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from rlparse.errors import CorpusError
from rlparse_experiments.parse_files import replace_file
from rlparse_experiments.run_folder import RunFolder

FIELDS = ("example", "gold", "predicted")


class Prediction(NamedTuple):
    """What a run took one example for.

    Attributes:
        example: Names the example: its position in the corpus.
        gold: The right label.
        predicted: The run's label.
    """

    example: str
    gold: str
    predicted: str


def predictions_of(run: Path, split: str = "dev") -> Path:
    """Say where a run's predictions are, or would be."""
    measured = RunFolder(run).measured(split) / "predictions.jsonl"
    return measured if split != "dev" and measured.is_file() else run / "predictions" / f"{split}.jsonl"


def write_predictions(path: Path, predictions: Iterable[Prediction]) -> None:
    """Write a file of predictions, as a whole or not at all; its folder is made if need be."""
    lines = (json.dumps(prediction._asdict(), ensure_ascii=False) + "\n" for prediction in predictions)
    replace_file(path, lines)


def read_predictions(path: Path) -> list[Prediction]:
    """Read a file of predictions.

    Raises:
        CorpusError: A line is not a prediction, an example is named twice, or there is none; says where.
        OSError: The file cannot be read.
    """
    found: dict[str, Prediction] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        where = f"{path}, line {number}"
        try:
            fields = json.loads(line)
        except ValueError as error:
            raise CorpusError(f"{where}: expected a JSON object: {error}") from None
        if not isinstance(fields, dict) or not all(isinstance(fields.get(name), str) for name in FIELDS):
            raise CorpusError(
                f"{where}: expected an object with the texts {', '.join(FIELDS)}, found {line[:80]}"
            )
        prediction = Prediction(*(fields[name] for name in FIELDS))
        if prediction.example in found:
            raise CorpusError(f"{where}: example {prediction.example!r} is there already, expected it once")
        found[prediction.example] = prediction
    if not found:
        raise CorpusError(f"{path}: expected predictions, one a line, found none")
    return list(found.values())
