"""Coverage: how often a certificate claims more than is true, on classifiers whose true radius is known."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import binom, norm
from torch import Tensor, nn

from suite.certify import NoiseStream, certify, clopper_pearson_lower
from suite.certify.fixed import CertificationWarning, bound_counts
from suite.errors import BitcertError

SIGMA, SHAPE = 0.5, (1, 2, 2)


class HalfSpace(nn.Module):
    """Class 1 where ``w . x + b > 0``: smoothed, it is class 1 with probability Phi((w . x + b) / (sigma ||w||))."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("w", torch.tensor([1.0, -2.0, 0.5, 1.5]))
        self.w: Tensor

    def margin(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.w - 0.3

    def forward(self, images: Tensor) -> Tensor:
        margin = self.margin(images)
        return torch.stack([-margin, margin], dim=1)

    def true_radius(self, images: Tensor) -> NDArray[np.float64]:
        """Distance to the boundary: also the exact certified radius, as Cohen's bound is tight for half-spaces."""
        return np.asarray((self.margin(images).abs() / self.w.norm()).double())


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(400, *SHAPE, generator=torch.Generator().manual_seed(1))


def over_claims(images: Tensor, n: int, alpha: float, seeds: int) -> tuple[int, int]:
    """Certificates that exceed the true radius or name the wrong class, and certificates altogether."""
    network = HalfSpace()
    labels = network(images).argmax(dim=1).numpy()
    wrong = 0
    for seed in range(seeds):
        result = certify(network, images, labels, sigma=SIGMA, n0=20, n=n, alpha=alpha, seed=seed, batch=5000)
        claimed = result.prediction >= 0
        wrong += int(
            (claimed & ((result.prediction != labels) | (result.radius > network.true_radius(images) + 1e-9))).sum()
        )
    return wrong, seeds * len(images)


@pytest.mark.parametrize("n", [12, 50, 200])
def test_certificates_exceed_the_truth_at_most_as_often_as_alpha_allows(images: Tensor, n: int) -> None:
    alpha = 0.05
    wrong, total = over_claims(images, n, alpha, seeds=10)
    assert wrong <= binom.isf(1e-6, total, alpha)
    assert wrong > 0  # the bound is not idle: it is wrong sometimes, as it may be


def test_the_coverage_test_would_notice_a_bound_that_is_none(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("suite.certify.fixed.clopper_pearson_lower", lambda k, n, alpha: np.minimum(k / n, 1 - 1e-6))
    wrong, total = over_claims(images, 50, 0.05, seeds=2)
    assert wrong > binom.isf(1e-6, total, 0.05)


def test_the_coverage_test_would_notice_a_class_chosen_from_the_samples_that_bound_it() -> None:
    """With p = 1/2 the better class of the counting samples is over-counted; chosen from others, it is not."""
    rng = np.random.default_rng(0)
    successes = rng.binomial(30, 0.5, size=4000)
    limit = binom.isf(1e-6, 4000, 0.05)
    honest = clopper_pearson_lower(np.where(rng.random(4000) < 0.5, successes, 30 - successes), 30, 0.05)
    cheating = clopper_pearson_lower(np.maximum(successes, 30 - successes), 30, 0.05)
    assert (honest > 0.5).sum() <= limit < (cheating > 0.5).sum()


def naive(network: nn.Module, images: Tensor, n0: int, n: int, alpha: float, seed: int) -> list[tuple[int, float]]:
    """Cohen's loop, an image and a sample at a time, with scipy's exact interval."""
    from scipy.stats import binomtest

    rows = []
    for position, image in enumerate(images):

        def votes(purpose: str, samples: int, image: Tensor = image, position: int = position) -> NDArray[np.int64]:
            drawn = NoiseStream(seed, purpose).draw(position, 0, samples, SHAPE)
            return np.array([int(network(image[None] + SIGMA * torch.from_numpy(one[None])).argmax()) for one in drawn])

        chosen = int(np.bincount(votes("select", n0), minlength=2).argmax())
        successes = int((votes("count", n) == chosen).sum())
        low = binomtest(successes, n, alternative="greater").proportion_ci(1 - alpha, method="exact").low
        rows.append((chosen, SIGMA * float(norm.ppf(low))) if low > 0.5 else (-1, 0.0))
    return rows


@pytest.mark.parametrize("batch", [1, 7, 250])
def test_it_equals_a_loop_over_images_and_samples(images: Tensor, batch: int) -> None:
    few, network = images[:12], HalfSpace()
    result = certify(network, few, np.zeros(12), sigma=SIGMA, n0=9, n=40, alpha=0.01, seed=3, batch=batch)
    reference = naive(network, few, 9, 40, 0.01, 3)
    assert result.prediction.tolist() == [prediction for prediction, _ in reference]
    np.testing.assert_allclose(result.radius, [radius for _, radius in reference], rtol=1e-9, atol=1e-12)
    assert result.forward_passes.tolist() == [49] * 12


def test_labels_do_not_enter_a_certificate(images: Tensor) -> None:
    results = [certify(HalfSpace(), images, np.full(400, label), sigma=SIGMA, n=30) for label in (0, 1)]
    np.testing.assert_array_equal(results[0].radius, results[1].radius)


def test_noise_follows_the_id_of_an_image_not_its_position(images: Tensor) -> None:
    whole = certify(HalfSpace(), images, np.zeros(400), sigma=SIGMA, n=30)
    part = certify(HalfSpace(), images[100:120], np.zeros(20), sigma=SIGMA, n=30, ids=np.arange(100, 120))
    np.testing.assert_array_equal(part.radius, whole.radius[100:120])


def test_global_random_state_is_neither_used_nor_changed(images: Tensor) -> None:
    torch.manual_seed(1)
    first = certify(HalfSpace(), images, np.zeros(400), sigma=SIGMA, n=30)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = certify(HalfSpace(), images, np.zeros(400), sigma=SIGMA, n=30)
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(first.radius, second.radius)


def test_arrays_are_taken_like_tensors(images: Tensor) -> None:
    tensor = certify(HalfSpace(), images, np.zeros(400), sigma=SIGMA, n=30)
    array = certify(HalfSpace(), images.numpy(), [0] * 400, sigma=SIGMA, n=30)
    np.testing.assert_array_equal(tensor.radius, array.radius)


def test_a_bound_of_at_most_one_half_abstains() -> None:
    result = bound_counts(np.array([1, 1, 1]), np.array([5, 50, 100]), sigma=1.0, n0=1, n=100, alpha=0.001)
    assert result.prediction.tolist() == [-1, -1, 1]
    assert result.radius[:2].tolist() == [0.0, 0.0]
    assert result.radius[2] == pytest.approx(norm.ppf(0.001 ** (1 / 100)))


def test_too_few_samples_to_certify_anything_are_warned_of(images: Tensor) -> None:
    with pytest.warns(CertificationWarning, match="cannot certify anything"):
        result = certify(HalfSpace(), images, np.zeros(400), sigma=SIGMA, n=9, alpha=0.001)
    assert (result.prediction == -1).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        certify(HalfSpace(), images, np.zeros(400), sigma=SIGMA, n=10, alpha=0.001)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 0}, "n must be"),
        ({"n0": 0}, "n0 must be"),
        ({"batch": 0}, "batch must be"),
        ({"sigma": 0.0}, "sigma"),
        ({"sigma": float("inf")}, "sigma"),
        ({"alpha": 0.0}, "alpha"),
        ({"alpha": 1.0}, "alpha"),
        ({"seed": -1}, "seed"),
        ({"ids": np.arange(3)}, "ids"),
    ],
)
def test_settings_out_of_range_are_refused(images: Tensor, settings: dict[str, object], message: str) -> None:
    with pytest.raises(BitcertError, match=message):
        certify(HalfSpace(), images, np.zeros(400), **{"sigma": SIGMA, **settings})  # type: ignore[arg-type]


def test_shapes_that_disagree_are_refused(images: Tensor) -> None:
    with pytest.raises(BitcertError, match="labels"):
        certify(HalfSpace(), images, np.zeros(3), sigma=SIGMA)
    with pytest.raises(BitcertError, match="shape"):
        certify(HalfSpace(), images[0], np.zeros(1), sigma=SIGMA)
    with pytest.raises(BitcertError, match="shape"):
        certify(HalfSpace(), images[:0], np.zeros(0), sigma=SIGMA)


def test_logits_that_are_not_finite_are_refused(images: Tensor) -> None:
    class Broken(HalfSpace):
        def forward(self, images: Tensor) -> Tensor:
            logits = super().forward(images)
            return torch.where(logits > 1.2, torch.nan, logits)

    with pytest.raises(BitcertError, match="not finite"):
        certify(Broken(), images, np.zeros(400), sigma=SIGMA, n=30)
