"""The numbers that statistics and plots are made of: exam scores, image by image, and entries grouped by searcher."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from suite.contract.objective import Objective
from suite.run.records import Comparison, Entry, Outcome


def exam_score(outcome: Outcome, objective: Objective) -> float:
    """Measure the objective of a search on the exam."""
    return float(image_scores(outcome, objective).mean()) if objective.per_image else objective.score(outcome.metrics)


def image_scores(outcome: Outcome, objective: Objective) -> NDArray[np.float64]:
    """Split an exam score into what each image adds, shape ``(images,)``; their mean is :func:`exam_score`.

    Raises:
        BitcertError: If exams keep the objective as an average only, such as clean accuracy.
    """
    certificates = outcome.certificates
    return objective.image_scores(outcome.labels, certificates.prediction, certificates.radius)


def by_searcher(comparison: Comparison) -> dict[str, list[Entry]]:
    """Group the entries of each searcher, both in the order of the comparison."""
    grouped: dict[str, list[Entry]] = {}
    for entry in comparison.entries:
        grouped.setdefault(entry.run.searcher, []).append(entry)
    return grouped


def by_rank(comparison: Comparison) -> dict[str, list[Entry]]:
    """The same with the searchers in the order of the leaderboard, the best mean exam score first."""
    objective = comparison.entries[0].run.objective
    grouped = by_searcher(comparison)

    def score(searcher: str) -> float:
        return float(np.mean([exam_score(entry.outcome, objective) for entry in grouped[searcher]]))

    return {searcher: grouped[searcher] for searcher in sorted(grouped, key=score, reverse=True)}


def name_objective(objective: Objective) -> str:
    """Put the objective in words, for headers and axes."""
    return objective.label
