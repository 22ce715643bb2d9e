"""Write the curves of a run: TensorBoard events and the same points as lines of JSON."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import KVWriter, Logger, TensorBoardOutputFormat
from torch.utils.tensorboard import SummaryWriter

from rlparse.errors import NonFiniteLossError
from rlparse_experiments.parse_files import replace_file


class ResumableTensorBoard(TensorBoardOutputFormat):
    """TensorBoard events that hide, when a run goes on from a checkpoint, the points it will draw again.

    Args:
        folder: Folder of the events.
        purge_step: Points at this step and after are hidden; None keeps all.
    """

    def __init__(self, folder: Path, purge_step: int | None) -> None:
        self.writer = SummaryWriter(log_dir=str(folder), purge_step=purge_step)
        self._is_closed = False


class JsonLines(KVWriter):
    """One line of JSON a point: ``{"step": …, tag: value, …}``; texts are left to TensorBoard.

    Args:
        file: Appended to.
        keep_until: Lines with a larger step are dropped first: a resumed run writes them again.

    Raises:
        NonFiniteLossError: A value is not finite; a curve with holes is a mistake somewhere else.
    """

    def __init__(self, file: Path, keep_until: int | None) -> None:
        if keep_until is not None and file.exists():
            lines = file.read_text(encoding="utf-8").splitlines()
            replace_file(file, [f"{line}\n" for line in lines if _step(line) <= keep_until])
        self._handle = file.open("a", encoding="utf-8")

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        """Append one line with the numbers among the values."""
        numbers = {
            tag: float(value)
            for tag, value in sorted(key_values.items())
            if isinstance(value, int | float) or hasattr(value, "item")
        }
        for tag, number in numbers.items():
            if not math.isfinite(number):
                raise NonFiniteLossError(f"metric {tag} is {number} at step {step}, expected a finite number")
        if numbers:
            self._handle.write(json.dumps({"step": step, **numbers}) + "\n")
            self._handle.flush()

    def sync(self) -> None:
        """Bring what was written to the disk."""
        os.fsync(self._handle.fileno())

    def close(self) -> None:
        """Close the file."""
        self._handle.close()


def _step(line: str) -> int:
    """Step of one line; a line cut off by a kill counts as later than all."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError):
        return 2**62


def curves(folder: Path, metrics_file: Path, *, resumed_at: int | None = None) -> Logger:
    """Open a run's logger, at its beginning or from the step of a checkpoint."""
    purge = None if resumed_at is None else resumed_at + 1
    _wait_for_a_later_name(folder)
    # The lines come first: they refuse a value that is not finite before TensorBoard has it.
    return Logger(str(folder), [JsonLines(metrics_file, resumed_at), ResumableTensorBoard(folder, purge)])


def _wait_for_a_later_name(folder: Path) -> None:
    """Wait, a second at most, until a new event file sorts after the old ones, in whose order TensorBoard reads.

    Their names begin with the second in which they were begun: ``events.out.tfevents.1700000000.host.pid.number``.
    """
    newest = max((int(path.name.split(".")[3]) for path in folder.glob("events.out.tfevents.*")), default=0)
    if 0 < (early := newest + 1 - time.time()) <= 1:
        time.sleep(early)


def sync(logger: Logger) -> None:
    """Bring the points written so far to the disk: a checkpoint that is there promises that they are, too."""
    for writer in logger.output_formats:
        if isinstance(writer, JsonLines):
            writer.sync()


def write_point(logger: Logger, values: Mapping[str, float | str], step: int) -> None:
    """Write one point at once, beside what the logger is still collecting for its own next point."""
    for writer in logger.output_formats:
        writer.write(dict(values), dict.fromkeys(values, ()), step)
