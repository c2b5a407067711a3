"""Figures show the numbers they claim to, can be read, and come out the same every time."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread

from suite.report.comparison import Comparison
from suite.report.curves import best_band, certified_curve
from suite.report.exams import exam_score
from suite.report.figures import assign_looks, figure_of, render, wrap_name
from suite.report.plots import plot_best_so_far, plot_certified_accuracy, plot_score_by_bops
from suite.report.policies import plot_policies
from suite.report.write import write_files
from suite.run.records import Entry
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
    figure = figure_of(plot_certified_accuracy(small))
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
        for name, entries in large.by_rank().items()
    }
    assert list(means) == sorted(means, key=means.__getitem__, reverse=True)
    for plot in PLOTS[:2]:
        labels = [text.get_text() for text in figure_of(plot(large)).legends[0].texts]
        assert set(list(means)[:4]) <= set(labels)
        assert {"random", "uniform", "cheapest"} & set(means) <= set(labels)
        hidden = [name for name in means if name not in labels]
        assert f"{len(hidden)} others" in labels
    runs = {name: [entry.run for entry in entries] for name, entries in large.by_rank().items()}
    highest = max(runs, key=lambda name: best_band(runs[name]).mean[-1])
    assert highest == figure_of(plot_best_so_far(large)).legends[0].texts[0].get_text()


def test_curves_of_agents_can_be_told_apart(large: Comparison) -> None:
    def repeating(chosen: set[str]) -> Comparison:
        def changed(entry: Entry) -> Entry:
            repeat_of = 0 if entry.run.searcher in chosen else None
            trials = tuple(replace(trial, repeat_of=repeat_of) for trial in entry.run.trials)
            return replace(entry, run=replace(entry.run, trials=trials))

        return replace(large, entries=tuple(map(changed, large.entries)))

    def told(comparison: Comparison) -> set[str]:
        return {text.get_text() for text in figure_of(plot_best_so_far(comparison)).legends[0].texts}

    hidden = set(TWELVE) - told(repeating(set()))
    assert len(hidden) > 3
    assert all(name in told(repeating({name})) for name in hidden)


def test_scores_by_bops_mark_every_distinct_winner(small: Comparison) -> None:
    figure = figure_of(plot_score_by_bops(small))
    for collection in figure.axes[0].collections:
        entries = [entry for entry in small.entries if entry.run.searcher == collection.get_label()]
        points = {(entry.outcome.metrics.bops / small.float_bops, entry.outcome.metrics.acr) for entry in entries}
        drawn = {(float(x), float(y)) for x, y in np.asarray(collection.get_offsets())}
        assert np.array(sorted(drawn)) == pytest.approx(np.array(sorted(points)))
    labels = list(lines_of(figure))
    assert f"float network: {small.reference.metrics.acr:.4f}" in labels
    assert any(label.startswith("budget w3a3: ") for label in labels)


def test_best_so_far_is_labelled_as_an_estimate_and_continues_methods_that_stopped(small: Comparison) -> None:
    figure = figure_of(plot_best_so_far(small))
    assert "search estimate" in figure.axes[0].get_ylabel()
    assert "not an exam score" in figure.axes[0].get_ylabel()
    largest = max(entry.run.forward_passes for entry in small.entries)
    dotted = [line for line in figure.axes[0].lines if line.get_linestyle() == ":"]
    assert {float(np.asarray(line.get_xdata())[-1]) for line in dotted} == {largest}
    estimate = next(entry.run.score(entry.run.trials[0]) for entry in small.entries if entry.run.searcher == "uniform")
    assert any(np.asarray(line.get_ydata())[0] == pytest.approx(estimate, abs=0.01) for line in dotted)


def test_policies_write_bits_where_they_can_be_read(small: Comparison) -> None:
    figure = figure_of(plot_policies(small))
    bits = [int(text.get_text()) for text in figure.axes[0].texts]
    ranked = [entry for entries in small.by_rank().values() for entry in entries]
    distinct = dict.fromkeys((entry.run.searcher, entry.outcome.policy) for entry in ranked)
    assert bits == [bit for _, policy in distinct if policy is not None for bit in policy.weights]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[-1] == "cheapest · 0, 1"
    assert {"random · 0", "random · 1", "uniform · 0, 1"} < set(labels)
    assert [label.get_text() for label in figure.axes[1].get_xticklabels()] == list(small.layer_names)


def test_policies_of_deep_networks_drop_numbers_and_names() -> None:
    figure = figure_of(plot_policies(fabricate(("random", "uniform"), 2, layers=60, images=20, evaluations=2)))
    assert not figure.axes[0].texts
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()][:3] == ["0", "5", "10"]


@pytest.mark.parametrize("plot", PLOTS[:3])
def test_legend_covers_no_data_and_nothing_leaves_the_page(
    large: Comparison, plot: Callable[[Comparison], Axes]
) -> None:
    figure = figure_of(plot(large))
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
    expected = render(plot_score_by_bops(small))
    with mpl.rc_context({"font.size": 30, "svg.hashsalt": "other", "axes.facecolor": "red", "savefig.dpi": 10}):
        assert render(plot_score_by_bops(small)) == expected
        assert mpl.rcParams["font.size"] == 30
    assert b"dc:date" not in expected["svg"]


def test_images_have_200_dots_per_inch(small: Comparison, tmp_path: Path) -> None:
    axes = plot_score_by_bops(small)
    png, svg = write_files(tmp_path, ("score.v1", axes))
    assert [png.name, svg.name] == ["score.v1.png", "score.v1.svg"]
    height, width = imread(io.BytesIO(png.read_bytes())).shape[:2]
    assert (width, height) == tuple((figure_of(axes).get_size_inches() * 200).astype(int))


def test_pyplot_is_left_alone(small: Comparison) -> None:
    render(plot_best_so_far(small))
    assert plt.get_fignums() == []


@pytest.mark.parametrize("plot", PLOTS)
def test_on_axes_of_the_caller_the_first_panel_is_drawn_alone(small: Comparison, plot: Callable[..., Axes]) -> None:
    own = plot(small)
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert plot(small, right) is right
    assert not left.has_data()
    assert not figure.legends
    assert right.get_title(loc="left") or plot is plot_policies
    assert (right.get_xlabel() or "layer", right.get_ylabel()) == (
        own.get_xlabel() or figure_of(own).axes[1].get_xlabel(),
        own.get_ylabel(),
    )
    drawn = [np.asarray(line.get_ydata()) for line in right.lines]
    assert len(drawn) == len(own.lines)
    for ours, theirs in zip(drawn, own.lines, strict=True):
        np.testing.assert_array_equal(ours, np.asarray(theirs.get_ydata()))


def test_activations_can_be_drawn_alone(small: Comparison) -> None:
    axes = plot_policies(small, Figure().subplots(), part="activations")
    assert axes.get_title(loc="left") == "activations"
    assert [text.get_text() for text in axes.texts] == [
        text.get_text() for text in figure_of(plot_policies(small)).axes[1].texts
    ]


def test_long_names_are_wrapped_and_long_paths_cut() -> None:
    assert wrap_name("sensitivity-ilp") == "sensitivity-ilp"
    assert wrap_name("sensitivity-ilp:refine=true") == "sensitivity-ilp\n  refine=true"
    first, option = wrap_name("inherited:file=runs/cifar10-resnet20.safetensors").split("\n  ")
    assert (first, len(option)) == ("inherited", 24)
    assert option.startswith("file=…")
    assert option.endswith(".safetensors")
