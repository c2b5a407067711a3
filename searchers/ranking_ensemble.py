"""Ranking-weighted ensemble: a Gaussian process of the target beside other networks' tables, each trusted as it ranks trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from searchers.portfolio import source_scores
from suite.contract.problem import Problem
from suite.contract.searcher import Exhausted, Searcher
from suite.contract.space import Policy
from suite.contract.trial import Trial
from suite.options import check_counts
from suite.tables.surrogate import FEWEST_FITTED, fit_process, leave_one_out, predict, refit_process

_DILUTION = 95
"""Percentile of the target's loss that the median loss of a source must not exceed."""


@dataclass(frozen=True, slots=True)
class RankingEnsembleOptions:
    """Options of :class:`RankingEnsemble`.

    Attributes:
        sources: Complete tables of other networks with the same space, joined by ``+``.
        resamples: Bootstrap samples of the trials by which models are weighted.
        refit: Trials after which the numbers of the process's kernel are fitted again.
    """

    sources: str
    resamples: int = 100
    refit: int = 25

    def __post_init__(self) -> None:
        check_counts(self, resamples=1, refit=1)


class RankingEnsemble(Searcher):
    """Ranking-weighted Gaussian process ensemble: what other networks' tables say counts as much as it ranks the trials right.

    A process is fitted to the trials, and each source says what its table holds; all are standardized. In every bootstrap sample of
    the trials, the model that misranks the fewest pairs wins, the process judged by its leave-one-out predictions; weights are the
    shares of samples won. A source whose median loss exceeds the 95th percentile of the process's is left out. The policy with the
    largest expected improvement of the weighted mean is proposed. Sources are tables, so their own uncertainty is none.

    Sources are used as by :class:`.Portfolio`: other networks, search images alone, and nobody is charged for them.

    References:
        Feurer, Letham, Hutter and Bakshy, Practical transfer learning for Bayesian optimization, arXiv 1802.02219.
    """

    Options: ClassVar[type] = RankingEnsembleOptions

    def __init__(self, problem: Problem, seed: int, options: RankingEnsembleOptions) -> None:
        super().__init__(problem, seed)
        self._options = options
        self._rng = np.random.default_rng(seed)
        self._policies, sources = source_scores(problem, options.sources.split("+"))
        self._sources = (sources - sources.mean(axis=1, keepdims=True)) / sources.std(axis=1, keepdims=True)
        self._vectors = np.array([problem.space.encode(policy) for policy in self._policies])
        self._rows = {policy: row for row, policy in enumerate(self._policies)}
        self._scores: dict[int, float] = {}
        self._proposed: set[int] = set()
        self._process: Any = None

    def ask(self, pending: Sequence[Trial] = ()) -> Policy:
        """The best by expected improvement that was not proposed before."""
        taken = list(self._proposed | {self._rows[trial.policy] for trial in pending})
        if len(taken) == len(self._policies):
            raise Exhausted(f"all {len(taken)} feasible policies have been proposed")
        worth = self._expected_improvement()
        worth[taken] = -np.inf
        row = int(np.argmax(worth))
        self._proposed.add(row)
        return self._policies[row]

    def tell(self, trial: Trial) -> None:
        """Keep the score; failures count as proposed."""
        row = self._rows[trial.policy]
        self._proposed.add(row)
        if trial.metrics is not None:
            self._scores[row] = self.problem.objective.score(trial.metrics)

    def _expected_improvement(self) -> NDArray[np.float64]:
        """Over the best weighted mean among trials; the mean itself while nothing is uncertain. Shape ``(policies,)``."""
        rows, scores = np.array(list(self._scores), dtype=int), np.array(list(self._scores.values()))
        known = self._sources[:, rows]
        if len(rows) < FEWEST_FITTED or np.ptp(scores) == 0:
            return np.asarray(self._weights(known, scores, has_target=False) @ self._sources)
        process = self._fitted(rows, scores)
        weights = self._weights(np.vstack([leave_one_out(process), known]), scores, has_target=True)
        mean, deviation = predict(process, self._vectors)
        mean = weights[0] * (mean - scores.mean()) / scores.std() + weights[1:] @ self._sources
        deviation = weights[0] * deviation / scores.std()
        if weights[0] == 0:
            return np.asarray(mean)
        gain = (mean - mean[rows].max()) / np.maximum(deviation, 1e-12)
        return np.asarray(deviation * (gain * stats.norm.cdf(gain) + stats.norm.pdf(gain)))

    def _fitted(self, rows: NDArray[np.int64], scores: NDArray[np.float64]) -> Any:
        """The process on all trials; its kernel's numbers are those of the last full fit."""
        if self._process is None or len(rows) % self._options.refit == 0:
            self._process = fit_process(self._vectors[rows], scores, None)
        else:
            self._process = refit_process(self._process, self._vectors[rows], scores)
        return self._process

    def _weights(
        self, predictions: NDArray[np.float64], scores: NDArray[np.float64], *, has_target: bool
    ) -> NDArray[np.float64]:
        """Of :func:`ranking_weights` with samples of its own; equal while no two trials can be ranked."""
        trials = len(scores)
        if trials < 2:
            return np.full(len(predictions), 1 / len(predictions))
        drawn = self._rng.multinomial(trials, np.full(trials, 1 / trials), self._options.resamples)
        return ranking_weights(predictions, scores, drawn, has_target)


def ranking_weights(
    predictions: NDArray[np.float64], scores: NDArray[np.float64], drawn: NDArray[np.int64], has_target: bool
) -> NDArray[np.float64]:
    """The share of bootstrap samples in which each model misranks the fewest pairs of trials; ties are shared.

    Args:
        predictions: What each model says of the trials, shape ``(models, trials)``.
        scores: What was measured, shape ``(trials,)``.
        drawn: How often each trial comes in each sample, shape ``(samples, trials)``.
        has_target: Whether the first model is the target's own, against which the others are held so that many bad ones do not
            dilute it.

    Returns:
        Shape ``(models,)``.
    """
    order = np.sign(scores[:, None] - scores)
    wrong = [(np.sign(values[:, None] - values) != order).astype(float) for values in predictions]
    losses = np.array([((drawn @ matrix) * drawn).sum(axis=1) for matrix in wrong])
    if has_target:
        diluting = np.median(losses, axis=1) > np.percentile(losses[0], _DILUTION)
        losses[diluting] = np.inf
    best = losses == losses.min(axis=0)
    return np.asarray((best / best.sum(axis=0)).mean(axis=1))
