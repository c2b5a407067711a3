"""Figures of decisions draw the numbers they were given, name every searcher, and let no labels overlap."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from matplotlib.axes import Axes
from numpy.typing import NDArray

from suite.errors import BitcertError
from suite.report.aggregates import performance_profile
from suite.report.anytime import HittingTimes
from suite.report.curves import Band
from suite.report.decision_figures import (
    plot_attainment,
    plot_critical_difference,
    plot_profiles,
    plot_regret,
    plot_times_to_target,
)
from suite.report.figures import figure_of, render
from suite.report.fronts import attainment_surfaces
from suite.report.ranks import Friedman, alike_groups, rank_searchers

RNG = np.random.default_rng(0)
FRONTS = {
    "tpe": [[(0.5, 10), (0.6, 20)], [(0.4, 12), (0.7, 30)], [(0.55, 15)], []],
    "random": [[(0.3, 10)], [(0.2, 20)], [(0.4, 25)], [(0.35, 40)]],
}


def line(axes: Axes, label: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    (found,) = (each for each in axes.lines if each.get_label() == label)
    return np.asarray(found.get_xdata(), dtype=float), np.asarray(found.get_ydata(), dtype=float)


def band(length: int, last: float) -> Band:
    x, mean = np.arange(1.0, length + 1), np.linspace(0.5, last, length)
    return Band(x, mean, mean - 0.1, mean + 0.1)


def rank(count: int) -> Friedman:
    rng = np.random.default_rng(count)
    return rank_searchers({f"searcher{place}:option={place}": rng.normal(place / 3, 1.0, 12) for place in range(count)})


def test_regret_is_drawn_with_its_band_and_carried_on() -> None:
    bands = {"tpe": band(20, 0.0), "random": band(10, 0.3)}
    axes = plot_regret(bands, "forward_passes")
    for name, given in bands.items():
        x, y = line(axes, name)
        np.testing.assert_array_equal((x, y), (given.x, given.mean))
    carried = [each for each in axes.lines if each.get_linestyle() == ":"]
    assert [np.asarray(each.get_xdata()).tolist() for each in carried] == [[10.0, 20.0]]
    assert (axes.get_yscale(), axes.get_xlabel()) == ("log", "forward passes of the search")
    positive = bands["tpe"].mean[bands["tpe"].mean > 0].min()
    assert 0 < axes.get_ylim()[0] < positive
    assert plot_regret(bands, logarithmic=False).get_ylim()[0] == 0
    assert [text.get_text() for text in figure_of(axes).legends[0].texts] == ["tpe", "random"]


def test_curves_that_begin_late_or_never_leave_zero_can_be_drawn() -> None:
    late = Band(np.arange(3.0), *(np.array([np.nan, 0.2, 0.1]) for _ in range(3)))
    assert render(plot_regret({"tpe": late, "evolution": Band(*(np.zeros(3) for _ in range(4)))}))


def test_profiles_and_distributions_are_drawn_as_computed() -> None:
    profile = performance_profile([RNG.random(6), RNG.random(6)], np.linspace(0, 1, 11))
    axes = plot_profiles({"tpe": profile})
    np.testing.assert_array_equal(line(axes, "tpe"), (profile.x, profile.mean))
    assert axes.get_xlim() == (0.0, 1.0)
    times = HittingTimes(np.array([3.0, 5, 9, 9]), np.array([True, True, True, False])).distribution()
    axes = plot_times_to_target({"tpe": times}, "99 % of the optimum", "seconds")
    np.testing.assert_array_equal(line(axes, "tpe"), (times.x, times.mean))
    assert axes.get_ylabel() == "searches that reached 99 % of the optimum"
    assert axes.get_xlabel() == "seconds of the search"
    assert {each.get_drawstyle() for each in axes.lines} == {"steps-post"}


def test_attainment_is_half_of_the_searches_between_quarters() -> None:
    surfaces = {name: attainment_surfaces(fronts) for name, fronts in FRONTS.items()}
    axes = plot_attainment(surfaces)
    for (name, fronts), shade in zip(FRONTS.items(), axes.collections, strict=True):
        x, y = line(axes, name)
        assert set(np.concatenate([corners[:, 1] for corners in surfaces[name].values()])) <= set(x)
        assert x[-1] == 40
        for bops, score in zip(x, y, strict=True):
            best = sorted((max((s for s, b in front if b <= bops), default=-np.inf) for front in fronts), reverse=True)
            assert score == best[1] or (np.isnan(score) and best[1] == -np.inf)
        corners = np.concatenate([path.vertices for path in shade.get_paths()])
        ends = {float(surfaces[name][share][-1, 0]) for share in (0.25, 0.75)}
        assert ends <= set(corners[corners[:, 0] == 40][:, 1])  # where the band is at its right end
    assert render(axes)


def test_missing_surfaces_are_named() -> None:
    with pytest.raises(BitcertError, match=r"surface of tpe for the share 0\.25 is missing"):
        plot_attainment({"tpe": attainment_surfaces(FRONTS["tpe"], [0.5, 0.75])})
    with pytest.raises(BitcertError, match="no search found anything"):
        plot_attainment({"tpe": attainment_surfaces([[], []])})
    with pytest.raises(BitcertError, match="no searcher"):
        plot_profiles({})


@pytest.mark.parametrize("count", [3, 8, 13])
def test_ranks_are_named_joined_and_do_not_overlap(count: int) -> None:
    found = rank(count)
    axes = plot_critical_difference(found)
    groups = alike_groups(found.mean_ranks, found.critical_difference)
    bars = [np.asarray(each.get_xdata(), dtype=float) for each in axes.lines if each.get_linewidth() == 3.0]
    ends = [(found.mean_ranks[group[0]], found.mean_ranks[group[-1]]) for group in groups]
    np.testing.assert_allclose(np.array(bars).reshape(-1, 2), np.array(ends).reshape(-1, 2), atol=0.05)
    (scale,) = (each for each in axes.lines if each.get_marker() == "|")
    assert np.ptp(np.asarray(scale.get_xdata(), dtype=float)) == pytest.approx(found.critical_difference)
    for name, mean in found.mean_ranks.items():
        assert [text for text in axes.texts if name in text.get_text() and f"{mean:.2f}" in text.get_text()]
    figure = figure_of(axes)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0 and box.y1 <= figure.bbox.y1 for box in boxes)


def test_long_names_leave_room_for_the_ranks() -> None:
    names = ["random", *(f"method-{number}:sources=table-sigma0.12+table-sigma0.{number}" for number in range(19))]
    axes = plot_critical_difference(Friedman(dict(zip(names, range(1, 21), strict=True)), 30, 1.0, 0.1, 1.0, 0.1))
    figure = figure_of(axes)
    render(axes)  # lays it out
    (left, _), (right, _) = axes.transData.transform([(1, 0), (20, 0)])
    assert right - left > 0.35 * figure.bbox.width
    inside = figure.bbox.expanded(1.01, 1.01)
    for text in axes.texts:
        extent = text.get_window_extent()
        assert inside.contains(extent.x0, extent.y0), text.get_text()
        assert inside.contains(extent.x1, extent.y1), text.get_text()
    shown = " ".join(text.get_text() for text in axes.texts)
    assert "method-7:sources=…igma0.7" in shown
