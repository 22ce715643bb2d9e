"""Random numbers that belong to a sentence of a corpus, for whatever has to stay the same all through a run."""

from __future__ import annotations

import torch
from torch import Tensor

from rlparse.corpora.batching import Batch


def sentence_keys(batch: Batch, n_steps: int, seed: int) -> Tensor:
    """Give every sentence random numbers of its own, always the same ones.

    They are a hash of (seed, example, side, step) and need no state: key t of a sentence does not depend on the batch
    that it comes in, on its padding or on the device. The hash is splitmix64's finaliser after each of the four.

    Reference: Steele, Lea & Flood 2014, "Fast Splittable Pseudorandom Number Generators"; Salmon et al. 2011,
    "Parallel Random Numbers: As Easy as 1, 2, 3" (random numbers from counters).

    Args:
        batch: Of R rows; ``indices`` tell which example of the corpus each one is.
        n_steps: Keys a row.
        seed: Any integer; taken modulo 2 ** 64.

    Returns:
        [R, n_steps] int64, any of the 2 ** 64 values equally likely.
    """
    device = batch.indices.device
    start = torch.tensor([_signed(seed)], device=device)
    sides = torch.arange(batch.n_sides, device=device)
    examples = _mix(_mix(start) + batch.indices.long() * _GOLDEN)  # [B]
    rows = _mix(examples + sides.unsqueeze(1) * _GOLDEN).flatten()  # [S * B], side by side
    return _mix(rows.unsqueeze(1) + (torch.arange(n_steps, device=device) + 1) * _GOLDEN)


def _signed(number: int) -> int:
    """Give the int64 of the same 64 bits: torch multiplies and adds modulo 2 ** 64."""
    return (number + 2**63) % 2**64 - 2**63


_GOLDEN = _signed(0x9E3779B97F4A7C15)  # 2 ** 64 / golden ratio, odd
_FACTORS = (_signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB))


def _mix(bits: Tensor) -> Tensor:
    """Scramble 64 bits one to one; shifts are made logical by masking off the copies of the sign."""
    bits = (bits ^ (bits >> 30 & 2**34 - 1)) * _FACTORS[0]
    bits = (bits ^ (bits >> 27 & 2**37 - 1)) * _FACTORS[1]
    return bits ^ (bits >> 31 & 2**33 - 1)
