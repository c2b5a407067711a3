"""Binomial bounds and radii against scipy.stats, closed forms and exact coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from suite.certify import certified_radius, clopper_pearson_lower, clopper_pearson_upper, largest_radius
from suite.errors import BitcertError

ALPHAS = (0.5, 0.1, 0.05, 1e-3, 1e-6)
COUNTS = st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(COUNTS, st.sampled_from(ALPHAS))
def test_bounds_are_those_of_scipys_exact_test(counts: tuple[int, int], alpha: float) -> None:
    k, n = counts
    lower = stats.binomtest(k, n, alternative="greater").proportion_ci(1 - alpha, method="exact").low
    upper = stats.binomtest(k, n, alternative="less").proportion_ci(1 - alpha, method="exact").high
    assert clopper_pearson_lower(k, n, alpha) == pytest.approx(lower, rel=1e-9, abs=1e-15)
    assert clopper_pearson_upper(k, n, alpha) == pytest.approx(upper, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("alpha", [0.3, 1e-3, 1e-12, 1e-60])
@pytest.mark.parametrize(("k", "n"), [(1, 1), (1, 50), (7, 10), (99_000, 100_000), (10**6 - 1, 10**6)])
def test_bounds_are_where_the_binomial_tail_is_alpha(k: int, n: int, alpha: float) -> None:
    lower, upper = float(clopper_pearson_lower(k, n, alpha)), float(clopper_pearson_upper(k, n, alpha))
    assert stats.binom.logsf(k - 1, n, lower) == pytest.approx(math.log(alpha), rel=1e-6)
    if upper < 1 - 1e-6:  # nearer to 1 a double does not resolve it
        assert stats.binom.logcdf(k, n, upper) == pytest.approx(math.log(alpha), rel=1e-6)


@pytest.mark.parametrize("n", [1, 10, 1000, 10**6])
@pytest.mark.parametrize("alpha", [0.3, 1e-3, 1e-60])
def test_no_success_and_nothing_but_successes_have_closed_forms(n: int, alpha: float) -> None:
    assert clopper_pearson_lower(0, n, alpha) == 0
    assert clopper_pearson_upper(n, n, alpha) == 1
    assert clopper_pearson_lower(n, n, alpha) == pytest.approx(alpha ** (1 / n), rel=1e-9)
    assert clopper_pearson_upper(0, n, alpha) == pytest.approx(-math.expm1(math.log(alpha) / n), rel=1e-9)


@pytest.mark.parametrize("n", [1, 7, 60])
@pytest.mark.parametrize("alpha", [0.3, 0.05, 1e-3])
def test_bounds_fail_with_probability_at_most_alpha_whatever_the_truth(n: int, alpha: float) -> None:
    k = np.arange(n + 1)
    lower, upper = clopper_pearson_lower(k, n, alpha), clopper_pearson_upper(k, n, alpha)
    assert np.all(np.diff(lower) > 0)
    assert np.all(np.diff(upper) > 0)
    for truth in [*np.linspace(0.001, 0.999, 200), *(lower[1:] * (1 - 1e-9)), *(upper[:-1] * (1 + 1e-9))]:
        chances = stats.binom.pmf(k, n, truth)
        assert chances[lower > truth].sum() <= alpha * (1 + 1e-6)
        assert chances[upper < truth].sum() <= alpha * (1 + 1e-6)
    assert stats.binom.pmf(k, n, 0.5)[k / n > 0.5].sum() > alpha or n == 1, "the plain share fails far more often"


def test_bounds_broadcast() -> None:
    k, n = np.array([[0], [3], [5]]), np.array([5, 9, 100, 1000])
    for bound in (clopper_pearson_lower, clopper_pearson_upper):
        found = bound(k, n, 0.01)
        assert found.shape == (3, 4)
        assert found.dtype == np.float64
        for row in range(3):
            for column in range(4):
                assert found[row, column] == bound(int(k[row, 0]), int(n[column]), 0.01)
    assert clopper_pearson_lower([1, 2], 5, 0.1).shape == (2,)
    assert clopper_pearson_lower(1, 5, 0.1).shape == ()


@pytest.mark.parametrize(
    ("k", "n", "alpha", "message"),
    [
        (-1, 5, 0.1, "within 0..trials"),
        (6, 5, 0.1, "within 0..trials"),
        (0, 0, 0.1, "at least 1"),
        ([1, 9], [5, 5], 0.1, "within 0..trials"),
        (1.0, 5, 0.1, "must be integers, got float64"),
        (1, 5.0, 0.1, "must be integers"),
        (True, 5, 0.1, "must be integers"),
        (1, 5, 0.0, "alpha must lie strictly between 0 and 1"),
        (1, 5, 1.0, "alpha must lie strictly between 0 and 1"),
        (1, 5, float("nan"), "alpha must lie strictly between 0 and 1"),
    ],
)
def test_counts_that_make_no_sense_are_refused(k: object, n: object, alpha: float, message: str) -> None:
    for bound in (clopper_pearson_lower, clopper_pearson_upper):
        with pytest.raises(BitcertError, match=message):
            bound(k, n, alpha)  # type: ignore[arg-type]


@given(st.lists(st.floats(0, 1), min_size=1), st.floats(1e-3, 1e2))
def test_radii_are_quantiles_of_the_normal_distribution(p: list[float], sigma: float) -> None:
    expected = [sigma * stats.norm.ppf(value) if value > 0.5 else 0.0 for value in p]
    np.testing.assert_allclose(certified_radius(p, sigma), expected, rtol=1e-9, atol=1e-15)


def test_radii_at_the_edges() -> None:
    above = np.nextafter(0.5, 1)
    assert certified_radius([0, 0.5, above, 1], 0.25).tolist() == [0, 0, certified_radius(above, 0.25), math.inf]
    assert certified_radius(above, 0.25) > 0
    assert certified_radius(0.8413447460685429, 2.0) == pytest.approx(2.0)
    assert certified_radius([[0.9], [0.99]], 1).shape == (2, 1)


def test_radii_of_the_published_sample_sizes() -> None:
    # With n = 100,000 and alpha = 0.001 no radius exceeds 3.8 sigma (Cohen et al. 2019, figure 7 and its discussion).
    assert largest_radius(100_000, 1e-3, 1.0) == pytest.approx(3.81, abs=0.01)
    assert largest_radius(9, 1e-3, 1.0) == 0
    assert largest_radius(10, 1e-3, 0.5) == pytest.approx(0.5 * stats.norm.ppf(1e-3**0.1))


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.inf, math.nan])
def test_a_sigma_that_makes_no_sense_is_refused(sigma: float) -> None:
    with pytest.raises(BitcertError, match="sigma must be positive and finite"):
        certified_radius(0.9, sigma)


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan, [0.9, math.nan]])
def test_a_probability_out_of_range_is_refused(p: object) -> None:
    with pytest.raises(BitcertError, match="p_lower must lie within"):
        certified_radius(p, 0.25)  # type: ignore[arg-type]
