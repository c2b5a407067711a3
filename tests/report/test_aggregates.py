"""Aggregates over tasks agree with sorting, counting and scipy; their intervals hold the truth as often as they say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from suite.errors import BitcertError
from suite.report.aggregates import (
    Estimate,
    estimate,
    interquartile_mean,
    performance_profile,
    probability_of_improvement,
)

REPETITIONS = 400
LEVELS = np.array([0.3, 0.5, 0.6, 0.7, 0.9])
FEWEST = stats.binom.ppf(1e-3, REPETITIONS, 0.93)
"""Intervals that cover 93 % hold the truth at least so often, but for one stream in a thousand; with 86 %, one in twenty does."""


def draw(seeds: int, rng: np.random.Generator) -> np.ndarray:
    """Skewed scores below 1, shape ``(tasks, seeds)``."""
    return 1 - (1 - LEVELS)[:, None] * rng.exponential(1.0, (len(LEVELS), seeds))


@pytest.mark.parametrize("runs", [1, 3, 4, 7, 8, 30])
def test_interquartile_mean_drops_a_quarter_at_each_end(runs: int) -> None:
    scores = np.random.default_rng(runs).normal(size=runs)
    kept = sorted(scores)[runs // 4 : runs - runs // 4]
    assert interquartile_mean([scores]).value == pytest.approx(sum(kept) / len(kept))
    assert interquartile_mean(np.split(scores, [runs // 2])[runs == 1 :]).value == pytest.approx(sum(kept) / len(kept))
    assert interquartile_mean([scores]).value == pytest.approx(stats.trim_mean(scores, 0.25))


def test_the_bootstrap_has_the_variance_of_a_stratified_mean() -> None:
    """One draw fewer than seeds: the sum of the unbiased variances of the tasks' means, in closed form."""
    rng = np.random.default_rng(0)
    tasks = [rng.normal(size=4), rng.normal(5.0, 2.0, size=6)]
    found = estimate(lambda drawn: np.mean([group.mean(axis=1) for group in drawn], axis=0), tasks)
    error = np.sqrt(sum(np.var(task, ddof=1) / len(task) for task in tasks)) / 2
    assert found.value == pytest.approx(np.mean([task.mean() for task in tasks]))
    assert found.high - found.low == pytest.approx(2 * stats.norm.ppf(0.975) * error, rel=0.06)  # nearly normal


def test_profile_counts_runs_above_each_threshold() -> None:
    found = performance_profile([[0.1, 0.5, 0.5, 0.9], [0.5, 1.0]], [0.0, 0.1, 0.5, 0.9, 1.0])
    assert found.mean == pytest.approx([1.0, (3 / 4 + 1) / 2, (1 / 4 + 1 / 2) / 2, (0 + 1 / 2) / 2, 0.0])
    assert (found.least <= found.mean).all()
    assert (found.mean <= found.most).all()
    assert (found.least[0], found.most[0]) == (1.0, 1.0)


def test_simultaneous_band_is_as_wide_as_that_of_kolmogorov() -> None:
    scores = np.random.default_rng(1).random(200)
    found = performance_profile([scores], np.linspace(0, 1, 400), simultaneous=True)
    inside = (found.least > 0) & (found.most < 1)
    half = stats.kstwobign.ppf(0.95) / np.sqrt(200)
    assert (found.most - found.least)[inside] == pytest.approx(2 * half, rel=0.08)
    pointwise = performance_profile([scores], np.linspace(0, 1, 400))
    assert (pointwise.most - pointwise.least)[inside].max() < 1.6 * half


def test_probability_of_improvement_is_that_of_mann_and_whitney() -> None:
    rng = np.random.default_rng(2)
    x, y = [rng.integers(0, 6, size=n) for n in (5, 8)], [rng.integers(0, 5, size=n) for n in (7, 4)]
    expected = np.mean([stats.mannwhitneyu(a, b).statistic / (len(a) * len(b)) for a, b in zip(x, y, strict=True)])
    found, back = probability_of_improvement(x, y), probability_of_improvement(y, x)
    assert found.value == pytest.approx(expected)
    assert back.value == pytest.approx(1 - expected)
    assert found.low < found.value < found.high


def test_a_searcher_that_always_wins_is_bound_by_as_many_wins_as_there_are_pairs() -> None:
    exact = stats.binomtest(5 + 4, 9).proportion_ci(0.95, "exact").low
    x, y = [np.arange(5) + 10, np.arange(4) + 10], [np.arange(5), np.arange(6)]
    assert probability_of_improvement(x, y) == pytest.approx((1.0, exact, 1.0))
    assert probability_of_improvement(y, x) == pytest.approx((0.0, 0.0, 1 - exact))


def test_equal_scores_are_half_won() -> None:
    assert probability_of_improvement([[1, 1, 1]], [[1, 1]]) == (0.5, 0.5, 0.5)
    assert interquartile_mean([[2.0, 2.0], [2.0, 2.0]]) == (2.0, 2.0, 2.0)


def test_a_single_seed_has_no_interval() -> None:
    for found in (interquartile_mean([[1, 2], [3]]), probability_of_improvement([[1]], [[1]])):
        assert np.isnan([found.low, found.high]).all()
    band = performance_profile([[1, 2], [3]], [0, 2])
    assert band.mean.tolist() == [1.0, 0.5]
    assert np.isnan([band.least, band.most]).all()


def test_missing_scores_are_refused() -> None:
    with pytest.raises(BitcertError, match="not finite"):
        interquartile_mean([[1, np.nan]])
    for tasks in ([], [[1.0], []]):
        with pytest.raises(BitcertError, match="no score"):
            performance_profile(tasks, [0.5])
    with pytest.raises(BitcertError, match="1 and 2 tasks"):
        probability_of_improvement([[1]], [[1], [2]])


def improvement(scores: np.ndarray) -> Estimate:
    """Against a searcher with one score less, known in closed form to win with the probability of a smaller exponential."""
    half = scores.shape[1] // 2
    return probability_of_improvement(list(scores[:, :half]), list(1 - 2 * (1 - scores[:, half:])))


@pytest.mark.parametrize(
    ("find", "seeds", "truth"),
    [
        (
            lambda scores: interquartile_mean(list(scores)),
            3,
            stats.trim_mean(draw(40_000, np.random.default_rng(5)), 0.25, None),
        ),
        (improvement, 12, 2 / 3),  # of two exponentials, the one with half the mean is the smaller
    ],
    ids=["interquartile mean", "probability of improvement"],
)
def test_intervals_hold_the_truth(find: Callable[[np.ndarray], Estimate], seeds: int, truth: float) -> None:
    rng = np.random.default_rng(3)
    found = [find(draw(seeds, rng)) for _ in range(REPETITIONS)]
    covered = sum(interval.low <= truth <= interval.high for interval in found)
    assert covered >= FEWEST


def test_bands_hold_the_profile() -> None:
    rng, repetitions, x = np.random.default_rng(4), 200, np.linspace(-0.2, 0.9, 12)
    truth = np.mean([1 - np.exp(-(1 - x) / (1 - level)) for level in LEVELS], axis=0)
    simultaneous, pointwise = 0, np.zeros(len(x))
    for _ in range(repetitions):
        scores = list(draw(8, rng))
        whole = performance_profile(scores, x, simultaneous=True)
        simultaneous += bool(((whole.least <= truth) & (truth <= whole.most)).all())
        points = performance_profile(scores, x)
        pointwise += (points.least <= truth) & (truth <= points.most)
    assert simultaneous >= stats.binom.ppf(1e-3, repetitions, 0.93)
    assert pointwise.mean() >= 0.92 * repetitions
    assert pointwise.min() >= stats.binom.ppf(
        1e-3, repetitions, 0.87
    )  # the worst of twelve points, where few runs lie below
