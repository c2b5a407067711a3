"""What a replay says of its searchers: regrets, ranks, verdicts and scores, computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from suite.report.aggregates import interquartile_mean, probability_of_improvement
from suite.report.anytime import NEAR, hitting_times, normalized_score, simple_regret
from suite.report.intervals import CONFIDENCE, seed_interval
from suite.report.power import seeds_for_power
from suite.report.ranks import rank_biserial
from suite.report.statistics import SIGNIFICANCE, correct_p_values, sign_flip_p_value
from suite.studies.replay.run import Replay, Task

_NO_TEST = dict.fromkeys(
    ("difference", "difference_low", "difference_high", "p_adjusted", "effect", "verdict", "seeds_needed")
)
_NO_IMPROVEMENT = dict.fromkeys(("improvement", "improvement_low", "improvement_high"))
WITHIN_NOISE = "within the table's noise"
"""Verdict on a difference that seeds tell from zero, and the noise of true scores does not."""


@dataclass(frozen=True, eq=False)
class Judged:
    """A replay whose searchers are told apart.

    Attributes:
        replay: All searches.
        marks: Evaluations after which regret is told, ascending; the last are all.
        against: The searcher that all others are tested against.
    """

    replay: Replay
    marks: Sequence[int]
    against: str

    @cached_property
    def board(self) -> pd.DataFrame:
        """One row per task and searcher, the lowest regret at the last mark first.

        Columns: ``task``, ``searcher``; ``regret@N``, the mean simple regret of the incumbents after N evaluations, with its 95 % t
        interval after the last, ``low`` and ``high``; ``rank``, the mean over seeds; ``at_optimum``, the share of searches that end
        within :data:`NEAR` of the optimum, and ``evaluations_to_target``, the median until then, missing if half never are;
        ``difference``, in true score, from ``against``, paired by seed, with its 95 % interval ``difference_low`` and
        ``difference_high`` over seeds and the noise of true scores, ``p_adjusted`` of the sign-flip test over seeds after Holm's
        correction within the task, ``effect``, the rank-biserial correlation, ``verdict``, and ``seeds_needed`` for a power of 0.8.
        A verdict needs both the test and the interval. Where BOPs are a further objective also ``hypervolume``, that of the fronts
        as a share of the true one's, with its interval.
        """
        rows = []
        for task in self.replay.tasks:
            finals = self.finals(task)
            others = [name for name in finals if name != self.against]
            p_values = [sign_flip_p_value(finals[name] - finals[self.against]) for name in others]
            adjusted = dict(zip(others, correct_p_values(p_values), strict=True)) if others else {}
            ranks = stats.rankdata(-np.array(list(finals.values())), axis=0).mean(axis=1)
            for (name, truths), rank in zip(finals.items(), ranks, strict=True):
                regrets = simple_regret(self.replay.truths(name, task, self.marks), task.optimum)
                times = hitting_times(
                    [course["evaluations"] for course in self.replay.courses[name][task.name].values()], target(task)
                )
                half = float(np.median(np.where(times.reached, times.spend, np.inf)))
                row: dict[str, Any] = {"task": task.name, "searcher": name}
                row |= {f"regret@{mark}": regret for mark, regret in zip(self.marks, regrets.mean(axis=0), strict=True)}
                row |= asdict(seed_interval(regrets[:, -1]))
                row |= {"rank": rank, "at_optimum": float(np.mean(truths >= target(task)))}
                row["evaluations_to_target"] = half if np.isfinite(half) else np.nan
                if name in adjusted:
                    noise = difference_noise(truths, finals[self.against], task.problem.truth_error)
                    row |= _against(truths - finals[self.against], adjusted[name], len(others), noise)
                else:
                    row |= _NO_TEST
                if self.replay.fronts:
                    shares = [task.hypervolume(front) for front in self.replay.fronts[name][task.name]]
                    held = seed_interval(shares)
                    row |= {
                        "hypervolume": float(np.mean(shares)),
                        "hypervolume_low": held.low,
                        "hypervolume_high": held.high,
                    }
                rows.append(row)
        frame = pd.DataFrame(rows)
        order = {task.name: place for place, task in enumerate(self.replay.tasks)}
        return frame.sort_values(
            ["task", f"regret@{self.marks[-1]}", "searcher"],
            key=lambda column: column.map(order) if column.name == "task" else column,
        ).reset_index(drop=True)

    @cached_property
    def overall(self) -> pd.DataFrame:
        """One row per searcher: interquartile mean of normalized scores over all tasks, and its probability of improvement.

        Columns: ``searcher``, ``score``, ``low``, ``high``; ``improvement`` over ``against``, with ``improvement_low`` and
        ``improvement_high``.
        """
        scores = {name: self.normalized(name) for name in self.replay.courses}
        rows = []
        for name, tasks in scores.items():
            middle = interquartile_mean(tasks)
            row = {"searcher": name, "score": middle.value, "low": middle.low, "high": middle.high}
            if name != self.against:
                better = probability_of_improvement(tasks, scores[self.against])
                row |= {"improvement": better.value, "improvement_low": better.low, "improvement_high": better.high}
            else:
                row |= _NO_IMPROVEMENT
            rows.append(row)
        return pd.DataFrame(rows).sort_values(["score", "searcher"], ascending=[False, True]).reset_index(drop=True)

    def finals(self, task: Task) -> dict[str, NDArray[np.float64]]:
        """True scores at the end, by searcher, shape ``(seeds,)``."""
        evaluations = [self.replay.evaluations]
        return {name: self.replay.truths(name, task, evaluations)[:, 0] for name in self.replay.courses}

    def normalized(self, name: str) -> list[NDArray[np.float64]]:
        """Scores of a searcher's ends, 1 for the optimum and 0 for the mean policy: for each task one of shape ``(seeds,)``."""
        return [normalized_score(self.finals(task)[name], task.optimum, task.reference) for task in self.replay.tasks]


def target(task: Task) -> float:
    """The true score from which on a policy counts as the optimum."""
    return task.optimum - NEAR * (task.optimum - task.reference)


def difference_noise(ends: NDArray[np.float64], others: NDArray[np.float64], error: float | None) -> float:
    """Standard error that the noise of true scores gives a mean difference of what searches end with; 0 without noise.

    Searches that end with the same policy share its noise: the mean difference is a sum over policies of what is measured of each,
    weighted by how many more of the ones than of the others end there.

    Args:
        ends: True scores at the end, shape ``(seeds,)``; equal scores are taken for the same policy.
        others: Those of the other method, likewise.
        error: Standard error of the true score of one policy.
    """
    policies, places = np.unique(np.concatenate([ends, others]), return_inverse=True)
    weights = np.concatenate([np.full(len(ends), 1 / len(ends)), np.full(len(others), -1 / len(others))])
    return (error or 0.0) * float(np.linalg.norm(np.bincount(places, weights, len(policies))))


def _against(differences: NDArray[np.float64], p_adjusted: float, comparisons: int, noise: float) -> dict[str, Any]:
    mean, over_seeds = float(differences.mean()), seed_interval(differences)
    half = float(np.hypot((over_seeds.high - over_seeds.low) / 2, stats.norm.ppf((1 + CONFIDENCE) / 2) * noise))
    verdict = "better" if mean > 0 else "worse"
    if p_adjusted > SIGNIFICANCE:
        verdict = "not distinguishable"
    elif abs(mean) <= half:
        verdict = WITHIN_NOISE
    needed = seeds_for_power(differences, comparisons=comparisons) if len(differences) > 1 else None
    return {
        "difference": mean,
        "difference_low": mean - half,
        "difference_high": mean + half,
        "p_adjusted": p_adjusted,
        "effect": rank_biserial(differences),
        "verdict": verdict,
        "seeds_needed": np.nan if needed is None else needed,
    }
