"""Figures of searches on problems whose optimum is known: regret, profiles, times to a target, ranks, attained trade-offs.

Each shows what :mod:`.anytime`, :mod:`.aggregates`, :mod:`.ranks` or :mod:`.fronts` computed, by the names of searchers, in the
order in which they are given. All take ``ax``, None for a figure of its own, and return the axes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, MultipleLocator, PercentFormatter
from numpy.typing import NDArray

from suite.errors import BitcertError
from suite.report.curves import Band, Clock
from suite.report.figures import Sheet, figure_style, short_name
from suite.report.fronts import QUARTILES
from suite.report.plots import choose_looks, count_others, draw_band, figure_size
from suite.report.ranks import Friedman, alike_groups

_MARKS, _ALL_TICKS = 8, 15
_SPENDS: Mapping[Clock, str] = {
    "evaluations": "evaluations",
    "forward_passes": "forward passes",
    "seconds": "seconds",
}


@figure_style()
def plot_regret(
    bands: Mapping[str, Band], by: Clock = "evaluations", *, logarithmic: bool = True, ax: Axes | None = None
) -> Axes:
    """Simple regret of the incumbent against spend: one step curve per searcher with its band.

    On a logarithmic scale a curve that reaches zero, or a band that does, leaves the figure at the bottom.

    Args:
        bands: Regret by spend of each searcher, such as :meth:`.curves.Band.over` of :func:`.anytime.sample_truths`.
        by: What was spent.
        logarithmic: Whether regret is.
        ax: Where to draw.

    Raises:
        BitcertError: Without searchers.
    """
    axes = _draw_curves(bands, ax)
    _show_spend(axes, by)
    axes.set_ylabel("simple regret of the incumbent (true score)")
    if logarithmic:
        means = np.concatenate([band.mean for band in bands.values()])
        axes.set_yscale("log", nonpositive="clip")
        axes.set_ylim(bottom=float(np.min(means[means > 0], initial=1.0)) / 2)
    else:
        axes.set_ylim(0, None)
    return axes


@figure_style()
def plot_profiles(profiles: Mapping[str, Band], ax: Axes | None = None) -> Axes:
    """Performance profiles: share of runs above each normalized score, see :func:`.aggregates.performance_profile`.

    Raises:
        BitcertError: Without searchers.
    """
    axes = _draw_curves(profiles, ax)
    axes.set_xlabel("normalized score (0: reference, 1: optimum)")
    axes.set_ylabel("runs with a higher score")
    _show_shares(axes)
    axes.margins(x=0)
    return axes


@figure_style()
def plot_times_to_target(
    distributions: Mapping[str, Band], target: str, by: Clock = "evaluations", ax: Axes | None = None
) -> Axes:
    """Share of searches that have reached a target against spend, see :meth:`.anytime.HittingTimes.distribution`.

    Args:
        distributions: Of each searcher.
        target: The target in words, such as ``"99 % of the optimum"``.
        by: What was spent.
        ax: Where to draw.

    Raises:
        BitcertError: Without searchers.
    """
    axes = _draw_curves(distributions, ax)
    _show_spend(axes, by)
    axes.set_ylabel(f"searches that reached {target}")
    _show_shares(axes)
    return axes


@figure_style()
def plot_attainment(
    surfaces: Mapping[str, Mapping[float, NDArray[np.float64]]],
    score: str = "certified accuracy",
    ax: Axes | None = None,
) -> Axes:
    """Trade-offs that a quarter, half and three quarters of the searches attain, see :func:`.fronts.attainment_surfaces`.

    The curve is what half of them attain; the band lies between what three quarters and what a quarter do.

    Args:
        surfaces: Those quartiles of each searcher.
        score: The score in words.
        ax: Where to draw.

    Raises:
        BitcertError: If no search found anything, or a searcher lacks a quartile.
    """
    for searcher, found in surfaces.items():
        if missing := set(QUARTILES) - set(found):
            raise BitcertError(
                f"the surface of {searcher} for the share {min(missing):g} is missing; compute all quartiles"
            )
    ends = [float(corners[:, 1].max()) for found in surfaces.values() for corners in found.values() if len(corners)]
    if not ends:
        raise BitcertError("no search found anything, so there is no trade-off to draw")
    axes = _draw_curves({searcher: _quartiles(found, max(ends)) for searcher, found in surfaces.items()}, ax)
    axes.set_xlabel("BOPs")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_ylabel(f"{score}\nattained by half (band: 3/4 to 1/4)")
    return axes


@figure_style()
def plot_critical_difference(found: Friedman, ax: Axes | None = None) -> Axes:
    """Mean ranks on a line, the best at the left; a bar joins searchers that are not told apart.

    The bar at the top is as long as Nemenyi's critical difference. Searchers are named beside the line, so colours say nothing.

    References:
        Demsar, J. Mach. Learn. Res. 7 (2006), figure 1.
    """
    ranks, limit = found.mean_ranks, found.critical_difference
    count, groups = len(ranks), alike_groups(found.mean_ranks, found.critical_difference)
    rows, first = math.ceil(count / 2), 0.45 + 0.22 * len(groups)
    depth = first + 0.5 * rows
    names = {searcher: short_name(str(searcher)) for searcher in ranks}
    sheet = Sheet.on(ax, (4.8 + 0.14 * max(map(len, names.values())), 0.9 + 0.42 * depth))
    axes = sheet.panels[0]
    axes.set(xlim=(1 - 0.3 * count, count + 0.3 * count), ylim=(depth, -1.3))
    axes.axis("off")
    black: dict[str, Any] = {"color": "black", "solid_capstyle": "butt", "clip_on": False}
    axes.plot([1, count], [0, 0], linewidth=1.0, **black)
    apart = 1 if count <= _ALL_TICKS else 5
    for tick in range(1, count + 1):
        axes.plot([tick, tick], [0, -0.12], linewidth=1.0, **black)
        if tick in (1, count) or tick % apart == 0:
            axes.text(tick, -0.2, str(tick), ha="center", va="bottom", fontsize=8)
    axes.plot([1, 1 + limit], [-0.85, -0.85], linewidth=1.0, marker="|", **black)
    axes.text(1 + limit, -0.85, f"  critical difference {limit:.2f} ({found.blocks} blocks)", va="center", fontsize=8)
    for place, group in enumerate(groups):
        ends = [ranks[group[0]] - 0.04, ranks[group[-1]] + 0.04]
        axes.plot(ends, [0.25 + 0.22 * place] * 2, linewidth=3.0, **black)
    for place, (searcher, rank) in enumerate(ranks.items()):
        left = place < rows
        y = first + 0.5 * (place if left else count - 1 - place)
        edge = 1 - 0.06 * count if left else count + 0.06 * count
        axes.plot([rank, rank, edge], [0, y, y], linewidth=0.7, color="0.35")
        label = f"{names[searcher]}  {rank:.2f} " if left else f" {rank:.2f}  {names[searcher]}"
        axes.text(edge, y, label, ha="right" if left else "left", va="center", fontsize=8)
    return axes


def _draw_curves(bands: Mapping[str, Band], ax: Axes | None) -> Axes:
    """Draw step curves that hold their value until the next point, with bands and a legend.

    A dotted line carries the last value of a shorter curve on to the end of the longest.
    """
    if not bands:
        raise BitcertError("there is no searcher to draw")
    looks = choose_looks(bands)
    sheet = Sheet.on(ax, figure_size(looks))
    axes = sheet.panels[0]
    largest = max(float(band.x[-1]) for band in bands.values())
    for place, (searcher, band) in enumerate(bands.items()):
        step = max(1, len(band.x) // _MARKS)
        draw_band(axes, band, searcher, looks, (place * step // len(bands), step), side="post")
        if band.x[-1] < largest:
            axes.plot([band.x[-1], largest], [band.mean[-1]] * 2, color=looks[searcher].color, linestyle=":")
    count_others(axes, looks)
    sheet.legend()
    return axes


def _show_spend(axes: Axes, by: Clock) -> None:
    axes.set_xlabel(f"{_SPENDS[by]} of the search")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlim(left=0)


def _show_shares(axes: Axes) -> None:
    axes.set_ylim(-0.02, 1.02)
    axes.yaxis.set_major_locator(MultipleLocator(0.25))
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1.0, symbol=" %"))


def _quartiles(surfaces: Mapping[float, NDArray[np.float64]], end: float) -> Band:
    """The surfaces as steps over BOPs, up to the largest shown; NaN where a surface has not begun."""
    places = [corners[:, 1] for corners in surfaces.values()]
    x = np.unique(np.concatenate([*places, [end]]))
    few, half, most = (
        np.concatenate([[np.nan], corners[:, 0]])[np.searchsorted(corners[:, 1], x, side="right")]
        for corners in (surfaces[share] for share in QUARTILES)
    )
    return Band(x, half, most, few)
