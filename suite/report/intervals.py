"""How far the exam score of fixed policies may be from their score on all images: intervals over exam images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from suite.contract.objective import Objective
from suite.report.checks import check_same_exam
from suite.report.scores import exam_score, image_scores
from suite.run.records import Outcome

CONFIDENCE = 0.95
_RESAMPLES = 9_999
_BATCH = 2_000_000


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % confidence interval; both ends NaN where there is nothing to estimate it from."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ImageAverage:
    """The mean over images of a score, or of a difference of scores, and its interval over images."""

    mean: float
    images: Interval


def mean_interval(scores: ArrayLike) -> Interval:
    """Confidence interval for the mean of independent scores, by the bias-corrected and accelerated bootstrap.

    The resampling is drawn from a fixed stream: equal scores give equal intervals.

    Args:
        scores: Shape ``(images,)``.

    Returns:
        The 95 % interval; NaN if all scores are equal, when resampling shows no spread though there may be some.

    References:
        Efron, Better bootstrap confidence intervals, JASA 82 (1987).
    """
    values = np.asarray(scores, dtype=np.float64)
    if len(values) < 2 or np.ptp(values) == 0:
        return Interval(float("nan"), float("nan"))
    found = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=_RESAMPLES,
        batch=max(1, _BATCH // len(values)),
        confidence_level=CONFIDENCE,
        method="BCa",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Interval(float(found.low), float(found.high))


def average_images(outcomes: Sequence[Outcome], objective: Objective, baseline: Outcome | None = None) -> ImageAverage:
    """Average the exam scores of several winners, less that of a baseline, with the interval over images.

    Scores are averaged over the winners image by image, then over images; the interval holds the winners fixed. It is
    NaN for clean accuracy, which exams keep as an average only.

    Args:
        outcomes: Exams on the same images, such as one for each seed of a searcher.
        objective: What is scored.
        baseline: An exam on the same images to subtract, such as the float network's.
    """
    mean = float(np.mean([exam_score(outcome, objective) for outcome in outcomes]))
    mean -= 0.0 if baseline is None else exam_score(baseline, objective)
    if not objective.per_image:
        return ImageAverage(mean, Interval(float("nan"), float("nan")))
    scores = np.mean([image_scores(outcome, objective) for outcome in outcomes], axis=0)
    if baseline is not None:
        scores = scores - image_scores(baseline, objective)
    return ImageAverage(mean, mean_interval(scores))


def compare_outcomes(first: Outcome, second: Outcome, objective: Objective) -> ImageAverage:
    """Subtract the exam scores of two fixed policies, or of a policy and the float network, image by image.

    Both were certified on the same images with the same noise, so that what makes an image hard cancels in the
    difference. The interval is for these two networks on all images, not for the methods that found them.

    Raises:
        BitcertError: If the exams are on different images, or the objective is clean accuracy.
    """
    check_same_exam(first, second)
    differences = image_scores(first, objective) - image_scores(second, objective)
    return ImageAverage(float(differences.mean()), mean_interval(differences))
