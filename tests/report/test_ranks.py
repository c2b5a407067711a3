"""Rank tests agree with enumeration, an analysis of variance, a second library and published tables."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike
from scipy import stats
from statsmodels.stats.anova import AnovaRM
from statsmodels.stats.multitest import multipletests

from suite.errors import BitcertError
from suite.report.ranks import (
    alike_groups,
    cliffs_delta,
    compare_by_ranks,
    nemenyi_difference,
    rank_biserial,
    rank_searchers,
    signed_rank_p_value,
)


def midrank(value: int, values: list[int]) -> float:
    return sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2


def enumerate_signed_ranks(differences: list[int]) -> tuple[float, float]:
    """Two-sided p-value by counting sign patterns, and the rank-biserial correlation, by definition."""
    sizes = [abs(value) for value in differences if value]
    ranks = [midrank(size, sizes) for size in sizes]
    observed = sum(rank for rank, value in zip(ranks, filter(None, differences), strict=True) if value > 0)
    sums = [sum(itertools.compress(ranks, chosen)) for chosen in itertools.product((0, 1), repeat=len(ranks))]
    tails = sum(total >= observed for total in sums), sum(total <= observed for total in sums)
    total = sum(ranks)
    return min(1.0, 2 * min(tails) / len(sums)), (2 * observed - total) / total if ranks else 0.0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-5, 5), min_size=1, max_size=8))
def test_signed_ranks_count_sign_patterns(differences: list[int]) -> None:
    p_value, effect = enumerate_signed_ranks(differences)
    assert signed_rank_p_value(differences) == pytest.approx(p_value)
    assert rank_biserial(differences) == pytest.approx(effect)


def test_many_pairs_have_the_exact_distribution_and_ties_the_normal_one() -> None:
    rng = np.random.default_rng(0)
    untied = rng.normal(0.4, 1.0, size=20)
    ways = np.zeros(20 * 21 // 2 + 1)
    ways[0] = 1.0
    for rank in range(1, 21):  # the exact distribution of the rank sum, by convolution
        ways = (ways + np.concatenate([np.zeros(rank), ways[:-rank]])) / 2
    observed = int(stats.rankdata(np.abs(untied))[untied > 0].sum())
    assert signed_rank_p_value(untied) == pytest.approx(2 * min(ways[observed:].sum(), ways[: observed + 1].sum()))
    tied = np.append(untied, untied[0])
    assert signed_rank_p_value(tied) == pytest.approx(stats.wilcoxon(tied, method="approx").pvalue)


def test_false_alarms_of_signed_ranks_are_as_rare_as_computed() -> None:
    rng, repetitions = np.random.default_rng(1), 400
    alarms = sum(signed_rank_p_value(rng.normal(size=8)) <= 0.05 for _ in range(repetitions))
    size = 10 / 2**8  # two-sided p <= 0.05: rank sums 0 to 3, that is 5 of 256 patterns at either end
    assert stats.binom.ppf(1e-4, repetitions, size) <= alarms <= stats.binom.isf(1e-4, repetitions, size)


def test_no_difference_is_no_evidence() -> None:
    assert (signed_rank_p_value([0.0, 0.0]), rank_biserial([0.0, 0.0]), cliffs_delta([1], [1])) == (1.0, 0.0, 0.0)
    assert (signed_rank_p_value([]), signed_rank_p_value([0.3]), rank_biserial([0.3])) == (1.0, 1.0, 1.0)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=7), st.lists(st.integers(0, 5), min_size=1, max_size=7))
def test_cliffs_delta_follows_from_mann_whitneys_u(x: list[int], y: list[int]) -> None:
    expected = 2 * stats.mannwhitneyu(x, y, method="asymptotic").statistic / (len(x) * len(y)) - 1
    assert cliffs_delta(x, y) == pytest.approx(expected)


def test_comparisons_are_corrected_by_holm_and_signed_in_favour_of_the_searcher() -> None:
    rng = np.random.default_rng(2)
    base = rng.normal(size=9)
    scores = {"a": base + rng.normal(1.0, 0.2, 9), "random": base, "b": base + rng.normal(0, 1, 9), "c": base - 0.1}
    found = compare_by_ranks(scores, "random")
    assert [(test.searcher, test.against, test.pairs) for test in found] == [(name, "random", 9) for name in "abc"]
    p_values = [stats.wilcoxon(scores[name], base, method="exact").pvalue for name in "ab"] + [2 / 2**9]
    assert [test.p_value for test in found] == pytest.approx(p_values)
    assert [test.p_adjusted for test in found] == pytest.approx(multipletests(p_values, method="holm")[1])
    assert (found[0].rank_biserial, found[2].rank_biserial) == (1.0, -1.0)
    assert found[0].cliffs_delta > 0 > found[2].cliffs_delta


@pytest.mark.parametrize("tied", [False, True])
def test_iman_and_davenports_f_is_that_of_an_analysis_of_variance_of_ranks(tied: bool) -> None:
    rng = np.random.default_rng(3)
    scores = {name: rng.normal(0.3 * place, 1.0, 12) for place, name in enumerate("abcd")}
    scores = {name: np.round(values) if tied else values for name, values in scores.items()}
    found = rank_searchers(scores)
    ranks = stats.rankdata(-np.array(list(scores.values())), axis=0)
    rows = [(name, block, ranks[place, block]) for place, name in enumerate(scores) for block in range(12)]
    table = AnovaRM(pd.DataFrame(rows, columns=["searcher", "block", "rank"]), "rank", "block", ["searcher"]).fit()
    assert (found.f, found.p_value) == pytest.approx(tuple(table.anova_table[["F Value", "Pr > F"]].iloc[0]))
    sums = ranks.sum(axis=1)
    if not tied:  # Friedman's formula
        assert found.chi_square == pytest.approx(12 / (12 * 4 * 5) * (sums**2).sum() - 3 * 12 * 5)
    assert found.p_chi_square == pytest.approx(stats.chi2.sf(found.chi_square, 3))
    assert found.mean_ranks == pytest.approx(dict(zip(scores, ranks.mean(axis=1), strict=True)))
    assert list(found.mean_ranks.values()) == sorted(found.mean_ranks.values())


def test_perfect_agreement_is_certain_and_all_equal_is_nothing() -> None:
    found = rank_searchers({name: np.arange(5.0) - place for place, name in enumerate("abc")})
    assert (list(found.mean_ranks.items()), found.p_value) == ([("a", 1.0), ("b", 2.0), ("c", 3.0)], 0.0)
    equal = rank_searchers({name: np.arange(5.0) for name in "abc"})
    assert (set(equal.mean_ranks.values()), equal.p_value, equal.p_chi_square) == ({2.0}, 1.0, 1.0)


@pytest.mark.parametrize(("searchers", "quantile"), [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (10, 3.164)])
def test_critical_differences_are_those_of_demsars_table(searchers: int, quantile: float) -> None:
    expected = quantile * np.sqrt(searchers * (searchers + 1) / (6 * 14))
    assert nemenyi_difference(searchers, 14) == pytest.approx(expected, rel=5e-4)


def test_false_alarms_of_the_critical_difference_are_rare() -> None:
    rng, repetitions, searchers, blocks = np.random.default_rng(4), 1_000, 5, 20
    ranks = stats.rankdata(rng.normal(size=(repetitions, blocks, searchers)), axis=2).mean(axis=1)
    alarms = (np.ptp(ranks, axis=1) > nemenyi_difference(searchers, blocks)).sum()
    # Ranks are bounded, so that the level is a little below 0.05; half of it or twice as much would fail.
    assert stats.binom.ppf(1e-3, repetitions, 0.045) <= alarms <= stats.binom.isf(1e-3, repetitions, 0.05)


def test_groups_hold_all_pairs_that_are_not_told_apart() -> None:
    ranks = {"d": 4.0, "a": 1.0, "b": 1.5, "c": 2.2, "e": 6.0}
    assert alike_groups(ranks, 1.0) == [("a", "b"), ("b", "c")]
    assert alike_groups(ranks, 10.0) == [("a", "b", "c", "d", "e")]
    assert alike_groups(ranks, 0.1) == []
    rng = np.random.default_rng(5)
    for _ in range(50):
        ranks = {str(place): float(rank) for place, rank in enumerate(rng.integers(0, 12, size=6) / 2)}
        groups, limit = alike_groups(ranks, 1.5), 1.5
        for one, other in itertools.combinations(ranks, 2):
            together = any({one, other} <= set(group) for group in groups)
            assert together == (abs(ranks[one] - ranks[other]) < limit)
        assert not any(set(one) <= set(other) for one, other in itertools.permutations(groups, 2))


def test_what_cannot_be_ranked_is_refused() -> None:
    with pytest.raises(BitcertError, match="unknown searcher 'randon'; known: random"):
        compare_by_ranks({"random": [1.0]}, "randon")
    with pytest.raises(BitcertError, match="have 1, 2 scores"):
        compare_by_ranks({"random": [1.0], "tpe": [1.0, 2.0]}, "random")
    with pytest.raises(BitcertError, match="not finite"):
        rank_searchers({"a": [1.0, np.nan], "b": [1, 2], "c": [1, 2]})
    few: list[dict[str, ArrayLike]] = [{"a": [1.0, 2], "b": [1, 2]}, {"a": [1.0], "b": [1], "c": [2]}]
    for scores in few:
        with pytest.raises(BitcertError, match="say nothing"):
            rank_searchers(scores)
