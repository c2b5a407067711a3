"""Curves agree with brute force."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from suite.contract.space import Policy
from suite.contract.trial import Fidelity, Metrics, Trial
from suite.report.comparison import Comparison
from suite.report.curves import (
    Band,
    best_band,
    best_so_far,
    certified_band,
    certified_curve,
    milestone_frame,
    milestones,
)
from suite.run.records import Run


def test_certified_curve_counts_images(small: Comparison) -> None:
    outcome = small.entries[0].outcome
    radii = np.unique([0.0, *outcome.certificates.radius, 9.0])  # the steps themselves, and beyond
    expected = outcome.certificates.certified_accuracy(outcome.labels, list(radii))
    assert certified_curve(outcome, radii) == pytest.approx(list(expected.values()))


def test_area_under_the_certified_curve_is_the_acr(small: Comparison) -> None:
    radii = np.linspace(0.0, 1.0, 20_001)
    for outcome in (small.reference, small.entries[0].outcome):
        assert np.trapezoid(certified_curve(outcome, radii), radii) == pytest.approx(outcome.metrics.acr, abs=1e-4)


def test_certified_band_holds_all_seeds(small: Comparison) -> None:
    entries, radii = small.entries[:2], np.linspace(0, 0.5, 50)
    band = certified_band(entries, radii)
    curves = [certified_curve(entry.outcome, radii) for entry in entries]
    assert band.mean == pytest.approx((curves[0] + curves[1]) / 2)
    assert np.array_equal(band.least, np.minimum(*curves))
    assert np.array_equal(band.most, np.maximum(*curves))


def make_run(run: Run, scores: list[float | None], probe_spend: int = 0, repeat: int | None = None) -> Run:
    """Trials of 10 forward passes each; None is a failure, ``repeat`` the trial that repeats the first."""
    policy = Policy.from_bits([2], [2])
    trials = [
        Trial(
            number,
            policy,
            Fidelity(),
            0,
            None if score is None else Metrics(0.5, score, {}, 1, 10, 1.0, 0.001, "fixed"),
            "loss became nan" if score is None else None,
            0 if number == repeat else None,
        )
        for number, score in enumerate(scores)
    ]
    return replace(run, trials=tuple(trials), probe_spend=probe_spend)


def test_best_so_far_counts_probes_first_and_repeats_never(small: Comparison) -> None:
    run = make_run(small.entries[0].run, [0.2, None, 0.2, 0.1, 0.5], probe_spend=100, repeat=2)
    passes, best = best_so_far(run)
    assert passes.tolist() == [110, 110, 120, 130]
    assert best.tolist() == [0.2, 0.2, 0.2, 0.5]
    assert passes[-1] == run.forward_passes


def test_best_band_starts_when_every_run_has_an_estimate(small: Comparison) -> None:
    first = small.entries[0].run
    runs = [make_run(first, [0.1, 0.3, 0.2, 0.6]), make_run(first, [0.2, 0.4], probe_spend=15)]
    band = best_band(runs)
    assert band.x.tolist() == [25, 30, 35, 40]
    assert band.mean == pytest.approx([0.25, 0.25, 0.35, 0.5])
    assert band.least.tolist() == [0.2, 0.2, 0.3, 0.4]
    assert band.most.tolist() == [0.3, 0.3, 0.4, 0.6]


def test_band_of_many_seeds_is_the_t_interval_of_the_mean() -> None:
    curves = [np.array([value, 2 * value]) for value in np.random.default_rng(3).normal(size=10)]
    band = Band.over(np.arange(2.0), curves)
    expected = stats.ttest_1samp(np.stack(curves)[:, 0], 0.0).confidence_interval(0.95)
    assert band.least[0] == pytest.approx(expected.low)
    assert band.most[0] == pytest.approx(expected.high)
    assert band.least[1] == pytest.approx(2 * band.least[0])
    assert band.mean[0] == pytest.approx(np.mean([curve[0] for curve in curves]))


def test_bands_of_five_seeds_hold_the_mean_as_often_as_they_say() -> None:
    draws = np.random.default_rng(4).normal(size=(5, 4000))
    band = Band.over(np.arange(4000.0), list(draws))
    covered = float(((band.least <= 0) & (band.most >= 0)).mean())
    assert 0.935 < covered < 0.965


def test_estimates_of_lower_rungs_are_spend_and_no_best(small: Comparison) -> None:
    run = make_run(small.entries[0].run, [0.9, 0.1, 0.2])
    cheap = replace(run.trials[0], fidelity=replace(run.trials[0].fidelity, images=1))
    passes, best = best_so_far(replace(run, trials=(cheap, *run.trials[1:])))
    assert best.tolist() == [0.1, 0.2]
    assert passes[-1] == run.forward_passes


def test_milestones_tell_what_a_search_had_by_then(small: Comparison) -> None:
    run = make_run(small.entries[0].run, [0.2, None, 0.2, 0.1, 0.5, 0.3], probe_spend=100, repeat=2)
    by_passes = milestones(run, [100, 110, 129, 130, 10_000])
    assert by_passes["search_estimate"].tolist() == pytest.approx([np.nan, 0.2, 0.2, 0.5, 0.5], nan_ok=True)
    assert by_passes["trials"].tolist() == [0, 3, 4, 5, 6]
    assert by_passes["evaluations"].tolist() == [0, 2, 3, 4, 5]
    assert by_passes["forward_passes"].tolist() == [100, 110, 120, 130, 140]
    assert by_passes["trial"].tolist()[1:] == [0, 0, 4, 4]
    assert milestones(run, [2, 4], "evaluations")["trials"].tolist() == [3, 5]
    assert milestones(run, [3, 5], "trials")["search_estimate"].tolist() == [0.2, 0.5]


def test_milestones_of_a_searcher_are_means_over_its_seeds_where_all_came_so_far(small: Comparison) -> None:
    first, second, *_ = small.by_searcher()["random"]
    short = replace(first, run=make_run(first.run, [0.2, 0.4]))
    long = replace(second, run=make_run(second.run, [0.1, 0.2, 0.3, 0.6]))
    frame = milestone_frame(replace(small, entries=(short, long)), [1, 2, 3, 9])
    assert frame.columns.tolist() == ["searcher", "seeds", "trials", "at 1", "at 2", "end"]
    assert frame.iloc[0].tolist() == ["random", 2, 3.0, pytest.approx(0.15), pytest.approx(0.3), pytest.approx(0.5)]


def test_the_last_milestone_agrees_with_the_curve_and_the_run(small: Comparison) -> None:
    for entry in small.entries:
        passes, best = best_so_far(entry.run)
        last = milestones(entry.run, [int(passes[-1])]).iloc[-1]
        assert last["search_estimate"] == best[-1]
        first_at_top = replace(entry.run, finals=()).best
        assert first_at_top is not None
        assert last["trial"] == first_at_top.number
