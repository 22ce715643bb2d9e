"""Configurations of which one setting stands on the command line without its name: ``evaluate RUN``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from rlparse_experiments.config import EvaluateConfig, ParseConfig


@dataclass(frozen=True)
class EvaluateArguments(EvaluateConfig):
    """``rlparse evaluate RUN``."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""


@dataclass(frozen=True)
class ParseArguments(ParseConfig):
    """``rlparse parse "a sentence" … --run RUN``."""

    sentences: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SENTENCE ...")] = ()
    """Sentences, tokenised or not; none reads them from standard input, one a line."""
