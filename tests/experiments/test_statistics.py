"""Statistics of runs: against slow loops, closed forms, and all resamples of samples small enough to list."""

from __future__ import annotations

import math
import statistics as standard
from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlparse_experiments.statistics import (
    Interval,
    bootstrap_interval,
    difference_interval,
    improvement_interval,
    interquartile_mean,
    mean,
    percentile_interval,
    probability_of_improvement,
    resampled_means,
    standard_deviation,
    stratified_resamples,
    two_sided_p,
)

SCORES = st.lists(st.floats(-100, 100), min_size=1, max_size=12)


# ----------------------------------------------------------------------------------------------- of one sample


@given(SCORES.filter(lambda scores: len(scores) > 1))
def test_standard_deviation_is_that_of_a_sample(scores):
    assert standard_deviation(scores) == pytest.approx(standard.stdev(scores), abs=1e-9)


@pytest.mark.parametrize("scores", [[], [1.0]])
def test_one_score_has_no_spread(scores):
    with pytest.raises(ValueError, match=r"a standard deviation needs at least 2 scores in a row, got shape"):
        standard_deviation(scores)


@given(SCORES)
def test_interquartile_mean_drops_a_quarter_at_each_end(scores):
    left = sorted(scores)
    for _ in range(len(scores) // 4):
        left = left[1:-1]
    assert interquartile_mean(np.array(scores)) == pytest.approx(sum(left) / len(left), abs=1e-9)


def test_interquartile_mean_ignores_one_failed_seed_of_five():
    good = np.array([0.9, 0.91, 0.92, 0.93, 0.0])
    assert interquartile_mean(good) == pytest.approx((0.9 + 0.91 + 0.92) / 3)
    assert mean(good) < 0.75


def test_interquartile_mean_is_taken_over_the_last_axis():
    scores = np.random.default_rng(0).normal(size=(3, 2, 9))
    found = interquartile_mean(scores)
    assert found.shape == (3, 2)
    assert found[2, 1] == interquartile_mean(scores[2, 1])


@pytest.mark.parametrize("scores", [np.array([]), np.array(1.0)])
def test_interquartile_mean_of_nothing_is_refused(scores):
    with pytest.raises(ValueError, match="an interquartile mean needs at least 1 score, got shape"):
        interquartile_mean(scores)


# ---------------------------------------------------------------------------------------- other runs: bootstrap


def all_resamples(scores):
    """Every draw of a bootstrap, each as likely as any other."""
    return np.array(list(product(scores, repeat=len(scores))))


def test_draws_come_as_often_as_all_resamples_have_them():
    scores = [1.0, 2.0, 4.0]
    (drawn,) = stratified_resamples([scores], 20_000, seed=1)
    found = Counter(tuple(sorted(row)) for row in drawn.tolist())
    exact = Counter(tuple(sorted(row)) for row in all_resamples(scores).tolist())
    assert len(found) == len(exact) == math.comb(5, 3)
    for resample, count in exact.items():
        assert found[resample] / 20_000 == pytest.approx(count / 27, abs=0.015)


def test_every_stratum_is_drawn_for_itself():
    drawn = stratified_resamples([[1.0, 2.0], [10.0, 20.0, 30.0]], 50, seed=0)
    assert [d.shape for d in drawn] == [(50, 2), (50, 3)]
    assert set(drawn[0].ravel()) == {1.0, 2.0}
    assert set(drawn[1].ravel()) == {10.0, 20.0, 30.0}


@pytest.mark.parametrize("statistic", [mean, interquartile_mean])
def test_interval_agrees_with_the_listed_resamples(statistic):
    scores = [0.3, 0.5, 0.6, 0.65, 0.9]
    exact = np.quantile(statistic(all_resamples(scores)), [0.025, 0.975])
    found = bootstrap_interval([scores], statistic, n_draws=20_000)
    assert found == pytest.approx(tuple(exact), abs=0.02)


def test_interval_of_strata_agrees_with_a_slow_loop():
    strata = [[0.1, 0.2, 0.4], [0.7, 0.9]]
    slow = [
        np.mean([*a, *b])
        for a in all_resamples(strata[0]).tolist()
        for b in all_resamples(strata[1]).tolist()
    ]
    found = bootstrap_interval(strata, mean, level=0.8, n_draws=20_000, seed=3)
    assert found == pytest.approx(tuple(np.quantile(slow, [0.1, 0.9])), abs=0.02)
    # Drawn from one pot, tasks of different difficulty would widen it.
    pooled = bootstrap_interval([strata[0] + strata[1]], mean, level=0.8, n_draws=20_000)
    assert pooled.high - pooled.low > 1.5 * (found.high - found.low)


def test_interval_repeats_with_the_seed():
    scores = np.random.default_rng(0).normal(size=7)
    first, again, other = (bootstrap_interval([scores], n_draws=100, seed=s) for s in (0, 0, 1))
    assert first == again != other
    assert isinstance(first, Interval)


def test_interval_of_a_mean_has_the_width_of_the_standard_error():
    scores = np.random.default_rng(2).normal(size=400)
    found = bootstrap_interval([scores], mean, n_draws=4000)
    error = scores.std() / math.sqrt(400)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.08)


def test_bootstrap_needs_two_runs():
    with pytest.raises(
        ValueError, match=r"a bootstrap over runs needs at least 2 scores in a row, got shape \(1,"
    ):
        bootstrap_interval([[1.0, 2.0], [1.0]])
    with pytest.raises(ValueError, match="a bootstrap needs at least 1 stratum, got none"):
        bootstrap_interval([])


def test_difference_interval_agrees_with_the_listed_resamples():
    ours, theirs = [0.5, 0.7, 0.9], [0.4, 0.45, 0.8]
    slow = [a.mean() - b.mean() for a in all_resamples(ours) for b in all_resamples(theirs)]
    found = difference_interval([(ours, theirs)], n_draws=20_000)
    assert found == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])), abs=0.02)


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0])
def test_level_is_a_share(level):
    with pytest.raises(ValueError, match=f"the level of an interval lies between 0 and 1, got {level}"):
        percentile_interval(np.arange(4.0), level)


def test_percentiles_leave_as_much_on_either_side():
    assert percentile_interval(np.arange(101.0), 0.9) == pytest.approx((5.0, 95.0))


# ------------------------------------------------------------------------------------ probability of improvement


@given(SCORES, SCORES)
def test_probability_of_improvement_counts_pairs(ours, theirs):
    slow = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a in ours for b in theirs)
    found = probability_of_improvement(np.array(ours), np.array(theirs))
    assert found == pytest.approx(slow / (len(ours) * len(theirs)))
    assert found + probability_of_improvement(np.array(theirs), np.array(ours)) == pytest.approx(1.0)


def test_probability_of_improvement_needs_runs_of_both():
    with pytest.raises(ValueError, match="needs runs of both, got 1 and 0"):
        probability_of_improvement(np.ones(1), np.ones(0))


def test_improvement_interval_agrees_with_the_listed_resamples():
    pairs = [([0.5, 0.7], [0.6, 0.4]), ([1.0, 2.0], [2.0, 0.0])]

    def improved(a, b):
        return np.mean([[1.0 if x > y else 0.5 if x == y else 0.0 for y in b] for x in a])

    first, second = ([improved(a, b) for a in all_resamples(x) for b in all_resamples(y)] for x, y in pairs)
    slow = [(p + q) / 2 for p in first for q in second]
    found = improvement_interval(pairs, level=0.7, n_draws=20_000)
    assert found == pytest.approx(tuple(np.quantile(slow, [0.15, 0.85])), abs=0.02)
    with pytest.raises(ValueError, match="needs at least 2 scores"):
        improvement_interval([([1.0], [1.0, 2.0])])


# ----------------------------------------------------------------------------------- other sentences: bootstrap


def test_resampled_means_agree_with_all_resamples():
    values, weights = np.array([[1.0, 0.0], [2.0, 2.0], [0.0, 5.0]]), np.array([1.0, 2.0, 5.0])
    slow = []
    for drawn in product(range(3), repeat=3):
        total = sum(weights[i] for i in drawn)
        slow.append([sum(values[i, k] for i in drawn) / total for k in range(2)])
    found = resampled_means(values, weights, n_draws=30_000)
    for share in (0.1, 0.5, 0.9):
        assert np.quantile(found, share, axis=0) == pytest.approx(np.quantile(slow, share, axis=0), abs=0.02)
    assert found.mean(axis=0) == pytest.approx(np.mean(slow, axis=0), abs=0.02)
    # Paired: the columns move together as they do in the list.
    assert np.corrcoef(found.T)[0, 1] == pytest.approx(np.corrcoef(np.transpose(slow))[0, 1], abs=0.02)


def test_pairing_narrows_the_difference():
    rng = np.random.default_rng(0)
    hardness = rng.normal(size=300)
    values = np.stack([hardness, hardness + 0.1 + 0.01 * rng.normal(size=300)], axis=1)
    found = resampled_means(values, np.ones(300), n_draws=2000)
    difference = found[:, 1] - found[:, 0]
    error = (values[:, 1] - values[:, 0]).std() / math.sqrt(300)
    assert difference.std() == pytest.approx(error, rel=0.1)
    assert found[:, 0].std() > 20 * difference.std()


def test_chunks_change_nothing():
    values = np.random.default_rng(0).normal(size=(5, 2))
    together, apart = (resampled_means(values, np.ones(5), n_draws=7, chunk=chunk) for chunk in (7, 2))
    assert together == pytest.approx(apart, abs=1e-12)


def test_what_has_no_weight_is_never_drawn():
    values, weights = np.array([[0.0], [3.0]]), np.array([0.0, 1.0])
    assert (resampled_means(values, weights, n_draws=20) == 3.0).all()
    with pytest.raises(ValueError, match="a bootstrap over sentences needs one that counts, got none"):
        resampled_means(values, np.zeros(2))
    with pytest.raises(
        ValueError, match=r"expected values \[n, k\] and weights \[n\], got \(2, 1\) and \(3,\)"
    ):
        resampled_means(values, np.ones(3))


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1.0] * 99, 2 / 100),
        ([-1.0] * 99, 2 / 100),
        ([1.0] * 94 + [-1.0] * 5, 12 / 100),
        ([1.0, -1.0] * 3, 1.0),
        ([0.0] * 5, 1.0),
    ],
)
def test_p_counts_the_smaller_side_twice(differences, p):
    assert two_sided_p(np.array(differences)) == pytest.approx(p)
