"""Intervals over images, and over seeds and images, agree with closed forms and cover what they claim to."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import optimize, stats
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import DescrStatsW

from benchmarks.coverage import CROSSED, SIZES, certified, coverage, radii, seeds_by_images, sparse
from suite.contract.objective import parse_objective
from suite.errors import BitcertError
from suite.report.comparison import Comparison
from suite.report.exams import exam_score, image_scores
from suite.report.intervals import (
    Interval,
    average,
    compare_outcomes,
    crossed_interval,
    mean_interval,
    paired_shares_interval,
    score_of_difference,
    seed_interval,
)

ACR = parse_objective("acr")


def test_interval_is_that_of_the_t_distribution_with_two_more_images() -> None:
    rng = np.random.default_rng(0)
    scores = radii(rng, 50)
    low, high = DescrStatsW(np.append(scores, [0.0, scores.max()])).tconfint_mean(alpha=0.05)
    found = mean_interval(scores)
    assert (found.low, found.high) == pytest.approx((low, high))
    differences = rng.normal(0.1, 1.0, 50)
    largest = np.abs(differences).max()
    low, high = DescrStatsW(np.append(differences, [-largest, largest])).tconfint_mean(alpha=0.05)
    found = mean_interval(differences, paired=True)
    assert (found.low, found.high) == pytest.approx((low, high))


def test_interval_of_shares_is_that_of_a_proportion() -> None:
    certified = np.random.default_rng(1).random(1_000) < 0.3
    low, high = proportion_confint(certified.sum(), len(certified), alpha=0.05, method="wilson")
    found = mean_interval(certified)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.004)


def covers(covered: int, intervals: int, least: float = 0.95) -> bool:
    """Whether so many hits are no fewer than chance explains, if ``least`` of the intervals hold: wrong once in a million."""
    return bool(covered >= stats.binom.ppf(1e-6, intervals, least))


@pytest.mark.parametrize("images", [100, 400])
def test_interval_over_images_covers_dense_scores_as_often_as_it_claims(images: int) -> None:
    rng = np.random.default_rng(2)
    found = coverage(mean_interval, partial(radii, images=images), 4 / 15, 500, rng)
    assert covers(*found)
    assert found[0] <= stats.binom.isf(1e-6, found[1], 0.96)  # and is no wider than need be
    for share in (0.03, 0.5, 0.97):
        assert covers(*coverage(mean_interval, partial(certified, images=images, share=share), share, 400, rng))


@pytest.mark.parametrize("images", [100, 250])
@pytest.mark.parametrize("kind", ["unit", "grid"])
def test_interval_over_images_covers_sparse_differences(images: int, kind: str) -> None:
    """The bootstrap's BCa interval holds the mean in 74 % of those samples with 100 images of which 1 % change, 70 % up."""
    rng, interval = np.random.default_rng(3), partial(mean_interval, paired=True)
    for share, better in itertools.product((0.01, 0.02, 0.05), (0.5, 0.7, 1.0)):
        draw = partial(sparse, images=images, share=share, better=better, kind=kind)
        found = coverage(interval, draw, share * (2 * better - 1) * SIZES[kind], 200, rng)
        assert covers(*found, least=0.93), (share, better)


@pytest.mark.parametrize("seeds", [2, 5, 10])
@pytest.mark.parametrize("parts", CROSSED.values(), ids=list(CROSSED))
def test_interval_over_seeds_and_images_covers_both(seeds: int, parts: tuple[float, float, float]) -> None:
    rng, (by_seed, by_image, by_both) = np.random.default_rng(4), parts
    draw = partial(seeds_by_images, seeds=seeds, images=400, by_seed=by_seed, by_image=by_image, by_both=by_both)
    assert covers(*coverage(partial(crossed_interval, paired=True), draw, 0.0, 200, rng))


def test_intervals_over_images_or_seeds_alone_miss_what_the_other_adds() -> None:
    def over_seeds(table: NDArray[np.float64]) -> Interval:
        low, high = map(float, stats.ttest_1samp(table.mean(axis=1), 0).confidence_interval(0.95))
        return Interval(low, high)

    rng, alike = np.random.default_rng(4), CROSSED["seeds and images alike"]
    draw = partial(seeds_by_images, seeds=10, images=400, by_seed=alike[0], by_image=alike[1], by_both=alike[2])
    assert not covers(*coverage(over_seeds, draw, 0.0, 500, rng))
    assert not covers(*coverage(lambda table: mean_interval(table.mean(axis=0), paired=True), draw, 0.0, 500, rng))


def log_likelihood(gained: int, lost: int, images: int, gain: float, loss: float) -> float:
    """Of shares of images that are gained and lost."""
    return float(
        stats.multinomial.logpmf([gained, lost, images - gained - lost], images, [gain, loss, 1 - gain - loss])
    )


@pytest.mark.parametrize(("gained", "lost", "images"), [(3, 12, 100), (0, 7, 250), (9, 0, 60), (40, 38, 1_000)])
@pytest.mark.parametrize("difference", [-0.2, -0.01, 0.03])
def test_score_statistic_is_at_the_most_likely_shares_of_its_hypothesis(
    gained: int, lost: int, images: int, difference: float
) -> None:
    least, most = max(0.0, -difference), (1 - difference) / 2
    found = optimize.minimize_scalar(
        lambda loss: -log_likelihood(gained, lost, images, loss + difference, loss),
        bounds=(least + 1e-12, most - 1e-12),
        method="bounded",
        options={"xatol": 1e-12},
    )
    variance = (2 * found.x + difference - difference**2) / images
    expected = ((gained - lost) / images - difference) / np.sqrt(variance)
    assert score_of_difference(gained, lost, images, difference) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("gained", "lost", "images"), [(0, 0, 50), (5, 0, 5), (0, 5, 5), (0, 1, 44), (20, 30, 400)])
def test_ends_of_the_interval_of_paired_shares_are_just_accepted(gained: int, lost: int, images: int) -> None:
    found, mirrored = paired_shares_interval(gained, lost, images), paired_shares_interval(lost, gained, images)
    assert (found.low, found.high) == pytest.approx((-mirrored.high, -mirrored.low), abs=1e-9)
    assert -1 <= found.low < (gained - lost) / images + 1e-12
    for end, sign in ((found.low, 1), (found.high, -1)):
        if abs(end) < 1:
            score = score_of_difference(gained, lost, images, end)
            assert sign * score == pytest.approx(stats.norm.ppf(0.975), rel=1e-4)


def test_crossed_interval_of_equal_seeds_is_that_over_images() -> None:
    scores = radii(np.random.default_rng(5), 60)
    assert crossed_interval([scores, scores, scores]) == mean_interval(scores)
    assert np.isnan(crossed_interval([scores]).low)


def test_crossed_interval_of_equal_images_is_that_over_seeds() -> None:
    """All images alike but for a trace: what is left is Student's t over seeds."""
    rng = np.random.default_rng(6)
    by_seed = rng.normal(size=5)
    expected = stats.ttest_1samp(by_seed, 0).confidence_interval(0.95)
    found = crossed_interval(by_seed[:, None] + 1e-9 * rng.normal(size=100_000), paired=True)
    assert found.high - found.low == pytest.approx(expected.high - expected.low, rel=1e-3)


def test_equal_scores_give_equal_intervals_and_no_spread_gives_none() -> None:
    scores = radii(np.random.default_rng(3), 60)
    assert mean_interval(scores) == mean_interval(scores.copy())
    assert np.isnan(mean_interval(np.full(50, 0.3)).low)
    assert np.isnan(mean_interval([0.3]).high)


def test_difference_of_two_policies_pairs_images(small: Comparison) -> None:
    winner, reference = small.entries[0].outcome, small.reference
    found = compare_outcomes(winner, reference, ACR)
    differences = winner.scores - reference.scores
    assert found.images == mean_interval(differences, paired=True)
    assert found.mean == pytest.approx(winner.metrics.measured("acr") - reference.metrics.measured("acr"))
    alone = mean_interval(winner.scores)
    assert found.images.high - found.images.low < 0.6 * (alone.high - alone.low)
    back = compare_outcomes(reference, winner, ACR)
    assert back.mean == pytest.approx(-found.mean)


def test_exams_on_different_images_are_not_compared(small: Comparison) -> None:
    winner = small.entries[0].outcome
    with pytest.raises(BitcertError, match="different images"):
        compare_outcomes(winner, replace(winner, image_ids=winner.image_ids + 1), ACR)


def test_average_over_seeds_averages_images_first(small: Comparison) -> None:
    outcomes = [entry.outcome for entry in small.entries[:2]]
    found = average(outcomes, ACR, baseline=[small.reference])
    by_image = (outcomes[0].scores + outcomes[1].scores) / 2 - small.reference.scores
    assert found.mean == pytest.approx(by_image.mean())
    assert found.images == mean_interval(by_image, paired=True)
    assert found.crossed == crossed_interval(
        [outcome.scores - small.reference.scores for outcome in outcomes], paired=True
    )
    others = [entry.outcome for entry in small.entries[2:4]]
    by_seed = [first.scores - second.scores for first, second in zip(outcomes, others, strict=True)]
    assert average(outcomes, ACR, baseline=others).crossed == crossed_interval(by_seed, paired=True)


def test_scores_of_images_average_to_the_exam_score(small: Comparison) -> None:
    for text in ("acr", "certified@0.25", "certified@0.25,0.5", "acr+bops"):
        objective = parse_objective(text)
        for entry in small.entries:
            assert image_scores(entry.outcome, objective).mean() == pytest.approx(
                objective.score(entry.outcome.metrics)
            )
            assert exam_score(entry.outcome, objective) == pytest.approx(objective.score(entry.outcome.metrics))


def test_clean_accuracy_has_a_mean_but_no_interval(small: Comparison) -> None:
    objective, outcome = parse_objective("clean"), small.entries[0].outcome
    found = average([outcome], objective)
    assert found.mean == outcome.metrics.clean_accuracy
    assert np.isnan(found.images.low)
    with pytest.raises(BitcertError, match="average only"):
        compare_outcomes(outcome, small.reference, objective)


def test_interval_over_seeds_is_that_of_scipy() -> None:
    scores = np.random.default_rng(0).normal(size=9)
    expected = stats.ttest_1samp(scores, 0).confidence_interval(0.95)
    found = seed_interval(scores)
    assert [found.low, found.high] == pytest.approx([float(expected.low), float(expected.high)])
    assert np.isnan(seed_interval(scores[:1]).low)
