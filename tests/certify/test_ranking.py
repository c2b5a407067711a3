"""Estimates and successive halving, against closed forms, scipy's tests and a direct count."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import integrate, stats

from suite.certify import (
    Estimates,
    NoisyClassifier,
    NoisyImages,
    Rung,
    estimate,
    paired_difference,
    successive_halving,
)
from suite.certify.ranking import Halving
from suite.errors import BitcertError
from tests.certify.simulators import FALSE_ALARM, HalfSpace, Known, Shifted, coins, most, pair

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


def test_common_noise_cancels() -> None:
    p = _likely()
    same = [estimate(coins(p, sigma=SIGMA, seed=3), LABELS, n=32).scores for _ in range(2)]
    found = paired_difference(same[0], same[1])
    assert (found.mean, found.low, found.high) == (0, 0, 0)
    base, changed = pair(p * 0.99, p * 0.01, 0.0, sigma=SIGMA, seed=3)
    apart = coins(p * 0.99, sigma=SIGMA, seed=4)
    one = estimate(base, LABELS, n=32).scores
    together = paired_difference(one, estimate(changed, LABELS, n=32).scores)
    independent = paired_difference(one, estimate(apart, LABELS, n=32).scores)
    assert together.high - together.low < 0.5 * (independent.high - independent.low)
    assert together.low > 0, "a hundredth is told apart by 32 samples"


def test_a_network_and_its_changed_copy_differ_by_the_images_near_the_border_alone() -> None:
    noisy = NoisyImages(HalfSpace().at_distance(np.linspace(0, 0.4, 200)), sigma=SIGMA, batch=10_000)
    labels = np.ones(200, dtype=np.int64)
    one, same, other = (
        estimate(NoisyClassifier(network, noisy), labels, n=64).scores
        for network in (HalfSpace(), HalfSpace(), Shifted(0.02))
    )
    assert np.array_equal(one, same)
    found = paired_difference(one, other)
    assert 0 < found.low < 0.02 < found.high + 0.01
    assert found.high - found.low < 0.006


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
@pytest.mark.parametrize("images", [2, 3, 50])
def test_the_interval_is_that_of_the_paired_t_test(images: int, confidence: float) -> None:
    generator = np.random.default_rng(images)
    one, other = generator.normal(size=(2, images))
    found = paired_difference(one, other, confidence)
    expected = stats.ttest_rel(one, other).confidence_interval(confidence)
    assert found.mean == pytest.approx(np.mean(one - other))
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_the_interval_misses_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    missed, repetitions, alpha = 0, 2000, 0.1
    for one, other in zip(*generator.normal([[[0.3]], [[0.1]]], 1, (2, repetitions, 12)), strict=True):
        found = paired_difference(one, other, 1 - alpha)
        missed += not found.low <= 0.2 <= found.high
    assert missed <= most(alpha, repetitions)
    assert repetitions - missed <= most(1 - alpha, repetitions)


@pytest.mark.parametrize(
    ("shapes", "confidence", "message"),
    [
        (((3,), (4,)), 0.95, "paired scores have one shape"),
        (((1,), (1,)), 0.95, "at least two images"),
        (((2, 2), (2, 2)), 0.95, "paired scores have one shape"),
        (((3,), (3,)), 0.0, "confidence must lie strictly between 0 and 1"),
        (((3,), (3,)), 1.0, "confidence must lie strictly between 0 and 1"),
        (((3,), (3,)), float("nan"), "confidence must lie strictly between 0 and 1"),
    ],
)
def test_pairs_that_make_no_sense_are_refused(
    shapes: tuple[tuple[int, ...], tuple[int, ...]], confidence: float, message: str
) -> None:
    with pytest.raises(BitcertError, match=message):
        paired_difference(np.zeros(shapes[0]), np.zeros(shapes[1]), confidence)


# Successive halving

RUNGS = (Rung(50, 8), Rung(50, 40), Rung(200, 40), Rung(400, 100))


def _race(qualities: Sequence[float]) -> list[Known]:
    """Candidates that see the same noise; of a higher quality, each image is predicted right more often."""
    p = _likely()
    return [coins(p**quality, sigma=SIGMA, seed=5) for quality in qualities]


def test_the_best_of_clearly_different_candidates_is_found_and_the_others_are_in_order() -> None:
    qualities = [8.0, 1.0, 4.0, 0.25, 2.0, 16.0, 0.5]
    found = successive_halving(_race(qualities).__getitem__, 7, LABELS, RUNGS, keep=1.0)
    assert found.order == (3, 6, 1, 4, 2, 0, 5)
    found = successive_halving(_race(qualities).__getitem__, 7, LABELS, RUNGS)
    assert found.order == (3, 6, 1, 4, 2, 0, 5)
    assert [estimates.trials for estimates in found.estimates] == [8, 40, 8, 100, 40, 8, 40]


@pytest.mark.parametrize("keep", [0.3, 0.5, 1.0])
def test_what_is_counted_bit_by_bit_is_what_a_direct_count_gives_and_is_paid_for_once(keep: float) -> None:
    samplers = _race([3.0, 1.0, 2.0, 0.5, 4.0])
    found = successive_halving(samplers.__getitem__, 5, LABELS, RUNGS, keep=keep)
    asked = [call for sampler in samplers for call in sampler.calls]
    assert found.forward_passes == sum((stop - start) * rows for _, start, stop, rows in asked)
    reached = 5
    for rung in RUNGS:
        at = sum(
            estimates.trials >= rung.noise and len(estimates.successes) >= rung.images for estimates in found.estimates
        )
        assert at == reached
        reached = math.ceil(reached * keep)
    spent = 0
    for candidate, sampler in enumerate(_race([3.0, 1.0, 2.0, 0.5, 4.0])):
        estimates = found.estimates[candidate]
        rows = np.arange(len(estimates.successes))
        assert estimates.successes.tolist() == sampler.counts("count", 0, estimates.trials, rows)[:, 1].tolist()
        assert estimates.sigma == SIGMA
        spent += len(rows) * estimates.trials
    assert found.forward_passes == spent


def test_no_sample_is_asked_for_twice() -> None:
    samplers = _race([1.0])
    successive_halving(samplers.__getitem__, 1, LABELS, [Rung(10, 8), Rung(10, 8), Rung(20, 8), Rung(20, 40)])
    assert samplers[0].calls == [("count", 0, 8, 10), ("count", 0, 8, 10), ("count", 8, 40, 20)]


def test_equal_candidates_keep_their_order() -> None:
    found = successive_halving(_race([1.0] * 6).__getitem__, 6, LABELS, RUNGS)
    assert found.order == (0, 1, 2, 3, 4, 5)
    found = successive_halving(_race([1.0, 1.0, 0.25, 0.25, 1.0]).__getitem__, 5, LABELS, RUNGS)
    assert found.order == (2, 3, 0, 1, 4)


def test_those_that_fall_later_are_ahead_of_those_that_fell_before() -> None:
    """The first candidate is ahead on the first images only, so that the rounds disagree."""
    p = np.full((3, IMAGES), 0.8)
    p[0, :10], p[0, 10:] = 1.0, 0.0
    p[2, :10] = 0.7
    samplers = [coins(row, sigma=SIGMA, seed=1) for row in p]
    found = successive_halving(samplers.__getitem__, 3, LABELS, [Rung(10, 50), Rung(400, 50)])
    assert found.order == (1, 0, 2)
    assert found.estimates[2].acr > found.estimates[0].acr, "the last one did better, but on fewer images"


def test_any_score_may_order() -> None:
    samplers = _race([1.0, 0.25, 4.0])
    found = successive_halving(samplers.__getitem__, 3, LABELS, RUNGS, score=lambda estimates: -estimates.acr)
    assert found.order == (2, 0, 1)
    found = successive_halving(
        samplers.__getitem__, 3, LABELS, RUNGS, score=lambda estimates: estimates.certified_accuracy([0.2])[0.2]
    )
    assert found.order == (1, 0, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rungs": []}, "rungs that never shrink"),
        ({"rungs": [Rung(20, 8), Rung(10, 16)]}, "rungs that never shrink"),
        ({"rungs": [Rung(10, 16), Rung(20, 8)]}, "rungs that never shrink"),
        ({"candidates": 0}, "candidates must be at least 1"),
        ({"keep": 0.0}, r"to keep must lie within \(0, 1\]"),
        ({"keep": 1.1}, r"to keep must lie within \(0, 1\]"),
        ({"keep": float("nan")}, r"to keep must lie within \(0, 1\]"),
    ],
)
def test_races_that_make_no_sense_are_refused(options: dict[str, object], message: str) -> None:
    race: Callable[..., Halving] = successive_halving
    with pytest.raises(BitcertError, match=message):
        race(_race([1.0]).__getitem__, **{"candidates": 1, "labels": LABELS, "rungs": RUNGS, **options})


@pytest.mark.parametrize(("images", "noise"), [(0, 1), (1, 0)])
def test_rungs_of_nothing_are_refused(images: int, noise: int) -> None:
    with pytest.raises(BitcertError, match="must be at least 1, got 0"):
        Rung(images, noise)
