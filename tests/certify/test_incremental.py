"""Certificates with the help of a base, against plain loops, Cohen's method, exact sums and pairs of known classifiers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from suite.certify import (
    BaseRecord,
    Certificates,
    NoisyClassifier,
    NoisyImages,
    certify_fixed,
    certify_incremental,
    certify_irs,
    clopper_pearson_lower,
    clopper_pearson_upper,
    incremental,
    record_base,
)
from suite.errors import BitcertError
from tests.certify.simulators import REPETITIONS, HalfSpace, Known, OneStream, Shifted, coins, most, pair, wrong

SIGMA = 0.25
JUST_BELOW = 1 - 1e-9


def _same(one: Certificates, other: Certificates) -> bool:
    names = ("prediction", "radius", "p_lower", "forward_passes")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


def _spread(images: int) -> NDArray[np.float64]:
    return np.random.default_rng(0).beta(3, 0.35, images)


def _changed_now_and_then(images: int, share: float, seed: int = 2) -> tuple[Known, Known]:
    """Base and changed classifier that differ in a share of each class's samples."""
    p = _spread(images)
    return pair(p * (1 - share), p * share, (1 - p) * share, sigma=SIGMA, seed=seed)


# The published method


def _published(base: BaseRecord, changed: Known, n: int, alpha: float, gamma: float) -> list[list[float]]:
    """Algorithm 3 of Ugare et al., one sample at a time; statsmodels' intervals have two sides, hence twice alpha."""
    found = []
    for image in range(len(changed)):
        only = np.array([image])
        votes = base.select[image].tolist()
        chosen = min(set(votes), key=lambda c: (-votes.count(c), c))
        hits = sum(int(c) == chosen for c in base.count[image])
        of_base = proportion_confint(hits, base.count.shape[1], alpha=2 * alpha / 2, method="beta")[0]
        if of_base < gamma:
            differ = 0
            for sample in range(n):
                differ += int(changed.predictions("count", sample, sample + 1, only)[0, 0] != base.count[image, sample])
            lower = max(0.0, of_base - proportion_confint(differ, n, alpha=2 * alpha / 2, method="beta")[1])
        else:
            hits = sum(int(changed.predictions("fresh", s, s + 1, only)[0, 0]) == chosen for s in range(n))
            lower = proportion_confint(hits, n, alpha=2 * alpha, method="beta")[0]
        found.append([chosen, SIGMA * stats.norm.ppf(lower), lower, n] if lower > 0.5 else [-1, 0.0, lower, n])
    return found


@pytest.mark.parametrize("gamma", [0.8, 0.99, 0.5])
def test_it_is_incremental_randomized_smoothing(gamma: float) -> None:
    of_base, changed = _changed_now_and_then(40, 0.03)
    base = record_base(of_base, n0=20, n=300)
    found = certify_irs(changed, base, n=60, alpha=0.01, gamma=gamma)
    rows = zip(found.prediction, found.radius, found.p_lower, found.forward_passes, strict=True)
    np.testing.assert_allclose(list(rows), _published(base, changed, 60, 0.01, gamma), rtol=1e-9, atol=1e-12)
    assert len(np.unique(found.prediction)) > 1


def test_only_images_that_the_base_is_sure_of_get_fresh_noise() -> None:
    of_base, changed = _changed_now_and_then(60, 0.01)
    base = record_base(of_base, n0=20, n=2000)
    certify_irs(changed, base, n=100)
    sure = clopper_pearson_lower((base.count == base.chosen[:, None]).sum(axis=1), 2000, 5e-4) >= 0.99
    assert 0 < sure.sum() < 60
    assert sorted(changed.calls) == [("count", 0, 100, int((~sure).sum())), ("fresh", 0, 100, int(sure.sum()))]


TINY = 12


class _Every:
    """Every outcome that a base of 12 samples can meet: an image for each number of its hits, of flips, and of fresh hits."""

    sigma = SIGMA

    def __init__(self) -> None:
        self.hits, self.differ, self.fresh = (part.ravel() for part in np.indices((TINY + 1,) * 3))
        count = (np.arange(TINY) < self.hits[:, None]).astype(np.int16)
        self.base = BaseRecord(np.ones((len(count), 1), dtype=np.int16), count)

    def __len__(self) -> int:
        return len(self.hits)

    def predictions(
        self, purpose: str, start: int, stop: int, rows: NDArray[np.int64] | None = None
    ) -> NDArray[np.int16]:
        assert (purpose, start, stop) == ("count", 0, TINY)
        differ = np.arange(TINY) < self.differ[:, None]
        every = np.where(differ, 1 - self.base.count, self.base.count)
        return np.asarray(every if rows is None else every[rows], dtype=np.int16)

    def counts(self, purpose: str, start: int, stop: int, rows: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        assert (purpose, start, stop) == ("fresh", 0, TINY)
        every = np.stack([TINY - self.fresh, self.fresh], axis=1)
        return every if rows is None else every[rows]


@pytest.mark.parametrize(("alpha", "gamma"), [(0.3, 0.5), (0.3, 0.65), (0.1, 0.6)])
def test_its_choice_between_replayed_and_fresh_noise_does_no_harm(alpha: float, gamma: float) -> None:
    """The exact probability of a wrong certificate, for joint distributions of all kinds."""
    every = _Every()
    found = certify_irs(every, every.base, n=TINY, alpha=alpha, gamma=gamma).p_lower.reshape((TINY + 1,) * 3)
    k = np.arange(TINY + 1)
    edges = clopper_pearson_lower(k, TINY, alpha)
    worst = 0.0
    for p in [*(edges[edges > 0.5] * JUST_BELOW), 0.5, 0.6, 0.75]:
        failed = (found > max(p, 0.5)).astype(float) @ stats.binom.pmf(k, TINY, p)
        for of_base in np.linspace(0.5, 1, 16):
            for away in np.linspace(max(0.0, of_base - p), min(of_base, 0.5), 6):
                towards = p - of_base + away
                if towards < 0 or of_base + towards > 1:
                    continue
                chances = stats.binom.pmf(k, TINY, of_base)
                for hits in range(TINY + 1):
                    flips = np.convolve(
                        stats.binom.pmf(np.arange(hits + 1), hits, away / of_base),
                        stats.binom.pmf(np.arange(TINY - hits + 1), TINY - hits, min(1, towards / (1 - of_base)))
                        if of_base < 1
                        else np.eye(TINY - hits + 1)[0],
                    )
                    chances[hits] *= flips @ failed[hits]
                worst = max(worst, chances.sum())
    assert 0.5 * alpha < worst <= alpha


# Soundness

LEVELS = (0.0, 0.001, 0.01, 0.1, 0.4)


@pytest.mark.parametrize("away", LEVELS)
@pytest.mark.parametrize(
    ("p", "alpha", "n", "of_base"),
    [
        (np.resize([0.5 * JUST_BELOW, 0.55, 0.6, 0.9], REPETITIONS), 0.05, 300, 2500),
        (np.full(REPETITIONS, 0.5 * JUST_BELOW), 0.3, 100, 500),
    ],
)
def test_certificates_fail_with_probability_at_most_alpha(
    p: NDArray[np.float64], alpha: float, n: int, of_base: int, away: float
) -> None:
    unchanged, changed = pair(p, np.minimum(away, 1 - p), 0.0, sigma=SIGMA, seed=1)
    base = record_base(unchanged, n0=20, n=of_base)
    found = certify_incremental(changed, [base], n0=20, n=n, alpha=alpha)
    truth = changed.probabilities
    assert wrong(found, truth, SIGMA).sum() <= most(alpha)
    assert wrong(certify_irs(changed, base, n=n, alpha=alpha), truth, SIGMA).sum() <= most(alpha)
    assert away > 0.001 or of_base == 500 or (found.forward_passes < 20 + n).mean() > 0.5, "the base is of use"


@pytest.mark.parametrize(
    ("p", "towards", "alpha", "n"),
    [
        (np.full(REPETITIONS, 0.55), 0.05, 0.05, 200),
        (np.full(REPETITIONS, 0.5 * JUST_BELOW), 0.01, 0.001, 200),
        (np.full(REPETITIONS, 0.5 * JUST_BELOW), 0.0, 0.6, 1),
        (np.full(REPETITIONS, 0.5 * JUST_BELOW), 0.0, 0.3, 2),
        (np.full(REPETITIONS, 0.6), 0.0, 0.2, 10),
        (np.resize([0.0, 1.0], REPETITIONS), 0.0, 0.05, 20),
    ],
)
def test_certificates_from_few_samples_or_with_flips_both_ways_fail_as_seldom(
    p: NDArray[np.float64], towards: float, alpha: float, n: int
) -> None:
    of_base, changed = pair(p - np.minimum(p, towards), 0.0, np.minimum(p, towards), sigma=SIGMA, seed=1)
    base = record_base(of_base, n0=10, n=max(n, 100))
    truth = changed.probabilities
    assert wrong(certify_incremental(changed, [base], n0=10, n=n, alpha=alpha), truth, SIGMA).sum() <= most(alpha)
    assert wrong(certify_irs(changed, base, n=n, alpha=alpha), truth, SIGMA).sum() <= most(alpha)


def test_the_best_of_many_bases_is_as_safe_as_one() -> None:
    p = np.full(REPETITIONS, 0.6)
    cells = np.array([0.55, 0.03, 0.02, 0.01, 0.39])
    answers = [[1, 0, 0, 0, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 0, 1, 1, 0]]
    many = [Known(np.tile(cells, (len(p), 1)), answer, sigma=SIGMA, seed=3) for answer in answers]
    changed = Known(np.tile(cells, (len(p), 1)), [1, 1, 1, 0, 0], sigma=SIGMA, seed=3)
    bases = [record_base(sampler, n0=20, n=1000) for sampler in many]
    found = certify_incremental(changed, bases, n0=20, n=200, alpha=0.05)
    assert wrong(found, changed.probabilities, SIGMA).sum() <= most(0.05)
    alone = certify_incremental(changed, [], n0=20, n=200, alpha=0.05)
    assert (found.p_lower != alone.p_lower).mean() > 0.5, "the bases are of use"


def test_certificates_of_linear_networks_fail_as_seldom() -> None:
    distances = np.resize([0.02, 0.1, 0.2, 0.5], 1000)
    noisy = NoisyImages(HalfSpace().at_distance(distances), sigma=SIGMA, batch=10_000)
    base = record_base(NoisyClassifier(HalfSpace(), noisy), n0=16, n=256)
    network = NoisyClassifier(Shifted(0.02), noisy)
    of_one = stats.norm.cdf((distances - 0.02) / SIGMA) * JUST_BELOW
    truth = np.stack([1 - of_one, of_one], axis=1)
    for found in (
        certify_incremental(network, [base], n0=16, n=64, alpha=0.2),
        certify_irs(network, base, n=64, alpha=0.2),
    ):
        assert wrong(found, truth, SIGMA + 1e-5).sum() <= most(0.2, 1000)
        assert (found.radius > 0).sum() > 400


def test_the_plain_share_of_flips_in_place_of_its_bound_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def share(successes: NDArray[np.int64], trials: int, alpha: float) -> NDArray[np.float64]:
        return np.asarray(successes / trials)

    of_base, changed = pair(np.full(2000, 0.7), 0.02, 0.0, sigma=SIGMA, seed=1)
    base = record_base(of_base, n0=50, n=10_000)

    def overclaims(method: Callable[[], Certificates]) -> int:
        return int(wrong(method(), changed.probabilities, SIGMA).sum())

    methods = (
        lambda: certify_incremental(changed, [base], n0=50, n=500, alpha=0.05),
        lambda: certify_irs(changed, base, n=50, alpha=0.05),
    )
    assert all(overclaims(method) <= most(0.05, 2000) for method in methods)
    monkeypatch.setattr(incremental, "clopper_pearson_upper", share)
    assert all(overclaims(method) > most(0.05, 2000) for method in methods)


def test_the_same_noise_for_plan_and_bound_would_be_caught() -> None:
    cells = np.tile([0.4999, 0.4999, 0.0002], (4000, 1))
    results = []
    for sampler in (Known, OneStream):
        changed = sampler(cells, sigma=SIGMA)
        found = certify_incremental(changed, [], n0=100, n=100, alpha=0.3)
        results.append(wrong(found, changed.probabilities, SIGMA).sum())
    assert results[0] <= most(0.3, 4000) < results[1]


def test_bases_on_other_noise_would_be_caught_as_useless() -> None:
    of_base, changed = _changed_now_and_then(300, 0.0)
    elsewhere, _ = _changed_now_and_then(300, 0.0, seed=99)
    here, there = (record_base(sampler, n0=100, n=10_000) for sampler in (of_base, elsewhere))
    fitting = certify_irs(changed, here, n=1000).radius.mean()
    assert certify_irs(changed, there, n=1000).radius.mean() < 0.8 * fitting


# What certificates are made of


def test_without_a_base_it_is_cohens_method() -> None:
    for n0, n, alpha in ((1, 10, 0.3), (20, 100, 0.05), (100, 1000, 1e-3)):
        sampler = Known(np.random.default_rng(0).dirichlet([0.2, 0.1, 0.1, 0.3], 400), sigma=SIGMA, seed=4)
        expected = certify_fixed(sampler, n0=n0, n=n, alpha=alpha)
        assert _same(certify_incremental(sampler, [], n0=n0, n=n, alpha=alpha), expected)
        assert len(np.unique(expected.prediction)) == 5


def test_a_base_that_differs_much_does_no_harm() -> None:
    p = np.random.default_rng(0).uniform(0.92, 1, 200)
    of_base, changed = pair(p * 0.6, p * 0.4, (1 - p) * 0.4, sigma=SIGMA, seed=4)
    bases = [record_base(of_base, n0=1000, n=10_000)]
    found = certify_incremental(changed, bases, n0=100, n=1000)
    fixed = certify_fixed(changed, n0=100, n=1000, alpha=1e-3)
    assert found.radius.mean() > 0.98 * fixed.radius.mean()
    assert (found.forward_passes == 1100).mean() > 0.9


@pytest.mark.parametrize("flips", [0.0, 0.001, 0.003])
def test_a_base_that_differs_little_saves_samples_and_costs_hardly_any_radius(flips: float) -> None:
    p = 1 - np.exp(-np.random.default_rng(0).exponential(3.0, 500) - 0.4)
    of_base, changed = pair(p * (1 - flips), p * flips, np.minimum(1 - p, p * flips), sigma=SIGMA, seed=4)
    found = certify_incremental(changed, [record_base(of_base, n0=1000, n=10_000)], n0=100, n=1000)
    fixed = certify_fixed(changed, n0=100, n=1000, alpha=1e-3)
    assert found.radius.mean() > 0.995 * fixed.radius.mean()
    assert found.forward_passes.mean() < 0.75 * 1100


def test_a_bound_is_the_bases_less_that_of_flips_away_from_the_class() -> None:
    alpha, n0, n = 0.01, 50, 2000
    of_base, changed = _changed_now_and_then(100, 0.001)
    base = record_base(of_base, n0=n0, n=20_000)
    found = certify_incremental(changed, [base], n0=n0, n=n, alpha=alpha)
    sizes = found.forward_passes - n0
    assert {500, 1000, 2000} <= set(sizes) <= {200, 500, 1000, 2000}
    pilot, counted = changed.predictions("select", 0, n0), changed.predictions("count", 0, n)
    for image in range(100):
        chosen, size = np.bincount(pilot[image]).argmax(), sizes[image]
        before, now = base.count[image] == chosen, counted[image, :size] == chosen
        alone = clopper_pearson_lower(int(now.sum()), size, alpha)
        flips = int((before[:size] & ~now).sum())
        helped = clopper_pearson_lower(int(before.sum()), 20_000, 0.2 * alpha) - clopper_pearson_upper(
            flips, size, 0.8 * alpha
        )
        assert found.p_lower[image] in (
            (max(0.0, float(helped)), float(alone)) if size == n else (max(0.0, float(helped)),)
        )
        assert found.prediction[image] == (chosen if found.p_lower[image] > 0.5 else -1)
    assert np.array_equal(found.radius > 0, found.prediction >= 0)


def test_the_plan_is_made_before_the_samples_that_count_are_seen() -> None:
    class _OtherCount(Known):
        def _block(self, purpose: str, block: int) -> NDArray[np.int8]:
            return super()._block(purpose if purpose == "select" else purpose + " of another day", block)

    plans = []
    for sampler in (Known, _OtherCount):
        p = _spread(100)
        of_base, changed = pair(p * 0.999, p * 0.001, 0.0, sigma=SIGMA, seed=5, sampler=sampler)
        found = certify_incremental(changed, [record_base(of_base, n0=50, n=20_000)], n0=50, n=2000)
        plans.append((found.forward_passes, found.p_lower))
    assert np.array_equal(plans[0][0], plans[1][0])
    assert not np.array_equal(plans[0][1], plans[1][1])
    assert len(np.unique(plans[0][0])) > 2


def test_each_image_takes_the_base_that_saves_most() -> None:
    p = _spread(300)
    first = np.arange(300) < 150
    near, far = p * 0.0001, p * 0.05
    cells = np.stack([p * 0.9499, np.where(first, near, far), np.where(first, far, near), 1 - p], axis=1)
    changed = Known(cells / cells.sum(axis=1, keepdims=True), [1, 1, 1, 0], sigma=SIGMA, seed=6)
    one = record_base(Known(changed.cells, [1, 1, 2, 0], sigma=SIGMA, seed=6), n0=100, n=10_000)
    other = record_base(Known(changed.cells, [1, 2, 1, 0], sigma=SIGMA, seed=6), n0=100, n=10_000)
    passes = [
        certify_incremental(changed, bases, n0=100, n=1000).forward_passes
        for bases in ([one], [other], [one, other], [other, one])
    ]
    assert np.array_equal(passes[2], np.minimum(passes[0], passes[1]))
    assert np.array_equal(passes[3], passes[2])
    assert passes[2].sum() < min(passes[0].sum(), passes[1].sum())


# Power


def test_a_base_that_never_disagrees_leaves_a_tenth_of_the_samples() -> None:
    p = np.random.default_rng(0).uniform(0.6, 0.8, 40)
    of_base, changed = pair(p, 0.0, 0.0, sigma=SIGMA, seed=7)
    base = record_base(of_base, n0=100, n=100_000)
    found = certify_incremental(changed, [base], n0=100, n=10_000)
    fixed = certify_fixed(changed, n0=100, n=10_000, alpha=1e-3)
    assert np.median(found.forward_passes) == 1100
    assert found.forward_passes.mean() < 1300
    assert found.radius.mean() >= fixed.radius.mean()


@pytest.mark.parametrize("away", [0.001, 0.01])
def test_a_base_that_disagrees_now_and_then_saves_samples_and_costs_no_radius(away: float) -> None:
    of_base, changed = _changed_now_and_then(300, away)
    base = record_base(of_base, n0=100, n=10_000)
    found = certify_incremental(changed, [base], n0=100, n=1000)
    fixed = certify_fixed(changed, n0=100, n=1000, alpha=1e-3)
    assert found.forward_passes.mean() < (0.8 if away < 0.01 else 0.9) * fixed.forward_passes.mean()
    assert found.radius.mean() > 0.995 * fixed.radius.mean()


# Arguments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n must be at least 1, got 0"),
        ({"n0": 0}, "n0 must be at least 1, got 0"),
        ({"n": 51}, "n = 51 samples asked for, but the base has 50"),
        ({"n0": 11}, "n0 = 11 samples asked for, but the base has 10"),
        ({"alpha": 0.0}, "alpha must lie strictly between 0 and 1"),
        ({"images": 2}, "a base of 3 images cannot serve 2 images"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options: dict[str, float], message: str) -> None:
    base = record_base(coins([0.9] * 3, sigma=SIGMA), n0=10, n=50)
    arguments: dict[str, ArrayLike] = {"n": 20, "n0": 5, **options}
    sampler = coins([0.9] * int(arguments.pop("images", 3)), sigma=SIGMA)  # type: ignore[arg-type]
    incrementally: Callable[..., Certificates] = certify_incremental
    published: Callable[..., Certificates] = certify_irs
    with pytest.raises(BitcertError, match=message):
        incrementally(sampler, [base], **arguments)
    arguments.pop("n0")
    if "n0" not in options:
        with pytest.raises(BitcertError, match=message):
            published(sampler, base, **arguments)
