"""The step curves that figures show, as arrays: certified accuracy by radius, best search estimate by spend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from suite.run.records import Entry, Outcome, Run, measured_best

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
    """Share of images that are correct with a certified ``radius`` >= r, for each r in ``radii``."""
    right = np.sort(radius[correct])
    shares: NDArray[np.float64] = (len(right) - np.searchsorted(right, radii, side="left")) / len(correct)
    return shares


def certified_band(entries: Sequence[Entry], radii: NDArray[np.float64]) -> Band:
    """Certified accuracy by radius over the winners of one searcher."""
    return Band.over(radii, [certified_curve(entry.outcome, radii) for entry in entries])


def best_so_far(run: Run) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Forward passes spent after each trial at the highest fidelity, and the best search estimate by then.

    Estimates of trials that ended on a rung below are no estimates of the same thing; they count as spend only.

    Runs record the sum of the searcher's own probes, not their times; they are counted before the first trial, which is
    when sensitivities are measured. Both arrays have shape ``(such trials,)``.
    """
    spent, best = run.probe_spend, -np.inf
    comparable = {trial.number for trial in measured_best(run.trials)}
    passes, estimates = [], []
    for trial in run.trials:
        spent += trial.spend
        if trial.number in comparable:
            best = max(best, run.score(trial))
            passes.append(float(spent))
            estimates.append(best)
    return np.array(passes), np.array(estimates)


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
