"""Gaussian noise rounded to integers, drawn by comparing uniform integers with integers: no floating point in between.

Let ``E = floor(g + 1/2)`` with g normal of mean 0 and standard deviation s. With the integers ``T_j`` nearest to ``2^64 P(E
<= j)``, a uniform 64-bit integer U gives ``E = j`` where ``T_(j-1) <= U < T_j``: the number of thresholds that U reaches,
less their number below 0. Thresholds come from proven bounds of the normal distribution (:mod:`.directed`); those above 0
mirror those below, so that the noise is exactly symmetric. With ``e_j`` the difference between ``T_j / 2^64`` and the true
probability, the total variation distance from the rounded Gaussian is ::

    TV = 1/2 sum_j |e_j - e_(j-1)| <= sum_(-J <= j < J) |e_j| + 2 P(E < -J),

where J is the largest value drawn: each ``|e_j|`` between the tails is counted twice, and beyond them e is the tail itself.
The right side is bounded from above, digit by digit.

**Speed.** The upper 16 bits of U decide E unless a threshold lies among the integers that begin with them. Only then, for a
few values in a hundred, are the other 48 drawn.
"""

from __future__ import annotations

import functools
import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from suite.certify.directed import DOWN, UP, normal_cdf_bounds
from suite.certify.noise import BLOCK, NoiseStream
from suite.errors import BitcertError

_UNIT = Decimal(2**64)
_LEADING = 16  # bits drawn first
_LARGEST_DEVIATION = 2**15 // 10  # noise stays below ten deviations, and its sums with images exact in float32


class RoundedGaussian:
    """The distribution of ``floor(g + 1/2)``, g normal with mean 0 and standard deviation ``sigma * levels``.

    Args:
        sigma: Standard deviation of the noise, in the units of the images, positive; taken exactly as it is given.
        levels: Levels of the images per unit.

    Attributes:
        levels: As given.
        thresholds: ``T_j`` for ``j = -largest .. largest - 1``, uint64.
        largest: Largest value that is drawn; the smallest is its negative.
        total_variation: Bound of the distance between what is drawn and the rounded Gaussian.

    Raises:
        BitcertError: If the standard deviation has too many levels.
    """

    def __init__(self, sigma: float, levels: int) -> None:
        self.levels = levels
        deviation = Fraction(sigma) * levels
        if deviation > _LARGEST_DEVIATION:
            raise BitcertError(
                f"exact noise cannot have a standard deviation of {float(deviation):g} levels; the largest is {_LARGEST_DEVIATION}"
            )
        below: list[int] = []
        wrong = Decimal(0)
        while True:
            threshold, error, tail = _threshold(len(below), deviation)
            if threshold == 0:
                break
            below.append(threshold)
            wrong = UP.add(wrong, error)
        self.largest = len(below)
        self.total_variation = UP.divide(UP.multiply(Decimal(2), UP.add(wrong, tail)), _UNIT)
        mirrored = [2**64 - threshold for threshold in below]
        self.thresholds = np.array([*reversed(below), *mirrored], dtype=np.uint64)
        starts = np.arange(2**_LEADING, dtype=np.uint64) << np.uint64(64 - _LEADING)
        first, last = self._values(starts), self._values(starts | np.uint64(2 ** (64 - _LEADING) - 1))
        self._decided = np.where(first == last, first, np.float32(np.nan))

    def draw(self, stream: NoiseStream, image_id: int, block: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Draw one block of samples of an image: integers as float32, shape ``(BLOCK, *shape)``."""
        size = BLOCK * math.prod(shape)
        bits = stream.bits(image_id, block)
        leading = bits.random_raw(size * _LEADING // 64).astype("<u8", copy=False).view("<u2")
        drawn = self._decided.take(leading)
        (undecided,) = np.isnan(drawn).nonzero()
        rest = bits.random_raw(len(undecided)) >> np.uint64(_LEADING)
        drawn[undecided] = self._values((leading[undecided].astype(np.uint64) << np.uint64(64 - _LEADING)) | rest)
        return np.asarray(drawn.reshape(BLOCK, *shape))

    def _values(self, uniform: NDArray[np.uint64]) -> NDArray[np.float32]:
        """The noise that uniform integers stand for."""
        reached = np.searchsorted(self.thresholds, uniform, side="right")
        return np.asarray(reached - self.largest, dtype=np.float32)


@functools.lru_cache(maxsize=32)
def rounded_gaussian(sigma: float, levels: int) -> RoundedGaussian:
    """:class:`RoundedGaussian`, made once."""
    return RoundedGaussian(sigma, levels)


def _threshold(j: int, deviation: Fraction) -> tuple[int, Decimal, Decimal]:
    """``T_(-j-1)``, then, as multiples of ``2^-64``, upper bounds of its error and of ``P(E <= -j-1)``."""
    border = (j + Fraction(1, 2)) / deviation
    numerator, denominator = Decimal(border.numerator), Decimal(border.denominator)
    cdf = normal_cdf_bounds(DOWN.divide(numerator, denominator), UP.divide(numerator, denominator))
    low = DOWN.multiply(DOWN.subtract(Decimal(1), cdf[1]), _UNIT)
    high = UP.multiply(UP.subtract(Decimal(1), cdf[0]), _UNIT)
    threshold = int(low.to_integral_value())
    return threshold, max(UP.subtract(high, Decimal(threshold)), UP.subtract(Decimal(threshold), low)), high
