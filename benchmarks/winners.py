"""Analysis of a comparison with a post-step, beyond its leaderboard.

``python -m benchmarks.winners DIRECTORY``: rank correlations of the winners' scores before and after the post-step, of the
search estimate with both, and between the first two seeds; and whether the finetuned networks differ by more than the choice of
exam images.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from scipy import stats

from suite.report.exams import exam_score
from suite.report.intervals import mean_interval
from suite.studies.compare.run import load_comparison

DRAWS = 10_000


def equal_networks(scores: np.ndarray) -> float:
    """P-value of "all networks are equal": scores of shape ``(networks, images)`` are exchanged within each image."""
    rng = np.random.default_rng(0)
    observed = scores.mean(axis=1).var()
    hits = sum(rng.permuted(scores, axis=0).mean(axis=1).var() >= observed for _ in range(DRAWS))
    return float(hits + 1) / (DRAWS + 1)


def main() -> None:
    comparison = load_comparison(Path(sys.argv[1]))
    objective = comparison.entries[0].run.objective
    winners = list({(entry.outcome.policy, entry.run.seed): entry for entry in comparison.entries}.values())
    after = [exam_score(entry.outcome, objective) for entry in winners]
    before = [exam_score(entry.before, objective) for entry in winners if entry.before is not None]
    estimate = [entry.run.score(entry.run.best) for entry in winners if entry.run.best is not None]
    pairs = {
        "before and after": (before, after),
        "estimate and before": (estimate, before),
        "estimate and after": (estimate, after),
    }
    for what, (first, second) in pairs.items():
        found = stats.spearmanr(first, second)
        print(f"Spearman, {what} (n = {len(first)}): {found.statistic:+.2f}, p = {found.pvalue:.2f}")
    by_seed = np.array(
        [
            [exam_score(entry.outcome, objective) for entry in entries[:2]]
            for entries in comparison.by_searcher().values()
        ]
    )
    if by_seed.shape[1] > 1:
        again = stats.spearmanr(by_seed[:, 0], by_seed[:, 1])
        print(f"Spearman, first and second seed (n = {len(by_seed)}): {again.statistic:+.2f}, p = {again.pvalue:.2f}")
    scores = np.array([entry.outcome.scores for entry in winners])
    order = scores.mean(axis=1).argsort()
    less = scores[order[-1]] - scores[order[0]]
    interval = mean_interval(less, paired=True)
    print(f"all {len(scores)} networks equal but for the choice of images: p = {equal_networks(scores):.4f}")
    print(
        f"best minus worst, not corrected for selection: {less.mean():+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]"
    )


if __name__ == "__main__":
    main()
