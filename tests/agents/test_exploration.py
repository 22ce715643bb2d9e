"""Exploration: schedules of progress, and the weight that holds an entropy."""

from __future__ import annotations

import json
import math
import pickle

import pytest

from rlparse.errors import CheckpointError
from rlparse_agents.exploration import SHAPES, Constant, EntropyTarget, Interpolated, Sinusoidal


def test_a_constant_does_not_change():
    assert [Constant(0.3)(progress) for progress in (0.0, 0.5, 1.0)] == [0.3, 0.3, 0.3]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("start", "end"), [(0.1, 0.02), (1.0, 3.0)])
@pytest.mark.parametrize("over", [1.0, 0.25])
def test_it_goes_from_start_to_end_and_stays(shape, start, end, over):
    schedule = Interpolated(start, end, over=over, shape=shape)
    values = [schedule(over * k / 20) for k in range(21)]
    assert values[0] == pytest.approx(start)
    assert values[10] == pytest.approx((start + end) / 2)
    assert values[-1] == pytest.approx(end)
    assert sorted(values, reverse=start > end) == values
    assert schedule(1.0) == schedule(1.3) == pytest.approx(end)
    assert schedule(-0.1) == pytest.approx(start)


def test_shapes_are_their_formulas():
    line, wave = (Interpolated(2.0, 1.0, over=0.8, shape=shape) for shape in ("linear", "cosine"))
    assert line(0.2) == pytest.approx(1.75)
    assert wave(0.2) == pytest.approx(1.0 + (1.0 + math.cos(math.pi / 4)) / 2)


def test_it_swings_between_high_and_low():
    schedule = Sinusoidal(0.5, 1.5, cycles=4)
    assert [schedule(k / 8) for k in range(9)] == pytest.approx([1.5, 0.5] * 4 + [1.5])
    assert schedule(1 / 16) == pytest.approx(1.0)
    assert all(0.5 <= schedule(k / 97) <= 1.5 for k in range(98))
    assert Sinusoidal(0.7, 0.7)(0.33) == pytest.approx(0.7)
    assert schedule(1.125) == schedule(1.0)  # a run that is continued may pass its end


@pytest.mark.parametrize("schedule", [Constant(1.0), Interpolated(1.0, 0.0), Sinusoidal(0.0, 1.0)])
def test_schedules_can_be_stored_and_compared(schedule):
    assert pickle.loads(pickle.dumps(schedule)) == schedule


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Interpolated(1.0, 0.0, over=0.0), r"over must be in \(0, 1\], got 0.0"),
        (lambda: Interpolated(1.0, 0.0, over=1.5), r"over must be in \(0, 1\], got 1.5"),
        (lambda: Interpolated(1.0, 0.0, shape="square"), "unknown shape 'square'; known: linear, cosine"),
        (lambda: Sinusoidal(2.0, 1.0), "low must not be above high, got 2.0 and 1.0"),
        (lambda: Sinusoidal(0.0, 1.0, cycles=0.0), "cycles must be positive, got 0.0"),
        (lambda: EntropyTarget(0.5, rate=0.0), "rate must be positive, got 0.0"),
        (lambda: EntropyTarget(0.5, start=0.0), "must start between a positive lowest value and a highest"),
        (lambda: EntropyTarget(0.5, lowest=0.0), "must start between a positive lowest value and a highest"),
        (lambda: EntropyTarget(0.5, start=20.0), "must start between a positive lowest value and a highest"),
    ],
)
def test_what_makes_no_sense_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


# ------------------------------------------------------------------------------------------------ target entropy


def test_the_weight_rises_below_the_target_and_falls_above_it():
    held = EntropyTarget(0.5, start=0.1, rate=0.2)
    held.update(0.3, 0.0)
    assert held.weight == pytest.approx(0.1 * math.exp(0.2 * 0.2))
    held.update(0.3, 0.0)
    held.update(0.7, 0.0)
    held.update(0.7, 0.0)
    assert held.weight == pytest.approx(0.1)
    held.update(0.5, 0.0)
    assert held.weight == pytest.approx(0.1)


def test_the_documented_pace():
    held = EntropyTarget(0.5, start=0.01)
    for _ in range(140):
        held.update(0.4, 0.0)
    assert held.weight == pytest.approx(0.02, rel=0.02)


def test_the_weight_stays_within_bounds():
    held = EntropyTarget(0.5, start=0.1, rate=1.0, lowest=0.05, highest=0.2)
    for _ in range(50):
        held.update(0.0, 0.0)
    assert held.weight == 0.2
    for _ in range(50):
        held.update(1.0, 0.0)
    assert held.weight == 0.05


def test_the_target_may_move():
    held = EntropyTarget(Interpolated(0.9, 0.1), start=0.1)
    held.update(0.5, 0.0)
    risen = held.weight
    held.update(0.5, 1.0)
    assert risen > 0.1
    assert held.weight == pytest.approx(0.1)


def test_it_brings_a_policy_to_its_target():
    """A coin whose logit follows a reward for heads and the weighted entropy."""
    held, logit = EntropyTarget(0.6, start=0.01, rate=0.5), 0.0
    for _ in range(3000):
        p = 1 / (1 + math.exp(-logit))
        entropy = -(p * math.log2(p) + (1 - p) * math.log2(1 - p))
        # d/dlogit of p + weight * entropy
        logit += 0.1 * p * (1 - p) * (1 - held.weight * math.log2(p / (1 - p)))
        held.update(entropy, 0.5)
    assert entropy == pytest.approx(0.6, abs=0.01)


def test_it_goes_on_where_it_was():
    one = EntropyTarget(0.5)
    for k in range(5):
        one.update(0.1 * k, 0.0)
    other = EntropyTarget(0.5)
    other.load_state_dict(json.loads(json.dumps(one.state_dict())))
    one.update(0.2, 0.0)
    other.update(0.2, 0.0)
    assert other.weight == one.weight


def test_it_takes_its_own_state_only():
    with pytest.raises(CheckpointError, match="the state of an entropy target has weight, found"):
        EntropyTarget(0.5).load_state_dict({"value": 1.0})


def test_an_entropy_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="the entropy that moves its weight must be finite, got nan"):
        EntropyTarget(0.5).update(math.nan, 0.0)
