"""Figures of a comparison: certified accuracy by radius, exam score by BOPs, fronts, best search estimate by spend."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

from suite.errors import BitcertError
from suite.report.comparison import CHEAPEST, Comparison, check_comparison, without_cheapest
from suite.report.curves import Band, best_band, certified_band, certified_curve
from suite.report.exams import exam_score, norm_text
from suite.report.figures import Look, Sheet, assign_looks, describe_problem, figure_style, wrap_name
from suite.report.ranking import TRIVIAL

_SIZE = (6.8, 3.6)
_RADII = 400
_MARKS = 8
_MOST_TOLD = 9
_BEST = 4
_LIMIT: dict[str, Any] = {"color": "0.35", "linestyle": ":"}
OTHER = Look(color=(0.72, 0.72, 0.72), marker="o", dashes="-")
"""How searchers are drawn where there are too many to tell apart."""


@figure_style()
def plot_certified_accuracy(comparison: Comparison, ax: Axes | None = None) -> Axes:
    """Certified accuracy against radius, and beneath it the difference to the float network, enlarged.

    One curve per searcher: the mean over seeds of the step curve over exam images; see :class:`.curves.Band` for the band.
    The lower panel leaves out the cheapest policy where the others could not be told apart next to it.

    Args:
        comparison: What to show.
        ax: Where to draw the upper panel, alone; a figure of its own with both panels if None.

    Returns:
        The axes of the upper panel.

    Raises:
        BitcertError: If the comparison does not compare like with like.
    """
    check_comparison(comparison)
    searchers = comparison.by_rank()
    looks = choose_looks(searchers)
    largest = max(float(np.max(outcome.scores)) for outcome in comparison.outcomes)
    radii = np.linspace(0.0, largest * 1.02 if largest > 0 else 1.0, _RADII)
    reference = np.mean([certified_curve(outcome, radii) for outcome in comparison.references], axis=0)
    sheet = Sheet.on(ax, figure_size(looks, height=5.2), 2, 1, sharex=True, height_ratios=(3, 2))
    bands = {searcher: certified_band(entries, radii) for searcher, entries in searchers.items()}
    enlarged = without_cheapest(searchers) if _stretches(bands) else searchers
    upper = sheet.panels[0]
    upper.plot(radii, reference, color="black", linestyle="--", label="float network", zorder=4)
    for place, (searcher, band) in enumerate(bands.items()):
        less = Band(radii, band.mean - reference, band.least - reference, band.most - reference)
        marks = [point for point in _spread_marks(place, len(searchers)) if band.mean[point] > 0]
        draw_band(upper, band, searcher, looks, marks)
        for lower in sheet.panels[1:] if searcher in enlarged else ():
            draw_band(lower, less, searcher, looks, marks)
    upper.set(ylabel="certified accuracy", ylim=(0, None), xlim=(0, radii[-1]))
    for lower in sheet.panels[1:]:
        lower.axhline(0.0, color="black", linestyle="--")
        lower.set_ylabel("difference to float")
        lower.set_title("enlarged, without cheapest" if len(enlarged) < len(searchers) else "")
    sheet.panels[-1].set_xlabel(f"certified {norm_text(comparison.reference.metrics.norm)} radius r")
    count_others(upper, looks)
    sheet.title(_title(comparison))
    sheet.legend()
    return upper


@figure_style()
def plot_score_by_bops(comparison: Comparison, ax: Axes | None = None) -> Axes:
    """Exam score against BOPs: one marker per winner, the float network's score and the budget as lines.

    A second panel enlarges all winners but the cheapest policy, which stretches both axes. ``ax`` takes the first panel,
    alone; arguments, result and errors are those of :func:`plot_certified_accuracy`.
    """
    check_comparison(comparison)
    searchers, objective = comparison.by_rank(), comparison.objective
    looks = choose_looks(searchers)
    enlarged = without_cheapest(searchers)
    two = len(enlarged) < len(searchers)
    sheet = Sheet.on(ax, figure_size(looks, width=8.4 if two else _SIZE[0]), 1, 1 + two)
    first = sheet.panels[0]
    reference = float(np.mean([exam_score(outcome, objective) for outcome in comparison.references]))
    budget = comparison.recorded("budget")
    for axes, shown in zip(sheet.panels, (searchers, enlarged), strict=False):
        for searcher, entries in shown.items():
            points = [(entry.outcome.metrics.bops, exam_score(entry.outcome, objective)) for entry in entries]
            _draw_points(
                axes, [(bops / comparison.float_bops, score) for bops, score in points], searcher, looks[searcher]
            )
        if comparison.budget_bops is not None:
            share = comparison.budget_bops / comparison.float_bops
            limit = f"budget{'' if budget is None else f' {budget}'}: {100 * share:.3g} %"
            axes.axvline(share, **_LIMIT, label=limit)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
        axes.xaxis.set_major_formatter(PercentFormatter(xmax=1.0, symbol=""))
        axes.set_xlabel("BOPs, % of the float network")
        axes.margins(0.06)
    first.axhline(reference, color="black", linestyle="--", label=f"float network: {reference:.4f}")
    first.set(ylabel=f"exam {objective.label}", title="all winners" if len(sheet.panels) > 1 else "")
    for second in sheet.panels[1:]:
        second.set_title("enlarged, without cheapest")
    count_others(first, looks, linestyle="", marker=OTHER.marker)
    sheet.title(_title(comparison))
    sheet.legend()
    return first


@figure_style()
def plot_front(comparison: Comparison, ax: Axes | None = None) -> Axes:
    """Search estimate against each cost: one panel per cost to minimize, one marker per policy on a front of a searcher's runs.

    With several costs a policy that another one beats within a panel is on the front by the cost of another panel. Estimates are
    no exam scores. ``ax`` takes the first panel, alone; arguments, result and errors are those of :func:`plot_certified_accuracy`.

    Raises:
        BitcertError: Also if the objective has no costs to minimize.
    """
    check_comparison(comparison)
    costs, objective = comparison.objective.costs, comparison.objective
    if not costs:
        raise BitcertError(f"the objective {objective.text} has no costs to minimize, so there is no front to draw")
    searchers = comparison.by_rank()
    looks = choose_looks(searchers)
    sheet = Sheet.on(ax, figure_size(looks, width=_SIZE[0] + 3.0 * (len(costs) - 1)), 1, len(costs), sharey=True)
    for axes, cost in zip(sheet.panels, costs, strict=False):
        for searcher, entries in searchers.items():
            fronts = [(entry.run.score(trial), trial.metrics) for entry in entries for trial in entry.run.front]
            points = [(metrics.cost(cost.name), score) for score, metrics in fronts if metrics is not None]
            _draw_points(axes, points, searcher, looks[searcher])
        if (limit := comparison.limits.get(cost.name)) is not None:
            axes.axvline(limit, **_LIMIT)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_xlabel(cost.unit)
        axes.margins(0.06)
    first = sheet.panels[0]
    if any(cost.name in comparison.limits for cost in costs):
        first.plot([], [], **_LIMIT, label="budget")
    first.set_ylabel(f"{objective.label}\nsearch estimate (not an exam score)")
    count_others(first, looks, linestyle="", marker=OTHER.marker)
    sheet.title(describe(comparison))
    sheet.legend()
    return first


@figure_style()
def plot_best_so_far(comparison: Comparison, ax: Axes | None = None) -> Axes:
    """Best search estimate against forward passes: what searches saw, not what the exam found.

    One step curve per searcher, averaged over seeds, with its band (:class:`.curves.Band`), the highest at the end first. Of many
    searchers the best, random search and those with repeats (agents) are told apart. A dotted line carries the last value of a
    method that stopped on to the largest spend. Arguments, result and errors are those of :func:`plot_certified_accuracy`.
    """
    rows, searchers = comparison.rows, comparison.by_rank()
    found = {name: best_band([entry.run for entry in entries]) for name, entries in searchers.items()}
    bands = dict(sorted(found.items(), key=lambda item: -float(item[1].mean[-1])))
    looks = choose_looks(bands, {"random", *rows[rows["repeats"].fillna(0) > 0]["searcher"]})
    sheet = Sheet.on(ax, figure_size(looks))
    axes = sheet.panels[0]
    largest = max(float(band.x[-1]) for band in bands.values())
    for place, (searcher, band) in enumerate(bands.items()):
        step = max(1, len(band.x) // _MARKS)
        draw_band(axes, band, searcher, looks, (place % step, step), side="post")
        if band.x[-1] < largest:
            axes.plot([band.x[-1], largest], [band.mean[-1]] * 2, color=looks[searcher].color, linestyle=":")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel("forward passes of the search")
    axes.set_ylabel(f"{comparison.objective.label}\nbest search estimate (not an exam score)")
    axes.set_xlim(0, largest * 1.02)
    count_others(axes, looks)
    sheet.title(describe(comparison))
    sheet.legend()
    return axes


def describe(comparison: Comparison) -> str:
    """Say which problem a figure is about."""
    return describe_problem({name: comparison.recorded(name) for name in ("problem", "budget", "sigma")})


def _title(comparison: Comparison) -> str:
    """The same, and on how many exam images."""
    post_step = comparison.entries[0].outcome.post_step
    tuned = "" if post_step == "none" else f" after {post_step}"
    return ", ".join(filter(None, [describe(comparison), f"{len(comparison.reference.labels)} exam images{tuned}"]))


def figure_size(looks: Mapping[str, Look], width: float = _SIZE[0], height: float = _SIZE[1]) -> tuple[float, float]:
    """Inches for a figure that is at least as high as its legend."""
    labels = 3 + sum(1 + wrap_name(name).count("\n") for name, look in looks.items() if look is not OTHER)
    return width, max(height, 0.2 * labels + 0.4)


def choose_looks(searchers: Iterable[str], also: Container[str] = TRIVIAL) -> dict[str, Look]:
    """A look for each of a few searchers; of many, for the best and some more, the others alike."""
    names = list(searchers)
    told = names if len(names) <= _MOST_TOLD else [*names[:_BEST], *(name for name in names[_BEST:] if name in also)]
    looks = assign_looks(told)
    return {name: looks.get(name, OTHER) for name in names}


def _line(searcher: str, look: Look) -> dict[str, Any]:
    """How the curve of a searcher is drawn; that of one among the others has no entry in the legend."""
    if look is OTHER:
        return {"label": f"_{searcher}", "color": look.color, "linewidth": 0.8, "zorder": 1.5}
    return {"label": searcher, "color": look.color, "linestyle": look.dashes, "marker": look.marker}


def count_others(axes: Axes, looks: Mapping[str, Look], **shown: Any) -> None:
    """Say in the legend how many searchers look alike."""
    if others := sum(look is OTHER for look in looks.values()):
        axes.plot([], [], **{**_line("", OTHER), "label": f"{others} others", **shown})


def _stretches(bands: Mapping[str, Band]) -> bool:
    """Whether the cheapest policy lies farther from the others than they from each other."""
    means = {name: float(band.mean.mean()) for name, band in bands.items()}
    cheapest, others = means.pop(CHEAPEST, None), means.values()
    return cheapest is not None and bool(others) and min(others) - cheapest > max(others) - min(others)


def _draw_points(axes: Axes, points: Iterable[tuple[float, float]], searcher: str, look: Look) -> None:
    """Draw a marker for each different point; equal ones would add up to an opaque marker."""
    x, y = zip(*dict.fromkeys(points), strict=True)
    axes.scatter(
        x,
        y,
        facecolors=[(*look.color, 0.25)],
        edgecolors=[look.color],
        marker=look.marker,
        linewidths=1.2,
        label=f"_{searcher}" if look is OTHER else searcher,
        s=16 if look is OTHER else 34,
        zorder=2 if look is OTHER else 3,
    )


def draw_band(
    axes: Axes, band: Band, searcher: str, looks: Mapping[str, Look], marks: Any, side: Literal["pre", "post"] = "pre"
) -> None:
    """Draw a step curve and its band, the lighter the more of them there are; steps go up at their end or at their start."""
    look, shade = looks[searcher], min(0.15, 1.0 / len(looks))
    if look is not OTHER:
        axes.fill_between(band.x, band.least, band.most, step=side, color=look.color, alpha=shade, linewidth=0)
    axes.plot(band.x, band.mean, drawstyle=f"steps-{side}", markevery=marks, **_line(searcher, look))


def _spread_marks(place: int, count: int) -> list[int]:
    """Points at which the curve at ``place`` of ``count`` bears its marker, so that equal curves show all of theirs."""
    step = _RADII // _MARKS
    return list(range(place * step // count, _RADII, step))
