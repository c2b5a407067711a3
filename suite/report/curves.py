"""The step curves that figures show, as arrays: certified accuracy by radius, best search estimate by spend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from suite.report.comparison import Comparison
from suite.run.records import Entry, Outcome, Run, measured_best

Clock = Literal["evaluations", "forward_passes", "seconds"]
"""What a search spends."""

MARKS = (64, 256, 600)
"""Trials after which reports show what searches had found: bitcert's default length, one on the way, and the agents' length."""

INTERVAL_FROM = 5
"""Seeds from which a band is a confidence interval: with fewer it would be wider than the figure."""


@dataclass(frozen=True, slots=True, eq=False)
class Band:
    """A curve averaged over seeds, with its uncertainty; all arrays have the same shape ``(points,)``.

    From :data:`INTERVAL_FROM` seeds on, ``least`` and ``most`` are the pointwise 95 % t interval of the mean (the bootstrap's
    covers 84 % with five seeds); with fewer, the range over seeds.
    """

    x: NDArray[np.float64]
    mean: NDArray[np.float64]
    least: NDArray[np.float64]
    most: NDArray[np.float64]

    @classmethod
    def over(cls, x: NDArray[np.float64], curves: Sequence[NDArray[np.float64]]) -> Band:
        """Average the curves of all seeds, each sampled at ``x``."""
        stacked = np.stack(curves)
        mean, count = stacked.mean(axis=0), len(curves)
        if count < INTERVAL_FROM:
            return cls(x, mean, stacked.min(axis=0), stacked.max(axis=0))
        half = stats.t.ppf(0.975, count - 1) * stacked.std(axis=0, ddof=1) / np.sqrt(count)
        return cls(x, mean, mean - half, mean + half)


def certified_curve(outcome: Outcome, radii: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of exam images predicted right with a certified radius >= r, for each r; shape ``(len(radii),)``."""
    certificates = outcome.certificates
    return certified_shares(certificates.radius, certificates.prediction == outcome.labels, radii)


def certified_shares(radius: NDArray[np.float64], correct: NDArray[np.bool_], radii: ArrayLike) -> NDArray[np.float64]:
    """Share of images, of all rows if there are several, that are correct with a certified ``radius`` >= r, for each r."""
    right = np.sort(radius[correct])
    shares: NDArray[np.float64] = (len(right) - np.searchsorted(right, radii, side="left")) / correct.size
    return shares


def certified_band(entries: Sequence[Entry], radii: NDArray[np.float64]) -> Band:
    """Certified accuracy by radius over the winners of one searcher."""
    return Band.over(radii, [certified_curve(entry.outcome, radii) for entry in entries])


def best_so_far(run: Run) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Forward passes spent after each trial at the highest fidelity, and the best search estimate by then.

    Trials below the highest fidelity, and failed ones, count as spend only; second measurements do not count at all. Runs
    record the sum of the searcher's own probes, not their times; they are counted before the first trial, which is when
    sensitivities are measured. Both arrays have shape ``(such trials,)``.
    """
    course = search_course(run)
    measured = course[course["trial"].isin([trial.number for trial in measured_best(run.trials)])]
    return measured["forward_passes"].to_numpy(dtype=np.float64), measured["search_estimate"].to_numpy(dtype=np.float64)


def milestones(
    run: Run, marks: Sequence[int], by: Literal["forward_passes", "evaluations", "trials"] = "forward_passes"
) -> pd.DataFrame:
    """What a search had found on its way: one row per mark, spend and estimates as in :func:`best_so_far`.

    Args:
        run: Of any length.
        marks: How far the search had come, ascending.
        by: What the marks count: forward passes, evaluations (repeats are none), or trials (an agent's episodes).

    Returns:
        Columns ``mark``, ``trials``, ``evaluations``, ``forward_passes``, ``search_estimate``, and ``trial``, the number of the
        best one; the last two are missing where nothing was measured yet.
    """
    course, rows = search_course(run), []
    for mark in marks:
        reached = course[course[by] <= mark]
        rows.append(
            {
                "mark": mark,
                "trials": len(reached),
                "evaluations": reached["evaluations"].max() if len(reached) else 0,
                "forward_passes": reached["forward_passes"].max() if len(reached) else run.probe_spend,
                "search_estimate": reached["search_estimate"].max(),
                "trial": reached["incumbent"].iloc[-1] if len(reached) else pd.NA,
            }
        )
    return pd.DataFrame(rows).astype({"trial": "Int64"})


def milestone_frame(comparison: Comparison, marks: Sequence[int] = MARKS) -> pd.DataFrame:
    """Average the :func:`milestones` of every searcher over its seeds.

    Returns:
        One row per searcher, the best at the end first: columns ``searcher``, ``seeds``, ``trials`` (mean length), ``at N`` for
        each mark that any search reached, missing where not all of a searcher's did, and ``end``.
    """
    rows = []
    for searcher, entries in comparison.by_searcher().items():
        runs = [entry.run for entry in entries]
        found = [milestones(run, [*marks, len(run.trials)], "trials") for run in runs]
        estimates = np.array([each["search_estimate"] for each in found])
        reached = [all(len(run.trials) >= mark for run in runs) for mark in marks]
        at = np.where(reached, estimates[:, :-1].mean(axis=0), np.nan)
        rows.append(
            {
                "searcher": searcher,
                "seeds": len(runs),
                "trials": float(np.mean([len(run.trials) for run in runs])),
                **{f"at {mark}": value for mark, value in zip(marks, at.tolist(), strict=True)},
                "end": float(estimates[:, -1].mean()),
            }
        )
    return (
        pd.DataFrame(rows)
        .dropna(axis=1, how="all")
        .sort_values("end", ascending=False, kind="stable", ignore_index=True)
    )


def search_course(run: Run) -> pd.DataFrame:
    """Lay out a search as one row per trial, with everything by its end.

    Times of the searcher itself are recorded as one sum, which all trials bear in equal parts; its probes' passes are counted
    before the first trial. Passes and times of failed tries that were repeated are recorded as sums, or not at all, and left out.

    Returns:
        Columns ``trial``, its number; ``trials``, ``evaluations``, ``forward_passes`` and ``seconds`` so far; ``search_estimate``,
        the best so far, and ``incumbent``, the number of the trial that had it first, both missing before the first measurement.
    """
    comparable = {trial.number for trial in measured_best(run.trials)}
    estimates = [run.score(trial) if trial.number in comparable else np.nan for trial in run.trials]
    numbers, best = pd.Series([trial.number for trial in run.trials], dtype="Int64"), pd.Series(estimates, dtype=float)
    best_before = best.cummax().ffill().shift(1, fill_value=np.nan).fillna(-np.inf)
    seconds = [
        trial.metrics.seconds if trial.metrics is not None and trial.repeat_of is None else 0.0 for trial in run.trials
    ]
    own = np.arange(1, len(run.trials) + 1)
    return pd.DataFrame(
        {
            "trial": numbers,
            "trials": own,
            "evaluations": np.cumsum([trial.repeat_of is None for trial in run.trials], dtype=np.int64),
            "forward_passes": run.probe_spend + np.cumsum([trial.spend for trial in run.trials], dtype=np.int64),
            "seconds": np.cumsum(seconds, dtype=np.float64) + run.searcher_seconds * own / max(1, len(own)),
            "search_estimate": best.cummax().ffill(),
            "incumbent": numbers.where(best > best_before).ffill(),
        }
    )


def best_band(runs: Sequence[Run]) -> Band:
    """Best search estimate by forward passes over the runs of one searcher.

    It starts where every run has a first estimate and ends where the longest run ends; a run that ended before keeps
    its last.
    """
    histories = [best_so_far(run) for run in runs]
    first = max(passes[0] for passes, _ in histories)
    steps = np.unique(np.concatenate([passes for passes, _ in histories]))
    x = steps[steps >= first]
    return Band.over(x, [estimates[np.searchsorted(passes, x, side="right") - 1] for passes, estimates in histories])
