"""Reliabilities agree with closed forms and with what scores were made from; their intervals cover it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from benchmarks.coverage import correlated, correlation_interval, coverage, items_by_replicate, reliability_interval
from suite.report.comparison import Comparison
from suite.report.layout import leaderboard_table
from suite.report.ranking import leaderboard
from suite.report.reliability import anova_reliability, spearman, split_half, visible_correlation
from suite.report.statistics import ranking_reliability
from tests.report.fabricated import make_comparison


def cronbach(scores: NDArray[np.float64]) -> float:
    """Cronbach's alpha: the split-half reliability expected over all splits of parts that are alike."""
    parts = scores.shape[1]
    return float(parts / (parts - 1) * (1 - scores.var(axis=0, ddof=1).sum() / scores.sum(axis=1).var(ddof=1)))


def mean_squares(scores: NDArray[np.float64]) -> tuple[float, float]:
    """Between items, and what neither items nor replicates explain, by least squares on indicators."""
    items, replicates = scores.shape
    rows, columns = np.repeat(np.arange(items), replicates), np.tile(np.arange(replicates), items)

    def residual(*factors: NDArray[np.int64]) -> float:
        design = np.hstack([np.eye(factor.max() + 1)[factor] for factor in factors])
        fitted = design @ np.linalg.lstsq(design, scores.ravel(), rcond=None)[0]
        return float(((scores.ravel() - fitted) ** 2).sum())

    both = residual(rows, columns)
    return (residual(columns) - both) / (items - 1), both / ((items - 1) * (replicates - 1))


def images(rng: np.random.Generator, items: int, count: int, reliability: float) -> NDArray[np.float64]:
    """Items whose means over images have that reliability; images differ far more than items do."""
    return items_by_replicate(rng, items, count, reliability) + 5 * rng.normal(size=count)


@pytest.mark.parametrize("reliability", [0.3, 0.6, 0.9])
def test_split_halves_find_the_reliability_that_scores_have(reliability: float) -> None:
    rng = np.random.default_rng(0)
    scores = images(rng, 600, 100, reliability)
    found = split_half(scores, rng)
    # The standard error of a correlation of 600 pairs is at most 0.04.
    assert found == pytest.approx(reliability, abs=0.1)
    assert found == pytest.approx(cronbach(scores), abs=0.01)


def test_split_halves_of_noise_find_nothing_and_of_copies_everything() -> None:
    rng = np.random.default_rng(1)
    assert split_half(rng.normal(size=(200, 50)), rng) < 0.3
    assert split_half(np.arange(5.0)[:, None] + rng.normal(size=40), rng) == pytest.approx(1.0)
    for scores in (np.zeros((2, 10)), np.zeros((5, 1)), np.zeros((5, 10))):
        assert np.isnan(split_half(scores, rng))


@settings(max_examples=30, deadline=None)
@given(st.integers(3, 7), st.integers(2, 6), st.integers(0, 2**32 - 1))
def test_anova_is_that_of_least_squares(items: int, replicates: int, seed: int) -> None:
    scores = items_by_replicate(np.random.default_rng(seed), items, replicates, 0.5)
    between, within = mean_squares(scores)
    found = anova_reliability(scores)
    assert found.value == pytest.approx(max(0.0, 1 - within / between))
    wide = stats.f(items - 1, (items - 1) * (replicates - 1)).ppf(0.975)
    assert found.low == pytest.approx(max(0.0, 1 - wide * within / between))
    assert found.low <= found.value <= found.high <= 1.0


@pytest.mark.parametrize(("items", "replicates"), [(8, 2), (8, 5), (12, 10)])
@pytest.mark.parametrize("reliability", [0.2, 0.8])
def test_anova_interval_covers_the_reliability(items: int, replicates: int, reliability: float) -> None:
    rng, repetitions = np.random.default_rng(2), 500
    draw = partial(items_by_replicate, items=items, replicates=replicates, reliability=reliability)
    covered, _ = coverage(reliability_interval, draw, reliability, repetitions, rng)
    # An interval that covers 95 % falls outside these bounds in two of a million repetitions of this test.
    assert stats.binom.ppf(1e-6, repetitions, 0.95) <= covered <= stats.binom.isf(1e-6, repetitions, 0.95)


def test_reliability_without_spread_or_replicates_is_unknown() -> None:
    for scores in (np.ones((5, 3)), np.arange(5.0)[:, None], np.arange(6.0).reshape(2, 3), np.ones((4, 0))):
        assert np.isnan(anova_reliability(scores).value)


def test_no_observed_correlation_exceeds_the_visible_one_but_by_chance() -> None:
    """Two scores of the very same quantity, one of reliability .4 and one of .7."""
    rng, first, second = np.random.default_rng(3), 0.4, 0.7
    truth = rng.normal(size=20_000)
    noisy = [np.sqrt(value) * truth + np.sqrt(1 - value) * rng.normal(size=20_000) for value in (first, second)]
    # Four standard errors of a correlation of 20,000 pairs.
    assert np.corrcoef(*noisy)[0, 1] == pytest.approx(visible_correlation(first, second), abs=4 / np.sqrt(20_000))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=4, max_size=12))
def test_rank_correlation_is_that_of_scipy(pairs: list[tuple[int, int]]) -> None:
    x, y = np.transpose(pairs)
    found = spearman(x, y)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert np.isnan(found.rho)
    else:
        assert found.rho == pytest.approx(stats.spearmanr(x, y).statistic)
        assert -1 <= found.low <= found.rho + 1e-12
        assert found.rho - 1e-12 <= found.high <= 1
        assert found.high - found.low > 0.1


@pytest.mark.parametrize("items", [8, 24, 48])
@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8])
def test_interval_of_a_rank_correlation_covers_it(items: int, rho: float) -> None:
    rng, repetitions = np.random.default_rng(4), 400
    covered, _ = coverage(correlation_interval, partial(correlated, items=items, rho=rho), rho, repetitions, rng)
    assert covered >= stats.binom.ppf(1e-6, repetitions, 0.94)


def test_perfect_order_of_few_items_is_no_certainty() -> None:
    assert spearman(range(6), range(6)).rho == pytest.approx(1.0)
    assert spearman(range(6), range(6)).low < 0.75
    assert spearman(range(6), range(6, 0, -1)).high > -0.75
    assert np.isnan(spearman(range(3), range(3)).low)


def test_ranking_of_clearly_different_searchers_is_reliable_and_of_equal_ones_not() -> None:
    rng = np.random.default_rng(5)
    names = ("random", "uniform", "tpe", "haq", "arq")
    clear = {name: 0.2 + 0.1 * place + 0.001 * rng.normal(size=6) for place, name in enumerate(names)}
    equal = {name: 0.2 + 0.01 * rng.normal(size=6) for name in names}
    found, other = (ranking_reliability(make_comparison(scores)) for scores in (clear, equal))
    assert found.over_seeds.low > 0.99
    assert found.over_seeds == anova_reliability(list(clear.values()))
    assert other.over_seeds.value < 0.6
    assert (found.searchers, found.seeds, found.agreements) == (5, 6, {})


def test_leaderboard_says_how_reliable_it_is_and_what_correlation_it_lets_one_see(large: Comparison) -> None:
    rng = np.random.default_rng(6)

    def rescored(comparison: Comparison) -> Comparison:
        entries = [
            replace(entry, before=comparison.entries[rng.integers(len(comparison.entries))].outcome)
            for entry in comparison.entries
        ]
        return replace(comparison, entries=tuple(entries))

    with_before = rescored(large)
    found = ranking_reliability(with_before)
    before = found.agreements["before"]
    assert before.visible == pytest.approx(np.sqrt(before.reliability.value * found.over_seeds.value))
    note = leaderboard_table(leaderboard(with_before), found).notes[-1]
    assert f"{found.images:.2f} over exam images" in note
    assert f"{found.over_seeds.value:.2f} [{found.over_seeds.low:.2f}, {found.over_seeds.high:.2f}] over seeds" in note
    assert f"a correlation above {before.visible:.2f} could not be seen" in note
    assert "correlation" not in leaderboard_table(leaderboard(large), ranking_reliability(large)).notes[-1]
    alone = make_comparison({"random": [0.3]})
    assert not any(
        "Reliability" in note for note in leaderboard_table(leaderboard(alone), ranking_reliability(alone)).notes
    )


def test_the_cheapest_policy_makes_no_ranking_reliable() -> None:
    rng = np.random.default_rng(7)
    alike = {name: 0.3 + 0.01 * rng.normal(size=6) for name in ("random", "uniform", "tpe", "haq")}
    comparison = make_comparison({**alike, "cheapest": 0.1 + 0.01 * rng.normal(size=6)})
    found = ranking_reliability(comparison)
    assert found.over_seeds == anova_reliability(list(alike.values()))
    assert found.searchers == 4
    assert "4 searchers (cheapest left out)" in leaderboard_table(leaderboard(comparison), found).notes[-1]
    assert ranking_reliability(make_comparison({name: alike[name] for name in alike})).searchers == 4


def test_order_after_a_control_is_compared_with_the_ranked_one(large: Comparison) -> None:
    groups = list(large.by_searcher().values())
    entries = [
        replace(entry, controls={"sqwa": entry.outcome, "plain": other.outcome})
        for group, others in zip(groups, groups[1:] + groups[:1], strict=True)
        for entry, other in zip(group, others, strict=True)
    ]
    found = ranking_reliability(replace(large, entries=tuple(entries)))
    assert list(found.agreements) == ["after sqwa", "after plain"]
    same, shifted = found.agreements.values()
    assert same.correlation.rho == pytest.approx(1.0)
    assert same.reliability == found.over_seeds
    assert shifted.correlation.rho < 1
    entries[0] = replace(entries[0], controls={})
    some = ranking_reliability(replace(large, entries=(*entries[1:], entries[0])))
    assert some.agreements == {}


def test_only_seeds_that_all_searchers_have_count() -> None:
    found = ranking_reliability(make_comparison({"a": [0.1, 0.2, 0.3], "b": [0.2, 0.3], "c": [0.5, 0.4, 0.1]}))
    assert found.seeds == 2
    assert found.over_seeds == anova_reliability([[0.1, 0.2], [0.2, 0.3], [0.5, 0.4]])
