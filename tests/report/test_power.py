"""Power agrees with closed forms, a second library and simulations of the tests themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower

from suite.errors import BitcertError
from suite.report.power import detectable_effect, paired_t_power, seeds_for_power, sign_flip_power
from suite.report.statistics import seeds_needed, sign_flip_p_value, sign_flip_p_values

ERROR = math.sqrt(0.25 / 1_000)
"""Largest standard error of a power simulated 1,000 times."""


def pilot(mean: float, spread: float) -> np.ndarray:
    """Four differences of exactly that mean and spread."""
    return mean + spread * np.array([1, -1, 1, -1]) * math.sqrt(3 / 4)


@pytest.mark.parametrize("effect", [-1.5, 0.0, 0.3, 2.0])
@pytest.mark.parametrize(("seeds", "comparisons"), [(2, 1), (10, 1), (10, 7), (60, 3)])
def test_power_of_students_test_is_that_of_statsmodels(effect: float, seeds: int, comparisons: int) -> None:
    expected = TTestPower().power(effect, seeds, 0.05 / comparisons)
    assert paired_t_power(effect, seeds, comparisons) == pytest.approx(expected, abs=1e-9)


def test_power_of_students_test_is_how_often_it_rejects() -> None:
    samples = np.random.default_rng(1).normal(0.7, 1.0, size=(4_000, 9))
    rejected = float(np.mean(stats.ttest_1samp(samples, 0.0, axis=1).pvalue <= 0.05))
    assert paired_t_power(0.7, 9) == pytest.approx(rejected, abs=3 * math.sqrt(0.25 / 4_000))


def test_many_samples_are_tested_as_each_alone() -> None:
    samples = np.random.default_rng(2).integers(-3, 5, size=(7, 2, 6)) / 8
    found = sign_flip_p_values(samples)
    assert found.shape == (7, 2)
    assert found.ravel() == pytest.approx([sign_flip_p_value(row) for row in samples.reshape(-1, 6)])
    assert sign_flip_p_values(np.ones((3, 1))).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("effect", [0.0, 0.5, 1.0, 2.0])
def test_with_six_seeds_all_signs_have_to_agree(effect: float) -> None:
    # Only then is p = 2 / 64 <= 0.05: the closed form follows from the normal distribution.
    positive = stats.norm.cdf(effect)
    assert sign_flip_power(effect, 6) == pytest.approx(positive**6 + (1 - positive) ** 6, abs=3 * ERROR)
    assert sign_flip_power(-effect, 6) == sign_flip_power(effect, 6)


@pytest.mark.parametrize(("seeds", "comparisons", "effect"), [(10, 1, 1.0), (12, 1, 0.8), (12, 6, 1.2)])
def test_the_sign_flip_test_comes_close_to_students_with_more_seeds(
    seeds: int, comparisons: int, effect: float
) -> None:
    simulated = sign_flip_power(effect, seeds, comparisons)
    assert simulated == pytest.approx(paired_t_power(effect, seeds, comparisons), abs=0.01 + 3 * ERROR)
    assert sign_flip_power(effect, 13, comparisons) == paired_t_power(effect, 13, comparisons)


@pytest.mark.parametrize(("effect", "comparisons"), [(1.6, 1), (1.3, 1), (1.0, 1), (1.4, 4), (0.5, 1)])
def test_seeds_for_power_are_the_fewest_that_have_it(effect: float, comparisons: int) -> None:
    seeds = seeds_for_power(pilot(effect * 0.02, 0.02), comparisons=comparisons)
    assert seeds is not None
    if seeds <= 12:  # by fresh draws of the test itself
        rng, powers = np.random.default_rng(3), []
        for count in (seeds - 1, seeds):
            p_values = sign_flip_p_values(rng.normal(-effect, 1.0, size=(1_000, count)))
            powers.append(np.mean(comparisons * p_values <= 0.05))
        assert powers[0] < 0.8 + 4 * ERROR
        assert powers[1] > 0.8 - 4 * ERROR
        assert powers[1] > powers[0]
    else:
        assert seeds == math.ceil(TTestPower().solve_power(effect, alpha=0.05 / comparisons, power=0.8))


def test_detectable_effects_invert_the_power() -> None:
    closed = stats.norm.ppf(0.8 ** (1 / 6))
    assert detectable_effect(6, spread=0.02) == pytest.approx(0.02 * closed, rel=0.05)
    expected = TTestPower().solve_power(nobs=30, alpha=0.05 / 5, power=0.9)
    assert detectable_effect(30, power=0.9, comparisons=5) == pytest.approx(expected, abs=0.005)
    assert detectable_effect(9) > detectable_effect(30) > detectable_effect(100)


@pytest.mark.parametrize("comparisons", [1, 5, 11])
def test_too_few_seeds_show_nothing_and_a_sure_difference_needs_no_more(comparisons: int) -> None:
    fewest = seeds_needed(comparisons)
    assert sign_flip_power(50.0, fewest - 1, comparisons) == 0.0
    assert detectable_effect(fewest - 1, comparisons=comparisons) == math.inf
    assert sign_flip_power(50.0, fewest, comparisons) == 1.0
    for differences in ([-0.5, -0.5, -0.5], [0.1, 0.3 - 0.2, 0.1]):  # the latter differ by rounding alone
        assert seeds_for_power(differences, comparisons=comparisons) == fewest
    assert paired_t_power(3.0, 1) == 0.0


def test_no_number_of_seeds_shows_no_difference() -> None:
    assert seeds_for_power([0.5, -0.5]) is None
    assert seeds_for_power([0.0, 0.0]) is None
    assert seeds_for_power(pilot(0.01, 1.0)) is None


def test_what_cannot_be_planned_is_refused() -> None:
    for differences in ([0.5], [0.5, math.nan]):
        with pytest.raises(BitcertError, match="two or more finite differences"):
            seeds_for_power(differences)
    with pytest.raises(BitcertError, match=r"at least 0\.5 and below 1, got 80"):
        seeds_for_power([0.1, 0.2], power=80)
    with pytest.raises(BitcertError, match="got 1"):
        detectable_effect(10, power=1)
