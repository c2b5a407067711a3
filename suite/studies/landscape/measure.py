"""What makes a space hard to search: how many policies are good, how many traps there are, and how far layers add up."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from baselines.planned import exchanges
from suite.contract.space import Policy
from suite.errors import BitcertError
from suite.problems.tabular import TabularProblem
from suite.report.anytime import NEAR


@dataclass(frozen=True, slots=True)
class Hardness:
    """A table at one budget.

    Attributes:
        budget, limit: The budget, as text and in BOPs.
        feasible: Policies within it.
        optimum, mean: True score of the best of them, and of all on average.
        near: Share that comes within :data:`NEAR` of the optimum, in units of its distance from the mean.
        optima: Policies that no step of one variable improves.
        exchange_optima: Those that no step up of one variable with a step down of another improves either.
        trapped: Mean normalized score of the latter but the best: what a descent that gets stuck is worth; NaN if there are none.
        additive_regret: How far the best policy by the additive model lies below the optimum, in the same units.
        selection: Kendall's tau of search estimates at the highest fidelity, one noise, with the true scores.
    """

    budget: str
    limit: int
    feasible: int
    optimum: float
    mean: float
    near: float
    optima: int
    exchange_optima: int
    trapped: float
    additive_regret: float
    selection: float


@dataclass(frozen=True, slots=True)
class Additivity:
    """How much of the spread of true scores a sum over variables explains, on all policies of a table.

    Attributes:
        main: Share of the variance that each variable's bits explain, shape ``(variables,)``; they add up in a complete table.
        additive: Share explained by a sum over variables.
        pairwise: Share explained with a term for every pair of variables.
    """

    main: NDArray[np.float64]
    additive: float
    pairwise: float


def hardness(problem: TabularProblem) -> Hardness:
    """Measure a table at its problem's budget.

    Raises:
        BitcertError: If the table does not hold every policy, or fewer than two are feasible.
    """
    truth = problem.truth
    if not truth:
        raise BitcertError(f"{problem.file} does not hold every policy; local optima need their neighbours")
    scores = np.array(list(truth.values()))
    best, mean = float(scores.max()), float(scores.mean())
    if best <= mean:
        raise BitcertError(f"budget {problem.budget.text}: all feasible policies of {problem.file} are alike")
    single, exchanged = _local_optima(problem, truth)
    stuck = [(truth[policy] - mean) / (best - mean) for policy in exchanged if truth[policy] < best]
    rows = [problem.table.row(policy) for policy in truth]
    predicted = additive_model(problem)[rows]
    chosen = scores[int(np.argmax(predicted))]
    return Hardness(
        budget=problem.budget.text,
        limit=problem.budget.limit,
        feasible=len(truth),
        optimum=best,
        mean=mean,
        near=float(np.mean(scores >= best - NEAR * (best - mean))),
        optima=len(single),
        exchange_optima=len(exchanged),
        trapped=float(np.mean(stuck)) if stuck else float("nan"),
        additive_regret=float(best - chosen) / (best - mean),
        selection=kendall(problem.scores(problem.top[:1])[rows], scores),
    )


def _local_optima(problem: TabularProblem, truth: Mapping[Policy, float]) -> tuple[list[Policy], list[Policy]]:
    single, both = [], []
    for policy, score in truth.items():
        if any(truth.get(other, -np.inf) > score for other in problem.space.neighbours(policy)):
            continue
        single.append(policy)
        if all(truth[other] <= score for other in exchanges(problem, policy)):
            both.append(policy)
    return single, both


def additivity(problem: TabularProblem) -> Additivity:
    """Fit sums over variables, and over pairs of them, to all true scores of a table by least squares."""
    scores, groups = problem.true_scores, _indicators(problem)
    pairs = [
        (first[:, :, None] * second[:, None, :]).reshape(len(scores), -1)
        for first, second in itertools.combinations(groups, 2)
    ]
    return Additivity(
        np.array([_explained([group], scores) for group in groups]),
        _explained(groups, scores),
        _explained([*groups, *pairs], scores),
    )


def additive_model(problem: TabularProblem) -> NDArray[np.float64]:
    """True scores as a sum over variables, fitted to all policies of a table, shape ``(policies,)``."""
    return _fitted(_indicators(problem), problem.true_scores)


def kendall(one: Sequence[float] | NDArray[np.float64], other: Sequence[float] | NDArray[np.float64]) -> float:
    """Kendall's tau-b of two scores of the same policies."""
    return float(stats.kendalltau(one, other).statistic)


def _indicators(problem: TabularProblem) -> list[NDArray[np.float64]]:
    """For each variable one column per choice but the first, shape ``(policies, choices - 1)``."""
    vectors, count = problem.table.vectors, len(problem.space.choices)
    return [(vectors[:, [variable]] == np.arange(1, count)).astype(float) for variable in range(vectors.shape[1])]


def _fitted(groups: Sequence[NDArray[np.float64]], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    design = np.hstack([np.ones((len(scores), 1)), *groups])
    return np.asarray(design @ np.linalg.lstsq(design, scores, rcond=None)[0])


def _explained(groups: Sequence[NDArray[np.float64]], scores: NDArray[np.float64]) -> float:
    left = scores - _fitted(groups, scores)
    return float(1 - left.var() / scores.var())
