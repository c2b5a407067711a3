"""The sampler of rounded Gaussian noise: every threshold, its distance from the truth, and what it draws."""

from __future__ import annotations

import itertools
from fractions import Fraction

import mpmath  # type: ignore[import-untyped]
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from suite.certify.noise import BLOCK, NoiseStream
from suite.certify.rounded_gaussian import RoundedGaussian, rounded_gaussian
from suite.errors import BitcertError
from tests.certify.simulators import FALSE_ALARM

PRECISE = mpmath.mp.clone()
PRECISE.dps = 60
GRIDS = [(0.25, 16), (0.1, 16), (0.25, 255), (0.02, 16), (1.0, 1)]


def _probability(border: int, sigma: float, levels: int) -> mpmath.mpf:
    """``P(E <= border)``."""
    return PRECISE.ncdf((PRECISE.mpf(border) + PRECISE.mpf(0.5)) / (PRECISE.mpf(sigma) * levels))


@pytest.mark.parametrize(("sigma", "levels"), GRIDS)
def test_every_threshold_is_the_nearest_integer(sigma: float, levels: int) -> None:
    noise = rounded_gaussian(sigma, levels)
    assert len(noise.thresholds) == 2 * noise.largest
    for place, threshold in enumerate(noise.thresholds):
        exact = _probability(place - noise.largest, sigma, levels) * 2**64
        assert abs(exact - int(threshold)) <= 0.5 + 1e-20
    assert _probability(-noise.largest - 1, sigma, levels) * 2**64 <= 0.5 + 1e-20, "nothing is cut that has a threshold"


@pytest.mark.parametrize(("sigma", "levels"), GRIDS)
def test_it_is_symmetric_to_the_last_bit(sigma: float, levels: int) -> None:
    thresholds = [int(threshold) for threshold in rounded_gaussian(sigma, levels).thresholds]
    assert all(low + high == 2**64 for low, high in zip(thresholds, reversed(thresholds), strict=True))
    assert thresholds == sorted(thresholds)


@pytest.mark.parametrize(("sigma", "levels"), GRIDS)
def test_the_distance_from_the_rounded_gaussian_is_below_its_bound(sigma: float, levels: int) -> None:
    """Summed over all values: how many of the 2^64 integers give each is a difference of thresholds."""
    noise = rounded_gaussian(sigma, levels)
    borders = [0, *(int(threshold) for threshold in noise.thresholds), 2**64]
    distance = 2 * _probability(-noise.largest - 1, sigma, levels)  # values that are never drawn
    for value, (low, high) in zip(range(-noise.largest, noise.largest + 1), itertools.pairwise(borders), strict=True):
        true = _probability(value, sigma, levels) - _probability(value - 1, sigma, levels)
        distance += abs(PRECISE.mpf(high - low) / 2**64 - true)
    bound = PRECISE.mpf(str(noise.total_variation))
    assert distance / 2 <= bound <= (len(borders) + 2) * PRECISE.mpf(2) ** -64


class _Chosen(NoiseStream):
    """Bits that give chosen 64-bit integers: first the 16 leading ones of all, then the rest of those that need it."""

    def __init__(self, integers: list[int], open_cells: list[int]) -> None:
        super().__init__(0, "chosen")
        padded = integers + [2**63] * (BLOCK - len(integers))
        leading = np.array([integer >> 48 for integer in padded], dtype="<u2").view("<u8").astype(np.uint64)
        rest = [(integer % 2**48) << 16 for integer in padded if integer >> 48 in open_cells]
        self._answers = [leading, np.array(rest, dtype=np.uint64)]

    def bits(self, image_id: int, block: int) -> np.random.Philox:
        return self  # type: ignore[return-value]

    def random_raw(self, size: int) -> NDArray[np.uint64]:
        answer = self._answers.pop(0)
        assert len(answer) == size
        return answer


@pytest.mark.parametrize(("sigma", "levels"), GRIDS)
def test_an_integer_gives_the_number_of_thresholds_it_reaches(sigma: float, levels: int) -> None:
    noise = rounded_gaussian(sigma, levels)
    thresholds = [int(threshold) for threshold in noise.thresholds]
    open_cells = sorted({threshold >> 48 for threshold in thresholds if threshold % 2**48})
    tried = [0, 2**64 - 1, *(threshold + shift for threshold in thresholds for shift in (-1, 0))]
    for start in range(0, len(tried), BLOCK):
        part = tried[start : start + BLOCK]
        drawn = noise.draw(_Chosen(part, open_cells), 0, 0, (1,))[: len(part), 0]
        assert drawn.tolist() == [sum(t <= integer for t in thresholds) - noise.largest for integer in part]


@pytest.mark.parametrize(("sigma", "levels"), GRIDS)
def test_what_is_drawn_has_the_right_frequencies(sigma: float, levels: int) -> None:
    noise, stream = rounded_gaussian(sigma, levels), NoiseStream(1, "count")
    drawn = np.concatenate([noise.draw(stream, 5, block, (2, 10, 10)).ravel() for block in range(16)])
    assert drawn.dtype == np.float32
    values = np.arange(-noise.largest, noise.largest + 1)
    counts = np.array([(drawn == value).sum() for value in values])
    assert counts.sum() == len(drawn), "all are integers in range"
    cdf = stats.norm.cdf((np.arange(-noise.largest - 1, noise.largest + 1) + 0.5) / (sigma * levels))
    expected = np.diff(np.concatenate([[0], cdf[1:-1], [1]])) * len(drawn)
    common = expected >= 10
    tails = [counts[~common].sum()], [expected[~common].sum()]
    counts, expected = np.append(counts[common], tails[0]), np.append(expected[common], tails[1])
    compared = expected >= 10
    statistic = ((counts - expected)[compared] ** 2 / expected[compared]).sum()
    assert statistic <= stats.chi2.isf(FALSE_ALARM, compared.sum())


def test_seeds_purposes_images_and_blocks_have_noise_of_their_own() -> None:
    noise = rounded_gaussian(0.25, 255)
    keys = [(0, "count", 0, 0), (1, "count", 0, 0), (0, "select", 0, 0), (0, "count", 1, 0), (0, "count", 0, 1)]
    drawn = [
        noise.draw(NoiseStream(seed, purpose), image, block, (64,)).ravel() for seed, purpose, image, block in keys
    ]
    correlations = np.asarray(np.corrcoef(drawn))[np.triu_indices(len(keys), 1)]
    assert np.abs(correlations).max() < stats.norm.isf(FALSE_ALARM / 20) / np.sqrt(drawn[0].size)
    again = noise.draw(NoiseStream(0, "count"), 0, 0, (64,)).ravel()
    np.testing.assert_array_equal(again, drawn[0])


def test_noise_of_floating_point_shares_no_bits_with_it() -> None:
    """Both come from the same key, at different counters."""
    stream = NoiseStream(0, "count")
    stream.block(3, 2, (64,))
    used = stream._philox.state["state"]["counter"]
    bits = stream.bits(3, 2)
    assert used.tolist()[1:] == [2, 0, 0]
    assert bits.state["state"]["counter"].tolist() == [0, 2, 1, 0]


def test_noise_that_does_not_fit_16_bits_is_refused() -> None:
    with pytest.raises(BitcertError, match=r"a standard deviation of 5100 levels; the largest is 3276"):
        RoundedGaussian(20.0, 255)


def test_sigma_is_taken_as_given() -> None:
    assert Fraction(0.1) != Fraction(1, 10)
    exact = PRECISE.ncdf(PRECISE.mpf(0.5) / (PRECISE.mpf(0.1) * 10)) * 2**64
    assert int(rounded_gaussian(0.1, 10).thresholds[rounded_gaussian(0.1, 10).largest]) == int(PRECISE.nint(exact))
