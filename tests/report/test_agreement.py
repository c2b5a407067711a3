"""Rank correlations agree with scipy and closed forms; their intervals cover the truth as often as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from suite.report.agreement import correct_rho, correct_tau, rank_agreement, weighted_correlations


def normal(rng: np.random.Generator, items: int, r: float) -> tuple[np.ndarray, np.ndarray]:
    x = rng.normal(size=items)
    return x, r * x + math.sqrt(1 - r * r) * rng.normal(size=items)


def test_weighted_correlations_are_those_of_repeated_items_with_ties() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(5, size=20).astype(float), rng.integers(8, size=20).astype(float)
    weights = rng.multinomial(20, np.full(20, 1 / 20), 5).astype(float)
    for (tau, rho), row in zip(weighted_correlations(x, y, weights).T, weights, strict=True):
        again = np.repeat(np.arange(20), row.astype(int))
        assert tau == pytest.approx(stats.kendalltau(x[again], y[again]).statistic)
        assert rho == pytest.approx(stats.spearmanr(x[again], y[again]).statistic)


def test_normal_scores_have_greiners_tau_also_once_noise_is_corrected_for() -> None:
    x, y = normal(np.random.default_rng(1), 3_000, 0.8)
    noisy = x + 0.7 * np.random.default_rng(2).normal(size=3_000)
    visible = math.sqrt(1 / (1 + 0.49))
    tau = stats.kendalltau(noisy, y).statistic
    assert stats.kendalltau(x, y).statistic == pytest.approx(2 / math.pi * math.asin(0.8), abs=0.02)
    assert correct_tau(tau, visible) == pytest.approx(2 / math.pi * math.asin(0.8), abs=0.03)
    assert tau < 2 / math.pi * math.asin(0.8) - 0.08
    rho = stats.spearmanr(noisy, y).statistic
    assert correct_rho(rho, visible) == pytest.approx(6 / math.pi * math.asin(0.4), abs=0.03)
    assert correct_rho(0.9, 0.5) == 1
    assert math.isnan(correct_rho(0.3, 0.0))


@pytest.mark.parametrize(("items", "groups", "r"), [(16, 3, 0.5), (16, 3, 0.95), (48, 1, 0.0)])
def test_intervals_cover(items: int, groups: int, r: float) -> None:
    """In 150 samples; a coverage of 95 % would fail with a probability of at most 0.001 per correlation."""
    rng, truth = np.random.default_rng(items), (2 / math.pi * math.asin(r), 6 / math.pi * math.asin(r / 2))
    held = np.zeros(2)
    for _ in range(150):
        found = rank_agreement([normal(rng, items, r) for _ in range(groups)])
        held += [low <= true <= high for (_, low, high), true in zip(found, truth, strict=True)]
    assert (held >= stats.binom.ppf(0.001, 150, 0.95)).all()


def test_differences_between_groups_count_pooled_only() -> None:
    rng = np.random.default_rng(3)
    groups = [(rng.normal(size=30) + 9 * level, rng.normal(size=30) + 9 * level) for level in range(3)]
    within, pooled = rank_agreement(groups), rank_agreement(groups, pooled=True)
    assert abs(within.tau[0]) < 0.25
    assert within.tau[1] < 0 < within.tau[2]
    assert pooled.tau[0] > 0.6
    assert within.rho[0] == pytest.approx(np.mean([stats.spearmanr(*group).statistic for group in groups]))


def test_resamples_keep_the_sizes_of_groups() -> None:
    """Items of a group are equal here, so resamples of the same sizes never differ, and normal scores' variance is used."""
    groups = [(np.full(20, x), np.full(20, y)) for x, y in ((0.0, 0.0), (1.0, 1.0), (2.0, 0.0))]
    tau = rank_agreement(groups, pooled=True).tau
    assert tau[0] == pytest.approx(stats.kendalltau(*np.hstack(groups)).statistic, abs=1e-12)
    half = stats.t.ppf(0.975, 57) * math.sqrt(0.437 / 56)
    assert tau[1:] == pytest.approx((math.tanh(math.atanh(tau[0]) - half), math.tanh(math.atanh(tau[0]) + half)))
    unequal = rank_agreement([groups[0], (groups[1][0][:6], groups[1][1][:6]), groups[2]], pooled=True).tau
    assert unequal[2] - unequal[1] > tau[2] - tau[1]


def test_perfect_orders_have_wide_intervals_and_constants_none() -> None:
    perfect = rank_agreement([(np.arange(8.0), np.arange(8.0))])
    assert perfect.tau[0] == pytest.approx(1)
    assert perfect.tau[1] < 0.85
    assert np.isnan(rank_agreement([(np.ones(8), np.arange(8.0))])).all()
    assert np.isnan(rank_agreement([(np.arange(4.0), np.arange(4.0))]).tau[1])
