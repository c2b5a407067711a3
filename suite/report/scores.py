"""The numbers that statistics and plots are made of: exam scores, image by image, and entries grouped by searcher."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from suite.contract.objective import Objective
from suite.errors import BitcertError
from suite.run.records import Comparison, Entry, Outcome


def exam_score(outcome: Outcome, objective: Objective) -> float:
    """Measure the objective of a search on the exam."""
    if objective.measure == "clean":
        return outcome.metrics.clean_accuracy
    return float(image_scores(outcome, objective).mean())


def image_scores(outcome: Outcome, objective: Objective) -> NDArray[np.float64]:
    """Split an exam score into what each image adds, shape ``(images,)``; their mean is :func:`exam_score`.

    Raises:
        BitcertError: If the objective is clean accuracy, which exams keep as an average only.
    """
    if objective.measure == "clean":
        raise BitcertError(
            "exams keep clean accuracy as an average only; per-image scores exist for acr and certified@r"
        )
    if objective.measure == "acr":
        return outcome.scores
    correct = outcome.certificates.prediction == outcome.labels
    certified = outcome.certificates.radius[:, None] >= np.array(objective.radii)
    shares: NDArray[np.float64] = (correct[:, None] & certified).mean(axis=1)
    return shares


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
    if objective.measure == "certified":
        return f"certified accuracy at {', '.join(f'{radius:g}' for radius in objective.radii)}"
    return {"acr": "ACR", "clean": "clean accuracy"}[objective.measure]
