"""Encoders over a range of batch sizes, hidden sizes and lengths: what the plots show."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from rlparse_experiments.bench import encoder
from rlparse_experiments.bench.measuring import Contender, Section, Work
from rlparse_experiments.bench.workload import draw_sentences, snli_lengths
from rlparse_experiments.config import BenchConfig


class Axis(NamedTuple):
    """What is varied.

    Attributes:
        key: Name for files.
        label: Name for people.
        values: From least to greatest.
        of: What is kept, for people.
    """

    key: str
    label: str
    values: tuple[int, ...]
    of: str


FEWER_SENTENCES = 32
"""In a batch of sentences of equal length, so that the longest do not take all the time."""


def axes(config: BenchConfig) -> list[Axis]:
    """Give what is varied."""
    size, rows = config.hidden_size[0], config.batch_size
    few = min(FEWER_SENTENCES, rows)
    values = (
        ((2, 4), (4, 8), (3, 6))
        if config.quick
        else ((8, 32, 128, 512), (50, 100, 200, 400), (10, 30, 100, 300))
    )
    return [
        Axis("batch", "sentences in a batch", values[0], f"lengths of SNLI, hidden size {size}"),
        Axis("hidden", "hidden size", values[1], f"lengths of SNLI, {rows} sentences"),
        Axis("length", "tokens of a sentence", values[2], f"{few} sentences, hidden size {size}"),
    ]


def sections(config: BenchConfig) -> list[Section]:
    """Give a section for every point of every plot; its unit is tokens."""
    size, rows = config.hidden_size[0], config.batch_size
    few = min(FEWER_SENTENCES, rows)
    shapes: dict[str, Callable[[int], tuple[int, int, int | None]]] = {
        "batch": lambda value: (value, size, None),
        "hidden": lambda value: (rows, value, None),
        "length": lambda value: (few, size, value),
    }
    return [
        Section(
            f"sweep/{axis.key}/{value}",
            f"{axis.label}: {value} ({axis.of})",
            "tokens/s",
            _contenders(*shapes[axis.key](value), seed=config.seed),
        )
        for axis in axes(config)
        for value in axis.values
    ]


def _contenders(
    rows: int, hidden_size: int, length: int | None, *, seed: int
) -> Callable[[], list[Contender]]:
    """Give all encoders over one batch, counting tokens."""

    def build() -> list[Contender]:
        rng = np.random.default_rng(seed)
        lengths = snli_lengths(rows, rng) if length is None else np.full(rows, length)
        batch = draw_sentences(lengths, hidden_size, rng)
        found = encoder.contenders(hidden_size, [batch], seed=seed)
        return [Contender(name, partial(_of_tokens, prepare, batch.n_tokens)) for name, prepare in found]

    return build


def _of_tokens(prepare: Callable[[], Work], n_tokens: int) -> Work:
    work = prepare()

    def counted() -> int:
        work()
        return n_tokens

    return counted
