"""An epoch of supervised training on a GPU, over as many drawn pairs as SNLI has."""

from __future__ import annotations

import functools
import time
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rlparse.corpora.batching import Batch
from rlparse.corpora.examples import NLI_LABELS
from rlparse.models.nli_model import NLIModel
from rlparse_agents.rollout import uniform_trees
from rlparse_experiments.bench.measuring import Contender, Section, Unavailable, Work
from rlparse_experiments.bench.workload import WORDS, snli_lengths
from rlparse_experiments.config import BenchConfig, Precision
from rlparse_experiments.precision import matmul_precision

KEY = "epoch"
FLOAT32, TF32 = "float32", "TF32"
PRECISIONS: dict[str, Precision] = {FLOAT32: "highest", TF32: "high"}

PAIRS = 550_000
HIDDEN_SIZE = 300
BATCH_PAIRS = 512


def draw_batches(n_pairs: int, batch_pairs: int, seed: int) -> list[Batch]:
    """Draw pairs of SNLI's lengths over random words, under random trees, sorted by length into batches."""
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    lengths = snli_lengths(2 * n_pairs, rng).reshape(-1, 2)
    lengths = lengths[np.argsort(lengths.max(axis=1), kind="stable")]
    batches = []
    for start in range(0, n_pairs, batch_pairs):
        of_rows = torch.from_numpy(np.concatenate(lengths[start : start + batch_pairs].T))
        batches.append(_draw_batch(of_rows, generator))
    return [batches[number] for number in rng.permutation(len(batches))]


def _draw_batch(lengths: Tensor, generator: torch.Generator) -> Batch:
    rows, longest = len(lengths), int(lengths.max())
    token_mask = torch.arange(longest) < lengths.unsqueeze(1)
    words = torch.randint(2, WORDS, (rows, longest), generator=generator)
    return Batch(
        tokens=words.masked_fill(~token_mask, 0),
        lengths=lengths,
        labels=torch.randint(len(NLI_LABELS), (rows // 2,), generator=generator),
        gold=uniform_trees(lengths, longest, generator),
        has_gold=torch.ones(rows, dtype=torch.bool),
        indices=torch.arange(rows // 2),
    )


def epoch_seconds(
    batches: list[Batch], hidden_size: int, device: torch.device, precision: Precision, seed: int
) -> float:
    """Train a classifier along the given trees over all batches, after three of them to warm up.

    Args:
        batches: From `draw_batches`; pinned, if they are to be copied while the device computes.
        hidden_size: D, also the width of the embeddings.
        device: Where to compute.
        precision: Of matrix products, as ``torch.set_float32_matmul_precision`` has it.
        seed: Of the weights.
    """
    torch.manual_seed(seed)
    model = NLIModel(
        WORDS, len(NLI_LABELS), embedding_size=hidden_size, hidden_size=hidden_size, embedding_std=0.1
    ).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), fused=device.type == "cuda")

    def train(over: list[Batch]) -> None:
        for batch in over:
            moved = batch.to(device)
            loss = F.cross_entropy(model(moved, moved.gold), moved.labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    with matmul_precision(precision):
        train(batches[:3])
        start = time.perf_counter()
        train(batches)
        return time.perf_counter() - start


def section(config: BenchConfig) -> Section:
    """Give the section of the epoch, which needs a CUDA device."""
    pairs, size = (64, 8) if config.quick else (PAIRS, HIDDEN_SIZE)

    @functools.cache
    def batches() -> list[Batch]:
        drawn = draw_batches(pairs, BATCH_PAIRS, config.seed)
        return [Batch(*(field.pin_memory() for field in batch)) for batch in drawn]

    def prepare(precision: Precision) -> Work:
        if not torch.cuda.is_available():
            raise Unavailable("no CUDA device")
        return partial(epoch_seconds, batches(), size, torch.device("cuda"), precision, config.seed)

    return Section(
        KEY,
        f"epoch of {pairs:,} drawn pairs on a GPU, hidden size {size}, known parses",
        "s",
        lambda: [Contender(name, partial(prepare, precision)) for name, precision in PRECISIONS.items()],
        timed=False,
    )
