"""Statistical tests and intervals for searchers, from a handful of seeds and a sample of exam images.

Two things vary: the seed of a search and the images of the exam. They answer different questions and are kept apart.
Spread over *seeds* says how much a method's result depends on luck; whether one method is better than another is
tested over seeds, paired, with the exam images held fixed. Intervals over *images* say how far the score of the very
policies examined may be from their score on all images; they hold the seeds fixed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from suite.contract.objective import Objective
from suite.errors import unknown_name
from suite.report.comparison import Comparison, check_comparison
from suite.report.exams import check_same_exam, exam_score, image_scores
from suite.run.records import Outcome

CONFIDENCE = 0.95
SIGNIFICANCE = 0.05
_RESAMPLES = 9_999
_BATCH = 2_000_000
_SIGN_FLIPS = 2**15

Verdict = Literal["better", "worse", "not distinguishable", "underpowered"]


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % confidence interval; both ends NaN where there is nothing to estimate it from."""

    low: float
    high: float


UNKNOWN = Interval(float("nan"), float("nan"))


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
        return UNKNOWN
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


def average_images(outcomes: Sequence[Outcome], objective: Objective, baseline: Sequence[Outcome] = ()) -> ImageAverage:
    """Average the exam scores of several winners, less those of a baseline, with the interval over images.

    Scores are averaged over the winners image by image, then over images; the interval holds the winners fixed. It is
    NaN for clean accuracy, which exams keep as an average only.

    Args:
        outcomes: Exams on the same images, such as one for each seed of a searcher.
        objective: What is scored.
        baseline: Exams on the same images to subtract, such as the float network's.
    """
    groups = [group for group in (outcomes, baseline) if group]
    mean, *less = (float(np.mean([exam_score(outcome, objective) for outcome in group])) for group in groups)
    if not objective.per_image:
        return ImageAverage(mean - sum(less), UNKNOWN)
    scores, *other = (np.mean([image_scores(outcome, objective) for outcome in group], axis=0) for group in groups)
    return ImageAverage(mean - sum(less), mean_interval(scores - other[0] if other else scores))


def compare_outcomes(first: Outcome, second: Outcome, objective: Objective) -> ImageAverage:
    """Compare the exam scores of two fixed policies, or of a policy and the float network, image by image.

    Both were certified on the same images with the same noise, so the difficulty of an image cancels in the difference.
    The interval is for these two networks on all images, not for the methods that found them.

    Raises:
        BitcertError: If the exams are on different images, or the objective is clean accuracy.
    """
    check_same_exam(first, second)
    differences = image_scores(first, objective) - image_scores(second, objective)
    return ImageAverage(float(differences.mean()), mean_interval(differences))


@dataclass(frozen=True, slots=True)
class Summary:
    """Exam scores of one searcher.

    Attributes:
        searcher: Its name.
        seeds: Its seeds, in the order of the comparison.
        mean: Mean exam score over seeds.
        sd: Standard deviation over seeds (n - 1); NaN for a single seed.
        least, most: Range over seeds.
        images: Interval over exam images for ``mean``, the seeds held fixed.
    """

    searcher: str
    seeds: tuple[int, ...]
    mean: float
    sd: float
    least: float
    most: float
    images: Interval


@dataclass(frozen=True, slots=True)
class Difference:
    """A searcher against another, paired by seed.

    Attributes:
        searcher, against: The names; a positive difference is in favour of ``searcher``.
        seeds: The seeds that both have.
        mean: Mean difference in exam score over those seeds.
        p_value: Two-sided, of the sign-flip test.
        p_adjusted: The same after Holm's correction for all searchers compared with ``against``.
        p_attainable: The smallest ``p_adjusted`` possible with that many seeds and comparisons.
        verdict: ``underpowered`` if ``p_attainable`` exceeds 0.05; otherwise by ``p_adjusted`` and the sign of ``mean``.
    """

    searcher: str
    against: str
    seeds: tuple[int, ...]
    mean: float
    p_value: float
    p_adjusted: float
    p_attainable: float
    verdict: Verdict


def summarize(comparison: Comparison) -> list[Summary]:
    """Summarize the exam scores of every searcher, in the order of the comparison.

    Raises:
        BitcertError: If the comparison does not compare like with like.
    """
    check_comparison(comparison)
    objective = comparison.objective
    summaries = []
    for searcher, entries in comparison.by_searcher().items():
        scores = np.array([exam_score(entry.outcome, objective) for entry in entries])
        summaries.append(
            Summary(
                searcher=searcher,
                seeds=tuple(entry.run.seed for entry in entries),
                mean=float(scores.mean()),
                sd=float(scores.std(ddof=1)) if len(scores) > 1 else float("nan"),
                least=float(scores.min()),
                most=float(scores.max()),
                images=average_images([entry.outcome for entry in entries], objective).images,
            )
        )
    return summaries


def sign_flip_p_value(differences: ArrayLike) -> float:
    """Test paired differences by flipping their signs.

    Under the null hypothesis each difference is as likely to be positive as negative, of whatever size. All sign
    patterns are enumerated up to 15 seeds; beyond, as many are drawn from a fixed stream.

    Args:
        differences: Shape ``(seeds,)``.

    Returns:
        The two-sided p-value: twice the smaller tail probability of the mean, at most 1; 1 for fewer than two seeds.

    References:
        Fisher, The Design of Experiments (1935), section 21; Phipson and Smyth (2010) for drawn patterns.
    """
    values = np.asarray(differences, dtype=np.float64)
    if len(values) < 2:
        return 1.0
    tested = stats.permutation_test(
        (values,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=_SIGN_FLIPS,
        rng=np.random.default_rng(0),
    )
    return float(tested.pvalue)


def least_p_value(seeds: int) -> float:
    """The smallest possible :func:`sign_flip_p_value`: ``2 / 2**seeds``, or what the drawn patterns allow."""
    return min(1.0, max(2.0 / 2.0**seeds, 2.0 / (_SIGN_FLIPS + 1) if 2**seeds > _SIGN_FLIPS else 0.0))


def seeds_needed(comparisons: int) -> int:
    """Find the fewest seeds with which any of ``comparisons`` searchers can be found better or worse."""
    return math.ceil(math.log2(2 * comparisons / SIGNIFICANCE))


def correct_p_values(p_values: Sequence[float]) -> list[float]:
    """Correct for the number of tests: the chance of any false alarm among them stays below the level of each.

    The k-th smallest of m p-values is multiplied by m - k + 1; none ends below a smaller one's, or above 1.

    References:
        Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6 (1979).
    """
    ascending = np.argsort(p_values, kind="stable")
    raised = np.asarray(p_values)[ascending] * np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[ascending] = np.minimum(np.maximum.accumulate(raised), 1.0)
    return [float(p_value) for p_value in corrected]


def compare_searchers(comparison: Comparison, against: str = "random") -> list[Difference]:
    """Test every other searcher against one, paired by seed, corrected for the number of tests.

    A method that proposes the same policy whatever the seed is paired like any other: its score is then a constant,
    and the test asks whether ``against`` falls on either side of it equally often and equally far.

    Args:
        comparison: What to compare.
        against: The searcher that the others are measured by.

    Returns:
        One difference for each other searcher, in the order of the comparison.

    Raises:
        BitcertError: If no run is of ``against``, or the comparison does not compare like with like.
    """
    check_comparison(comparison)
    objective = comparison.objective
    scores = {
        searcher: {entry.run.seed: exam_score(entry.outcome, objective) for entry in entries}
        for searcher, entries in comparison.by_searcher().items()
    }
    if against not in scores:
        raise unknown_name("searcher of this comparison", against, scores)
    reference = scores.pop(against)
    paired = [
        {seed: score - reference[seed] for seed, score in found.items() if seed in reference}
        for found in scores.values()
    ]
    means = [float(np.mean(list(found.values()))) if found else float("nan") for found in paired]
    p_values = [sign_flip_p_value(list(found.values())) for found in paired]
    p_adjusted = correct_p_values(p_values)
    # No corrected p-value rises when an uncorrected one falls, so correcting the least ones bounds all from below.
    p_attainable = correct_p_values([least_p_value(len(found)) for found in paired])
    verdicts = map(_judge, means, p_adjusted, p_attainable)
    tests = zip(scores, map(tuple, paired), means, p_values, p_adjusted, p_attainable, verdicts, strict=True)
    return [Difference(searcher, against, *test) for searcher, *test in tests]


def _judge(mean: float, p_adjusted: float, p_attainable: float) -> Verdict:
    if p_attainable > SIGNIFICANCE:
        return "underpowered"
    if p_adjusted > SIGNIFICANCE:
        return "not distinguishable"
    return "better" if mean > 0 else "worse"
