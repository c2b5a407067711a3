"""Tests over seeds agree with brute force, keep their error rates, and say when seeds are too few."""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from benchmarks.coverage import SKEWED, TESTS
from suite.errors import BitcertError
from suite.report.comparison import Comparison
from suite.report.statistics import (
    compare_searchers,
    correct_p_values,
    least_p_value,
    seeds_needed,
    sign_flip_p_value,
    summarize,
)
from tests.report.fabricated import make_comparison


def enumerate_sign_flips(differences: list[int]) -> float:
    """The two-sided p-value by counting all sign patterns, in integers."""
    observed = sum(differences)
    sums = [sum(flips) for flips in itertools.product(*((value, -value) for value in differences))]
    smaller = min(sum(total >= observed for total in sums), sum(total <= observed for total in sums))
    return min(1.0, 2 * smaller / len(sums))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-6, 6), min_size=1, max_size=8))
def test_p_value_counts_sign_patterns(differences: list[int]) -> None:
    found = sign_flip_p_value(np.array(differences) / 64)
    assert found == pytest.approx(enumerate_sign_flips(differences))


def test_many_seeds_draw_patterns_and_stay_close_to_the_exact_value() -> None:
    differences = [3, 1, -2, 4, 2, 1, -1, 3, 2, -3, 1, 2, 5, -2, 1, 2]
    counts = np.zeros(2 * sum(map(abs, differences)) + 1)
    counts[sum(map(abs, differences))] = 1.0
    for value in differences:  # the exact distribution of the sum, by convolution
        counts = (np.roll(counts, value) + np.roll(counts, -value)) / 2
    exact = 2 * counts[sum(map(abs, differences)) + sum(differences) :].sum()
    found = sign_flip_p_value(np.array(differences, dtype=float))
    assert found == pytest.approx(exact, abs=5 * 2 * np.sqrt(exact / 2 / 2**15))
    assert found == sign_flip_p_value(np.array(differences, dtype=float))


@pytest.mark.parametrize("seeds", range(1, 9))
def test_least_p_value_is_attained_when_all_seeds_agree(seeds: int) -> None:
    assert sign_flip_p_value(np.arange(1.0, seeds + 1)) == least_p_value(seeds) == min(1.0, 2 / 2**seeds)


def test_least_p_value_of_drawn_patterns_is_attained() -> None:
    assert sign_flip_p_value(np.arange(1.0, 31.0)) == pytest.approx(least_p_value(30))
    assert least_p_value(0) == sign_flip_p_value([]) == 1.0


def test_seeds_needed_follows_from_the_least_p_value() -> None:
    # 2 / 2^6 = 0.031; 5 * 2 / 2^8 = 0.039; 11 * 2 / 2^9 = 0.043; one seed fewer exceeds 0.05 in each case.
    assert [seeds_needed(comparisons) for comparisons in (1, 5, 11)] == [6, 8, 9]


def test_false_alarms_are_as_rare_as_computed() -> None:
    rng, seeds, repetitions = np.random.default_rng(0), 8, 500
    alarms = sum(sign_flip_p_value(rng.normal(size=seeds)) <= 0.05 for _ in range(repetitions))
    size = 2 * np.floor(0.05 * 2**seeds / 2) / 2**seeds  # 12 of 256 sign patterns
    # A test of exactly that size fails this in two of a million repetitions.
    assert stats.binom.ppf(1e-6, repetitions, size) <= alarms <= stats.binom.isf(1e-6, repetitions, size)


@pytest.mark.parametrize("differences", ["exponential", "beta(8, 1)"])
def test_false_alarms_of_skewed_differences_are_as_many_as_the_docstring_says(differences: str) -> None:
    """Means are equal, the searchers are not: more than 5 %, fewer than 10 %, and no more than Student's t has."""
    rng, draw, repetitions = np.random.default_rng(5), partial(SKEWED[differences], seeds=10), 1_000
    samples = [draw(rng) for _ in range(repetitions)]
    alarms, of_student = (
        sum(test(values) <= 0.05 for values in samples) for test in (sign_flip_p_value, TESTS["Student's t"])
    )
    # A test of level 0.05 passes the first bound once in a hundred times, one of level 0.1 fails the second once in a million.
    assert stats.binom.isf(1e-2, repetitions, 0.05) < alarms <= stats.binom.isf(1e-6, repetitions, 0.1)
    assert alarms <= of_student


def test_one_false_alarm_among_all_searchers_is_rare() -> None:
    rng, repetitions = np.random.default_rng(1), 60
    alarms = 0
    for _ in range(repetitions):
        scores = {name: rng.uniform(0.2, 0.3, size=9) for name in ("random", "a", "b", "c", "d")}
        verdicts = {found.verdict for found in compare_searchers(make_comparison(scores))}
        alarms += bool(verdicts & {"better", "worse"})
    # All are equally good: with a family-wise error of 0.05 this fails in one of a million repetitions.
    assert alarms <= stats.binom.isf(1e-6, repetitions, 0.05)


def test_correction_is_that_of_statsmodels() -> None:
    rng = np.random.default_rng(4)
    for tests in range(1, 8):
        p_values = np.round(rng.random(tests) ** 3, 2)  # rounded, so that some are equal
        assert correct_p_values(list(p_values)) == pytest.approx(multipletests(p_values, method="holm")[1])
    assert correct_p_values([]) == []


def test_differences_are_paired_by_seed_and_corrected() -> None:
    rng = np.random.default_rng(2)
    luck = rng.uniform(0.0, 0.2, size=9)
    scores = {
        "tpe": luck + 0.31 + rng.uniform(0, 0.01, 9),
        "random": luck + 0.3,
        "haq": luck + rng.normal(0.3, 0.02, 9),
        "cheapest": np.full(9, 0.1),
    }
    found = compare_searchers(make_comparison(scores))
    assert [difference.searcher for difference in found] == ["tpe", "haq", "cheapest"]
    by_hand = {name: values - scores["random"] for name, values in scores.items() if name != "random"}
    assert [difference.mean for difference in found] == pytest.approx([value.mean() for value in by_hand.values()])
    p_values = [stats.permutation_test((value,), np.mean, permutation_type="samples", n_resamples=512).pvalue
                for value in by_hand.values()]  # fmt: skip
    assert [difference.p_value for difference in found] == pytest.approx(p_values)
    assert [difference.p_adjusted for difference in found] == pytest.approx(multipletests(p_values, method="holm")[1])
    assert [difference.verdict for difference in found] == ["better", "not distinguishable", "worse"]


def test_two_seeds_are_underpowered_however_large_the_difference() -> None:
    found = compare_searchers(make_comparison({"random": [0.1, 0.1], "tpe": [0.9, 0.8], "haq": [0.1, 0.1]}))
    assert [difference.verdict for difference in found] == ["underpowered", "underpowered"]
    assert [difference.p_attainable for difference in found] == [1.0, 1.0]


@pytest.mark.parametrize(("seeds", "verdict"), [(7, "underpowered"), (8, "better")])
def test_more_comparisons_need_more_seeds(seeds: int, verdict: str) -> None:
    others = {f"searcher{index}": [0.5 + 0.01 * seed for seed in range(seeds)] for index in range(5)}
    found = compare_searchers(make_comparison({"random": [0.3] * seeds, **others}))
    assert {difference.verdict for difference in found} == {verdict}
    assert [difference.p_attainable for difference in found] == pytest.approx([5 * 2 / 2**seeds] * 5)


def test_equal_results_with_enough_seeds_are_not_distinguishable() -> None:
    found = compare_searchers(make_comparison({"random": [0.3] * 6, "uniform": [0.3] * 6}))
    assert [(difference.verdict, difference.p_value) for difference in found] == [("not distinguishable", 1.0)]


def test_only_common_seeds_are_paired() -> None:
    found = compare_searchers(make_comparison({"random": [0.1] * 7, "short": [0.2] * 3, "long": [0.2] * 9}))
    assert [difference.seeds for difference in found] == [(0, 1, 2), tuple(range(7))]
    assert [difference.verdict for difference in found] == ["underpowered", "better"]


def test_corrected_p_values_never_fall_below_the_attainable_ones() -> None:
    rng = np.random.default_rng(3)
    for _ in range(25):
        seeds = rng.integers(1, 9, size=4)
        scores = {f"searcher{index}": rng.random(count) + 0.3 * rng.integers(0, 4) for index, count in enumerate(seeds)}
        for found in compare_searchers(make_comparison({"random": rng.random(8), **scores})):
            assert found.p_adjusted >= found.p_attainable - 1e-12


def test_unknown_opponent_is_named(small: Comparison) -> None:
    with pytest.raises(BitcertError, match="unknown searcher of this comparison 'randon'; known: random"):
        compare_searchers(small, against="randon")


def test_a_searcher_alone_has_no_differences() -> None:
    assert compare_searchers(make_comparison({"random": [0.1, 0.2]})) == []


def test_summaries_are_plain_means_over_seeds() -> None:
    found = {
        summary.searcher: summary for summary in summarize(make_comparison({"tpe": [0.1, 0.2, 0.6], "one": [0.4]}))
    }
    tpe, one = found["tpe"], found["one"]
    assert (tpe.mean, tpe.least, tpe.most) == pytest.approx((0.3, 0.1, 0.6))
    assert tpe.sd == pytest.approx(np.std([0.1, 0.2, 0.6], ddof=1))
    assert tpe.seeds == (0, 1, 2)
    assert one.mean == pytest.approx(0.4)
    assert np.isnan(one.sd)


def test_interval_of_a_summary_is_over_images_not_seeds(small: Comparison) -> None:
    found = {summary.searcher: summary for summary in summarize(small)}
    uniform = found["uniform"]
    assert uniform.sd == 0.0
    assert uniform.images.low < uniform.mean < uniform.images.high
