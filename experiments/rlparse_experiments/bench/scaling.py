"""How costs grow with length and batch: time and memory per token, kernels per step, an epoch on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import nn

from rlparse.models.composition import BinaryTreeLSTM
from rlparse.trees import left_branching
from rlparse_experiments.bench import epoch, kernels
from rlparse_experiments.bench.encoder import BY_LEVEL, training_work, tree_encoders
from rlparse_experiments.bench.measuring import Contender, Section, Work
from rlparse_experiments.bench.memory import peak_bytes_per_token
from rlparse_experiments.bench.workload import IntArray, Sentences, draw_sentences, snli_lengths
from rlparse_experiments.config import BenchConfig

LENGTHS = (10, 30, 100, 300, 1000)
BATCH_SIZES = (64, 128, 256, 512, 1024)
MEMORY_LENGTHS = (100, 300, 1000)
"""Shorter sentences make too small a batch to tell its memory from everything else."""

MIDDLE_LENGTH = 100
"""Batches that keep their number of tokens as sentences grow are those of the usual number of such sentences."""

Builder = Callable[[], list[Contender]]


def token_work(batch: Sentences, seed: int) -> Work:
    """Encode a batch, by level, with all gradients; what is counted is tokens."""
    torch.manual_seed(seed)
    hidden_size = batch.weights.shape[1]
    embedding = nn.Embedding(batch.n_types, hidden_size, padding_idx=0)
    encoder = tree_encoders(embedding, BinaryTreeLSTM(hidden_size, hidden_size))[BY_LEVEL]
    work = training_work(encoder, [batch])
    n_tokens = batch.n_tokens

    def of_tokens() -> int:
        work()
        return n_tokens

    return of_tokens


def sections(config: BenchConfig) -> list[Section]:
    """Give what ``rlparse bench scaling`` measures."""
    size, rows = config.hidden_size[0], config.batch_size
    n_tokens = rows * MIDDLE_LENGTH
    lengths: Sequence[int] = (3, 6) if config.quick else LENGTHS
    batch_sizes: Sequence[int] = (2, 4) if config.quick else BATCH_SIZES
    memory_lengths: Sequence[int] = (100,) if config.quick else MEMORY_LENGTHS

    def drawn(lengths: IntArray, derivations: list[list[int]] | None = None) -> Sentences:
        return draw_sentences(lengths, size, np.random.default_rng(config.seed), derivations)

    def random_trees(n: int) -> Sentences:
        return drawn(np.full(rows, n))

    def chains(n: int) -> Sentences:
        return drawn(np.full(rows, n), [left_branching(n)] * rows)

    def equal_tokens(n: int) -> Sentences:
        return drawn(np.full(max(1, n_tokens // n), n))

    def of_snli(rows: int) -> Sentences:
        return drawn(snli_lengths(rows, np.random.default_rng(config.seed)))

    def over(draw: Callable[[int], Sentences], sizes: Sequence[int], name: str) -> Builder:
        def prepare(n: int) -> Work:
            return token_work(draw(n), config.seed)

        return lambda: [Contender(name.format(n), partial(prepare, n)) for n in sizes]

    def memory() -> list[Contender]:
        def prepare(n: int) -> Callable[[], Work]:
            return lambda: partial(peak_bytes_per_token, rows, n, size, config.seed)

        return [Contender(f"{n} tokens", prepare(n)) for n in memory_lengths]

    timed = {
        "length": (f"{rows} sentences of n tokens, random trees", over(random_trees, lengths, "{} tokens")),
        "chain": (f"{rows} sentences of n tokens, left-branching", over(chains, lengths, "{} tokens")),
        "tokens": (
            f"{n_tokens:,} tokens in sentences of n, random trees",
            over(equal_tokens, lengths, "{} tokens"),
        ),
        "batch": ("batches of n sentences, random trees", over(of_snli, batch_sizes, "{} sentences")),
    }
    peak = f"peak memory, {rows} sentences of n tokens, hidden size {size}"
    return [
        *(
            Section(f"scaling/{key}", f"{title}, hidden size {size}", "tokens/s", build)
            for key, (title, build) in timed.items()
        ),
        Section("scaling/memory", peak, "bytes/token", memory, timed=False),
        kernels.section(config),
        epoch.section(config),
    ]
