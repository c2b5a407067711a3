"""How well cheap scores order policies as the deployed score does, how well they could at best, and what they take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from suite.report.agreement import correct_rho, correct_tau, rank_agreement
from suite.report.reliability import Correlation, anova_reliability, spearman, visible_correlation
from suite.studies.predictors.reliability import pooled_reliability, total_reliability
from suite.studies.predictors.scores import FREE, Predictors, Score, known_mean

Scope = Literal["within", "pooled"]
"""Whether correlations are the means of those of the budgets, or compare the policies of all budgets with each other."""


def correlations(found: Predictors, scope: Scope = "within") -> pd.DataFrame:
    """One row per cheap score, in the order of the study.

    ``tau`` and ``rho`` are Kendall's tau-b and Spearman's rho with the deployed score, ``tau_low``, ``tau_high``, ``rho_low`` and
    ``rho_high`` their 95 % intervals over policies; see :func:`~suite.report.agreement.rank_agreement`. ``reliability`` and
    ``deployed_reliability`` are :func:`~suite.studies.predictors.reliability.total_reliability`, and ``visible`` is the largest
    rho that one could see between scores so reliable, ``tau_visible`` the largest tau. ``tau_corrected`` and ``rho_corrected``,
    with their intervals, are without attenuation, the reliabilities taken as known. ``partial`` is rho with BOPs held fixed. Within
    budgets, all of these are means over the budgets, corrected is the mean by the mean of what is visible. The columns of
    :func:`costs` follow.
    """
    truths, free = [part.truth for part in found.budgets], found.cheap(FREE[0])
    ceilings = [total_reliability(truth) for truth in truths]
    rows, price = [], costs(found).set_index("score")
    for name in found.names:
        scores = found.cheap(name)
        pairs = [(score.means, truth.means) for score, truth in zip(scores, truths, strict=True)]
        fixed = [score.means for score in free]
        if scope == "pooled":
            reliability, ceiling = pooled_reliability(scores), pooled_reliability(truths)
            visible = visible_correlation(reliability, ceiling)
            first, second = map(np.concatenate, zip(*pairs, strict=True))
            partial = partial_correlation(first, second, np.concatenate(fixed))
        else:
            reliabilities = [total_reliability(score) for score in scores]
            reliability, ceiling = float(np.mean(reliabilities)), float(np.mean(ceilings))
            visible = float(np.mean(list(map(visible_correlation, reliabilities, ceilings))))
            partial = float(
                np.mean([partial_correlation(*pair, held) for pair, held in zip(pairs, fixed, strict=True)])
            )
        tau, rho = rank_agreement(pairs, pooled=scope == "pooled")
        rows.append(
            {
                "score": name,
                "kind": scores[0].kind,
                **_bounds("tau", tau),
                **_bounds("rho", rho),
                "partial": partial,
                **_bounds("tau_corrected", [correct_tau(value, visible) for value in tau]),
                **_bounds("rho_corrected", [correct_rho(value, visible) for value in rho]),
                "reliability": reliability,
                "deployed_reliability": ceiling,
                "visible": visible,
                "tau_visible": 2 / math.pi * math.asin(visible),
                "policies": found.policies,
                "budgets": len(found.budgets),
                **price.loc[name],
            }
        )
    return pd.DataFrame(rows)


def _bounds(name: str, values: Correlation | Sequence[float]) -> dict[str, float]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))


def by_budget(found: Predictors) -> pd.DataFrame:
    """The :func:`correlations` at every budget alone."""
    parts = [correlations(found.at(part)).assign(budget=part.budget) for part in found.budgets]
    return pd.concat(parts, ignore_index=True).drop(columns=["budgets", *_COSTS])


_COSTS = ("passes", "total_passes", "of_deployed", "setup_passes", "break_even")


def costs(found: Predictors) -> pd.DataFrame:
    """What each cheap score takes, one row per score; NaN where it is not known.

    ``passes`` are the forward passes per policy that make its networks, with every seed of the score, without the exams that score
    them; ``total_passes`` are those with the exams. ``of_deployed`` is ``passes`` as a share of what one deployment takes: one
    seed, the mean of the post-steps that deploy. ``setup_passes`` are made once. ``break_even`` is the fewest policies for which
    set-up and scores take no more than deploying all of them.
    """
    deployment, rows = deployment_passes(found), []
    for name in found.names:
        each = [(score.preparation * score.columns, score.certification * score.columns) for score in found.cheap(name)]
        made, examined = (known_mean(list(values)) for values in zip(*each, strict=True))
        once, saved = found.setup.get(name, 0), deployment - made
        worthwhile = once > 0 and saved > 0  # also false where it is not known
        values = made, made + examined, made / deployment if deployment > 0 else math.nan, once
        even = math.ceil(once / saved) if worthwhile else math.nan
        rows.append({"score": name, **dict(zip(_COSTS, (*values, even), strict=True))})
    return pd.DataFrame(rows)


def deployment_passes(found: Predictors) -> float:
    """Forward passes of one deployment of one policy, without its exam: the mean over post-steps; NaN if not known."""
    return known_mean([part.truth.preparation for part in found.budgets])


def spreads(found: Predictors) -> pd.DataFrame:
    """One row per budget and measured score, the deployed ones last, and then their mean if they are several.

    ``mean`` and ``sd`` are over policies, of means over training seeds; ``sd_training`` is within policies, between training
    seeds. ``training_reliability`` with its 95 % interval is that of the mean over seeds, images held fixed; for the mean of
    several deployed scores, over all their columns, each centred. ``forward_passes`` are of all policies together.
    """
    rows = []
    for part in found.budgets:
        cheap = [score for score in part.cheap if score.kind == "measured"]
        deployed = [*part.deployed, part.truth] if len(part.deployed) > 1 else list(part.deployed)
        for score in (*cheap, *deployed):
            rows.append({"budget": part.budget, **_spread(score, deployed=score in deployed)})
    return pd.DataFrame(rows)


def _spread(score: Score, *, deployed: bool) -> dict[str, Any]:
    repeated = score.columns > 1
    training = anova_reliability(score.values) if repeated else None
    names = {"reliability": "value", "low": "low", "high": "high"}
    passes = (score.preparation + score.certification) * score.values.size
    return {
        "score": score.name,
        "deployed": deployed,
        "columns": score.columns,
        "recorded": score.recorded,
        "mean": float(score.means.mean()),
        "sd": float(score.means.std(ddof=1)),
        "sd_training": math.sqrt(score.values.var(axis=1, ddof=1).mean()) if repeated else math.nan,
        **{
            f"training_{name}": math.nan if training is None else getattr(training, attribute)
            for name, attribute in names.items()
        },
        "reliability": total_reliability(score),
        "preparation_passes": score.preparation,
        "forward_passes": passes,
    }


def partial_correlation(first: NDArray[np.float64], second: NDArray[np.float64], fixed: NDArray[np.float64]) -> float:
    """Spearman's partial correlation with a third variable held fixed; NaN where that, or another, does not vary.

    References:
        Kendall, Biometrika 32 (1942), with ranks.
    """
    between, left, right = (spearman(*pair).rho for pair in ((first, second), (first, fixed), (second, fixed)))
    scale = (1 - left**2) * (1 - right**2)
    return (between - left * right) / math.sqrt(scale) if scale > 1e-12 else math.nan


def pairs_across_budgets(found: Predictors) -> float:
    """Share of all pairs of policies that are of different budgets."""
    sizes = np.array([len(part.policies) for part in found.budgets])
    return 1 - float((sizes * (sizes - 1)).sum()) / (found.policies * (found.policies - 1))
