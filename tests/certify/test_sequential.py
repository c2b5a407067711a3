"""Sequential certificates: the martingale against integrals and exact sums, the method against classifiers that are known."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray
from scipy import integrate, special, stats

from suite.certify import (
    Certificates,
    NoisyClassifier,
    NoisyImages,
    Sampler,
    certify_fixed,
    certify_sequential,
    clopper_pearson_lower,
    sequential,
)
from suite.certify.noise import BLOCK
from suite.certify.sequential import log_evidence
from suite.errors import BitcertError
from tests.certify.simulators import REPETITIONS, HalfSpace, Known, OneStream, coins, most, wrong

SIGMA = 0.25
RADII = (0.0, 0.1, 0.25, 0.5, 0.75)
THRESHOLDS = stats.norm.cdf(np.array(RADII) / SIGMA)
JUST_BELOW = 1 - 1e-9
TRIALS = st.integers(0, 2000).flatmap(lambda t: st.tuples(st.integers(0, t), st.just(t)))
LEVELS = st.floats(0.5, 0.9999)


# The martingale


def _integral(k: int, t: int, q: float) -> float:
    """``log M`` as the mixture it is; Jeffreys' prior is uniform in the angle whose squared sine is u."""
    first = math.asin(math.sqrt(q))

    def ratio(angle: float) -> float:
        u = math.sin(angle) ** 2
        return (u / q) ** k * ((1 - u) / (1 - q)) ** (t - k)

    value = integrate.quad(ratio, first, math.pi / 2, epsabs=0, epsrel=1e-11, limit=500)[0]
    return math.log(value / (math.pi / 2 - first))


@pytest.mark.parametrize("q", [0.5, 0.6, 0.9, 0.977, 0.9999])
@pytest.mark.parametrize("t", [0, 1, 2, 7, 40])
def test_evidence_is_the_logarithm_of_the_mixture(t: int, q: float) -> None:
    expected = [_integral(k, t, q) for k in range(t + 1)]
    np.testing.assert_allclose(log_evidence(np.arange(t + 1), t, q), expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("q", [0.5, 0.9, 0.999])
def test_evidence_of_many_samples_is_the_mixture_too(q: float) -> None:
    t = 100_000
    k = np.unique(np.clip(np.rint(t * q + np.sqrt(t * q * (1 - q)) * np.arange(-3, 9)), 0, t))
    angles = np.linspace(math.asin(math.sqrt(q)), math.pi / 2, 400_001)[:-1]
    u = np.sin(angles) ** 2
    logs = k[:, None] * np.log(u / q) + (t - k[:, None]) * (2 * np.log(np.cos(angles)) - np.log1p(-q))
    top = logs.max(axis=1)
    expected = top + np.log(integrate.trapezoid(np.exp(logs - top[:, None]), dx=1 / len(angles), axis=1))
    np.testing.assert_allclose(log_evidence(k, t, q), expected, rtol=1e-6, atol=1e-4)


def _after_one_more(k: int, t: int, q: float, p: float) -> float:
    """Logarithm of the martingale's expected value after another sample."""
    success, failure = log_evidence([k + 1, k], t + 1, q)
    return float(np.logaddexp(math.log(p) + success, math.log1p(-p) + failure))


@given(TRIALS, LEVELS, st.floats(1e-6, 1))
def test_another_sample_keeps_the_expectation_at_the_threshold_and_lowers_it_below(
    counts: tuple[int, int], q: float, share: float
) -> None:
    k, t = counts
    assume(stats.beta.sf(q, k + 0.5, t - k + 0.5) > 1e-200)
    now = float(log_evidence(k, t, q))
    assert _after_one_more(k, t, q, q) == pytest.approx(now, rel=1e-9, abs=1e-9)
    assert _after_one_more(k, t, q, q * share) <= now + 1e-9 * max(1, abs(now))


@given(st.integers(1, 5000), LEVELS)
def test_evidence_starts_at_nothing_and_grows_with_the_successes(t: int, q: float) -> None:
    assert log_evidence(0, 0, q) == pytest.approx(0, abs=1e-12)
    k = np.arange(t + 1)
    evidence, hopeless = log_evidence(k, t, q), np.asarray(stats.beta.sf(q, k + 0.5, t - k + 0.5) < 1e-200)
    assert np.all(np.diff(evidence[~hopeless]) > -1e-9)
    assert np.all(evidence[hopeless] < 0)
    assert not hopeless[-1]


def test_a_threshold_of_one_can_never_be_passed() -> None:
    found = log_evidence([[0], [5], [10**6]], 10**6, [1.0, 0.5])
    assert found.shape == (3, 2)
    assert np.isneginf(found[:, 0]).all()
    assert found[2, 1] > 1e5


LONGEST = 400


@functools.cache
def _table(q: float) -> NDArray[np.float64]:
    """Evidence at ``[t, k]`` for all sample sizes."""
    sizes = np.arange(LONGEST + 1)
    evidence = log_evidence(np.minimum(sizes, sizes[:, None]), sizes[:, None], q)
    return np.where(sizes <= sizes[:, None], evidence, -np.inf)


def _chance_to_cross(enough: NDArray[np.bool_], p: float) -> float:
    """Probability that a path is ever at ``[t, k]`` where there is ``enough``: an exact sum over all paths."""
    alive, crossed = np.array([1.0]), 0.0
    for t in range(1, len(enough)):
        alive = np.append(alive * (1 - p), 0) + np.append(0, alive * p)
        crossed += alive[enough[t, : t + 1]].sum()
        alive[enough[t, : t + 1]] = 0
    return crossed


@pytest.mark.parametrize("alpha", [0.05, 0.001])
@pytest.mark.parametrize("q", THRESHOLDS[:4])
def test_whoever_looks_after_every_sample_is_misled_with_probability_at_most_alpha(q: float, alpha: float) -> None:
    enough = _table(q) >= -math.log(alpha)
    chances = [_chance_to_cross(enough, p) for p in (q, 0.99 * q, 0.5 * q)]
    assert 0.25 * alpha < chances[0] <= alpha, "Ville's inequality holds and gives little away"
    assert chances == sorted(chances, reverse=True)


@pytest.mark.parametrize("q", [0.5, THRESHOLDS[2]])
def test_paths_stopped_at_the_worst_moment_mislead_as_seldom(q: float) -> None:
    successes = np.random.default_rng(1).random((REPETITIONS, LONGEST)) < q
    highest = _table(q)[np.arange(1, LONGEST + 1), np.cumsum(successes, axis=1)].max(axis=1)
    assert (highest >= -math.log(0.05)).sum() <= most(0.05)
    assert (highest >= -math.log(0.001)).sum() <= most(0.001)


def test_a_bound_for_one_look_would_be_caught_when_it_is_looked_at_often() -> None:
    sizes, alpha, q = np.arange(LONGEST + 1), 0.05, 0.5
    k, t = np.minimum(sizes, sizes[:, None]), np.maximum(sizes[:, None], 1)
    enough = (clopper_pearson_lower(np.minimum(k, t), t, alpha) > q) & (sizes <= sizes[:, None])
    assert _chance_to_cross(enough, q) > 3 * alpha


# Soundness of certificates


def _certify(sampler: Sampler, n: int, alpha: float, futility: float = 0.05, n0: int = 10) -> Certificates:
    return certify_sequential(sampler, radii=RADII, n0=n0, n=n, alpha=alpha, futility=futility)


def _edges(factor: float) -> NDArray[np.float64]:
    """Probabilities next to each of the thresholds in turn."""
    return np.resize(THRESHOLDS * factor, REPETITIONS)


@pytest.mark.parametrize(
    ("p", "n", "alpha", "futility"),
    [
        (_edges(JUST_BELOW), 200, 0.05, 0.0),
        (_edges(JUST_BELOW), 300, 0.05, 0.05),
        (_edges(JUST_BELOW), 300, 0.05, 0.5),
        (_edges(JUST_BELOW), 300, 0.001, 0.05),
        (_edges(0.99), 100, 0.3, 0.05),
        (np.full(REPETITIONS, 0.5 * JUST_BELOW), 100, 0.3, 0.0),
        (np.full(REPETITIONS, 0.45), 100, 0.05, 0.0),
        (_edges(JUST_BELOW), 1, 0.7, 0.0),
        (_edges(JUST_BELOW), 2, 0.5, 0.0),
        (_edges(JUST_BELOW), 10, 0.3, 0.05),
        (np.resize([0.0, 1.0], REPETITIONS), 100, 0.05, 0.05),
    ],
)
def test_certificates_fail_with_probability_at_most_alpha(
    p: NDArray[np.float64], n: int, alpha: float, futility: float
) -> None:
    sampler = coins(p, sigma=SIGMA, seed=1)
    found = _certify(sampler, n, alpha, futility)
    failed = wrong(found, sampler.probabilities, SIGMA)
    assert failed.sum() <= most(alpha)
    for j in range(len(RADII)):  # and at each of the thresholds alone
        assert failed[j :: len(RADII)].sum() <= most(alpha, REPETITIONS // len(RADII))


def test_a_likeliest_class_below_a_half_is_not_certified() -> None:
    sampler = Known(np.tile([0.3, 0.4, 0.3], (REPETITIONS, 1)), sigma=SIGMA, seed=2)
    found = _certify(sampler, 100, 0.05, futility=0.0)
    assert wrong(found, sampler.probabilities, SIGMA).sum() <= most(0.05)


def test_impossible_and_certain_classes_are_told_apart() -> None:
    found = _certify(coins([0.0, 1.0], sigma=SIGMA), 2000, 1e-3)
    assert found.prediction.tolist() == [0, 1]
    assert found.radius.tolist() == [0.5, 0.5], "0.75 takes more samples than 2000"
    assert _certify(coins([0.0, 1.0], sigma=SIGMA), 10_000, 1e-3).radius.tolist() == [0.75, 0.75]


def test_certificates_of_a_linear_network_fail_as_seldom() -> None:
    distances = np.resize(np.array(RADII) - 1e-4, 1000)
    noisy = NoisyImages(HalfSpace().at_distance(distances), sigma=SIGMA, batch=5000)
    found = _certify(NoisyClassifier(HalfSpace(), noisy), 128, 0.2)
    of_one = stats.norm.cdf(distances / SIGMA)
    truth = np.stack([1 - of_one, of_one], axis=1)
    assert wrong(found, truth, SIGMA).sum() <= most(0.2, 1000)


@pytest.mark.parametrize("alpha", [0.3, 0.05])
@pytest.mark.parametrize("j", [0, 1, 3])
def test_all_looks_and_the_last_one_together_fail_as_seldom(j: int, alpha: float) -> None:
    """The exact probability that a class just below a threshold is certified there, from all outcomes of all looks."""
    n, q = 400, THRESHOLDS[j]
    sampler = coins(np.linspace(0.5, 1, 200), sigma=SIGMA)
    _certify(sampler, n, alpha, futility=0.0)
    looks = [stop for purpose, _, stop, _ in sampler.calls if purpose == "count"]
    assert looks[-1] == n
    enough = np.zeros((n + 1, n + 1), dtype=bool)
    for stop in looks:
        enough[stop, : stop + 1] = log_evidence(np.arange(stop + 1), stop, q) >= -math.log(0.7 * alpha)
    enough[n] |= clopper_pearson_lower(np.arange(n + 1), n, 0.3 * alpha) > q
    assert 0.25 * alpha < _chance_to_cross(enough, q) <= alpha


def _overclaims(sampler: Known, n: int = 300, alpha: float = 0.05, n0: int = 10) -> int:
    found = _certify(sampler, n, alpha, futility=0.0, n0=n0)
    return int(wrong(found, sampler.probabilities, SIGMA).sum())


def test_a_bound_for_one_look_in_place_of_the_martingale_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def one_look(successes: ArrayLike, trials: ArrayLike, threshold: ArrayLike) -> NDArray[np.float64]:
        bound = clopper_pearson_lower(successes, trials, 0.05)
        return np.where(bound >= np.asarray(threshold), np.inf, -np.inf)

    p = np.full(4000, THRESHOLDS[1] * JUST_BELOW)
    assert _overclaims(coins(p, sigma=SIGMA)) <= most(0.05, 4000)
    monkeypatch.setattr(sequential, "log_evidence", one_look)
    assert _overclaims(coins(p, sigma=SIGMA)) > most(0.05, 4000)


def test_a_mixture_over_both_sides_of_the_threshold_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def two_sided(successes: ArrayLike, trials: ArrayLike, threshold: ArrayLike) -> NDArray[np.float64]:
        k, t, q = (np.asarray(value, dtype=np.float64) for value in (successes, trials, threshold))
        mixed = special.betaln(k + 0.5, t - k + 0.5) - special.betaln(0.5, 0.5)
        return np.asarray(mixed - special.xlogy(k, q) - special.xlog1py(t - k, -q))

    sampler = Known(np.tile([0.3, 0.4, 0.3], (2000, 1)), sigma=SIGMA, seed=2)
    assert _overclaims(sampler) <= most(0.05, 2000)
    monkeypatch.setattr(sequential, "log_evidence", two_sided)
    assert _overclaims(sampler) > 1000


def test_the_same_noise_for_class_and_decision_would_be_caught() -> None:
    cells = np.tile([0.4999, 0.4999, 0.0002], (4000, 1))
    assert _overclaims(Known(cells, sigma=SIGMA), n=1, alpha=0.9, n0=1) <= most(0.9, 4000)
    assert _overclaims(OneStream(cells, sigma=SIGMA), n=1, alpha=0.9, n0=1) > most(0.9, 4000)


# What is decided, and when


def test_a_radius_is_certified_once_all_smaller_ones_have_crossed_at_some_look_or_at_the_last_sample() -> None:
    alpha, n = 0.05, 700
    sampler = coins(np.random.default_rng(0).beta(2, 0.3, 100), sigma=SIGMA, seed=3)
    found = _certify(sampler, n, alpha, futility=0.0)
    looks = sorted({(start, stop) for purpose, start, stop, _ in sampler.calls if purpose == "count"})
    assert [start for start, _ in looks] == [0, *(stop for _, stop in looks[:-1])], "each sample is drawn once"
    assert looks[-1][1] == n
    assert all(stop % BLOCK == 0 for _, stop in looks[:-1])
    chosen = (sampler.predictions("select", 0, 10) == 1).sum(axis=1) > 5
    hits = np.cumsum(sampler.predictions("count", 0, n) == chosen[:, None], axis=1)
    for image in range(100):
        crossed = [
            max(float(log_evidence(hits[image, stop - 1], stop, q)) for _, stop in looks) >= -math.log(0.7 * alpha)
            or clopper_pearson_lower(int(hits[image, -1]), n, 0.3 * alpha) > q
            for q in THRESHOLDS
        ]
        reached = [*crossed, False].index(False)
        assert found.prediction[image] == (chosen[image] if reached else -1)
        assert found.radius[image] == (RADII[reached - 1] if reached else 0)
        assert found.p_lower[image] == (THRESHOLDS[reached - 1] if reached else 0)
    assert len(np.unique(found.radius)) > 2
    assert -1 in found.prediction


def test_only_what_is_undecided_goes_on_and_is_paid_for() -> None:
    sampler = coins(np.random.default_rng(0).beta(2, 0.3, 200), sigma=SIGMA, seed=3)
    found = _certify(sampler, 5000, 1e-3, n0=17)
    assert sum((stop - start) * rows for _, start, stop, rows in sampler.calls) == found.forward_passes.sum()
    assert sampler.calls[0] == ("select", 0, 17, 200)
    assert len(np.unique(found.forward_passes)) > 5
    together = found.forward_passes
    for image in (0, 7, 33):
        alone = Known(sampler.cells, sigma=SIGMA, seed=3)
        rows = np.array([image])
        apart = _certify(_Some(alone, rows), 5000, 1e-3, n0=17)
        assert apart.forward_passes == together[image]
        assert (apart.radius, apart.prediction) == (found.radius[image], found.prediction[image])


class _Some:
    """Some images of a sampler."""

    def __init__(self, sampler: Sampler, rows: NDArray[np.int64]) -> None:
        self.sampler, self.rows, self.sigma = sampler, rows, sampler.sigma

    def __len__(self) -> int:
        return len(self.rows)

    def counts(self, purpose: str, start: int, stop: int, rows: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        return self.sampler.counts(purpose, start, stop, self.rows if rows is None else self.rows[rows])

    def predictions(
        self, purpose: str, start: int, stop: int, rows: NDArray[np.int64] | None = None
    ) -> NDArray[np.int16]:
        return self.sampler.predictions(purpose, start, stop, self.rows if rows is None else self.rows[rows])


def test_giving_up_what_is_impossible_costs_no_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(missing: NDArray[np.int64], *_: object) -> NDArray[np.float64]:
        return np.ones(missing.shape)

    p = np.random.default_rng(0).beta(2, 0.3, 1000)
    stopping = _certify(coins(p, sigma=SIGMA, seed=3), 400, 0.01, futility=0.0)
    monkeypatch.setattr(sequential, "_chance", never)
    stubborn = _certify(coins(p, sigma=SIGMA, seed=3), 400, 0.01, futility=0.0)
    assert np.array_equal(stopping.radius, stubborn.radius)
    assert np.array_equal(stopping.prediction, stubborn.prediction)
    assert stopping.forward_passes.sum() < stubborn.forward_passes.sum()


def test_giving_up_sooner_costs_certificates_and_saves_samples() -> None:
    p = np.random.default_rng(0).beta(2, 0.3, 1000)
    results = [_certify(coins(p, sigma=SIGMA, seed=3), 1000, 1e-3, futility) for futility in (0.0, 0.05, 0.5)]
    for patient, hasty in ((0, 1), (1, 2)):
        assert np.all(results[patient].forward_passes >= results[hasty].forward_passes)
        assert np.all(results[patient].radius >= results[hasty].radius)
        assert results[patient].forward_passes.sum() > results[hasty].forward_passes.sum()


# Power


def test_it_certifies_nearly_what_a_fixed_number_of_samples_does() -> None:
    n, alpha = 2000, 1e-3
    p = np.random.default_rng(0).beta(2, 0.3, 2000)
    fixed = certify_fixed(coins(p, sigma=SIGMA, seed=4), n0=100, n=n, alpha=alpha)
    found = certify_sequential(coins(p, sigma=SIGMA, seed=4), radii=RADII, n0=100, n=n, alpha=alpha)
    for radius in RADII:
        possible = ((fixed.prediction >= 0) & (fixed.radius >= radius)).sum()
        if possible:
            assert ((found.prediction >= 0) & (found.radius >= radius)).sum() > 0.9 * possible
    assert found.forward_passes.mean() < 0.5 * fixed.forward_passes.mean()


def test_images_far_from_all_thresholds_need_few_samples() -> None:
    found = certify_sequential(coins([0.75] * 500, sigma=SIGMA), radii=(0.0, 0.5), n0=100, n=100_000)
    assert (found.radius == 0).all()
    assert (found.prediction == 1).mean() > 0.99
    assert found.forward_passes.mean() < 250
    found = certify_sequential(coins([0.999] * 500, sigma=SIGMA), radii=(0.0, 0.25), n0=100, n=100_000)
    assert (found.radius == 0.25).all()
    assert found.forward_passes.mean() < 250


# Arguments


def test_the_radii_start_at_zero_whether_said_or_not() -> None:
    p = np.linspace(0.4, 1, 50)
    results = [
        certify_sequential(coins(p, sigma=SIGMA), radii=radii, n0=10, n=300) for radii in ((0.25,), (0.0, 0.25), ())
    ]
    assert np.array_equal(results[0].radius, results[1].radius)
    assert set(results[2].radius) == {0.0}
    assert np.all(results[2].prediction[results[1].prediction >= 0] >= 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n must be at least 1, got 0"),
        ({"n0": 0}, "n0 must be at least 1, got 0"),
        ({"alpha": 0.0}, "alpha must lie strictly between 0 and 1"),
        ({"alpha": 1.0}, "alpha must lie strictly between 0 and 1"),
        ({"futility": -0.1}, r"futility must lie within \[0, 1\)"),
        ({"futility": 1.0}, r"futility must lie within \[0, 1\)"),
        ({"futility": float("nan")}, r"futility must lie within \[0, 1\)"),
        ({"radii": (-0.1, 0.5)}, "radii must be finite numbers >= 0"),
        ({"radii": (0.5, float("inf"))}, "radii must be finite numbers >= 0"),
        ({"radii": (0.5, float("nan"))}, "radii must be finite numbers >= 0"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options: dict[str, object], message: str) -> None:
    method: Callable[..., Certificates] = certify_sequential
    with pytest.raises(BitcertError, match=message):
        method(coins([0.9], sigma=SIGMA), **{"radii": (0.5,), "n": 100, **options})
