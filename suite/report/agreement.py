"""Rank correlations of two scores over groups of items, such as policies at several budgets, with bootstrap intervals.

Within groups, a correlation is the mean of those of the groups: differences between groups do not count. Pooled, all items are
compared with each other; where the groups differ a lot, that alone orders most pairs.

References:
    Kendall, Biometrika 33 (1945), tau-b; Greiner, Z. Math. Phys. 57 (1909), tau of the bivariate normal.
    Fieller, Hartley and Pearson, Biometrika 44 (1957), and Bonett and Wright, Psychometrika 65 (2000), variances of both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from suite.report.reliability import CONFIDENCE, Correlation

Array = NDArray[np.float64]

_RESAMPLES = 1_000
_FEWEST_ITEMS = 5  # of a group; Fieller's variance needs as many


class Agreement(NamedTuple):
    """Kendall's tau-b and Spearman's rho of the same scores."""

    tau: Correlation
    rho: Correlation


def rank_agreement(groups: Sequence[tuple[ArrayLike, ArrayLike]], *, pooled: bool = False) -> Agreement:
    """Kendall's tau-b and Spearman's rho with 95 % intervals, by a bootstrap over items that keeps the sizes of the groups.

    The bootstrap gives the standard error; by the delta method it is carried to Fisher's scale, where the interval is
    symmetric, with the quantile of Student's t. The resampling is drawn from a fixed stream. Where the order is perfect, no
    resample differs, and the variances of normal scores take the bootstrap's place.

    Args:
        groups: For each group the two scores of its items, each of shape ``(items,)``.
        pooled: Whether items of different groups are compared with each other.

    Returns:
        NaN where a score is constant in a group (pooled: altogether); NaN bounds with fewer than five items in a group.
    """
    pairs = [(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)) for x, y in groups]
    sizes, rng = [len(x) for x, _ in pairs], np.random.default_rng(0)
    drawn = [np.vstack([np.ones(n), rng.multinomial(n, np.full(n, 1 / n), _RESAMPLES)]) for n in sizes]
    if pooled:
        pairs = [(np.concatenate([x for x, _ in pairs]), np.concatenate([y for _, y in pairs]))]
        drawn = [np.hstack(drawn)]
    found = np.mean([weighted_correlations(*pair, weights) for pair, weights in zip(pairs, drawn, strict=True)], axis=0)
    items, parts, enough = sum(sizes), len(pairs), min(sizes) >= _FEWEST_ITEMS
    couples = sum(len(x) * (len(x) - 1) / 2 for x, _ in pairs)
    cubes = sum(len(x) * (len(x) ** 2 - 1) / 6 for x, _ in pairs)
    plain = 0.437 / (items - 4 * parts) if enough else math.nan, 1.06 / (items - 3 * parts) if enough else math.nan
    degrees = items - 3 * parts
    return Agreement(*(_interval(*given, degrees) for given in zip(found, (couples, cubes), plain, strict=True)))


def _interval(found: Array, swaps: float, variance: float, degrees: int) -> Correlation:
    """From the correlation, first, and those of resamples; ``variance`` is that of normal scores on Fisher's scale."""
    value, resampled = float(found[0]), found[1:]
    if math.isnan(value) or math.isnan(variance):
        return Correlation(value, math.nan, math.nan)
    most = 1 - 1 / swaps  # half a swap of neighbours away from perfect
    inner = min(most, max(-most, value))
    error = float(np.nanstd(resampled)) / (1 - inner**2)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, degrees)) * (error if error > 1e-9 else math.sqrt(variance))
    low, high = (math.tanh(math.atanh(inner) + sign * half) for sign in (-1, 1))
    return Correlation(value, min(low, value), max(high, value))


def weighted_correlations(x: Array, y: Array, weights: Array) -> Array:
    """Kendall's tau-b and Spearman's rho of samples in which every item comes a given number of times.

    Both follow from the signs of differences: an item's centred midrank is half the weighted sum of its signs.

    Args:
        x: Shape ``(items,)``.
        y: The same items, likewise.
        weights: How often each item comes, shape ``(samples, items)``.

    Returns:
        Shape ``(2, samples)``, tau-b first; NaN where a score is constant.
    """
    first, second = (np.sign(values[:, None] - values[None]) for values in (x, y))
    together, *alone = (((weights @ matrix) * weights).sum(axis=1) for matrix in (first * second, first**2, second**2))
    ranks = weights @ first, weights @ second
    products, *squares = ((weights * a * b).sum(axis=1) for a, b in (ranks, 2 * ranks[:1], 2 * ranks[1:]))
    with np.errstate(invalid="ignore"):
        return np.stack([together / np.sqrt(alone[0] * alone[1]), products / np.sqrt(squares[0] * squares[1])])


def correct_rho(rho: float, visible: float) -> float:
    """Spearman's rho without attenuation: divided by the square root of both reliabilities, cut at -1 and 1.

    Args:
        rho: As measured.
        visible: The square root of the product of the reliabilities; see
            :func:`~suite.report.reliability.visible_correlation`.

    Returns:
        NaN where nothing can be visible.
    """
    return min(1.0, max(-1.0, rho / visible)) if visible > 0 and not math.isnan(rho) else math.nan


def correct_tau(tau: float, visible: float) -> float:
    """Kendall's tau without attenuation, through the correlation of normal scores with this tau: ``tau = 2/pi asin r``.

    Unlike a correlation, tau is not attenuated by a factor; that of normal scores is as exact as their reliabilities are. Args and
    Returns are those of :func:`correct_rho`.
    """
    return 2 / math.pi * math.asin(correct_rho(math.sin(math.pi / 2 * tau), visible))
