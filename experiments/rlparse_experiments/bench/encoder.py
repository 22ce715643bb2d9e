"""Encoders side by side: forward and backward, from tokens and derivations to all gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from rlparse import lockstep
from rlparse.models.composition import BinaryTreeLSTM
from rlparse.models.stack_machine import StackMachine, distinct_words
from rlparse_experiments.bench.dynet_tree_lstm import DynetTreeLSTM
from rlparse_experiments.bench.list_spinn import encode_with_lean_lists, encode_with_lists
from rlparse_experiments.bench.measuring import Contender, Section, Work
from rlparse_experiments.bench.plain_tree_lstm import encode_one_by_one
from rlparse_experiments.bench.switches import not_compiled, under
from rlparse_experiments.bench.workload import Sentences, draw_sentences, listops_lengths, snli_lengths
from rlparse_experiments.config import BenchConfig, Precision
from rlparse_experiments.precision import matmul_precision

BY_LEVEL, BY_STEP = "rlparse, by level", "rlparse, by step"
BY_LEVEL_TORCH = "rlparse, by level, not compiled"
RECURSION, LISTS, LEAN_LISTS = "node by node", "lists of tensors", "lists of tensors, lean"
LSTM, GRU = "nn.LSTM, packed", "nn.GRU, packed"
LSTM_PADDED = "nn.LSTM, padded"
LSTM_AUTOCAST = "nn.LSTM, packed, autocast to bfloat16"
DYNET = "DyNet, autobatch"

IN_FULL = (BY_LEVEL, BY_LEVEL_TORCH, BY_STEP, LISTS, LEAN_LISTS, RECURSION, LSTM, LSTM_PADDED, GRU, DYNET)

FASTEST = (BY_LEVEL, BY_LEVEL_TORCH, BY_STEP, LSTM, LSTM_PADDED, GRU)
"""Those that are also compared where no word comes twice, and in reduced precision."""

SHARING = (BY_LEVEL, BY_LEVEL_TORCH, BY_STEP)
"""Those that meet several parses of each sentence: by level a subtree that recurs is composed once."""

N_PARSES = 4
"""Of each sentence, where there are several."""

IN_MEDIUM = (*FASTEST, LSTM_AUTOCAST)
"""Medium precision does not reach the products inside of torch's recurrent networks on every CPU; autocast does."""

UNIT = "sentences/s"

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


def tree_encoders(embedding: nn.Embedding, cell: BinaryTreeLSTM) -> dict[str, Encoder]:
    """Give the ways to compute one TreeLSTM that PyTorch differentiates; they agree."""

    def scheduled(schedule: str) -> Encode:
        machine = StackMachine(cell, schedule=schedule)

        def encode(batch: Sentences) -> Tensor:
            trace = lockstep.trace(batch.transitions, batch.lengths)
            types, words = distinct_words(batch.tokens, batch.n_types)
            roots: Tensor = machine(embedding(types), trace, words).roots
            return roots

        return encode

    ways: dict[str, Encode] = {
        BY_LEVEL: scheduled("by_level"),
        BY_STEP: scheduled("by_step"),
        LISTS: partial(encode_with_lists, embedding, cell),
        LEAN_LISTS: partial(encode_with_lean_lists, embedding, cell),
        RECURSION: partial(encode_one_by_one, embedding, cell),
    }
    return {name: Encoder(nn.ModuleList((embedding, cell)), encode) for name, encode in ways.items()}


def sequence_encoder(embedding: nn.Embedding, rnn: nn.LSTM | nn.GRU) -> Encoder:
    """Read the tokens from left to right; a sentence's vector is the last hidden one."""

    def encode(batch: Sentences) -> Tensor:
        packed = pack_padded_sequence(
            embedding(batch.tokens), batch.lengths, batch_first=True, enforce_sorted=False
        )
        last = rnn(packed)[1]
        hidden: Tensor = last[0] if isinstance(last, tuple) else last
        return hidden[0]

    return Encoder(nn.ModuleList((embedding, rnn)), encode)


def padded_encoder(embedding: nn.Embedding, lstm: nn.LSTM) -> Encoder:
    """Read padding too, which torch's LSTM does in one fused call, and take what it had after each last token."""

    def encode(batch: Sentences) -> Tensor:
        states: Tensor = lstm(embedding(batch.tokens))[0]
        return states[torch.arange(len(batch.lengths)), batch.lengths - 1]

    return Encoder(nn.ModuleList((embedding, lstm)), encode)


def autocast(encode: Encode) -> Encode:
    """Let torch compute in bfloat16 where it thinks fit."""

    def encode_in_short(batch: Sentences) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return encode(batch)

    return encode_in_short


def training_work(encoder: Encoder, batches: Sequence[Sentences]) -> Work:
    """Encode all batches and compute the gradients of weights and embeddings."""
    parameters = tuple(encoder.module.parameters())

    def work() -> int:
        for batch in batches:
            total = (encoder.encode(batch) * batch.weights).sum()
            torch.autograd.grad(total, parameters)
        return sum(len(batch.lengths) for batch in batches)

    return work


def dynet_work(embedding: nn.Embedding, cell: BinaryTreeLSTM, batches: Sequence[Sentences]) -> Work:
    """The same in DyNet."""
    encoder = DynetTreeLSTM(embedding, cell)

    def work() -> int:
        for batch in batches:
            encoder.forward_backward(batch)
        return sum(len(batch.lengths) for batch in batches)

    return work


def contenders(
    hidden_size: int,
    batches: Sequence[Sentences],
    *,
    seed: int,
    precision: Precision = "highest",
    names: Sequence[str] = IN_FULL,
) -> list[Contender]:
    """Give the encoders of some names, in one size."""
    torch.manual_seed(seed)
    embedding = nn.Embedding(max(batch.n_types for batch in batches), hidden_size, padding_idx=0)
    cell = BinaryTreeLSTM(hidden_size, hidden_size)
    trees = tree_encoders(embedding, cell)
    lstm = nn.LSTM(hidden_size, hidden_size, batch_first=True)
    packed = sequence_encoder(embedding, lstm)
    encoders = {
        BY_LEVEL: trees[BY_LEVEL],
        BY_LEVEL_TORCH: trees[BY_LEVEL],
        **trees,
        LSTM: packed,
        LSTM_PADDED: padded_encoder(embedding, lstm),
        LSTM_AUTOCAST: Encoder(packed.module, autocast(packed.encode)),
        GRU: sequence_encoder(embedding, nn.GRU(hidden_size, hidden_size, batch_first=True)),
    }

    def prepare(name: str) -> Work:
        work = under(partial(matmul_precision, precision), training_work(encoders[name], batches))
        return not_compiled(work) if name == BY_LEVEL_TORCH else work

    found = [Contender(name, partial(prepare, name)) for name in encoders]
    found.append(Contender(DYNET, lambda: dynet_work(embedding, cell, batches)))
    return [contender for contender in found if contender.name in names]


def sections(config: BenchConfig) -> list[Section]:
    """Give what ``rlparse bench encoder`` measures."""
    sizes, rows, seed = config.hidden_size, config.batch_size, config.seed
    listops_size = LISTOPS_HIDDEN_SIZE if LISTOPS_HIDDEN_SIZE in sizes else sizes[0]

    def snli(
        hidden_size: int,
        *,
        precision: Precision = "highest",
        names: Sequence[str] = IN_FULL,
        distinct: bool = False,
    ) -> list[Contender]:
        rng = np.random.default_rng(seed)
        batches = [
            draw_sentences(snli_lengths(rows, rng), hidden_size, rng, distinct=distinct)
            for _ in range(BATCHES)
        ]
        return contenders(hidden_size, batches, seed=seed, precision=precision, names=names)

    def listops() -> list[Contender]:
        rng = np.random.default_rng(seed)
        lengths = listops_lengths(LISTOPS_BATCHES * min(LISTOPS_BATCH_SIZE, rows), seed)
        batches = [
            draw_sentences(of_batch, listops_size, rng) for of_batch in np.split(lengths, LISTOPS_BATCHES)
        ]
        return contenders(listops_size, batches, seed=seed)

    def parses(hidden_size: int) -> list[Contender]:
        rng = np.random.default_rng(seed)
        batches = []
        for _ in range(BATCHES):
            drawn = draw_sentences(snli_lengths(rows, rng).repeat(N_PARSES), hidden_size, rng)
            tokens = drawn.tokens[::N_PARSES].repeat_interleave(N_PARSES, dim=0)
            batches.append(drawn._replace(tokens=tokens))
        return contenders(hidden_size, batches, seed=seed, names=SHARING)

    kinds: dict[str, tuple[str, Callable[[int], list[Contender]]]] = {
        "highest": ("", snli),
        "medium": (", matrices in medium precision", partial(snli, precision="medium", names=IN_MEDIUM)),
        "parses": (f", {N_PARSES} random parses of each sentence", parses),
        "distinct": (", no word twice in a batch", partial(snli, names=FASTEST, distinct=True)),
    }
    return [
        *(
            Section(
                f"encoder/{size}/{kind}", f"encoder, hidden size {size}{note}", UNIT, partial(build, size)
            )
            for kind, (note, build) in kinds.items()
            for size in sizes
        ),
        Section(
            f"encoder/{listops_size}/listops",
            f"encoder, lengths of ListOps, hidden size {listops_size}",
            UNIT,
            listops,
        ),
    ]
