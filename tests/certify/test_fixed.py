"""Cohen's certificate, against a naive loop and against classifiers whose true radius is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from suite.certify import Certificates, CertificationWarning, NoiseStream, certify, fixed, sampling
from suite.certify.bounds import clopper_pearson_lower
from suite.errors import BitcertError
from tests.certify.simulators import FALSE_ALARM, SHAPE, HalfSpace


class _Votes(nn.Module):
    """Each pixel votes for one of three classes by comparison with thresholds: exact arithmetic whatever the batch."""

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.flatten(1)
        votes = (pixels > 0.4).long() + (pixels > 0.7).long()
        counts: Tensor = nn.functional.one_hot(votes, 3).sum(dim=1)
        return counts.float()


def _images(count: int) -> Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(0))


def _same(one: Certificates, other: Certificates) -> bool:
    names = ("prediction", "radius", "p_lower", "forward_passes")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


def _rows(certificates: Certificates) -> list[tuple[int, float, float]]:
    return list(zip(certificates.prediction, certificates.radius, certificates.p_lower, strict=True))


# What it computes


def _cohen(image: NDArray[np.float32], key: int, sigma: float, n0: int, n: int, alpha: float, seed: int) -> list[float]:
    """Algorithm CERTIFY of Cohen et al., one noise sample at a time."""
    counts = {"select": [0, 0, 0], "count": [0, 0, 0]}
    for purpose, samples in (("select", n0), ("count", n)):
        for sample in range(samples):
            noise = NoiseStream(seed, purpose).draw(key, sample, sample + 1, SHAPE)
            logits = _Votes()(torch.from_numpy(image + np.float32(sigma) * noise))
            counts[purpose][int(logits[0].argmax())] += 1
    chosen = counts["select"].index(max(counts["select"]))
    test = stats.binomtest(counts["count"][chosen], n, alternative="greater")
    p_lower = test.proportion_ci(1 - alpha, method="exact").low
    return [chosen, sigma * stats.norm.ppf(p_lower), p_lower] if p_lower > 0.5 else [-1, 0.0, p_lower]


def test_it_is_cohens_algorithm() -> None:
    images, ids = _images(12), np.arange(12) * 17 + 3
    found = certify(_Votes(), images, np.zeros(12), sigma=0.25, n0=11, n=70, alpha=0.01, seed=5, ids=ids, batch=64)
    expected = [_cohen(images[i].numpy(), int(ids[i]), 0.25, 11, 70, 0.01, 5) for i in range(12)]
    np.testing.assert_allclose(_rows(found), expected, rtol=1e-9, atol=1e-12)
    assert found.forward_passes.tolist() == [81] * 12
    assert -1 in found.prediction
    assert len(set(found.prediction)) > 2, "abstentions and several classes are among the images"


def test_the_batch_changes_nothing() -> None:
    results = [
        certify(_Votes(), _images(9), np.zeros(9), sigma=0.25, n0=10, n=50, seed=1, batch=batch)
        for batch in (1, 7, 32, 250)
    ]
    assert all(_same(results[0], other) for other in results[1:])


def test_an_image_is_certified_alike_whatever_stands_beside_it() -> None:
    images, ids = _images(9), np.arange(9) + 100
    together = certify(_Votes(), images, np.zeros(9), sigma=0.25, n0=10, n=50, ids=ids)
    chosen = [7, 2, 5]
    apart = certify(_Votes(), images[chosen], np.zeros(3), sigma=0.25, n0=10, n=50, ids=ids[chosen])
    assert _rows(apart) == [_rows(together)[position] for position in chosen]
    by_position = certify(_Votes(), images, np.zeros(9), sigma=0.25, n0=10, n=50)
    assert _same(by_position, certify(_Votes(), images, np.zeros(9), sigma=0.25, n0=10, n=50, ids=np.arange(9)))
    assert not _same(by_position, together)


def test_labels_do_not_enter() -> None:
    one, other = (certify(_Votes(), _images(5), labels, sigma=0.25, n=50) for labels in (np.zeros(5), [0, 1, 2, 1, 0]))
    assert _same(one, other)


class _Recorder(nn.Module):
    """Keeps what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images.clone())
        return _Votes().forward(images)


def test_the_class_is_chosen_on_other_noise_than_the_bound() -> None:
    network = _Recorder()
    certify(network, _images(3), np.zeros(3), sigma=0.25, n0=40, n=60, batch=20)
    inputs = torch.cat(network.seen).flatten(1)
    assert len(inputs) == 3 * 100
    assert len(torch.unique(inputs, dim=0)) == 3 * 100
    # The counts of the bound do not depend on how many samples chose the class.
    few, many = (certify(_Votes(), _images(20), np.zeros(20), sigma=0.1, n0=n0, n=60) for n0 in (5, 200))
    agreed = (few.prediction == many.prediction) & (few.prediction >= 0)
    assert agreed.sum() > 5
    assert np.array_equal(few.p_lower[agreed], many.p_lower[agreed])


def test_arrays_and_tensors_are_taken_alike() -> None:
    images = _images(4)
    expected = certify(_Votes(), images, torch.zeros(4), sigma=0.25, n=50)
    for same in (images.numpy(), images.numpy().astype(np.float64), images.double()):
        assert _same(certify(_Votes(), same, [0, 0, 0, 0], sigma=0.25, n=50), expected)


def test_the_global_generators_and_the_images_stay_as_they_are() -> None:
    images = _images(4)
    before, state = images.clone(), torch.random.get_rng_state()
    numpy_state = np.random.get_state(legacy=False)["state"]["key"].copy()  # noqa: NPY002
    certify(_Votes(), images, np.zeros(4), sigma=0.25, n=50)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert np.array_equal(np.random.get_state(legacy=False)["state"]["key"], numpy_state)  # noqa: NPY002
    assert torch.equal(images, before)


def test_progress_adds_up_to_the_forward_passes() -> None:
    told: list[int] = []
    found = certify(_Votes(), _images(4), np.zeros(4), sigma=0.25, n0=9, n=50, batch=32, progress=told.append)
    assert sum(told) == found.forward_passes.sum() == 4 * 59


# Soundness


SIGMA, N, ALPHA = 0.25, 100, 0.05
DISTANCES = np.concatenate([np.zeros(1000), np.tile(np.linspace(0.01, 0.6, 50), 20)])


def _overclaims(seed: int) -> int:
    """Images certified beyond their true distance from the border, of any class where that distance is 0."""
    found = certify(
        HalfSpace(),
        HalfSpace().at_distance(DISTANCES),
        np.ones(len(DISTANCES)),
        sigma=SIGMA,
        n0=10,
        n=N,
        alpha=ALPHA,
        seed=seed,
        batch=5000,
    )
    wrong_class = (found.prediction == 0) & (found.radius > 0)
    return int((wrong_class | (found.radius > DISTANCES + 1e-5)).sum())


def test_certificates_fail_as_often_as_theory_says_and_at_most_alpha() -> None:
    overclaims = _overclaims(seed=0)
    assert overclaims <= stats.binom.isf(FALSE_ALARM, len(DISTANCES), ALPHA)
    # The expected number, exactly: the class comes from 10 samples, the bound from N others.
    truth = stats.norm.cdf(DISTANCES / SIGMA)
    counts = np.arange(N + 1)
    lower = clopper_pearson_lower(counts, N, ALPHA)
    right = 1 - stats.binom.cdf(4, 10, truth) - stats.binom.pmf(5, 10, truth)  # a draw goes to class 0
    chance = right * np.array([stats.binom.pmf(counts, N, p)[lower > p].sum() for p in truth])
    chance += (1 - right) * np.array([stats.binom.pmf(counts, N, 1 - p)[lower > 0.5].sum() for p in truth])
    assert chance.max() <= ALPHA
    spread = stats.norm.isf(FALSE_ALARM / 2) * np.sqrt((chance * (1 - chance)).sum())
    assert abs(overclaims - chance.sum()) < spread


def test_the_plain_share_in_place_of_the_bound_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def share(successes: NDArray[np.int64], trials: int, alpha: float) -> NDArray[np.float64]:
        return np.minimum(successes / trials, 1 - 1e-9)

    monkeypatch.setattr(fixed, "clopper_pearson_lower", share)
    overclaims = _overclaims(seed=0)
    assert overclaims > stats.binom.isf(FALSE_ALARM, len(DISTANCES), ALPHA)
    assert 0.35 < overclaims / len(DISTANCES) < 0.65


def test_the_same_noise_for_class_and_bound_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    class _OneStream(NoiseStream):
        def __init__(self, seed: int, purpose: str) -> None:
            super().__init__(seed, "one for all")

    distances = np.zeros(1000)
    images = HalfSpace().at_distance(distances)

    def certified() -> int:
        found = certify(HalfSpace(), images, np.ones(1000), sigma=SIGMA, n0=N, n=N, alpha=ALPHA, seed=1, batch=5000)
        return int((found.radius > 0).sum())

    limit = stats.binom.isf(FALSE_ALARM, 1000, ALPHA)
    assert certified() <= limit
    monkeypatch.setattr(sampling, "NoiseStream", _OneStream)
    assert certified() > limit


def test_a_radius_is_never_larger_than_the_samples_allow_and_a_bound_of_a_half_abstains() -> None:
    distances = np.repeat([0.0, 0.02, 5.0], 100)
    found = certify(HalfSpace(), HalfSpace().at_distance(distances), np.ones(300), sigma=SIGMA, n0=10, n=N, alpha=1e-3)
    abstains = found.prediction == -1
    assert abstains[:200].sum() > 150
    assert not abstains[200:].any()
    assert np.array_equal(abstains, found.p_lower <= 0.5)
    assert np.array_equal(abstains, found.radius == 0)
    assert found.radius[200:] == pytest.approx(SIGMA * stats.norm.ppf(1e-3 ** (1 / N)))


# Warnings and errors


def test_samples_that_cannot_certify_anything_are_warned_about() -> None:
    with pytest.warns(CertificationWarning, match="n = 9 cannot certify anything at alpha = 0.001"):
        found = certify(_Votes(), torch.zeros(2, *SHAPE), [0, 0], sigma=0.01, n=9, alpha=1e-3)
    assert found.prediction.tolist() == [-1, -1]
    assert found.radius.tolist() == [0, 0]
    found = certify(
        _Votes(), torch.zeros(2, *SHAPE), [0, 0], sigma=0.01, n=10, alpha=1e-3
    )  # a warning would be an error
    assert found.prediction.tolist() == [0, 0]
    assert (found.radius > 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n must be at least 1, got 0"),
        ({"n0": 0}, "n0 must be at least 1, got 0"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"sigma": 0.0}, "sigma must be positive"),
        ({"sigma": -0.25}, "sigma must be positive"),
        ({"sigma": float("nan")}, "sigma must be positive"),
        ({"alpha": 0.0}, "alpha must lie strictly between 0 and 1"),
        ({"alpha": 1.0}, "alpha must lie strictly between 0 and 1"),
        ({"seed": -1}, "seed must not be negative"),
        ({"labels": [0, 0]}, "3 images need as many (labels|ids)"),
        ({"labels": 0}, "3 images need as many (labels|ids)"),
        ({"ids": [1, 2]}, "3 images need as many (labels|ids)"),
        ({"ids": [1, 2, -3]}, "ids must not be negative, got -3"),
        ({"images": torch.zeros(3, 2, 2)}, "images must have shape"),
        ({"images": torch.zeros(0, *SHAPE), "labels": []}, "at least one image"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options: dict[str, object], message: str) -> None:
    arguments = {"images": torch.zeros(3, *SHAPE), "labels": [0, 0, 0], "sigma": 0.25, "n": 20, **options}
    with pytest.raises(BitcertError, match=message):
        certify(_Votes(), **arguments)  # type: ignore[arg-type]


def test_a_network_that_gives_no_number_is_an_error() -> None:
    class _Nothing(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.full((len(images), 2), float("nan"))

    with pytest.raises(BitcertError, match="logits are not finite"):
        certify(_Nothing(), torch.zeros(1, *SHAPE), [0], sigma=0.25, n=20)


def test_noise_differs_between_seeds() -> None:
    results = [certify(_Votes(), _images(6), np.zeros(6), sigma=0.25, n=50, seed=seed) for seed in range(3)]
    for one, other in itertools.combinations(results, 2):
        assert not _same(one, other)
