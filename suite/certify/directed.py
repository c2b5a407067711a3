"""Normal and binomial probabilities with proven bounds, and what certificates need of them.

:mod:`decimal` rounds sums, differences, products and quotients correctly in the direction that a context states, so a
quantity computed downwards is a lower bound and one computed upwards an upper bound, whatever the number of operations.
``exp`` and ``sqrt`` round to nearest; their neighbours bound them. Nothing here assumes anything about the accuracy of a
floating-point library: its values are starting points, and only what the bounds confirm is returned.

**Normal.** ``Phi(x) - 1/2 = phi(x) * sum_k x^(2k+1) / (2k+1)!!`` for x >= 0. All terms are positive; once the ratio of
neighbours, ``x^2 / (2k+3)``, is below 1/2, the rest is at most the last term.

**Binomial.** With ``t_k = 1`` and ``t_(j+1) / t_j = (n-j)/(j+1) * p/(1-p)`` the tail is ``P(X >= k) = A / (A + B)``, ``A =
sum_(j>=k) t_j``, ``B = sum_(j<k) t_j``. It increases with A and decreases with B, so an upper bound of A and a lower bound
of B, which any part of its terms is, bound it from above. Ratios fall with j: once one is below 1, a geometric series bounds
the rest of A.

References:
    General Decimal Arithmetic Specification 1.70 (which :mod:`decimal` implements); Clopper and Pearson, Biometrika 26
    (1934).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from decimal import MAX_EMAX, MIN_EMIN, ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suite.certify.bounds import certified_radius, clopper_pearson_lower

DOWN = Context(prec=50, rounding=ROUND_FLOOR, Emin=MIN_EMIN, Emax=MAX_EMAX)
UP = Context(prec=50, rounding=ROUND_CEILING, Emin=MIN_EMIN, Emax=MAX_EMAX)

_HALF, _ONE, _TWO = Decimal("0.5"), Decimal(1), Decimal(2)
_NEGLIGIBLE = Decimal("1e-50")  # of a sum: where it is cut
_NEGLIGIBLE_TAIL = Decimal("1e-25")  # enough for a comparison with alpha
_STEP = 8  # units in the last place, at first
_PI = (
    Decimal("3.1415926535897932384626433832795028841971693993751"),
    Decimal("3.1415926535897932384626433832795028841971693993752"),
)
_ROOTS = DOWN.next_minus(DOWN.sqrt(DOWN.multiply(_TWO, _PI[0]))), UP.next_plus(UP.sqrt(UP.multiply(_TWO, _PI[1])))


def normal_cdf_bounds(low: Decimal, high: Decimal) -> tuple[Decimal, Decimal]:
    """A lower bound of ``Phi(low)`` and an upper bound of ``Phi(high)``, both arguments >= 0."""
    below, above = _series(low, DOWN), _series(high, UP)
    below = DOWN.divide(DOWN.multiply(below, _exponential(low, UP, DOWN)), _ROOTS[1])
    above = UP.divide(UP.multiply(above, _exponential(high, DOWN, UP)), _ROOTS[0])
    return DOWN.add(_HALF, below), UP.add(_HALF, above)


def _series(x: Decimal, to: Context) -> Decimal:
    """``sum_k x^(2k+1) / (2k+1)!!``, rounded in the direction of a context."""
    square = to.multiply(x, x)
    term = total = x
    odd = 1
    while odd <= _TWO * square or term > _NEGLIGIBLE * total:
        odd += 2
        term = to.divide(to.multiply(term, square), Decimal(odd))
        total = to.add(total, term)
    return to.add(total, term) if to is UP else total


def _exponential(x: Decimal, square: Context, to: Context) -> Decimal:
    """``exp(-x^2 / 2)``; the square is rounded the other way."""
    found = to.exp(square.multiply(_HALF, square.multiply(x, x)).copy_negate())
    return to.next_plus(found) if to is UP else to.next_minus(found)


def binomial_tail_upper(successes: int, trials: int, p: float) -> Decimal:
    """An upper bound of ``P(X >= successes)`` for X ~ Binomial(trials, p), ``1 <= successes <= trials``, p within (0, 1)."""
    odds = UP.divide(Decimal(p), DOWN.subtract(_ONE, Decimal(p)))
    against = DOWN.divide(DOWN.subtract(_ONE, Decimal(p)), Decimal(p))
    term = above = _ONE
    for j in range(successes, trials):
        ratio = UP.divide(UP.multiply(Decimal(trials - j), odds), Decimal(j + 1))
        if ratio < _ONE:
            rest = UP.divide(UP.multiply(term, ratio), DOWN.subtract(_ONE, ratio))
            if rest < _NEGLIGIBLE_TAIL * above:
                above = UP.add(above, rest)
                break
        term = UP.multiply(term, ratio)
        above = UP.add(above, term)
    term, below = _ONE, Decimal(0)
    for j in range(successes, 0, -1):
        term = DOWN.divide(DOWN.multiply(term, DOWN.multiply(Decimal(j), against)), Decimal(trials - j + 1))
        below = DOWN.add(below, term)
        if term < _NEGLIGIBLE_TAIL * below:
            break
    return UP.divide(above, DOWN.add(above, below))


def sound_lower(successes: NDArray[np.int64], trials: int, alpha: Decimal) -> NDArray[np.float64]:
    """Clopper-Pearson lower bounds that are proven: ``P(X >= successes) <= alpha`` at the returned probability.

    Args:
        successes: Counts, any shape.
        trials: Draws, at least 1.
        alpha: Probability that a bound exceeds the true probability, at most; within (0, 1), exact.
    """
    return _each(successes, lambda count: _sound_lower(int(count), trials, alpha))


def sound_radius(p_lower: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """Radii that are proven to be below ``sigma * Phi^-1(p_lower)``; 0 where ``p_lower <= 1/2``."""
    return _each(p_lower, lambda p: _sound_radius(float(p), sigma))


def _each(values: NDArray[np.generic], function: Callable[[Any], float]) -> NDArray[np.float64]:
    """A function of each value, called once for equal ones."""
    different, places = np.unique(values, return_inverse=True)
    return np.array([function(value) for value in different], dtype=np.float64)[places].reshape(values.shape)


@functools.lru_cache(maxsize=100_000)
def _sound_lower(successes: int, trials: int, alpha: Decimal) -> float:
    if successes == 0:
        return 0.0
    start = float(clopper_pearson_lower(successes, trials, float(alpha)))
    return _lowered(start, lambda p: binomial_tail_upper(successes, trials, p) <= alpha)


@functools.lru_cache(maxsize=100_000)
def _sound_radius(p: float, sigma: float) -> float:
    def holds(radius: float) -> bool:
        distance = UP.divide(Decimal(radius), Decimal(sigma))
        return normal_cdf_bounds(distance, distance)[1] < Decimal(p)

    return _lowered(float(certified_radius(p, sigma)), holds)


def _lowered(start: float, holds: Callable[[float], bool]) -> float:
    """The start, or a number a few units in the last place below it, for which something holds; 0 if there is none."""
    value, step = start, _STEP * math.ulp(start)
    while value > 0 and not holds(value):
        value -= step
        step *= 2
    return max(value, 0.0)
