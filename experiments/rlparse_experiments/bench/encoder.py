"""Encoders side by side: forward and backward, from embeddings and derivations to all gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from rlparse import lockstep
from rlparse.models.composition import BinaryTreeLSTM
from rlparse.models.stack_machine import StackMachine
from rlparse_experiments.bench.dynet_tree_lstm import DynetTreeLSTM
from rlparse_experiments.bench.list_spinn import encode_with_lean_lists, encode_with_lists
from rlparse_experiments.bench.measuring import Contender, Section, Work
from rlparse_experiments.bench.plain_tree_lstm import encode_one_by_one
from rlparse_experiments.bench.workload import Sentences, draw_sentences, listops_lengths, snli_lengths
from rlparse_experiments.config import BenchConfig

BY_LEVEL, BY_STEP = "rlparse, by level", "rlparse, by step"
RECURSION, LISTS, LEAN_LISTS = "node by node", "lists of tensors", "lists of tensors, lean"
LSTM, GRU = "nn.LSTM, packed", "nn.GRU, packed"
DYNET = "DyNet, autobatch"

BATCHES = 2
"""Batches that every encoder works through each time."""

LISTOPS_BATCHES, LISTOPS_BATCH_SIZE, LISTOPS_HIDDEN_SIZE = 4, 32, 100

Encode = Callable[[Sentences], Tensor]
"""Encode a batch: to [R, D] float."""


class Encoder(NamedTuple):
    """A way to encode sentences.

    Attributes:
        module: Its weights.
        encode: What it does with them.
    """

    module: nn.Module
    encode: Encode


def tree_encoders(cell: BinaryTreeLSTM) -> dict[str, Encoder]:
    """Give the ways to compute one TreeLSTM that PyTorch differentiates; they agree."""

    def scheduled(schedule: str) -> Encode:
        machine = StackMachine(cell, schedule=schedule)

        def encode(batch: Sentences) -> Tensor:
            encoding = machine(batch.embeddings, lockstep.trace(batch.transitions, batch.lengths))
            return cell.hidden(encoding.roots)

        return encode

    return {
        BY_LEVEL: Encoder(cell, scheduled("by_level")),
        BY_STEP: Encoder(cell, scheduled("by_step")),
        LISTS: Encoder(cell, lambda batch: encode_with_lists(cell, batch)),
        LEAN_LISTS: Encoder(cell, lambda batch: encode_with_lean_lists(cell, batch)),
        RECURSION: Encoder(cell, lambda batch: encode_one_by_one(cell, batch)),
    }


def sequence_encoder(rnn: nn.LSTM | nn.GRU) -> Encoder:
    """Read the tokens from left to right; a sentence's vector is the last hidden one."""

    def encode(batch: Sentences) -> Tensor:
        packed = pack_padded_sequence(batch.embeddings, batch.lengths, batch_first=True, enforce_sorted=False)
        last = rnn(packed)[1]
        hidden: Tensor = last[0] if isinstance(last, tuple) else last
        return hidden[0]

    return Encoder(rnn, encode)


def training_work(encoder: Encoder, batches: Sequence[Sentences]) -> Work:
    """Encode all batches and compute the gradients of weights and embeddings."""
    parameters = tuple(encoder.module.parameters())

    def work() -> int:
        for batch in batches:
            total = (encoder.encode(batch) * batch.weights).sum()
            torch.autograd.grad(total, (batch.embeddings, *parameters))
        return sum(len(batch.lengths) for batch in batches)

    return work


def dynet_work(cell: BinaryTreeLSTM, batches: Sequence[Sentences]) -> Work:
    """The same in DyNet."""
    encoder = DynetTreeLSTM(cell)
    tables = [encoder.load(batch) for batch in batches]

    def work() -> int:
        for table, batch in zip(tables, batches, strict=True):
            encoder.forward_backward(table, batch)
        return sum(len(batch.lengths) for batch in batches)

    return work


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """Multiply matrices in this precision of ``torch.set_float32_matmul_precision``, for a while."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def in_precision(precision: str, work: Work) -> Work:
    """Do work in a precision."""

    def inside() -> float:
        with matmul_precision(precision):
            return work()

    return inside


def contenders(
    hidden_size: int, batches: Sequence[Sentences], *, seed: int, precision: str = "highest"
) -> list[Contender]:
    """Give all encoders of one size; in reduced precision only those with a target there."""
    torch.manual_seed(seed)
    cell = BinaryTreeLSTM(hidden_size, hidden_size)
    trees = tree_encoders(cell)
    sequences = {
        LSTM: sequence_encoder(nn.LSTM(hidden_size, hidden_size, batch_first=True)),
        GRU: sequence_encoder(nn.GRU(hidden_size, hidden_size, batch_first=True)),
    }

    def prepare(encoder: Encoder) -> Callable[[], Work]:
        return lambda: in_precision(precision, training_work(encoder, batches))

    if precision != "highest":
        chosen = {name: (trees | sequences)[name] for name in (BY_LEVEL, BY_STEP, LSTM, GRU)}
        return [Contender(name, prepare(encoder)) for name, encoder in chosen.items()]
    return [
        *(Contender(name, prepare(encoder)) for name, encoder in (trees | sequences).items()),
        Contender(DYNET, lambda: dynet_work(cell, batches)),
    ]


def sections(config: BenchConfig) -> list[Section]:
    """Give what ``rlparse bench encoder`` measures."""
    hidden_size = LISTOPS_HIDDEN_SIZE if LISTOPS_HIDDEN_SIZE in config.hidden_size else config.hidden_size[0]

    def snli(hidden_size: int, precision: str) -> Callable[[], list[Contender]]:
        def build() -> list[Contender]:
            rng = np.random.default_rng(config.seed)
            batches = [
                draw_sentences(snli_lengths(config.batch_size, rng), hidden_size, rng) for _ in range(BATCHES)
            ]
            return contenders(hidden_size, batches, seed=config.seed, precision=precision)

        return build

    def listops() -> list[Contender]:
        rng = np.random.default_rng(config.seed)
        size = min(LISTOPS_BATCH_SIZE, config.batch_size)
        lengths = listops_lengths(LISTOPS_BATCHES * size, config.seed).reshape(LISTOPS_BATCHES, size)
        batches = [draw_sentences(row, hidden_size, rng) for row in lengths]
        return contenders(hidden_size, batches, seed=config.seed)

    unit = "sentences/s"
    found = [
        Section(key, f"encoder, hidden size {size}{note}", unit, snli(size, precision))
        for precision, note in (("highest", ""), ("medium", ", matrices in medium precision"))
        for size in config.hidden_size
        for key in [f"encoder/{size}/{precision}"]
    ]
    title = f"encoder, lengths of ListOps, hidden size {hidden_size}"
    return [*found, Section(f"encoder/{hidden_size}/listops", title, unit, listops)]
