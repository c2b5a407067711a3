"""The figure of the winners' policies: bits by layer, one row per winner."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap

from suite.contract.per_mac import MAX_BITS
from suite.contract.space import DEFAULT_CHOICES
from suite.report.comparison import Comparison, check_comparison
from suite.report.figures import MOST_NAMED_LAYERS, Sheet, figure_style, name_layers, wrap_name
from suite.report.plots import describe
from suite.run.records import Entry

Part = Literal["weights", "activations"]
_MOST_NUMBERED_CELLS = 2_400
_LONGEST_ROW_NAME = 32
_MOST_ROOMY_ROWS = 45
_MOST_NAMED_ROWS = 150


@figure_style()
def plot_policies(comparison: Comparison, ax: Axes | None = None, part: Part = "weights") -> Axes:
    """Bits of every winner by layer, weights on the left and activations on the right.

    Seeds of a searcher that ended with the same policy share a row. Bits are written into the cells, and layers named,
    where there are few enough to be read. ``ax`` takes the panel of ``part`` alone; see :func:`.plots.plot_certified_accuracy`
    for arguments, result and errors.
    """
    check_comparison(comparison)
    groups = {searcher: _distinct(entries) for searcher, entries in comparison.by_rank().items()}
    rows = [(f"{_shorten(searcher)} · {seeds}", entry) for searcher, group in groups.items() for seeds, entry in group]
    edges = np.cumsum([0, *map(len, groups.values())])
    layers = len(comparison.layer_names)
    numbered = 2 * layers * len(rows) <= _MOST_NUMBERED_CELLS and layers <= MOST_NAMED_LAYERS
    drawn = [bits for _, entry in rows for name in get_args(Part) for bits in getattr(entry.outcome.policy, name)]
    least = min(DEFAULT_CHOICES[0], *drawn)
    colors = ListedColormap(sns.color_palette("viridis", MAX_BITS - least + 1))
    width = 0.19 if numbered else max(0.08, 4.5 / layers)
    height = 0.13 if not numbered and len(rows) > _MOST_ROOMY_ROWS else 0.19
    names_inches = 0.075 * max(map(len, comparison.layer_names)) if layers <= MOST_NAMED_LAYERS else 0.3
    size = (max(6.4, 2 * layers * width + 2.6), height * len(rows) + names_inches + 1.3)
    sheet = Sheet.on(ax, size, 1, 2, sharey=True)
    for axes, shown in zip(sheet.panels, (part,) if sheet.given else get_args(Part), strict=True):
        sns.heatmap(
            np.array([getattr(entry.outcome.policy, shown) for _, entry in rows]),
            ax=axes,
            cmap=colors,
            vmin=least - 0.5,
            vmax=MAX_BITS + 0.5,
            annot=numbered,
            fmt="d",
            annot_kws={"size": 6.5},
            cbar=False,
            xticklabels=False,
            yticklabels=False,
        )
        for text in axes.texts:
            text.set_in_layout(False)  # hundreds of numbers inside their cells need not be measured
        axes.set_title(shown)
        name_layers(axes, comparison.layer_names, np.arange(layers) + 0.5)
        for edge in edges[1:-1]:
            axes.axhline(edge, color="white", linewidth=1.8)
    if not sheet.given:
        sheet.title(describe(comparison))
        sheet.panels[1].tick_params(left=False)
    first = sheet.panels[0]
    if len(rows) <= _MOST_NAMED_ROWS:
        first.set_yticks(np.arange(len(rows)) + 0.5, [name for name, _ in rows], rotation=0)
        first.set_ylabel("searcher · seed")
        if len(rows) > _MOST_ROOMY_ROWS:
            first.tick_params(axis="y", labelsize=6)
    else:
        first.set_yticks((edges[:-1] + edges[1:]) / 2, list(map(wrap_name, groups)), rotation=0)
        first.set_ylabel("searcher, one row per policy")
    bounds = np.arange(least - 0.5, MAX_BITS + 1)
    scale = ScalarMappable(BoundaryNorm(bounds, colors.N), colors)
    bar = sheet.figure.colorbar(
        scale,
        ax=list(sheet.panels),
        ticks=range(least, MAX_BITS + 1),
        label="bits",
        pad=0.01,
        aspect=14,
        shrink=min(1.0, 2.5 / size[1]),
        anchor=(0, 1),
    )
    bar.ax.minorticks_off()
    return first


def _distinct(entries: list[Entry]) -> list[tuple[str, Entry]]:
    """The first entry of each policy of a searcher, with the seeds that found it."""
    alike: dict[object, list[Entry]] = {}
    for entry in entries:
        alike.setdefault(entry.outcome.policy, []).append(entry)
    return [(_name_seeds(sorted(entry.run.seed for entry in group)), group[0]) for group in alike.values()]


def _name_seeds(seeds: list[int]) -> str:
    if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]}..{seeds[-1]}"
    return ", ".join(map(str, seeds))


def _shorten(name: str) -> str:
    return name if len(name) <= _LONGEST_ROW_NAME else f"{name[: _LONGEST_ROW_NAME - 1]}…"
