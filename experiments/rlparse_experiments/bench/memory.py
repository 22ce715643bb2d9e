"""The peak memory of a forward and backward pass over trees, measured in a process of its own.

``python -m rlparse_experiments.bench.memory SENTENCES TOKENS HIDDEN_SIZE SEED`` prints by how many bytes the peak of
its resident memory grew, over a process that has already done a small pass and holds the big batch. So it is
everything that the pass allocates at once, gradients of weights and embeddings included, and what the allocator wastes.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from rlparse.models.composition import BinaryTreeLSTM
from rlparse_experiments.bench.encoder import BY_LEVEL, training_work, tree_encoders
from rlparse_experiments.bench.measuring import Unavailable
from rlparse_experiments.bench.workload import draw_sentences

TINY_BATCH = (4, 10)
"""Sentences and tokens of the small pass."""


def peak_bytes_per_token(n_sentences: int, n_tokens: int, hidden_size: int, seed: int) -> float:
    """Measure in a new process.

    Raises:
        Unavailable: The process failed.
    """
    numbers = (str(n) for n in (n_sentences, n_tokens, hidden_size, seed))
    command = [sys.executable, "-m", __name__, *numbers]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.splitlines() or ["no message"]
        raise Unavailable(f"the process that measures memory failed: {lines[-1]}")
    return int(done.stdout) / (n_sentences * n_tokens)


def resident_peak() -> int:
    """Bytes of memory that this process has had at once.

    Raises:
        ImportError: The system does not tell.
    """
    status = Path("/proc/self/status")
    if status.is_file():  # Linux, where getrusage would also tell of the process that started this one
        (line,) = (
            line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM")
        )
        return 1024 * int(line.split()[1])
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def growth_of_peak(n_sentences: int, n_tokens: int, hidden_size: int, seed: int) -> int:
    """Do the big pass after a small one and give by how many bytes the peak grew."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(seed)
    small, big = (
        draw_sentences(np.full(rows, n), hidden_size, rng)
        for rows, n in (TINY_BATCH, (n_sentences, n_tokens))
    )
    embedding = nn.Embedding(big.n_types, hidden_size, padding_idx=0)
    encoder = tree_encoders(embedding, BinaryTreeLSTM(hidden_size, hidden_size))[BY_LEVEL]
    training_work(encoder, [small])()
    before = resident_peak()
    training_work(encoder, [big])()
    return resident_peak() - before


if __name__ == "__main__":
    print(growth_of_peak(*map(int, sys.argv[1:])))
