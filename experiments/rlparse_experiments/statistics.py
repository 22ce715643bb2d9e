"""Statistics of a few runs: spread, interquartile mean, bootstraps, probability of improvement. Pure numpy.

Two kinds of chance stand between a table and a claim, and a bootstrap for each is here. Other seeds would have
given other runs: `bootstrap_interval` draws runs. Other sentences would have given other scores of the same
runs: `resampled_means` draws sentences, the same ones for all who are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]

LEVEL = 0.95
"""How much of a bootstrap's draws an interval holds, unless said otherwise."""


class Interval(NamedTuple):
    """Where a bootstrap puts a figure."""

    low: float
    high: float


# ----------------------------------------------------------------------------------------------- of one sample


def standard_deviation(scores: Sequence[float] | Floats) -> float:
    """Return the sample standard deviation, with n - 1 below.

    Raises:
        ValueError: There are fewer than 2 scores, of which no spread is known.
    """
    found = _scores(scores, 2, "a standard deviation")
    return float(found.std(ddof=1))


def interquartile_mean(scores: Floats) -> Floats:
    """Average the middle half: the mean after a quarter of the runs was cut off at either end.

    Of n runs floor(n / 4) are cut at each end, hence none of 1 to 3, where it is the mean. It wastes less than the
    median and, unlike the mean, one failed seed does not move it (from 4 runs on).
    Reference: Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice".

    Args:
        scores: [..., n] float, n >= 1. The last axis is averaged.

    Returns:
        [...] float.

    Raises:
        ValueError: There are no scores.
    """
    n = scores.shape[-1] if scores.ndim else 0
    if n == 0:
        raise ValueError(f"an interquartile mean needs at least 1 score, got shape {scores.shape}")
    cut = n // 4
    middle: Floats = np.sort(scores, axis=-1)[..., cut : n - cut].mean(axis=-1)
    return middle


def mean(scores: Floats) -> Floats:
    """Average the last axis, as `interquartile_mean` does for the middle half."""
    average: Floats = scores.mean(axis=-1)
    return average


# ---------------------------------------------------------------------------------------- other runs: bootstrap


def stratified_resamples(strata: Sequence[Sequence[float] | Floats], n_draws: int, seed: int) -> list[Floats]:
    """Draw as many runs as there are, with replacement, in every stratum for itself.

    The strata are tasks: a draw never trades a run on one task for a run on another, so that no draw is all of
    the easy task. With one stratum it is the plain bootstrap. Reference: Agarwal et al. 2021 (see
    `interquartile_mean`), after Efron 1979, "Bootstrap Methods: Another Look at the Jackknife".

    Args:
        strata: One sample of scores per stratum.
        n_draws: How many resamples.
        seed: Of the draws.

    Returns:
        Per stratum [n_draws, n] float.

    Raises:
        ValueError: There is no stratum, or one has fewer than 2 scores: every draw of it would be the same.
    """
    if not strata:
        raise ValueError("a bootstrap needs at least 1 stratum, got none")
    rng = np.random.default_rng(seed)
    drawn = []
    for stratum in strata:
        found = _scores(stratum, 2, "a bootstrap over runs")
        drawn.append(found[rng.integers(len(found), size=(n_draws, len(found)))])
    return drawn


def bootstrap_interval(
    strata: Sequence[Sequence[float] | Floats],
    statistic: Statistic = interquartile_mean,
    *,
    level: float = LEVEL,
    n_draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """Bound a statistic of all runs by the percentiles of a stratified bootstrap.

    Runs of all strata are pooled before the statistic is taken, as Agarwal et al. 2021 do. Of n runs there are only
    C(2n - 1, n) different resamples, 3 of two and 10 of three: such intervals are too narrow, but not wrong about
    what was seen.

    Args:
        strata: One sample of scores per stratum (task).
        statistic: From [..., n] scores to [...].
        level: Share of the draws inside.
        n_draws: How many resamples.
        seed: Of the draws.

    Raises:
        ValueError: As `stratified_resamples`.
    """
    drawn = stratified_resamples(strata, n_draws, seed)
    return percentile_interval(statistic(np.concatenate(drawn, axis=-1)), level)


def difference_interval(
    pairs: Sequence[tuple[Sequence[float] | Floats, Sequence[float] | Floats]],
    *,
    level: float = LEVEL,
    n_draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """Bound the difference of two systems' means, averaged over tasks; every system's runs are drawn for themselves.

    Args:
        pairs: Per task our scores and theirs.
        level: Share of the draws inside.
        n_draws: How many resamples.
        seed: Of the draws.

    Raises:
        ValueError: There is no task, or a system has fewer than 2 runs on one.
    """
    drawn = stratified_resamples([scores for pair in pairs for scores in pair], n_draws, seed)
    by_task = [mean(a) - mean(b) for a, b in zip(drawn[::2], drawn[1::2], strict=True)]
    return percentile_interval(np.mean(by_task, axis=0), level)


def percentile_interval(draws: Floats, level: float = LEVEL) -> Interval:
    """Return the percentiles between which a share ``level`` of the draws lies, as much outside on either side.

    Raises:
        ValueError: The level is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"the level of an interval lies between 0 and 1, got {level}")
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


# ------------------------------------------------------------------------------------ probability of improvement


def probability_of_improvement(ours: Floats, theirs: Floats) -> Floats:
    """Return how likely a run of ours is better than a run of theirs; a tie counts half.

        P = 1 / (n m) * sum_i sum_j [ours_i > theirs_j] + [ours_i = theirs_j] / 2

    It is Mann and Whitney's U / (n m). Reference: Agarwal et al. 2021 (see `interquartile_mean`).

    Args:
        ours: [..., n] float, n >= 1.
        theirs: [..., m] float, m >= 1.

    Returns:
        [...] float.

    Raises:
        ValueError: Either has no runs.
    """
    if ours.shape[-1] == 0 or theirs.shape[-1] == 0:
        raise ValueError(
            f"a probability of improvement needs runs of both, got {ours.shape[-1]} and {theirs.shape[-1]}"
        )
    difference = ours[..., :, None] - theirs[..., None, :]
    share: Floats = ((difference > 0) + 0.5 * (difference == 0)).mean(axis=(-2, -1))
    return share


def improvement_interval(
    pairs: Sequence[tuple[Sequence[float] | Floats, Sequence[float] | Floats]],
    *,
    level: float = LEVEL,
    n_draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """Bound the probability of improvement, averaged over tasks, by a bootstrap stratified by task and system.

    Args:
        pairs: Per task our scores and theirs.
        level: Share of the draws inside.
        n_draws: How many resamples.
        seed: Of the draws.

    Raises:
        ValueError: There is no task, or a system has fewer than 2 runs on one.
    """
    drawn = stratified_resamples([scores for pair in pairs for scores in pair], n_draws, seed)
    by_task = [probability_of_improvement(a, b) for a, b in zip(drawn[::2], drawn[1::2], strict=True)]
    return percentile_interval(np.mean(by_task, axis=0), level)


# ----------------------------------------------------------------------------------- other sentences: bootstrap


def resampled_means(
    values: Floats, weights: Floats, *, n_draws: int = 2000, seed: int = 0, chunk: int = 100
) -> Floats:
    """Draw sentences with replacement and average the values of each draw, weighted.

        mean[d, k] = sum_i c[d, i] v[i, k] / sum_i c[d, i] w[i],    c[d] ~ Multinomial(n; 1/n, ..., 1/n)

    The same draws serve all columns. So two columns of a row are a *paired* bootstrap of whatever the columns
    are, and their difference one of the difference: what makes a sentence hard for both cancels.
    With weights 1 it is a mean over sentences; with a sentence's spans as weights and its shared spans as
    values it is F1 of pooled spans.
    References: Efron and Tibshirani 1993, "An Introduction to the Bootstrap"; Koehn 2004, "Statistical
    Significance Tests for Machine Translation Evaluation".

    Args:
        values: [n, k] float. Of n sentences for k sources.
        weights: [n] float, at least one of them positive.
        n_draws: How many resamples.
        seed: Of the draws.
        chunk: Draws at a time; changes memory, not the result.

    Returns:
        [n_draws, k] float.

    Raises:
        ValueError: The shapes do not fit, or nothing has a weight.
    """
    if values.ndim != 2 or weights.shape != values.shape[:1]:
        raise ValueError(f"expected values [n, k] and weights [n], got {values.shape} and {weights.shape}")
    counted = weights > 0  # what weighs nothing is never drawn: a draw of nothing has no mean
    values, weights = values[counted], weights[counted]
    n = len(values)
    if n == 0:
        raise ValueError("a bootstrap over sentences needs one that counts, got none")
    rng = np.random.default_rng(seed)
    found = np.empty((n_draws, values.shape[1]))
    for begin in range(0, n_draws, chunk):
        size = min(chunk, n_draws - begin)
        drawn = rng.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)
        found[begin : begin + size] = (counts @ values) / (counts @ weights)[:, None]
    return found


def two_sided_p(differences: Floats) -> float:
    """Return twice the smaller share of bootstrap differences on either side of 0, at most 1.

        p = min(1, 2 * (1 + min(#{d <= 0}, #{d >= 0})) / (n + 1))

    The 1 keeps it from being 0, which no number of draws can show. Reference: Davison and Hinkley 1997,
    "Bootstrap Methods and their Application", section 4.2.3.

    Args:
        differences: [n] float. Of n draws.
    """
    smaller = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return min(1.0, 2 * (1 + smaller) / (len(differences) + 1))


def _scores(scores: Sequence[float] | Floats, least: int, what: str) -> Floats:
    found = np.asarray(scores, np.float64)
    if found.ndim != 1 or len(found) < least:
        raise ValueError(f"{what} needs at least {least} scores in a row, got shape {found.shape}")
    return found
