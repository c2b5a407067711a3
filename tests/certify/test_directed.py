"""Proven bounds, against sums of fractions and against mpmath with 70 digits."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import mpmath  # type: ignore[import-untyped]
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from suite.certify import directed
from suite.certify.bounds import certified_radius, clopper_pearson_lower
from suite.certify.directed import binomial_tail_upper, normal_cdf_bounds, sound_lower, sound_radius

PRECISE = mpmath.mp.clone()
PRECISE.dps = 70
WIDTH = 1e-46  # of the bounds of a normal probability


def _tail(successes: int, trials: int, p: float) -> Fraction:
    """``P(X >= successes)``, exactly."""
    exact = Fraction(p)
    return sum(
        (math.comb(trials, k) * exact**k * (1 - exact) ** (trials - k) for k in range(successes, trials + 1)),
        start=Fraction(0),
    )


@given(st.floats(0, 10))
def test_normal_probabilities_lie_within_narrow_bounds(x: float) -> None:
    low, high = normal_cdf_bounds(Decimal(x), Decimal(x))
    true = PRECISE.ncdf(PRECISE.mpf(x))
    assert PRECISE.mpf(str(low)) <= true <= PRECISE.mpf(str(high))
    assert high - low < WIDTH


def test_bounds_of_an_interval_are_those_of_its_ends() -> None:
    low, high = normal_cdf_bounds(Decimal(1), Decimal(2))
    assert low == normal_cdf_bounds(Decimal(1), Decimal(1))[0]
    assert high == normal_cdf_bounds(Decimal(2), Decimal(2))[1]


@given(st.integers(1, 40), st.data(), st.floats(0.001, 0.999))
def test_a_binomial_tail_is_bounded_from_above_and_closely(trials: int, data: st.DataObject, p: float) -> None:
    successes = data.draw(st.integers(1, trials))
    bound, true = Fraction(binomial_tail_upper(successes, trials, p)), _tail(successes, trials, p)
    assert true <= bound <= true * (1 + Fraction(1, 10**20))


@pytest.mark.parametrize(
    ("successes", "trials", "p"), [(5_100, 10_000, 0.5), (9_990, 10_000, 0.998), (60_000, 100_000, 0.595)]
)
def test_tails_of_many_samples(successes: int, trials: int, p: float) -> None:
    bound = PRECISE.mpf(str(binomial_tail_upper(successes, trials, p)))
    exact = PRECISE.mpf(p)
    log_ways = PRECISE.loggamma(trials + 1) - PRECISE.loggamma(successes + 1) - PRECISE.loggamma(trials - successes + 1)
    log_term = log_ways + successes * PRECISE.log(exact) + (trials - successes) * PRECISE.log(1 - exact)
    term = true = PRECISE.exp(log_term)
    for k in range(successes, trials):
        term *= (trials - k) * exact / ((k + 1) * (1 - exact))
        true += term
        if term < true * 1e-60:
            break
    rounding, excess = PRECISE.mpf("1e-50"), PRECISE.mpf("1e-20")
    assert true * (1 - rounding) <= bound < true * (1 + excess)


@pytest.mark.parametrize("alpha", ["0.001", "0.05", "0.7"])
def test_every_lower_bound_passes_the_test_that_defines_it(alpha: str) -> None:
    counts = np.arange(31)
    found = sound_lower(counts, 30, Decimal(alpha))
    assert found[0] == 0
    for count in counts[1:]:
        assert _tail(int(count), 30, float(found[count])) <= Fraction(alpha)
    np.testing.assert_allclose(found, clopper_pearson_lower(counts, 30, float(alpha)), rtol=1e-13)


def test_bounds_that_are_too_high_are_lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    alpha = Decimal("0.0123456")  # not in the memory of earlier calls

    def optimistic(successes: int, trials: int, alpha: float) -> float:
        return float(clopper_pearson_lower(successes, trials, alpha)) + 1e-9

    assert _tail(25, 30, optimistic(25, 30, float(alpha))) > Fraction(alpha)
    monkeypatch.setattr(directed, "clopper_pearson_lower", optimistic)
    assert _tail(25, 30, float(sound_lower(np.array([25]), 30, alpha)[0])) <= Fraction(alpha)

    monkeypatch.setattr(directed, "certified_radius", lambda p, sigma: certified_radius(p, sigma) + 1e-9)
    radius = sound_radius(np.array([0.9012345]), 0.25)
    assert PRECISE.ncdf(PRECISE.mpf(float(radius[0])) / PRECISE.mpf(0.25)) < PRECISE.mpf(0.9012345)


@given(st.floats(0.5, 1 - 2**-53), st.sampled_from([0.1, 0.25, 1.0]))
def test_radii_are_below_the_exact_ones_and_close_to_them(p: float, sigma: float) -> None:
    radius = float(sound_radius(np.array([p]), sigma)[0])
    assert 0 <= radius <= special.ndtri(p) * sigma
    if radius > 0:
        assert PRECISE.ncdf(PRECISE.mpf(radius) / PRECISE.mpf(sigma)) < PRECISE.mpf(p)
    assert radius >= special.ndtri(p) * sigma * (1 - 1e-12) - 1e-15


def test_equal_counts_share_a_bound_in_any_shape() -> None:
    counts = np.array([[29, 30], [30, 29]])
    found = sound_lower(counts, 30, Decimal("0.001"))
    assert found.shape == (2, 2)
    assert found[0, 0] == found[1, 1] < found[0, 1] == found[1, 0]
