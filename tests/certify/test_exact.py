"""Certificates in exact arithmetic: right on classifiers with known answers, also where those of floating point are wrong."""

from __future__ import annotations

import itertools
import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from suite.certify import (
    Certificates,
    CertificationWarning,
    NoiseStream,
    NoisyClassifier,
    NoisyImages,
    Reproducible,
    certify,
)
from suite.certify.exact import remaining_alpha, to_levels
from suite.certify.exam import ExamSettings
from suite.certify.rounded_gaussian import rounded_gaussian
from suite.errors import BitcertError
from tests.certify.simulators import FALSE_ALARM

SIGMA, LEVELS, BORDER = 0.25, 16, 9


class _HalfSpace(Reproducible):
    """Class 1 where the first pixel has at least ``BORDER`` levels; for real images under rounding, at least half a level less."""

    def forward(self, images: Tensor) -> Tensor:
        above = images.flatten(1)[:, 0] >= BORDER / LEVELS
        return torch.stack([~above, above], dim=1).float()


def _images(levels: NDArray[np.integer]) -> Tensor:
    """Images of two pixels, the first one at these levels."""
    images = torch.zeros(len(levels), 1, 1, 2)
    images[:, 0, 0, 0] = torch.from_numpy(levels.astype(np.float32)) / LEVELS
    return images


def _distance(levels: NDArray[np.integer]) -> NDArray[np.float64]:
    """Distance to the border of the half space, negative below it."""
    return (levels - BORDER + 0.5) / LEVELS


def _same(one: Certificates, other: Certificates) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in Certificates.__slots__)


# What it computes


def test_it_is_cohens_algorithm_on_integers() -> None:
    levels, n0, n, alpha = np.array([4, 8, 9, 16]), 7, 90, 0.01
    found = certify(
        _HalfSpace(),
        _images(levels),
        levels * 0,
        sigma=SIGMA,
        n0=n0,
        n=n,
        alpha=alpha,
        seed=3,
        arithmetic="exact",
        levels=LEVELS,
    )
    noise = rounded_gaussian(SIGMA, LEVELS)
    for image, level in enumerate(levels):
        drawn = [
            np.concatenate(
                [noise.draw(NoiseStream(3, purpose), image, block, (1, 1, 2))[:, 0, 0, 0] for block in range(3)]
            )[:count]
            for purpose, count in (("select", n0), ("count", n))
        ]
        votes = [int((level + part >= BORDER).sum()) for part in drawn]
        chosen = int(votes[0] > n0 / 2)
        right = votes[1] if chosen else n - votes[1]
        p_lower = stats.beta.ppf(alpha, right, n - right + 1)
        assert found.p_lower[image] == pytest.approx(p_lower, rel=1e-12)
        assert found.prediction[image] == (chosen if p_lower > 0.5 else -1)
        assert found.radius[image] == pytest.approx(max(SIGMA * stats.norm.ppf(p_lower), 0), rel=1e-12)
        assert found.forward_passes[image] == n0 + n


def test_noisy_images_are_levels_rounded_once() -> None:
    """Every input of the network is an integer divided by the levels, rounded to the nearest float32."""
    images = torch.from_numpy(np.arange(256, dtype=np.float32).reshape(4, 1, 8, 8)) / 255
    noisy = NoisyImages(images, sigma=1.0, seed=1, levels=255)
    noise, stream = rounded_gaussian(1.0, 255), NoiseStream(1, "count")
    (batch,) = noisy.batches("count", 0, 40)
    drawn = [noise.draw(stream, image, block, (1, 8, 8)) for image in range(4) for block in range(2)]
    for image in range(4):
        whole = (
            np.concatenate(drawn[2 * image : 2 * image + 2])[:40].astype(int)
            + np.arange(64).reshape(1, 8, 8)
            + 64 * image
        )
        exact = [np.float32(float(Fraction(int(k), 255))) for k in whole.ravel()]  # 53 bits between do not change 24
        np.testing.assert_array_equal(batch.inputs.numpy()[40 * image : 40 * (image + 1)].ravel(), exact)


@pytest.mark.parametrize("batch", [1, 7, 32, 1000])
def test_the_batch_size_changes_nothing(batch: int) -> None:
    levels = np.array([3, 8, 10, 14])
    shared = {"sigma": SIGMA, "n0": 10, "n": 100, "arithmetic": "exact", "levels": LEVELS}
    reference = certify(_HalfSpace(), _images(levels), levels, **shared)  # type: ignore[arg-type]
    assert _same(reference, certify(_HalfSpace(), _images(levels), levels, batch=batch, **shared))  # type: ignore[arg-type]
    alone = certify(_HalfSpace(), _images(levels[2:3]), levels[2:3], ids=[2], batch=batch, **shared)  # type: ignore[arg-type]
    assert alone.p_lower[0] == reference.p_lower[2]


def test_noise_that_is_kept_is_the_noise_that_is_drawn() -> None:
    images = _images(np.array([3, 8]))
    kept, drawn = (NoisyImages(images, sigma=SIGMA, levels=LEVELS, memory=memory) for memory in (2**20, 0))
    for _ in range(2):
        for one, other in zip(kept.batches("count", 0, 50), drawn.batches("count", 0, 50), strict=True):
            assert torch.equal(one.inputs, other.inputs)
    (some,) = kept.batches("count", 0, 50, np.array([1]))
    assert torch.equal(some.inputs, torch.cat([batch.inputs for batch in kept.batches("count", 0, 50)])[50:])


# What it guarantees


def test_frequencies_are_those_of_the_smoothed_half_space() -> None:
    """``P(k + E >= c) = Phi((k - c + 1/2) / (sigma L))``: the half space of real images under rounding, exactly."""
    levels, n = np.arange(17), 4000
    classifier = NoisyClassifier(_HalfSpace(), NoisyImages(_images(levels), sigma=SIGMA, levels=LEVELS))
    counts = classifier.counts("count", 0, n)[:, 1]
    true = stats.norm.cdf(_distance(levels) / SIGMA)
    lowest, highest = (stats.binom.ppf(q, n, true) for q in (FALSE_ALARM / 34, 1 - FALSE_ALARM / 34))
    assert np.all((counts >= lowest) & (counts <= highest))


def test_at_most_the_promised_share_of_certificates_is_wrong() -> None:
    levels, repetitions, alpha = np.arange(17), 120, 0.05
    wrong = 0
    for seed in range(repetitions):
        found = certify(
            _HalfSpace(),
            _images(levels),
            levels,
            sigma=SIGMA,
            n0=8,
            n=64,
            alpha=alpha,
            seed=seed,
            arithmetic="exact",
            levels=LEVELS,
        )
        right = found.prediction == (_distance(levels) > 0)
        too_far = found.radius > np.abs(_distance(levels))
        wrong += int(((found.prediction >= 0) & (~right | too_far)).sum())
    assert 0 < wrong <= stats.binom.isf(FALSE_ALARM, repetitions * len(levels), alpha)


def test_alpha_pays_for_what_the_sampler_may_be_off() -> None:
    left = remaining_alpha(1e-3, 10_000, 64, Decimal("1e-18"))
    true = Fraction(1e-3) - Fraction(10_000 * 64, 10**18)
    assert true * (1 - Fraction(1, 10**48)) <= Fraction(left) <= true
    with pytest.raises(BitcertError, match=r"alpha = 1e-10 is used up by 10000 samples of 3072 values"):
        remaining_alpha(1e-10, 10_000, 3072, rounded_gaussian(0.25, 255).total_variation)


# Where floating point is wrong


class _Rounded(Reproducible):
    """Class 1 where no pixel has a bit below ``2^-24``: of real images, a set of measure 0."""

    def forward(self, images: Tensor) -> Tensor:
        scaled = images.flatten(1).double() * 2**24
        coarse = (scaled == scaled.floor()).all(dim=1)
        return torch.stack([~coarse, coarse], dim=1).float()


def _coarse_probability(center: float, deviation: float) -> float:
    """Probability that one pixel of a real image at ``center`` levels, with noise, rounds to a level that is coarse."""
    reached = np.arange(math.floor(center - 9 * deviation), math.ceil(center + 9 * deviation) + 1)
    scaled = (reached.astype(np.float32) / np.float32(255)).astype(np.float64) * 2**24
    borders = stats.norm.cdf((np.append(reached - 0.5, reached[-1] + 0.5) - center) / deviation)
    return float(np.diff(borders)[scaled == np.floor(scaled)].sum())


def test_a_classifier_that_reads_low_order_bits_fools_floating_point_only() -> None:
    """Sums with a white image have no bits below 2^-24, sums with a black one do: their certificates contradict each other."""
    images, sigma = torch.tensor([1.0, 0.0]).reshape(2, 1, 1, 1).expand(2, 1, 1, 2), 0.5
    found = {
        arithmetic: certify(
            _Rounded(), images, [1, 1], sigma=sigma, n0=100, n=10_000, alpha=1e-3, arithmetic=arithmetic
        )
        for arithmetic in ("float", "exact")
    }
    between = math.sqrt(2)
    assert found["float"].prediction.tolist() == [1, 0]
    assert found["float"].radius[0] > between, (
        "so the black image must be of class 1, but it is certified to be of class 0"
    )
    assert found["float"].radius[1] > 0

    exact = found["exact"]
    assert exact.prediction[0] == 1
    assert exact.radius[0] < between / 2
    generator = np.random.default_rng(0)
    for center, chosen, radius in zip((255.0, 0.0), exact.prediction, exact.radius, strict=True):
        directions = generator.normal(size=(60, 2))
        directions = np.concatenate([directions, list(itertools.product([-1, 0, 1], repeat=2))[:4]])
        lengths = np.append(generator.uniform(size=40), np.ones(len(directions) - 40))
        shifts = directions / np.linalg.norm(directions, axis=1, keepdims=True) * lengths[:, None] * radius * 255
        for shift in shifts:
            coarse = math.prod(_coarse_probability(center + part, sigma * 255) for part in shift)
            assert chosen == -1 or (coarse > 0.5) == chosen


# What it refuses


def test_a_network_that_may_depend_on_its_batch_is_refused() -> None:
    with pytest.raises(
        BitcertError, match=r"integer networks, whose logits .* not a Sequential; choose the engine integer or onnx"
    ):
        certify(
            nn.Sequential(nn.Flatten(), nn.Linear(2, 2)), _images(np.array([0])), [0], sigma=SIGMA, arithmetic="exact"
        )


def test_images_between_two_levels_are_refused() -> None:
    images = _images(np.array([3, 4, 5]))
    images[1, 0, 0, 1] = float(np.nextafter(np.float32(0.5), np.float32(1)))
    with pytest.raises(
        BitcertError, match=r"integers divided by 16, but the pixel 0\.50000006 of image 1 is not one of them"
    ):
        certify(_HalfSpace(), images, [0, 0, 0], sigma=SIGMA, arithmetic="exact", levels=LEVELS)
    with pytest.raises(BitcertError, match="the pixel nan of image 0"):
        to_levels(torch.full((1, 1, 1, 1), torch.nan), 16)


@pytest.mark.parametrize("levels", [0, -1, 2**23])
def test_impossible_numbers_of_levels_are_refused(levels: int) -> None:
    with pytest.raises(BitcertError, match=f"between 1 and {2**23 - 1} levels above 0, got {levels}"):
        to_levels(torch.zeros(1, 1, 1, 1), levels)


@pytest.mark.parametrize("levels", [1, 16, 255, 65_535])
def test_every_level_is_recognized(levels: int) -> None:
    integers = np.arange(-3, levels + 4, dtype=np.float32)
    pixels = torch.from_numpy(integers / np.float32(levels)).reshape(-1, 1, 1, 1)
    np.testing.assert_array_equal(to_levels(pixels, levels).flatten().numpy(), integers)


def test_an_unknown_arithmetic_is_refused() -> None:
    with pytest.raises(BitcertError, match="unknown arithmetic 'exat'; known: exact, float"):
        certify(_HalfSpace(), _images(np.array([1])), [0], sigma=SIGMA, arithmetic="exat")


@pytest.mark.parametrize("method", ["sequential", "aggregate"])
def test_methods_whose_bounds_are_floating_point_are_refused(method: str) -> None:
    with pytest.raises(BitcertError, match=f"{method} does not certify in exact arithmetic: .* use fixed"):
        ExamSettings(method=method, arithmetic="exact")


def test_settings_name_their_arithmetic_only_if_it_is_exact() -> None:
    assert "arithmetic" not in ExamSettings().to_dict()
    assert ExamSettings(arithmetic="exact").to_dict()["arithmetic"] == "exact"


def test_too_few_samples_are_said() -> None:
    with pytest.warns(CertificationWarning, match="n = 5 cannot certify anything"):
        found = certify(_HalfSpace(), _images(np.array([1])), [0], sigma=SIGMA, n=5, arithmetic="exact", levels=LEVELS)
    assert found.prediction[0] == -1
