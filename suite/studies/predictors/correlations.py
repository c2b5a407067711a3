"""How well a cheap score orders policies as the deployed one does, and how well it could at best."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from suite.report.reliability import anova_reliability, spearman, visible_correlation
from suite.studies.predictors.run import FREE, Predictors, Score

_SPLITS = 200


def correlations(found: Predictors) -> pd.DataFrame:
    """One row per cheap score, in the order of the study.

    ``rho``, ``low`` and ``high`` are Spearman's correlation with the deployed score and its 95 % interval over policies;
    ``partial`` is the same with BOPs held fixed. ``reliability`` and ``deployed_reliability`` are :func:`total_reliability`, and
    ``visible`` is the largest correlation that one could see between scores so reliable.
    """
    deployed = found.deployed.means
    ceiling = total_reliability(found.deployed)
    costs = next(score.means for score in found.cheap if score.name == FREE[0])
    rows = []
    for score in found.cheap:
        rho, low, high = spearman(score.means, deployed)
        reliability = total_reliability(score)
        rows.append(
            {
                "score": score.name,
                "kind": score.kind,
                "rho": rho,
                "low": low,
                "high": high,
                "partial": partial_correlation(score.means, deployed, costs),
                "reliability": reliability,
                "deployed_reliability": ceiling,
                "visible": visible_correlation(reliability, ceiling),
                "policies": len(deployed),
            }
        )
    return pd.DataFrame(rows)


def spreads(found: Predictors) -> pd.DataFrame:
    """One row per measured score, the deployed one last.

    ``mean`` and ``sd`` are over policies, of means over training seeds; ``sd_training`` is within policies, between training
    seeds. ``training_reliability`` with its 95 % interval is that of the mean over seeds, images held fixed.
    """
    rows = []
    for score in (*(score for score in found.cheap if score.kind == "measured"), found.deployed):
        repeated = score.values.shape[1] > 1
        training = anova_reliability(score.values) if repeated else None
        rows.append(
            {
                "score": score.name,
                "deployed": score is found.deployed,
                "mean": float(score.means.mean()),
                "sd": float(score.means.std(ddof=1)),
                "sd_training": math.sqrt(score.values.var(axis=1, ddof=1).mean()) if repeated else math.nan,
                **{
                    f"training_{name}": math.nan if training is None else getattr(training, field)
                    for name, field in (("reliability", "value"), ("low", "low"), ("high", "high"))
                },
                "reliability": total_reliability(score),
                "forward_passes": score.forward_passes,
            }
        )
    return pd.DataFrame(rows)


def total_reliability(score: Score) -> float:
    """Reliability of a score's order of policies, with other images and other training seeds in mind.

    Images and training seeds are split into random halves, so that two halves share neither; the rank correlation between them,
    averaged over splits, is stepped up to the full length (Spearman-Brown). Where the number of training seeds is odd, one is
    left out; where there is one, its chance cannot be seen. Without images, what is repeated are seeds alone.

    Returns:
        1 for a score without chance; NaN where it is not known.
    """
    if score.kind == "free":
        return 1.0
    if score.images is not None:
        return crossed_reliability(score.images)
    return anova_reliability(score.values).value if len(score.seeds) > 1 else math.nan


def crossed_reliability(scores: ArrayLike) -> float:
    """Spearman-Brown's reliability from halves that share neither images nor training seeds; see :func:`total_reliability`.

    Args:
        scores: Shape ``(policies, seeds, images)``.

    Returns:
        The reliability of means over seeds and images, 0 where halves do not agree; NaN if all policies are equal.

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
    means = halves.reshape(2, _SPLITS, -1) @ values.reshape(policies, -1).T
    ranks = stats.rankdata(means, axis=-1)
    first, second = ranks - ranks.mean(axis=-1, keepdims=True)
    scale = np.sqrt((first**2).sum(axis=-1) * (second**2).sum(axis=-1))
    if not scale.all():
        return math.nan
    agreement = max(float(((first * second).sum(axis=-1) / scale).mean()), 0.0)
    return 2 * agreement / (1 + agreement)


def partial_correlation(first: NDArray[np.float64], second: NDArray[np.float64], fixed: NDArray[np.float64]) -> float:
    """Spearman's partial correlation with a third variable held fixed; NaN where that, or another, does not vary.

    References:
        Kendall, Biometrika 32 (1942), with ranks.
    """
    between, left, right = (spearman(*pair).rho for pair in ((first, second), (first, fixed), (second, fixed)))
    scale = (1 - left**2) * (1 - right**2)
    return (between - left * right) / math.sqrt(scale) if scale > 1e-12 else math.nan
