"""How fast a search approaches a known optimum: true score of its incumbent by spend, regret, and spend until a target is reached.

A search sees estimates; where every policy's true score is recorded, its progress can be told without their noise. The
incumbent is the trial with the best search estimate so far, the earliest among equals, at the highest fidelity; its **true** score
is what counts, and may fall when a worse policy was measured too well. Second measurements at the end of a search do not count.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from suite.contract.space import Policy
from suite.errors import BitcertError
from suite.report.curves import Band, Clock, search_course
from suite.report.intervals import CONFIDENCE
from suite.run.records import Run

NEAR = 0.01
"""How close to the optimum counts as there, as a share of the distance between the mean policy and the optimum."""
_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class Trajectory:
    """True score of the incumbent by spend: a step function, continuous from the right.

    Attributes:
        spend: Spend at the end of each trial that became the incumbent, ascending, shape ``(steps,)``.
        truth: True score from there on, shape ``(steps,)``.
        end: Spend of the whole search.
    """

    spend: NDArray[np.float64]
    truth: NDArray[np.float64]
    end: float

    def at(self, checkpoints: ArrayLike) -> NDArray[np.float64]:
        """The true score at each spend: NaN before the first measurement, the last one beyond the end.

        Args:
            checkpoints: Shape ``(points,)``, in any order.
        """
        place = np.searchsorted(self.spend, np.asarray(checkpoints, dtype=np.float64), side="right")
        return np.concatenate([[np.nan], self.truth])[place]


def trace_incumbent(run: Run, truths: Mapping[Policy, float], by: Clock = "evaluations") -> Trajectory:
    """Follow the true score of a search's incumbent.

    Args:
        run: The search.
        truths: The true score of every policy that may become the incumbent.
        by: The spend; how each is counted is said in :func:`~suite.report.curves.search_course`.

    Raises:
        BitcertError: If an incumbent has no true score.
    """
    course = search_course(run)
    steps = course.dropna(subset="incumbent").drop_duplicates("incumbent")
    policies = {trial.number: trial.policy for trial in run.trials}
    incumbents = [policies[number] for number in steps["incumbent"]]
    for number, policy in zip(steps["incumbent"], incumbents, strict=True):
        if policy not in truths:
            raise BitcertError(
                f"trial {number} of {run.searcher}, seed {run.seed}, has no true score; give the truth of every policy searched"
            )
    return Trajectory(
        steps[by].to_numpy(dtype=np.float64),
        np.array([truths[policy] for policy in incumbents], dtype=np.float64),
        float(course[by].iloc[-1]) if len(course) else 0.0,
    )


def sample_truths(
    runs: Sequence[Run], truths: Mapping[Policy, float], checkpoints: ArrayLike, by: Clock = "evaluations"
) -> NDArray[np.float64]:
    """True scores of the incumbents of several searches at the same spends; see :meth:`Trajectory.at`.

    Returns:
        Shape ``(runs, checkpoints)``; :meth:`.curves.Band.over` its rows begins where every search has measured something.

    Raises:
        BitcertError: If an incumbent has no true score.
    """
    marks = np.asarray(checkpoints, dtype=np.float64)
    found = [trace_incumbent(run, truths, by).at(marks) for run in runs]
    return np.array(found).reshape(len(found), len(marks))


def simple_regret(truth: ArrayLike, optimum: float) -> NDArray[np.float64]:
    """How far true scores lie below the optimum, in units of the score; NaN stays NaN.

    Raises:
        BitcertError: If a true score exceeds the optimum, which then is none.
    """
    values = np.asarray(truth, dtype=np.float64)
    if np.any(values > optimum + _TOLERANCE * max(1.0, abs(optimum))):
        raise BitcertError(
            f"a true score of {np.nanmax(values):.6g} exceeds the optimum {optimum:.6g}; correct the table"
        )
    return np.maximum(optimum - values, np.where(np.isnan(values), np.nan, 0.0))


def normalized_score(truth: ArrayLike, optimum: float, reference: float) -> NDArray[np.float64]:
    """Put true scores of different tasks on one scale: 1 at the optimum, 0 at the reference, negative below it.

    Args:
        truth: True scores, of any shape; NaN stays NaN.
        optimum: The best true score of the task.
        reference: What is worth nothing, such as the mean true score of random feasible policies.

    Raises:
        BitcertError: If the reference is not below the optimum, or a true score exceeds it.
    """
    if not reference < optimum:
        raise BitcertError(
            f"the reference {reference:.6g} is not below the optimum {optimum:.6g}; there is no scale between"
        )
    return 1 - simple_regret(truth, optimum) / (optimum - reference)


@dataclass(frozen=True, slots=True, eq=False)
class HittingTimes:
    """When searches first had an incumbent whose true score reaches a target.

    Attributes:
        spend: Spend until then, or of the whole search where it never happened, shape ``(runs,)``.
        reached: Whether it happened, shape ``(runs,)``; the others are censored from the right.
    """

    spend: NDArray[np.float64]
    reached: NDArray[np.bool_]

    def distribution(self) -> Band:
        """Estimate the share of searches that reach the target within each spend, if none were ended before.

        Kaplan and Meier's estimate, by :func:`scipy.stats.ecdf`: where all searches are equally long, the share that did. The
        pointwise 95 % intervals are Greenwood's on the scale of log(-log). They do not exist where the share is 0 or 1; Clopper
        and Pearson's take their place, for the searches that are still watched, or that reached the target.

        Returns:
            One point per different spend, of hits and of ends, and one at 0.

        Raises:
            BitcertError: Without searches.

        References:
            Kaplan and Meier, J. Am. Stat. Assoc. 53 (1958); Kalbfleisch and Prentice, The Statistical Analysis of Failure Time
            Data (1980), section 1.3; Clopper and Pearson, Biometrika 26 (1934).
        """
        if not len(self.spend):
            raise BitcertError("there is no search to tell a distribution from")
        found = stats.ecdf(stats.CensoredData(uncensored=self.spend[self.reached], right=self.spend[~self.reached])).cdf
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The confidence interval is undefined", RuntimeWarning)
            interval: Any = found.confidence_interval(CONFIDENCE, method="log-log")
        spend, share = np.concatenate([[0.0], found.quantiles]), np.concatenate([[0.0], found.probabilities])
        low, high = (np.concatenate([[0.0], bound.probabilities]) for bound in (interval.low, interval.high))
        watched, hits = (self.spend >= spend[:, None]).sum(axis=1), max(1, self.reached.sum())
        tail = (1 - CONFIDENCE) / 2
        low = np.select([share == 0, share == 1], [0.0, tail ** (1 / hits)], low)
        high = np.select([share == 0, share == 1], [1 - tail ** (1 / watched), 1.0], high)
        return Band(spend, share, low, high)


def time_to_target(
    runs: Sequence[Run], truths: Mapping[Policy, float], target: float, by: Clock = "evaluations"
) -> HittingTimes:
    """Find when each search first had an incumbent with a true score of at least ``target``.

    A search counts from then on, even if its incumbent is worse later.

    Raises:
        BitcertError: If an incumbent has no true score.
    """
    return hitting_times([trace_incumbent(run, truths, by) for run in runs], target)


def hitting_times(courses: Sequence[Trajectory], target: float) -> HittingTimes:
    """The same from what is known of the searches."""
    spends, reached = [], []
    for course in courses:
        hits = course.spend[course.truth >= target]
        spends.append(hits[0] if len(hits) else course.end)
        reached.append(len(hits) > 0)
    return HittingTimes(np.array(spends, dtype=np.float64), np.array(reached, dtype=np.bool_))
