"""Estimates, against closed forms."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import integrate, stats

from suite.certify import Estimates, NoisyClassifier, NoisyImages, estimate
from suite.errors import BitcertError
from tests.certify.simulators import FALSE_ALARM, HalfSpace, Known, Shifted, coins, pair

SIGMA = 0.25
IMAGES = 400
LABELS = np.ones(IMAGES, dtype=np.int64)


def _likely(images: int = IMAGES, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).beta(2, 0.5, images)


# Estimates


def _moments(p: NDArray[np.float64], values: NDArray[np.float64]) -> tuple[float, float]:
    """Mean and standard deviation of the average over images of a value of their counts, by summing over all counts."""
    n = len(values) - 1
    chances = stats.binom.pmf(np.arange(n + 1), n, p[:, None])
    mean = chances @ values
    return float(mean.mean()), float(np.sqrt((chances @ values**2 - mean**2).sum()) / len(p))


@pytest.mark.parametrize("n", [32, 200])
def test_estimates_are_as_large_as_theory_says(n: int) -> None:
    p, repetitions = _likely(), 20
    spread = stats.norm.isf(FALSE_ALARM / 2) / math.sqrt(repetitions)
    found = [estimate(coins(p, sigma=SIGMA, seed=seed), LABELS, n=n) for seed in range(repetitions)]
    k = np.arange(n + 1)
    mean, deviation = _moments(p, SIGMA * np.maximum(stats.norm.ppf((k + 0.5) / (n + 1)), 0))
    assert abs(np.mean([each.acr for each in found]) - mean) < spread * deviation
    for radius in (0.0, 0.1, 0.3):
        mean, deviation = _moments(p, np.asarray(stats.beta.sf(stats.norm.cdf(radius / SIGMA), k + 0.5, n - k + 0.5)))
        shares = [each.certified_accuracy([radius])[radius] for each in found]
        assert abs(np.mean(shares) - mean) < spread * deviation


def test_estimates_tend_to_the_truth() -> None:
    p = _likely()
    z = stats.norm.ppf(p)
    truth = np.array([SIGMA * np.maximum(z, 0).mean(), (z >= 0).mean(), (z >= 0.3 / SIGMA).mean()])
    errors = []
    for n in (16, 128, 1024):
        found = estimate(coins(p, sigma=SIGMA), LABELS, n=n)
        errors.append(np.abs(np.array([found.acr, *found.certified_accuracy([0.0, 0.3]).values()]) - truth).max())
    assert errors == sorted(errors, reverse=True)
    assert errors[0] < 0.1
    assert errors[-1] < 0.015


def test_estimates_of_a_linear_network_are_its_distances() -> None:
    distances = np.linspace(-0.2, 0.5, 100)
    noisy = NoisyImages(HalfSpace().at_distance(distances), sigma=SIGMA, batch=10_000)
    found = estimate(NoisyClassifier(HalfSpace(), noisy), np.ones(100, dtype=np.int64), n=400)
    assert np.abs(found.scores - np.maximum(distances, 0)).max() < 0.15
    assert found.acr == pytest.approx(np.maximum(distances, 0).mean(), rel=0.05)
    assert (found.trials, found.sigma) == (400, SIGMA)


@given(
    st.integers(1, 300).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.integers(0, n), min_size=1, max_size=20))),
    st.lists(st.floats(0, 2), min_size=1, max_size=6).map(sorted),
)
def test_shares_lie_within_zero_and_one_and_fall_with_the_radius(
    counts: tuple[int, list[int]], radii: list[float]
) -> None:
    n, successes = counts
    found = Estimates(np.array(successes), n, SIGMA)
    shares = list(found.certified_accuracy(radii).values())
    assert all(0 <= share <= 1 for share in shares)
    assert all(later <= before for before, later in itertools.pairwise(shares))
    assert np.all(found.scores >= 0)
    assert np.all((found.probability > 0) & (found.probability < 1))


@pytest.mark.parametrize("k", [0, 3, 29, 40])
@pytest.mark.parametrize("radius", [0.0, 0.2, 0.6])
def test_an_images_share_is_the_posterior_probability_of_its_radius(radius: float, k: int) -> None:
    n, q = 40, stats.norm.cdf(radius / SIGMA)

    def density(angle: float) -> float:  # Jeffreys' prior is uniform in the angle
        return float(stats.binom.pmf(k, n, math.sin(angle) ** 2))

    above = integrate.quad(density, math.asin(math.sqrt(q)), math.pi / 2)[0]
    every = integrate.quad(density, 0, math.pi / 2)[0]
    assert Estimates(np.array([k]), n, SIGMA).certified_accuracy([radius])[radius] == pytest.approx(above / every)


def test_scores_are_radii_of_the_labels_estimated_probability() -> None:
    found = Estimates(np.array([0, 5, 10, 20]), 20, 0.5)
    assert found.probability.tolist() == pytest.approx([0.5 / 21, 5.5 / 21, 0.5, 20.5 / 21])
    assert found.scores.tolist() == pytest.approx([0, 0, 0, 0.5 * stats.norm.ppf(20.5 / 21)])
    assert found.acr == pytest.approx(found.scores.mean())


def test_the_samples_for_counting_are_used() -> None:
    sampler = Known(np.random.default_rng(0).dirichlet(np.ones(3), 50), sigma=SIGMA)
    labels = np.random.default_rng(1).integers(0, 3, 50)
    found = estimate(sampler, labels, n=45)
    assert sampler.calls == [("count", 0, 45, 50)]
    assert found.successes.tolist() == (sampler.predictions("count", 0, 45) == labels[:, None]).sum(axis=1).tolist()
    with pytest.raises(BitcertError, match="n must be at least 1, got 0"):
        estimate(sampler, labels, n=0)


# Differences


def _interval(one: NDArray[np.float64], other: NDArray[np.float64]) -> tuple[float, float]:
    """95 % interval of the mean difference over images."""
    found = stats.ttest_rel(one, other).confidence_interval(0.95)
    return float(found.low), float(found.high)


def test_common_noise_cancels() -> None:
    p = _likely()
    first, second = (estimate(coins(p, sigma=SIGMA, seed=3), LABELS, n=32).scores for _ in range(2))
    assert np.array_equal(first, second)
    base, changed = pair(p * 0.99, p * 0.01, 0.0, sigma=SIGMA, seed=3)
    apart = coins(p * 0.99, sigma=SIGMA, seed=4)
    one = estimate(base, LABELS, n=32).scores
    low, high = _interval(one, estimate(changed, LABELS, n=32).scores)
    independent = _interval(one, estimate(apart, LABELS, n=32).scores)
    assert high - low < 0.5 * (independent[1] - independent[0])
    assert low > 0, "a hundredth is told apart by 32 samples"


def test_a_network_and_its_changed_copy_differ_by_the_images_near_the_border_alone() -> None:
    noisy = NoisyImages(HalfSpace().at_distance(np.linspace(0, 0.4, 200)), sigma=SIGMA, batch=10_000)
    labels = np.ones(200, dtype=np.int64)
    one, same, other = (
        estimate(NoisyClassifier(network, noisy), labels, n=64).scores
        for network in (HalfSpace(), HalfSpace(), Shifted(0.02))
    )
    assert np.array_equal(one, same)
    low, high = _interval(one, other)
    assert 0 < low < 0.02 < high + 0.01
    assert high - low < 0.006
