"""Figures show the numbers they claim to, can be read, and come out the same every time."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from suite.report.appearance import assign_looks, save_figure, to_png, to_svg
from suite.report.curves import best_band, certified_curve
from suite.report.plots import plot_best_so_far, plot_certified_accuracy, plot_score_by_bops
from suite.report.policies import plot_policies
from suite.report.scores import by_rank, exam_score
from suite.run.records import Comparison
from tests.report.fabricated import SIX, TWELVE, fabricate

PLOTS = [plot_certified_accuracy, plot_score_by_bops, plot_best_so_far, plot_policies]


def lines_of(figure: Figure, panel: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {
        str(line.get_label()): (np.asarray(line.get_xdata()), np.asarray(line.get_ydata()))
        for line in figure.axes[panel].lines
    }


def test_looks_depend_on_the_set_of_names_alone() -> None:
    looks = assign_looks(TWELVE)
    assert looks == assign_looks(reversed(TWELVE))
    assert len({look.color for look in looks.values()}) == len({look.marker for look in looks.values()}) == 12
    for name, other in itertools.combinations(assign_looks(f"searcher{index}" for index in range(24)).values(), 2):
        assert name != other


def test_certified_accuracy_shows_mean_curves_and_the_float_network(small: Comparison) -> None:
    figure = plot_certified_accuracy(small)
    lines = lines_of(figure)
    assert set(lines) == {*SIX, "float network"}
    radii, shares = lines["tpe"]
    outcomes = [entry.outcome for entry in small.entries if entry.run.searcher == "tpe"]
    assert shares == pytest.approx(np.mean([certified_curve(outcome, radii) for outcome in outcomes], axis=0))
    assert lines["float network"][1] == pytest.approx(certified_curve(small.reference, radii))
    assert figure.axes[1].get_xlabel() == "certified L2 radius r"
    assert figure.axes[0].get_ylabel() == "certified accuracy"
    assert "cheapest" not in lines_of(figure, 1)


def test_of_many_searchers_the_best_and_the_trivial_ones_can_be_told_apart(large: Comparison) -> None:
    objective = large.entries[0].run.objective
    means = {
        name: np.mean([exam_score(entry.outcome, objective) for entry in entries])
        for name, entries in by_rank(large).items()
    }
    assert list(means) == sorted(means, key=means.__getitem__, reverse=True)
    for plot in PLOTS[:2]:
        labels = [text.get_text() for text in plot(large).legends[0].texts]
        assert set(list(means)[:4]) <= set(labels)
        assert {"random", "uniform", "cheapest"} & set(means) <= set(labels)
        hidden = [name for name in means if name not in labels]
        assert f"{len(hidden)} others" in labels
    runs = {name: [entry.run for entry in entries] for name, entries in by_rank(large).items()}
    highest = max(runs, key=lambda name: best_band(runs[name]).mean[-1])
    assert highest == plot_best_so_far(large).legends[0].texts[0].get_text()


def test_scores_by_bops_mark_every_distinct_winner(small: Comparison) -> None:
    figure = plot_score_by_bops(small)
    for collection in figure.axes[0].collections:
        entries = [entry for entry in small.entries if entry.run.searcher == collection.get_label()]
        points = {(entry.outcome.metrics.bops / small.float_bops, entry.outcome.metrics.acr) for entry in entries}
        drawn = {(float(x), float(y)) for x, y in np.asarray(collection.get_offsets())}
        assert np.array(sorted(drawn)) == pytest.approx(np.array(sorted(points)))
    labels = list(lines_of(figure))
    assert f"float network: {small.reference.metrics.acr:.4f}" in labels
    assert any(label.startswith("budget w3a3: ") for label in labels)


def test_best_so_far_is_labelled_as_an_estimate_and_continues_methods_that_stopped(small: Comparison) -> None:
    figure = plot_best_so_far(small)
    assert "search estimate" in figure.axes[0].get_ylabel()
    assert "not an exam score" in figure.axes[0].get_ylabel()
    largest = max(entry.run.forward_passes for entry in small.entries)
    dotted = [line for line in figure.axes[0].lines if line.get_linestyle() == ":"]
    assert {float(np.asarray(line.get_xdata())[-1]) for line in dotted} == {largest}
    estimate = next(entry.run.score(entry.run.trials[0]) for entry in small.entries if entry.run.searcher == "uniform")
    assert any(np.asarray(line.get_ydata())[0] == pytest.approx(estimate, abs=0.01) for line in dotted)


def test_policies_write_bits_where_they_can_be_read(small: Comparison) -> None:
    figure = plot_policies(small)
    bits = [int(text.get_text()) for text in figure.axes[0].texts]
    ranked = [entry for entries in by_rank(small).values() for entry in entries]
    distinct = dict.fromkeys((entry.run.searcher, entry.outcome.policy) for entry in ranked)
    assert bits == [bit for _, policy in distinct if policy is not None for bit in policy.weights]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[-1] == "cheapest · 0, 1"
    assert {"random · 0", "random · 1", "uniform · 0, 1"} < set(labels)
    assert [label.get_text() for label in figure.axes[1].get_xticklabels()] == list(small.layer_names)


def test_policies_of_deep_networks_drop_numbers_and_names() -> None:
    figure = plot_policies(fabricate(("random", "uniform"), 2, layers=60, images=20, evaluations=2))
    assert not figure.axes[0].texts
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()][:3] == ["0", "5", "10"]


@pytest.mark.parametrize("plot", PLOTS[:3])
def test_legend_covers_no_data_and_nothing_leaves_the_page(
    large: Comparison, plot: Callable[[Comparison], Figure]
) -> None:
    figure = plot(large)
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    page = figure.bbox
    assert legend.x1 <= page.x1
    assert legend.y0 >= page.y0
    for axes in figure.axes:
        assert axes.get_window_extent().x1 <= legend.x0
        labels = [label.get_window_extent() for label in axes.get_xticklabels() if label.get_text()]
        inside = [box for box in labels if axes.bbox.x0 <= (box.x0 + box.x1) / 2 <= axes.bbox.x1]
        assert all(left.x1 < right.x0 for left, right in itertools.pairwise(inside))


def test_equal_input_gives_equal_bytes_whatever_the_user_has_set(small: Comparison) -> None:
    first = plot_score_by_bops(small)
    expected = to_png(first), to_svg(first)
    with mpl.rc_context({"font.size": 30, "svg.hashsalt": "other", "axes.facecolor": "red", "savefig.dpi": 10}):
        second = plot_score_by_bops(small)
        assert (to_png(second), to_svg(second)) == expected
        assert mpl.rcParams["font.size"] == 30
    assert b"dc:date" not in expected[1]


def test_images_have_200_dots_per_inch(small: Comparison, tmp_path: Path) -> None:
    figure = plot_score_by_bops(small)
    png, svg = save_figure(figure, tmp_path / "score.v1")
    assert [png.name, svg.name] == ["score.v1.png", "score.v1.svg"]
    height, width = imread(io.BytesIO(png.read_bytes())).shape[:2]
    assert (width, height) == tuple((figure.get_size_inches() * 200).astype(int))


def test_pyplot_is_left_alone(small: Comparison) -> None:
    to_png(plot_best_so_far(small))
    assert plt.get_fignums() == []
