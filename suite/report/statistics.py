"""Statistical tests of searchers, from a handful of seeds.

Whether one searcher is better than another is tested over seeds, paired, with the exam images held fixed: images are the same for
all. Intervals over images, and over seeds and images, are in :mod:`.intervals`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from suite.contract.objective import Objective
from suite.errors import unknown_name
from suite.report.comparison import AFTER, Comparison, check_comparison, without_cheapest
from suite.report.exams import exam_score, image_scores
from suite.report.intervals import UNKNOWN, Interval, average, crossed_interval
from suite.report.reliability import (
    Correlation,
    Reliability,
    anova_reliability,
    spearman,
    split_half,
    visible_correlation,
)
from suite.run.records import Entry, Outcome

SIGNIFICANCE = 0.05
_SIGN_FLIPS = 2**15
_MOST_AT_ONCE = 2**22  # numbers in memory

Verdict = Literal["better", "worse", "not distinguishable", "underpowered"]


@dataclass(frozen=True, slots=True)
class Summary:
    """Exam scores of one searcher.

    Attributes:
        searcher: Its name.
        seeds: Its seeds, in the order of the comparison.
        mean: Mean exam score over seeds.
        sd: Standard deviation over seeds (n - 1); NaN for a single seed.
        least, most: Range over seeds.
        images: Interval of ``mean`` over exam images, the seeds held fixed.
        crossed: Interval of ``mean`` over seeds and exam images.
    """

    searcher: str
    seeds: tuple[int, ...]
    mean: float
    sd: float
    least: float
    most: float
    images: Interval
    crossed: Interval


@dataclass(frozen=True, slots=True)
class Difference:
    """A searcher against another, paired by seed.

    Attributes:
        searcher, against: The names; a positive difference is in favour of ``searcher``.
        seeds: The seeds that both have.
        mean: Mean difference in exam score over those seeds.
        crossed: Its interval over seeds and exam images, for this searcher alone.
        p_value: Two-sided, of the sign-flip test.
        p_adjusted: The same after Holm's correction for all searchers compared with ``against``.
        p_attainable: The smallest ``p_adjusted`` possible with that many seeds and comparisons.
        verdict: ``underpowered`` if ``p_attainable`` exceeds 0.05; otherwise by ``p_adjusted`` and the sign of ``mean``.
    """

    searcher: str
    against: str
    seeds: tuple[int, ...]
    mean: float
    crossed: Interval
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
        outcomes = [entry.outcome for entry in entries]
        scores = np.array([exam_score(outcome, objective) for outcome in outcomes])
        found = average(outcomes, objective)
        summaries.append(
            Summary(
                searcher=searcher,
                seeds=tuple(entry.run.seed for entry in entries),
                mean=float(scores.mean()),
                sd=float(scores.std(ddof=1)) if len(scores) > 1 else float("nan"),
                least=float(scores.min()),
                most=float(scores.max()),
                images=found.images,
                crossed=found.crossed,
            )
        )
    return summaries


def sign_flip_p_value(differences: ArrayLike) -> float:
    """Test paired differences by flipping their signs.

    Under the null hypothesis each difference is as likely to be positive as negative, of whatever size: true of two searchers
    that are equally good in every way. All sign patterns are enumerated up to 15 seeds; beyond, as many are drawn from a fixed
    stream.

    Where only the means are equal and differences are skewed, as between a method that depends on luck and one that always
    finds the same policy, the level 0.05 is exceeded: simulated, 0.05 to 0.07 with 6 seeds and 0.06 to 0.09 with 8 or 10. The
    alternatives are no better: the studentized sign-flip test orders sign patterns alike, so it is the same test; Wilcoxon's
    has 0.05 to 0.09, Student's t 0.06 to 0.12. Johnson's skewness-corrected t has 0.05 to 0.08, but its statistic is not monotone
    in the mean, so a lead of many standard deviations can come out as none.

    Args:
        differences: Shape ``(seeds,)``.

    Returns:
        The two-sided p-value: twice the smaller tail probability of the mean, at most 1; 1 for fewer than two seeds.

    References:
        Fisher, The Design of Experiments (1935), section 21; Phipson and Smyth (2010) for drawn patterns.
    """
    return float(sign_flip_p_values(differences))


def sign_flip_p_values(samples: ArrayLike) -> NDArray[np.float64]:
    """The :func:`sign_flip_p_value` of each of many samples.

    Args:
        samples: Paired differences, shape ``(..., seeds)``.

    Returns:
        Shape ``(...)``.
    """
    values = np.asarray(samples, dtype=np.float64)
    if values.shape[-1] < 2:
        return np.ones(values.shape[:-1])
    tested = stats.permutation_test(
        (values,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=_SIGN_FLIPS,
        batch=max(1, _MOST_AT_ONCE // values.size),
        axis=-1,
        rng=np.random.default_rng(0),
    )
    return np.asarray(tested.pvalue)


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
    return compare_scores(
        {
            searcher: {entry.run.seed: _scores(entry.outcome, comparison.objective) for entry in entries}
            for searcher, entries in comparison.by_searcher().items()
        },
        against,
    )


def compare_scores(scores: Mapping[str, Mapping[int, NDArray[np.float64]]], against: str) -> list[Difference]:
    """:func:`compare_searchers` of scores: searcher -> seed -> score of each exam image, all of the same images.

    Raises:
        BitcertError: If there are no scores of ``against``.
    """
    if against not in scores:
        raise unknown_name("searcher of this comparison", against, scores)
    reference = scores[against]
    paired = {
        searcher: {seed: (row, reference[seed]) for seed, row in rows.items() if seed in reference}
        for searcher, rows in scores.items()
        if searcher != against
    }
    found = [_difference(list(pairs.values())) for pairs in paired.values()]
    p_adjusted = correct_p_values([p_value for _, _, p_value in found])
    # No corrected p-value rises when an uncorrected one falls, so correcting the least ones bounds all from below.
    p_attainable = correct_p_values([least_p_value(len(pairs)) for pairs in paired.values()])
    return [
        Difference(searcher, against, tuple(pairs), *test, *p, _judge(test[0], *p))
        for (searcher, pairs), test, p in zip(
            paired.items(), found, zip(p_adjusted, p_attainable, strict=True), strict=True
        )
    ]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well other scores of the same winners order the searchers as the ranked ones do.

    Attributes:
        reliability: That of the searchers' means of these scores over seeds.
        visible: The largest correlation with the ranked scores that could be seen.
        correlation: The rank correlation of the searchers' means with the ranked ones.
    """

    reliability: Reliability
    visible: float
    correlation: Correlation


@dataclass(frozen=True, slots=True)
class RankingReliability:
    """How far a ranking can be trusted, and how it agrees with the same winners before or after other post-steps.

    Attributes:
        searchers, seeds: How many searchers this is about; the number of seeds that all of them have.
        images: Reliability of the searchers' means over exam images, by split halves.
        over_seeds: Reliability of the searchers' means over those seeds.
        agreements: One for the scores ``before`` the post-step, if there was one, and for those ``after NAME`` of each control.
    """

    searchers: int
    seeds: int
    images: float
    over_seeds: Reliability
    agreements: Mapping[str, Agreement]


def ranking_reliability(comparison: Comparison) -> RankingReliability:
    """Measure how reliable the ranking of a comparison is, over exam images and over seeds.

    ``cheapest`` is left out where two others are ranked: far below them, it alone would make any ranking look reliable.

    Raises:
        BitcertError: If the comparison does not compare like with like.
    """
    check_comparison(comparison)
    objective = comparison.objective
    groups = comparison.by_searcher()
    contenders = without_cheapest(groups)
    chosen = contenders if len(contenders) > 1 else groups
    by_seed = [{entry.run.seed: entry for entry in group} for group in chosen.values()]
    seeds = sorted(set.intersection(*map(set, by_seed)))
    entries = [[found[seed] for seed in seeds] for found in by_seed]
    images = float("nan")
    if objective.per_image:
        tables = [
            np.mean([image_scores(entry.outcome, objective) for entry in found.values()], axis=0) for found in by_seed
        ]
        images = split_half(tables, np.random.default_rng(0))

    ranked = np.array([[exam_score(entry.outcome, objective) for entry in found] for found in entries])
    over_seeds, agreements = anova_reliability(ranked), {}
    others = [[_other_exams(entry) for entry in found] for found in entries]
    every = [exams for row in others for exams in row]
    for name in every[0] if every else ():
        if all(name in exams for exams in every):
            scores = np.array([[exam_score(exams[name], objective) for exams in row] for row in others])
            reliability = anova_reliability(scores)
            agreements[name] = Agreement(
                reliability,
                visible_correlation(reliability.value, over_seeds.value),
                spearman(scores.mean(axis=1), ranked.mean(axis=1)),
            )
    return RankingReliability(len(by_seed), len(seeds), images, over_seeds, agreements)


def _other_exams(entry: Entry) -> dict[str, Outcome]:
    """The exams of a winner besides the one that is ranked: ``before`` the post-step, and ``after NAME`` of each control."""
    before = {} if entry.before is None else {"before": entry.before}
    return before | {AFTER + name: outcome for name, outcome in entry.controls.items()}


def _scores(outcome: Outcome, objective: Objective) -> NDArray[np.float64]:
    """Scores of the exam images; only their mean where exams keep nothing else, which has no interval."""
    return image_scores(outcome, objective) if objective.per_image else np.array([exam_score(outcome, objective)])


def _difference(pairs: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> tuple[float, Interval, float]:
    """Mean, interval and p-value of the differences within pairs."""
    if not pairs:
        return float("nan"), UNKNOWN, 1.0
    first, second = (np.array(rows) for rows in zip(*pairs, strict=True))
    means = first.mean(axis=1), second.mean(axis=1)
    crossed = crossed_interval(first - second, paired=True)
    return float(means[0].mean() - means[1].mean()), crossed, sign_flip_p_value(means[0] - means[1])


def _judge(mean: float, p_adjusted: float, p_attainable: float) -> Verdict:
    if p_attainable > SIGNIFICANCE:
        return "underpowered"
    if p_adjusted > SIGNIFICANCE:
        return "not distinguishable"
    return "better" if mean > 0 else "worse"
