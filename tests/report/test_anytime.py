"""Incumbents, regret and hitting times agree with loops over trials, closed forms and simulated coverage."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.duration.survfunc import SurvfuncRight

from suite.contract.space import Policy
from suite.contract.trial import Fidelity, Metrics, Trial
from suite.errors import BitcertError
from suite.problems.separable import SeparableProblem
from suite.report.anytime import (
    HittingTimes,
    normalized_score,
    sample_truths,
    simple_regret,
    time_to_target,
    trace_incumbent,
)
from suite.report.comparison import search_seconds
from suite.report.curves import Clock, search_course
from suite.run.records import Run

POLICIES = [Policy.from_bits([bits], [bits]) for bits in range(2, 9)]
TRUTHS = {policy: 0.1 * (place + 1) for place, policy in enumerate(POLICIES)}
FIDELITY = Fidelity(images=10, noise=10)


def make_run(*estimates: tuple[int, float | None], probes: int = 0, seconds: float = 0.0) -> Run:
    """A search of (place of the policy, its estimate) per trial: 100 passes and 2 seconds each; None fails, known ones repeat."""
    trials: list[Trial] = []
    for number, (place, estimate) in enumerate(estimates):
        if estimate is None:
            trials.append(Trial(number, POLICIES[place], FIDELITY, 0, failure="diverged", wasted=40))
            continue
        repeat = next((trial.number for trial in trials if trial.policy == POLICIES[place] and trial.metrics), None)
        metrics = Metrics(None, estimate, None, 10, 100, 2.0, 1.0, "ranking")
        trials.append(Trial(number, POLICIES[place], FIDELITY, 0, metrics, repeat_of=repeat))
    objective = SeparableProblem(layers=2).objective
    return Run("made-up", 0, tuple(trials), probes, objective, {}, "evaluations", searcher_seconds=seconds)


def step_through(run: Run, spend: float, by: Clock) -> float:
    """The true score of the incumbent after a spend, by a loop over trials."""
    best, truth, spent = -np.inf, np.nan, float({"forward_passes": run.probe_spend}.get(by, 0))
    for trial in run.trials:
        fresh = trial.repeat_of is None
        seconds = trial.metrics.seconds if trial.metrics is not None and fresh else 0.0
        costs = {"evaluations": fresh, "forward_passes": trial.spend, "seconds": seconds}
        spent += costs[by] + (run.searcher_seconds / len(run.trials) if by == "seconds" else 0)
        if spent > spend + 1e-12:
            break
        if trial.metrics is not None and run.score(trial) > best:
            best, truth = run.score(trial), TRUTHS[trial.policy]
    return truth


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.none() | st.integers(0, 8)), min_size=1, max_size=9),
    st.sampled_from(["evaluations", "forward_passes", "seconds"]),
    st.integers(0, 150),
)
def test_trajectory_is_that_of_a_loop(found: list[tuple[int, float | None]], by: Clock, probes: int) -> None:
    first: dict[int, float | None] = {}
    for place, estimate in found:  # a repeat has the estimate of the first success
        if first.get(place) is None:
            first[place] = estimate
    estimates = [(place, estimate if estimate is None else first[place]) for place, estimate in found]
    run = make_run(*estimates, probes=probes, seconds=1.5)
    spends = np.unique([0.0, *search_course(run)[by], *search_course(run)[by] - 0.25, 1e9])
    expected = [step_through(run, spend, by) for spend in spends]
    np.testing.assert_allclose(trace_incumbent(run, TRUTHS, by).at(spends), expected)


def test_the_incumbent_is_chosen_by_estimates_and_may_be_worse_in_truth() -> None:
    run = make_run((6, None), (3, 0.2), (5, 0.1), (1, 0.3), (2, 0.3), probes=1000)
    course = trace_incumbent(run, TRUTHS, "forward_passes")
    assert course.spend.tolist() == [1140, 1340]  # the failed trial's 40 passes count, and so do probes
    assert course.truth == pytest.approx([0.4, 0.2])  # of equal estimates the first stays
    assert course.end == 1440
    np.testing.assert_allclose(course.at([1139, 1140, 1339.9, 1340, 9999]), [np.nan, 0.4, 0.4, 0.2, 0.2])


def test_lower_fidelity_counts_as_spend_only() -> None:
    run = make_run((6, 0.9), (0, 0.1))
    low = replace(run.trials[0], fidelity=Fidelity(images=1, noise=1))
    course = trace_incumbent(replace(run, trials=(low, run.trials[1])), TRUTHS)
    assert (course.spend.tolist(), course.truth.tolist()) == ([2.0], [0.1])


def test_seconds_end_at_those_of_the_search() -> None:
    run = make_run((0, 0.1), (0, 0.1), (1, 0.2), (2, None), seconds=8.0)
    assert trace_incumbent(run, TRUTHS, "seconds").end == search_seconds(run) == 12.0


def test_samples_have_a_row_per_run_even_where_nothing_was_measured() -> None:
    runs = [make_run((0, None)), make_run((0, 0.1), (4, 0.2)), make_run()]
    found = sample_truths(runs, TRUTHS, [0, 1, 2])
    np.testing.assert_allclose(found, [[np.nan] * 3, [np.nan, 0.1, 0.5], [np.nan] * 3])
    assert sample_truths([], TRUTHS, [1, 2]).shape == (0, 2)


def test_a_policy_without_truth_is_named() -> None:
    with pytest.raises(BitcertError, match="trial 1 of made-up, seed 0, has no true score"):
        trace_incumbent(make_run((0, 0.1), (1, 0.2)), {POLICIES[0]: 0.5})


def test_regret_and_normalized_score_are_linear_and_refuse_an_optimum_that_is_none() -> None:
    truth = np.array([[0.2, np.nan], [0.5, 0.35]])
    np.testing.assert_allclose(simple_regret(truth, 0.5), [[0.3, np.nan], [0, 0.15]])
    np.testing.assert_allclose(normalized_score(truth, 0.5, 0.3), [[-0.5, np.nan], [1, 0.25]])
    assert simple_regret(0.5 + 1e-12, 0.5) == 0.0
    with pytest.raises(BitcertError, match=r"true score of 0\.6 exceeds the optimum 0\.5"):
        simple_regret([0.6], 0.5)
    with pytest.raises(BitcertError, match=r"reference 0\.5 is not below the optimum 0\.5"):
        normalized_score([0.5], 0.5, 0.5)


def test_the_target_is_first_reached_however_the_search_goes_on() -> None:
    runs = [make_run((3, 0.2), (0, 0.3)), make_run((0, 0.1), (6, 0.2)), make_run((0, 0.1)), make_run((1, None))]
    times = time_to_target(runs, TRUTHS, 0.4)
    assert times.spend.tolist() == [1, 2, 1, 1]
    assert times.reached.tolist() == [True, True, False, False]


def test_shares_of_equally_long_searches_are_counts() -> None:
    found = HittingTimes(np.array([3.0, 5, 5, 9, 9]), np.array([True, True, True, True, False])).distribution()
    assert found.x.tolist() == [0, 3, 5, 9]
    assert found.mean == pytest.approx([0, 0.2, 0.6, 0.8])


def test_kaplan_meier_is_that_of_statsmodels() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        spend, reached = rng.integers(1, 9, size=12).astype(float), rng.random(12) < 0.6
        found, other = HittingTimes(spend, reached).distribution(), SurvfuncRight(spend, reached.astype(int))
        at = np.searchsorted(found.x, other.surv_times)
        assert found.mean[at] == pytest.approx(1 - other.surv_prob)
        inside = (other.surv_prob > 0) & (other.surv_prob < 1)
        surv, error = other.surv_prob[inside], other.surv_prob_se[inside]
        half = stats.norm.ppf(0.975) * error / (surv * np.abs(np.log(surv)))  # the delta method for log(-log)
        assert 1 - found.least[at][inside] == pytest.approx(surv ** np.exp(-half))
        assert 1 - found.most[at][inside] == pytest.approx(surv ** np.exp(half))


@pytest.mark.parametrize("hits", [0, 4])
def test_bounds_of_none_and_all_are_exact(hits: int) -> None:
    found = HittingTimes(np.full(4, 7.0), np.full(4, hits == 4)).distribution()
    exact = stats.binomtest(hits, 4).proportion_ci(0.95, "exact")
    assert (found.mean[-1], found.least[-1], found.most[-1]) == pytest.approx((hits / 4, exact.low, exact.high))
    assert (found.mean[0], found.least[0], found.most[0]) == pytest.approx((0, 0, 1 - 0.025**0.25))


def test_a_single_search_has_a_distribution_and_none_has_not() -> None:
    found = HittingTimes(np.array([2.0]), np.array([True])).distribution()
    assert (found.mean.tolist(), found.least[-1]) == ([0.0, 1.0], pytest.approx(0.025))
    with pytest.raises(BitcertError, match="no search"):
        HittingTimes(np.array([]), np.array([], dtype=bool)).distribution()


def test_intervals_of_the_distribution_hold_the_truth() -> None:
    """Exponential times to the target; half of the searches are cut short."""
    rng, seeds, repetitions, spend, covered = np.random.default_rng(1), 16, 200, 0.9, 0
    ends = np.where(np.arange(seeds) % 2, 0.5, 2.0)
    for _ in range(repetitions):
        times = rng.exponential(1.0, seeds)
        found = HittingTimes(np.minimum(times, ends), times <= ends).distribution()
        place = np.searchsorted(found.x, spend, side="right") - 1
        covered += bool(found.least[place] <= 1 - np.exp(-spend) <= found.most[place])
    # A coverage of 0.95 fails in one of a thousand repetitions, one of 0.85 in 97 of a hundred.
    assert covered >= stats.binom.ppf(1e-3, repetitions, 0.95)
