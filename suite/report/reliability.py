"""Reliability of scores: the share of the spread between items, such as searchers or policies, that another draw would show again.

It bounds what any correlation with these scores can show: a score of reliability .4 correlates with a perfect one at most at the
square root of .4. A low correlation of two unreliable scores therefore says nothing.

References:
    Spearman, Am. J. Psychol. 15 (1904), attenuation; Brown, Br. J. Psychol. 3 (1910), and Spearman, ibid., split halves.
    McGraw and Wong, Forming inferences about some intraclass correlation coefficients, Psychol. Methods 1 (1996), ICC(C,k).
    Bonett and Wright, Sample size requirements for estimating Pearson, Kendall and Spearman correlations, Psychometrika 65 (2000).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

CONFIDENCE = 0.95
SPLITS = 200
_FEWEST_ITEMS = 3


@dataclass(frozen=True, slots=True)
class Reliability:
    """A reliability in 0..1 with its 95 % confidence interval; NaN where there is too little to estimate it from."""

    value: float
    low: float
    high: float


class Correlation(NamedTuple):
    """A rank correlation with its 95 % confidence interval; NaN where there is too little to estimate it from."""

    rho: float
    low: float
    high: float


def split_half(scores: ArrayLike, rng: np.random.Generator) -> float:
    """Reliability of the items' means over images: how well random halves of the images agree.

    The correlation of the items' means on two halves, averaged over splits, is that of scores from half as many images; the
    formula of Spearman and Brown gives the one of all images.

    Args:
        scores: Shape ``(items, images)``, all items on the same images.
        rng: Draws the splits.

    Returns:
        A number in 0..1; NaN with fewer than three items or two images, or if all items are equal on a half.
    """
    values = np.asarray(scores, dtype=np.float64)
    items, images = values.shape
    half = images // 2
    if items < _FEWEST_ITEMS or half < 1:
        return float("nan")
    correlations = []
    for _ in range(SPLITS):
        order = rng.permutation(images)
        first, second = (_centred(values[:, part].mean(axis=1)) for part in (order[:half], order[half : 2 * half]))
        spread = math.sqrt(float(first @ first) * float(second @ second))
        correlations.append(float(first @ second) / spread if spread > 0 else float("nan"))
    halves = max(0.0, float(np.mean(correlations))) if not np.isnan(correlations).any() else float("nan")
    return 2 * halves / (1 + halves)


def anova_reliability(scores: ArrayLike) -> Reliability:
    """Reliability of the items' means over replicates, by a two-way analysis of variance with the replicates as blocks.

    ``1 - MS_within / MS_between``, where what a replicate adds to all items alike counts as neither, since items are compared
    within replicates. The interval follows from the F distribution; all three numbers are cut at 0.

    Args:
        scores: Shape ``(items, replicates)``, such as the exam scores of searchers by seed.

    Returns:
        NaN with fewer than three items or two replicates, or without any spread.
    """
    values = np.asarray(scores, dtype=np.float64)
    items, replicates = values.shape
    if items < _FEWEST_ITEMS or replicates < 2:
        return Reliability(*[float("nan")] * 3)
    by_item = _centred(values.mean(axis=1))
    residuals = values - values.mean(axis=0) - by_item[:, None]
    between, degrees = items - 1, (items - 1) * (replicates - 1)
    spread, noise = replicates * float(by_item @ by_item) / between, float((residuals**2).sum()) / degrees
    if spread == 0:
        return Reliability(*[float("nan")] * 3)
    tail = (1 - CONFIDENCE) / 2
    wide, narrow = (float(stats.f.isf(tail, between, degrees)), float(stats.f.ppf(tail, between, degrees)))
    return Reliability(*(max(0.0, 1 - factor * noise / spread) for factor in (1.0, wide, narrow)))


def visible_correlation(first: float, second: float) -> float:
    """The largest correlation that two scores of these reliabilities show on average, however related what they measure is."""
    return math.sqrt(first * second)


def spearman(x: ArrayLike, y: ArrayLike) -> Correlation:
    """Rank correlation with its confidence interval, by Fisher's transformation with Bonett and Wright's variance.

    Simulated coverage for normal scores is 94 to 97 % with 6 to 48 items. A perfect order counts as one that half a swap of
    neighbours separates from perfect, so that its interval has a width.

    Args:
        x: Shape ``(items,)``.
        y: The same items, likewise.

    Returns:
        NaN bounds with fewer than four items; all NaN if ``x`` or ``y`` is constant.
    """
    first, second = (stats.rankdata(np.asarray(values, dtype=np.float64)) for values in (x, y))
    count = len(first)
    if count < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return Correlation(*[float("nan")] * 3)
    rho = float(np.corrcoef(first, second)[0, 1])
    if count < _FEWEST_ITEMS + 1:
        return Correlation(rho, float("nan"), float("nan"))
    most = 1 - 6 / (count * (count**2 - 1))
    inner = min(most, max(-most, rho))
    half = float(stats.norm.ppf((1 + CONFIDENCE) / 2)) * math.sqrt((1 + inner**2 / 2) / (count - 3))
    low, high = (math.tanh(math.atanh(inner) + sign * half) for sign in (-1, 1))
    return Correlation(rho, min(low, rho), max(high, rho))


def _centred(values: NDArray[np.float64]) -> NDArray[np.float64]:
    centred: NDArray[np.float64] = values - values.mean()
    return centred
