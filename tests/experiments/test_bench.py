from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from rlparse_experiments.bench import (
    LONGEST,
    SHORTEST,
    Contender,
    Sentences,
    draw_corpus,
    encoders,
    measure_in_turns,
)
from rlparse_experiments.cli import main


class FakeClock:
    """Time that passes only when work is done."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def work(self, seconds: list[float], units: int, name: str, seen: list[str]):
        """A piece of work that takes the given times, one after the other, and notes its name."""
        times = iter(seconds)

        def once() -> int:
            self.now += next(times)
            seen.append(name)
            return units

        return once


def test_contenders_are_timed_in_turns_after_one_warm_up():
    clock, seen = FakeClock(), []
    slow = Contender("g", "slow", "things/s", clock.work([100, 4, 2, 8], 8, "slow", seen))
    fast = Contender("g", "fast", "things/s", clock.work([100, 2, 1, 1], 8, "fast", seen))
    measured = measure_in_turns([slow, fast], rounds=3, least_seconds=0.0, clock=clock)
    assert seen == ["slow", "fast"] * 4
    assert [m.rates for m in measured] == [(2.0, 4.0, 1.0), (4.0, 8.0, 8.0)]
    assert [m.speedup for m in measured] == [1.0, 2.0]  # the median of 2, 2 and 8
    assert measured[0].as_json() == {
        "group": "g",
        "name": "slow",
        "unit": "things/s",
        "rates": (2.0, 4.0, 1.0),
        "speedup": 1.0,
        "median": 2.0,
        "least": 1.0,
        "greatest": 4.0,
    }


def test_short_work_is_repeated_until_the_timing_is_long_enough():
    clock, seen = FakeClock(), []
    quick = Contender("g", "quick", "things/s", clock.work([1.0] * 7, 5, "quick", seen))
    (measured,) = measure_in_turns([quick], rounds=2, least_seconds=2.5, clock=clock)
    assert len(seen) == 1 + 2 * 3
    assert measured.rates == (5.0, 5.0)


def test_drawn_sentences_have_the_lengths_they_are_said_to_have():
    corpus = draw_corpus(2000, np.random.default_rng(0))
    lengths = corpus.lengths
    assert lengths.shape == (2000, 2)
    assert lengths.min() >= SHORTEST
    assert lengths.max() <= LONGEST
    assert 11.5 < lengths.mean() < 12.5
    assert corpus.has_gold.all()
    assert math.isclose(np.log(lengths).std(), 0.5, abs_tol=0.05)


def test_encoders_that_are_compared_compute_the_same():
    corpus = draw_corpus(3, np.random.default_rng(1))
    batch = corpus.batch(np.arange(3))
    sizes = (2 * batch.lengths - 1).tolist()
    derivations = [row[:size] for row, size in zip(batch.gold.tolist(), sizes, strict=True)]
    torch.manual_seed(0)
    embeddings = torch.randn(*batch.tokens.shape, 6, requires_grad=True)
    sentences = Sentences(embeddings, batch.lengths, batch.gold.long(), derivations)
    found = []
    *trees, (name, _, packed) = encoders(6)
    for _, parameters, encode in trees:
        roots = encode(sentences)
        # Squared, so that the gradient depends on the values.
        gradients = torch.autograd.grad((roots**2).sum(), (embeddings, *parameters.parameters()))
        found.append((roots, *gradients))
    assert len(found) == 3
    for other in found[1:]:
        for ours, theirs in zip(found[0], other, strict=True):
            torch.testing.assert_close(ours, theirs)
    assert name == "LSTM, packed"
    assert packed(sentences).shape == (6, 6)


def test_bench_prints_a_table_and_writes_all_figures(tmp_path, capsys):
    threads = torch.get_num_threads()
    file = tmp_path / "bench.json"
    assert main(["bench", "--quick", "--json", str(file)]) == 0
    assert torch.get_num_threads() == threads
    printed = capsys.readouterr().out
    found = json.loads(file.read_text(encoding="utf-8"))
    assert set(found) == {"machine", "settings", "measurements"}
    assert found["machine"]["torch"] == torch.__version__
    assert found["settings"]["quick"] is True
    assert [(m["group"], m["unit"]) for m in found["measurements"]] == [
        *[("encoder, forward and backward", "sentences/s")] * 4,
        ("rollout", "transitions/s"),
        ("training iteration", "transitions/s"),
        ("environment", "steps/s"),
    ]
    for measured in found["measurements"]:
        assert len(measured["rates"]) == 2
        assert 0 < measured["least"] <= measured["median"] <= measured["greatest"] < math.inf
        assert measured["name"] in printed
    assert "sizes too small to mean anything" in printed


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("hidden-size", "0"),
        ("batch-size", "1"),
        ("repeats", "0"),
        ("threads", "0"),
        ("seed", "-1"),
    ],
)
def test_sizes_that_measure_nothing_are_refused(option, value, capsys):
    assert main(["bench", f"--{option}", value]) == 2
    assert f"{option.replace('-', '_')} must be at least" in capsys.readouterr().err
