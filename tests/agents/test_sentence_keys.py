"""The numbers of a sentence are those of a hash in plain integers."""

from __future__ import annotations

import pytest
import torch

from rlparse_agents.sentence_keys import sentence_keys
from slow_reference import plain_batch

BITS = 2**64


def slow_mix(z: int) -> int:
    """splitmix64's finaliser, as its authors print it."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % BITS
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % BITS
    return z ^ (z >> 31)


def slow_key(seed: int, example: int, side: int, step: int) -> int:
    golden, z = 0x9E3779B97F4A7C15, slow_mix(seed % BITS)
    z = slow_mix((z + example * golden) % BITS)
    z = slow_mix((z + side * golden) % BITS)
    return slow_mix((z + (step + 1) * golden) % BITS)


@pytest.mark.parametrize("seed", [0, 1, -3, 2**40 + 1, 2**63, 2**70])
def test_keys_agree_with_plain_integers(seed):
    batch = plain_batch([[[2, 3], [4]]] * 3)._replace(indices=torch.tensor([5, 0, 2**40]))
    keys = sentence_keys(batch, 4, seed)
    expected = [
        [slow_key(seed, example, side, step) for step in range(4)]
        for side in range(2)
        for example in (5, 0, 2**40)
    ]
    assert keys.dtype == torch.int64
    assert [[key % BITS for key in row] for row in keys.tolist()] == expected


def test_the_finaliser_is_the_published_one():
    """The first outputs of splitmix64 from seed 1234567."""
    golden = 0x9E3779B97F4A7C15
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [slow_mix((1234567 + (k + 1) * golden) % BITS) for k in range(3)] == published


def test_every_bit_is_fair():
    keys = sentence_keys(plain_batch([[[2]] * 2] * 500), 16, seed=0).flatten()
    ones = torch.stack([(keys >> bit & 1).double().mean() for bit in range(64)])
    assert (ones - 0.5).abs().max() < 4 * 0.5 / len(keys) ** 0.5
    assert len(keys.unique()) == len(keys)
