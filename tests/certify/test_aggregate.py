"""Bounds on a set: the inequality behind them at thousands of points, coverage, power, and the optimum of small problems."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats
from threadpoolctl import threadpool_info, threadpool_limits

from suite.certify import (
    NoisyClassifier,
    NoisyImages,
    Score,
    SetScores,
    aggregate,
    certified_radius,
    certify_set,
    clopper_pearson_lower,
    design_scores,
)
from suite.certify.sampling import label_counts
from suite.errors import BitcertError
from tests.certify.simulators import REPETITIONS, HalfSpace, Known, coins, most

SIGMA = 0.25


def _spread(images: int, seed: int = 0) -> NDArray[np.float64]:
    """Probabilities like those of a trained network: most near 1, some anywhere."""
    return np.random.default_rng(seed).beta(3, 0.35, images)


# Inequality (1)


@functools.cache
def _probabilities() -> NDArray[np.float64]:
    """20,000 probabilities within [0, 1], many of them near the ends."""
    generator = np.random.default_rng(0)
    uniform, normal = generator.random(8000), stats.norm.cdf(generator.uniform(-4, 9, 11_900))
    ends = 10.0 ** -np.arange(1, 50)
    return np.concatenate([uniform, normal, ends, 1 - ends, [0.0, 1.0]])


@functools.cache
def _chances(n: int, edges: tuple[float, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Probabilities, among them the nearest doubles around steps, with those of all counts; shapes (p,), (p, n + 1)."""
    near = [
        step
        for p in np.atleast_1d(stats.norm.cdf(edges))
        for step in (np.nextafter(p, 0), p, np.nextafter(p, 1), 0.9999 * p)
    ]
    p = np.concatenate([_probabilities(), np.clip(near, 0, 1)])
    return p, np.asarray(stats.binom.pmf(np.arange(n + 1), n, p[:, None]))


def _excess(scores: SetScores) -> float:
    """The largest ``ln B(p) - rate * gain(p)`` of all scores: not positive if (1) holds."""
    p, chances = _chances(scores.n, tuple(radius / scores.sigma for radius in scores.certified_accuracy))
    gain = scores.sigma * np.maximum(stats.norm.ppf(p), 0)
    worst = _excess_of(scores.acr, chances, gain)
    for radius, score in scores.certified_accuracy.items():
        gain = (p >= stats.norm.cdf(radius / scores.sigma)).astype(np.float64)
        worst = max(worst, _excess_of(score, chances, gain))
    return worst


def _excess_of(score: Score, chances: NDArray[np.float64], gain: NDArray[np.float64]) -> float:
    top = score.values.max()
    mean = np.log(chances @ np.exp(score.rate * (score.values - top))) + score.rate * top
    return float((mean - score.rate * gain).max())


CALIBRATIONS: dict[str, NDArray[np.float64]] = {
    "spread": _spread(300),
    "never": np.zeros(20),
    "always": np.ones(20),
    "even": np.full(20, 0.5),
    "one image": np.array([0.83]),
}


@pytest.mark.parametrize("n", [1, 7, 50])
@pytest.mark.parametrize(
    ("name", "sigma"),
    [("spread", 0.12), ("spread", 1.0), ("never", 0.12), ("always", 1.0), ("even", 0.12), ("one image", 1.0)],
)
def test_scores_obey_their_inequality_whatever_they_are_designed_for(name: str, n: int, sigma: float) -> None:
    radii = (0.0, 0.7 * sigma, 9 * sigma)
    scores = design_scores(CALIBRATIONS[name], n=n, images=400, sigma=sigma, radii=radii)
    assert list(scores.certified_accuracy) == list(radii)
    assert _excess(scores) <= 1e-12
    for score in (scores.acr, *scores.certified_accuracy.values()):
        assert score.values.shape == (n + 1,)
        assert np.all(np.diff(score.values) >= 0)
        assert score.rate > 0


@pytest.mark.parametrize(("name", "sigma"), [("spread", 0.12), ("always", 1.0)])
def test_scores_of_many_samples_obey_their_inequality(name: str, sigma: float) -> None:
    scores = design_scores(CALIBRATIONS[name], n=400, images=400, sigma=sigma, radii=(sigma,))
    assert _excess(scores) <= 1e-12
    assert all(np.all(np.diff(score.values) >= 0) for score in (scores.acr, scores.certified_accuracy[sigma]))


@pytest.mark.parametrize("images", [1, 10**6])
def test_scores_for_the_smallest_and_the_largest_sets_obey_their_inequality(images: int) -> None:
    for name in ("spread", "always"):
        assert _excess(design_scores(CALIBRATIONS[name], n=7, images=images, sigma=0.12, radii=(0.0, 0.1))) <= 1e-12


def test_scores_that_are_not_lowered_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def as_it_is(log_growth: NDArray[np.float64], rate: float, gain: object) -> NDArray[np.float64]:
        return log_growth + 1e-4

    monkeypatch.setattr(aggregate, "_lowered", as_it_is)
    assert _excess(design_scores(CALIBRATIONS["spread"], n=50, images=400, sigma=SIGMA)) > 1e-6
    assert _excess(design_scores(CALIBRATIONS["spread"], n=50, images=400, sigma=SIGMA, radii=(0.1,))) > 1e-6


# Coverage


def _failures(scores: SetScores, p: NDArray[np.float64], seed: int = 0) -> tuple[int, int]:
    """Of 10,000 sets of images with these probabilities, those whose ACR, and those of which anything, is overstated."""
    successes = np.random.default_rng(seed).binomial(scores.n, p, (REPETITIONS, len(p)))
    z = stats.norm.ppf(p)
    acr = np.maximum(scores.sigma * z, 0).mean()
    shares = {radius: (z >= radius / scores.sigma).mean() for radius in scores.certified_accuracy}
    of_acr, of_any = 0, 0
    for row in successes:
        found = scores.bound(row)
        of_acr += found.acr > acr
        of_any += found.acr > acr or any(found.certified_accuracy[radius] > shares[radius] for radius in shares)
    return of_acr, of_any


JUST_BELOW = 1 - 1e-9


@pytest.mark.parametrize(
    ("p", "alpha"),
    [
        (np.full(5, stats.norm.cdf(1.5)), 0.3),
        (np.full(5, stats.norm.cdf(1.0) * JUST_BELOW), 0.3),
        (np.full(50, stats.norm.cdf(1.0) * JUST_BELOW), 0.3),
        (np.full(50, stats.norm.cdf(1.0) * JUST_BELOW), 0.05),
        (np.full(50, 0.5), 0.05),
        (np.resize([0.5, stats.norm.cdf(1.0) * JUST_BELOW, 1.0, 0.0], 50), 0.3),
        (_spread(50, seed=1), 0.3),
        (np.array([stats.norm.cdf(1.0) * JUST_BELOW]), 0.3),
    ],
)
def test_bounds_fail_together_with_probability_at_most_alpha(p: NDArray[np.float64], alpha: float) -> None:
    scores = design_scores(_spread(300), n=20, images=len(p), sigma=SIGMA, radii=(SIGMA,), alpha=alpha)
    of_acr, of_any = _failures(scores, p)
    assert of_acr <= most(alpha / 2)
    assert of_any <= most(alpha)


def test_the_plain_estimate_in_place_of_a_score_would_be_caught() -> None:
    n, p = 20, np.full(50, 0.5)
    plain = SIGMA * np.maximum(stats.norm.ppf((np.arange(n + 1) + 0.5) / (n + 1)), 0)
    scores = design_scores(_spread(300), n=n, images=50, sigma=SIGMA, alpha=0.3)
    wrong = SetScores(n, 0.3, SIGMA, Score(plain, scores.acr.rate), {})
    assert _failures(scores, p)[0] <= most(0.3)
    assert _failures(wrong, p)[0] > most(0.3)


def test_the_set_of_a_linear_network_is_bounded_from_below() -> None:
    distances = np.linspace(-0.3, 0.8, 200)
    truth = np.maximum(distances, 0).mean()
    scores = design_scores(stats.norm.cdf(distances / SIGMA), n=40, images=200, sigma=SIGMA, radii=(0.0, SIGMA))
    noisy = NoisyImages(HalfSpace().at_distance(distances), sigma=SIGMA, batch=2000)
    found = certify_set(NoisyClassifier(HalfSpace(), noisy), np.ones(200, dtype=np.int64), scores)
    assert 0.75 * truth < found.acr < truth
    for radius, share in found.certified_accuracy.items():
        assert 0.8 * share < share < (distances >= radius).mean()
    assert (found.alpha, found.forward_passes) == (1e-3, 40)


# Power


def test_a_hundred_samples_beat_a_thousand_with_a_bound_for_each_image() -> None:
    p = _spread(500)
    scores = design_scores(_spread(300, seed=1), n=100, images=500, sigma=SIGMA)
    generator = np.random.default_rng(2)
    found = scores.bound(generator.binomial(100, p)).acr
    one_by_one = certified_radius(clopper_pearson_lower(generator.binomial(1000, p), 1000, 1e-3), SIGMA).mean()
    truth = np.maximum(SIGMA * stats.norm.ppf(p), 0).mean()
    assert 1.05 * one_by_one < found < truth


def test_nothing_but_wrong_predictions_are_worth_nothing() -> None:
    scores = design_scores(_spread(300), n=10, images=1, sigma=SIGMA, radii=(0.0, 0.5))
    for images in (1, 30):
        found = scores.bound(np.zeros(images, dtype=np.int64))
        assert found.acr == 0
        assert dict(found.certified_accuracy) == {0.0: 0.0, 0.5: 0.0}


@pytest.mark.parametrize("n", [1, 20])
def test_no_bound_is_above_what_can_be_true(n: int) -> None:
    scores = design_scores(np.ones(10), n=n, images=10**6, sigma=SIGMA, radii=(0.0, 0.1))
    found = scores.bound(np.full(10**5, n))
    assert all(share <= 1 for share in found.certified_accuracy.values())


def _optimum(mass: NDArray[np.float64], rate: float, images: int, alpha: float, radius: float | None) -> float:
    """Best expected bound at a rate, by sequential quadratic programming on the values of ``g``; radius None for the ACR."""
    n = len(mass) - 1
    z = np.linspace(0, 4, 161) if radius is None else np.array([radius / SIGMA])
    gain = np.append(SIGMA * z, 8 * SIGMA) if radius is None else np.array([0.0, 1.0])
    mean = np.vstack([stats.binom.pmf(np.arange(n + 1), n, stats.norm.cdf(z)[:, None]), np.eye(n + 1)[n]])
    mean /= np.exp(rate * gain)[:, None]
    rises = np.diff(np.eye(n + 1), axis=0)
    minimize: Callable[..., optimize.OptimizeResult] = optimize.minimize
    found = minimize(
        lambda g: -(mass @ np.log(g)),
        np.linspace(0.5, 0.51, n + 1),
        jac=lambda g: -mass / g,
        method="SLSQP",
        bounds=[(1e-9, None)] * (n + 1),
        constraints=[
            {"type": "ineq", "fun": lambda g: 1 - mean @ g, "jac": lambda g: -mean},
            {"type": "ineq", "fun": lambda g: rises @ g, "jac": lambda g: rises},
        ],
        options={"maxiter": 500, "ftol": 1e-12},
    )
    assert found.success
    return float(-found.fun / rate + np.log(alpha) / (rate * images))


@pytest.mark.parametrize("images", [20, 300, 5000])
@pytest.mark.parametrize("likely", [_spread(300), np.array([0.9, 0.95, 0.99])])
@pytest.mark.parametrize("radius", [None, 0.1])
def test_no_other_score_or_rate_promises_more_for_the_calibration_images(
    radius: float | None, likely: NDArray[np.float64], images: int
) -> None:
    n = 3
    radii = () if radius is None else (radius,)
    scores = design_scores(likely, n=n, images=images, sigma=SIGMA, radii=radii, alpha=1e-3 * (1 + len(radii)))
    score = scores.acr if radius is None else scores.certified_accuracy[radius]
    mass = 0.98 * np.mean(stats.binom.pmf(np.arange(n + 1), n, likely[:, None]), axis=0) + 0.02 / (n + 1)
    found = float(mass @ score.values + np.log(1e-3) / (score.rate * images))
    scale = SIGMA if radius is None else 1.0
    best = max(_optimum(mass, rate, images, 1e-3, radius) for rate in np.geomspace(0.05, 20, 25) / scale)
    assert found >= _optimum(mass, score.rate, images, 1e-3, radius) - 2e-3 / score.rate
    assert found >= best - (0.01 if images < 1000 else 0.02) * max(best, 0.1 * scale)


# What scores are, and what they depend on


def test_a_bound_is_the_mean_score_less_a_price_for_confidence() -> None:
    score = Score(np.array([-0.5, 0.0, 0.75, 1.0]), 2.0)
    counts = np.array([3, 3, 2, 3, 0, 1] * 5)
    expected = np.mean([score.values[k] for k in counts]) - np.log(1 / 0.01) / (2.0 * 30)
    assert score.lower_bound(counts, 0.01) == pytest.approx(expected, rel=1e-12)
    assert score.lower_bound(np.array([0, 1, 3]), 0.01) == 0


def test_all_bounds_share_alpha() -> None:
    scores = design_scores(_spread(100), n=10, images=100, sigma=SIGMA, radii=(0.0, 0.25, 0.5), alpha=0.02)
    counts = np.random.default_rng(0).binomial(10, _spread(100))
    found = scores.bound(counts)
    assert found.acr == scores.acr.lower_bound(counts, 0.005)
    assert found.certified_accuracy == {
        radius: score.lower_bound(counts, 0.005) for radius, score in scores.certified_accuracy.items()
    }


def test_the_same_calibration_gives_the_same_scores_whatever_the_number_of_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads: set[int] = set()
    grow = aggregate._grow

    def watched(mass: NDArray[np.float64], survival: NDArray[np.float64], tolerance: float) -> NDArray[np.float64]:
        threads.update(library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas")
        return grow(mass, survival, tolerance)

    monkeypatch.setattr(aggregate, "_grow", watched)
    found = []
    for limit in (1, 2):
        with threadpool_limits(limit):
            scores = design_scores(_spread(200), n=120, images=300, sigma=SIGMA, radii=(0.25,))
            found.append((scores.acr, scores.certified_accuracy[0.25]))
    for one, other in zip(*found, strict=True):
        assert np.array_equal(one.values, other.values)
        assert one.rate == other.rate
    assert threads == {1}


def test_the_label_is_counted_in_the_samples_and_images_asked_for() -> None:
    sampler = Known(np.random.default_rng(0).dirichlet(np.ones(4), 30), sigma=SIGMA)
    labels = np.random.default_rng(1).integers(0, 4, 30)
    rows = np.array([7, 3, 29])
    drawn = sampler.predictions("count", 5, 90)
    every = (drawn == labels[:, None]).sum(axis=1)
    assert label_counts(sampler, labels, "count", 5, 90).tolist() == every.tolist()
    assert label_counts(sampler, labels, "count", 5, 90, rows).tolist() == every[rows].tolist()
    scores = design_scores(_spread(50), n=40, images=30, sigma=SIGMA, radii=(0.1,))
    expected = scores.bound((sampler.predictions("count", 0, 40) == labels[:, None]).sum(axis=1))
    found = certify_set(sampler, labels, scores)
    assert (found.acr, found.certified_accuracy) == (expected.acr, expected.certified_accuracy)
    assert ("select", 0, 100) not in [call[:3] for call in sampler.calls]


# Arguments


def test_scores_for_another_sigma_are_refused() -> None:
    scores = design_scores(_spread(10), n=5, images=3, sigma=0.5)
    with pytest.raises(BitcertError, match=r"sigma = 0\.5 say nothing about noise of sigma = 0\.25"):
        certify_set(coins([0.9] * 3, sigma=0.25), np.ones(3, dtype=np.int64), scores)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n must be at least 1, got 0"),
        ({"images": 0}, "images must be at least 1, got 0"),
        ({"sigma": 0.0}, "sigma must be positive"),
        ({"alpha": 1.0}, "alpha must lie strictly between 0 and 1"),
        ({"radii": (0.5, 0.25)}, "radii must be finite numbers >= 0 in ascending order"),
        ({"radii": (0.25, 0.25)}, "radii must be finite numbers >= 0 in ascending order"),
        ({"probabilities": [0.5, 1.1]}, r"probabilities within \[0, 1\]"),
        ({"probabilities": [-0.1]}, r"probabilities within \[0, 1\]"),
        ({"probabilities": [float("nan")]}, r"probabilities within \[0, 1\]"),
        ({"probabilities": []}, r"probabilities within \[0, 1\]"),
        ({"probabilities": [[0.5]]}, r"probabilities within \[0, 1\]"),
    ],
)
def test_designs_that_make_no_sense_are_refused(options: dict[str, object], message: str) -> None:
    design: Callable[..., SetScores] = design_scores
    with pytest.raises(BitcertError, match=message):
        design(**{"probabilities": [0.5, 0.9], "n": 5, "images": 10, "sigma": 0.25, **options})


@pytest.mark.parametrize("counts", [[-1, 2], [0, 5], [], [[1, 2]], 3])
def test_counts_that_cannot_be_are_refused(counts: ArrayLike) -> None:
    score = Score(np.linspace(0, 1, 5), 1.0)
    with pytest.raises(BitcertError, match=r"integers within 0\.\.4"):
        score.lower_bound(np.asarray(counts), 0.01)


@pytest.mark.parametrize("labels", [[0, 1, -1], [0, 1, 2], [1], [0, 1, 1, 1], [0.0, 1.0, 1.0]])
def test_labels_that_make_no_sense_are_refused(labels: list[float]) -> None:
    with pytest.raises(BitcertError):
        label_counts(coins([0.9] * 3, sigma=SIGMA), np.array(labels), "count", 0, 10)


@pytest.mark.parametrize("dtype", [np.float64, np.bool_])
def test_counts_that_are_no_integers_are_refused(dtype: type[np.generic]) -> None:
    with pytest.raises(BitcertError, match="integers"):
        Score(np.linspace(0, 1, 5), 1.0).lower_bound(np.ones(3, dtype=dtype), 0.01)


def test_counts_are_given_with_a_confidence() -> None:
    with pytest.raises(BitcertError, match="alpha must lie strictly between 0 and 1"):
        Score(np.linspace(0, 1, 5), 1.0).lower_bound(np.array([1]), 0.0)
