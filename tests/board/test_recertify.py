"""Tests of claimed counts against fresh noise: exact p-values, honest entries accepted, small and large lies rejected."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from suite.board.recertify import compare_bounds, compare_counts
from suite.certify import clopper_pearson_lower

N, SAMPLES, IMAGES, RATE = 200, 200, 100, 1e-4
LEAST = int((clopper_pearson_lower(np.arange(N + 1), N, 1e-3) <= 0.5).sum())
"""Smallest count that certifies."""


def probabilities(rng: np.random.Generator, images: int = IMAGES) -> np.ndarray:
    """Of the certified class: most images are clear, as in real exams."""
    return np.clip(1 - rng.beta(0.3, 3.0, images), 0.5, 1.0)


@pytest.mark.parametrize("least", [0, 4])
def test_p_values_equal_enumeration(least: int) -> None:
    claimed, fresh, n, samples = np.array([5, 4, 6]), np.array([2, 4, 1]), 6, 4
    total = claimed + fresh
    able = [stats.hypergeom.sf(least - 1, n + samples, t, n) for t in total]
    weights: dict[int, float] = {}
    for counts in product(*(range(least, n + 1) for _ in claimed)):
        mass = np.prod(
            [stats.hypergeom.pmf(k, n + samples, t, n) for k, t in zip(counts, total, strict=True)]
        ) / np.prod(able)
        weights[sum(counts)] = weights.get(sum(counts), 0.0) + float(mass)
    whole = sum(mass for count, mass in weights.items() if count >= claimed.sum())
    fisher = [
        stats.fisher_exact(np.array([[k, n - k], [f, samples - f]]), alternative="greater").pvalue / share
        for k, f, share in zip(claimed, fresh, able, strict=True)
    ]
    found = compare_counts(claimed, n, fresh, samples, 0.5, least)
    assert found.p_value == pytest.approx(min(1.0, 2 * min(whole, 3 * min(fisher))), rel=1e-9)


@pytest.mark.parametrize("kind", ["clear images", "images near the limit"])
def test_two_hundred_honest_entries_are_accepted_and_the_error_rate_holds(kind: str) -> None:
    rng, p_values = np.random.default_rng(0), []
    for _ in range(200):
        p = probabilities(rng) if kind == "clear images" else rng.uniform(0.5, 0.7, IMAGES)
        claimed, fresh = rng.binomial(N, p), rng.binomial(SAMPLES, p)
        certified = claimed >= LEAST
        verdict = compare_counts(claimed[certified], N, fresh[certified], SAMPLES, RATE, LEAST)
        assert not verdict.reasons
        p_values.append(verdict.p_value)
    for level in (0.05, 0.2):  # of 200 tests at this level, more reject with a probability below one in a million
        assert (np.array(p_values) < level).sum() <= stats.binom.ppf(1 - 1e-6, 200, level)


@pytest.mark.parametrize("kind", ["shifted", "one image"])
def test_claims_that_are_too_good_are_rejected(kind: str) -> None:
    rng = np.random.default_rng(1)
    p = np.clip(probabilities(rng), 0.5, 0.97)
    claimed, fresh = rng.binomial(N, p), rng.binomial(SAMPLES, p)
    if kind == "shifted":
        claimed = np.minimum(N, claimed + 4)  # two in a hundred samples
    else:
        worst = int(fresh.argmin())
        claimed[worst] = N
    assert len(compare_counts(claimed, N, fresh, SAMPLES, RATE).reasons) == 1
    assert not compare_counts(np.maximum(0, claimed - 110), N, fresh, SAMPLES, RATE).reasons  # modesty is no lie


def test_bounds_of_adaptive_certificates() -> None:
    rng, rejected = np.random.default_rng(2), 0
    for _ in range(200):
        p = probabilities(rng)
        needed = clopper_pearson_lower(rng.binomial(N, p), N, 1e-3)
        rejected += bool(compare_bounds(needed, 1e-3, rng.binomial(SAMPLES, p), SAMPLES, RATE).reasons)
    assert rejected == 0
    p = np.full(IMAGES, 0.8)
    lie = np.full(IMAGES, 0.95)
    assert compare_bounds(lie, 1e-3, rng.binomial(SAMPLES, p), SAMPLES, RATE).reasons
