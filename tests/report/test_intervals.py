"""Intervals over images agree with closed forms and cover what they claim to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import DescrStatsW

from suite.contract.objective import parse_objective
from suite.errors import BitcertError
from suite.report.comparison import Comparison
from suite.report.exams import exam_score, image_scores
from suite.report.intervals import average, compare_outcomes, mean_interval

ACR = parse_objective("acr")


def draw_scores(rng: np.random.Generator, images: int) -> NDArray[np.float64]:
    """Certified radii as exams give them: a third are 0, the others spread out."""
    return np.where(rng.random(images) < 1 / 3, 0.0, rng.beta(2.0, 3.0, images))


def test_interval_of_many_images_is_that_of_the_t_distribution() -> None:
    scores = draw_scores(np.random.default_rng(0), 2_000)
    low, high = DescrStatsW(scores).tconfint_mean(alpha=0.05)
    found = mean_interval(scores)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.03 * (high - low))


def test_interval_of_shares_is_that_of_a_proportion() -> None:
    certified = np.random.default_rng(1).random(1_000) < 0.3
    low, high = proportion_confint(certified.sum(), len(certified), alpha=0.05, method="wilson")
    found = mean_interval(certified)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.004)


def test_interval_covers_the_mean_as_often_as_it_claims() -> None:
    rng, truth, repetitions = np.random.default_rng(2), (2 / 3) * (2 / 5), 100
    found = [mean_interval(draw_scores(rng, 80)) for _ in range(repetitions)]
    covered = sum(interval.low <= truth <= interval.high for interval in found)
    # A method that covers 95 % falls outside these bounds in two of a million repetitions of this test.
    assert stats.binom.ppf(1e-6, repetitions, 0.95) <= covered <= stats.binom.isf(1e-6, repetitions, 0.95)


def test_equal_scores_give_equal_intervals_and_no_spread_gives_none() -> None:
    scores = draw_scores(np.random.default_rng(3), 60)
    assert mean_interval(scores) == mean_interval(scores.copy())
    assert np.isnan(mean_interval(np.full(50, 0.3)).low)
    assert np.isnan(mean_interval([0.3]).high)


def test_difference_of_two_policies_pairs_images(small: Comparison) -> None:
    winner, reference = small.entries[0].outcome, small.reference
    found = compare_outcomes(winner, reference, ACR)
    differences = winner.scores - reference.scores
    low, high = DescrStatsW(differences).tconfint_mean(alpha=0.05)
    assert found.mean == pytest.approx(winner.metrics.measured("acr") - reference.metrics.measured("acr"))
    assert (found.images.low, found.images.high) == pytest.approx((low, high), abs=0.1 * (high - low))
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
    assert found.images == mean_interval(by_image)


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
