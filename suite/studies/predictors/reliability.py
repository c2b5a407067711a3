"""Reliability of scores of policies, with other images and other training seeds in mind."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from suite.report.reliability import anova_reliability
from suite.studies.predictors.scores import Score

_SPLITS = 200


def total_reliability(score: Score) -> float:
    """Reliability of a score's order of policies, with other images and other columns (training seeds, post-steps) in mind.

    Where the images of all columns are known, this is :func:`crossed_reliability`. Where only those of some are, as when others
    were recorded, two shares of the variance are combined: :func:`~suite.report.reliability.anova_reliability` of all ``K``
    columns sees what other columns would change and takes the images as they are; crossed halves of the ``M`` known columns tell
    which part of what all columns share is due to the images. Without any images, the images are taken as they are, and the
    reliability is too high by what other images would change; see :attr:`~suite.studies.predictors.scores.Score.images_known`.

    Returns:
        1 for a score without chance; NaN where it is not known.
    """
    if score.kind == "free":
        return 1.0
    over_columns = anova_reliability(score.values).value if score.columns > 1 else math.nan
    if score.images is None:
        return over_columns
    crossed = crossed_reliability(score.images)
    if score.images_known == score.columns:
        return crossed
    single = over_columns / (score.columns - (score.columns - 1) * over_columns)
    if single == 0 or math.isnan(single):
        return single
    known = 2 * (score.images_known // 2)  # of an odd number, one is left out of crossed halves
    # Crossed halves of one column take what is its own, 1 - single of the whole, as reliable.
    own, among = (0.0, known * single / (1 + (known - 1) * single)) if known else (1 - single, single)
    shared = (crossed - own) / among
    return over_columns * min(1.0, max(0.0, shared))


def pooled_reliability(scores: Sequence[Score]) -> float:
    """Reliability of the order of all budgets' policies, pooled.

    In each budget, one minus its reliability of the variance between its policies is chance. Ranks among all policies are a
    monotonic transformation of the scores, so the chance in all of these ranks is the mean of what is chance at the budgets.

    Args:
        scores: One score at every budget.

    Returns:
        One minus the share of chance, in 0..1; NaN where a reliability is not known, or all policies are equal.
    """
    sizes = [len(score.means) for score in scores]
    ranks = stats.rankdata(np.concatenate([score.means for score in scores]))
    total, chance = float(ranks.var()), 0.0
    for score, part in zip(scores, np.split(ranks, np.cumsum(sizes)[:-1]), strict=True):
        if (spread := float(part.var())) > 0:
            chance += len(part) / len(ranks) * spread * (1 - total_reliability(score))
    share = 1 - chance / total if total > 0 else math.nan
    return share if math.isnan(share) else max(0.0, share)


def crossed_reliability(scores: ArrayLike) -> float:
    """Spearman-Brown's reliability from halves that share neither images nor training seeds.

    Images and columns are split into random halves, so that two halves share neither; the rank correlation between them,
    averaged over splits, is stepped up to the full length (Spearman-Brown). Where the number of columns is odd, one is left out;
    where there is one, its chance cannot be seen.

    Args:
        scores: Shape ``(policies, columns, images)``; columns are training seeds, of one post-step or of several.

    Returns:
        The reliability of means over columns and images, 0 where halves do not agree; NaN if all policies are equal.

    References:
        Spearman, British Journal of Psychology 3 (1910); Brown, ibid.
    """
    values, rng = np.asarray(scores, dtype=np.float64), np.random.default_rng(0)
    policies, seeds, images = values.shape
    halves = np.zeros((2, _SPLITS, seeds, images))
    for split in range(_SPLITS):
        runs, order = rng.permutation(seeds), rng.permutation(images)
        for half in range(2):
            run = runs if seeds == 1 else runs[half : 2 * (seeds // 2) : 2]
            halves[half, split, run[:, None], order[half::2]] = 1
    means: NDArray[np.float64] = halves.reshape(2, _SPLITS, -1) @ values.reshape(policies, -1).T
    ranks = stats.rankdata(means, axis=-1)
    first, second = centred = ranks - ranks.mean(axis=-1, keepdims=True)
    scale = np.sqrt((first**2).sum(axis=-1) * (second**2).sum(axis=-1))
    if not centred.any():
        return math.nan
    # A half in which all policies are equal agrees with nothing.
    agreements = np.divide((first * second).sum(axis=-1), scale, out=np.zeros_like(scale), where=scale > 0)
    agreement = max(float(agreements.mean()), 0.0)
    return 2 * agreement / (1 + agreement)
