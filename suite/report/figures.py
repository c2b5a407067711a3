"""How figures look and how they are rendered: one style, one look per searcher, equal bytes for equal input."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import matplotlib.style
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

DOTS_PER_INCH = 200
MOST_NAMED_LAYERS = 30
_SALT = "bitcert"
_LONGEST_TITLE = 70  # a longer one runs into the legend
_LONGEST_NAME = 24
_LONGEST_OPTION = 16
_LEFT_OUT = (6, 7, 8)  # of seaborn's palette: pink and yellow are lost on white paper, grey is for those not told apart
_DARK = ("#332288", "#882255", "#117733", "#999933", "#661100")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "*", ">", "p", "d", "h")
_DASHES: tuple[Any, ...] = ("-", (0, (6, 1.5)), (0, (3, 1, 1, 1)), (0, (6, 1, 1, 1, 1, 1)), (0, (2, 1)))

_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    **dict.fromkeys(("font.size", "axes.labelsize", "axes.titlesize", "figure.titlesize"), 9),
    **dict.fromkeys(("legend.fontsize", "xtick.labelsize", "ytick.labelsize"), 8),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    "axes.titlelocation": "left",
    "axes.grid": True,
    "grid.color": "0.92",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
    "svg.fonttype": "path",
    "svg.hashsalt": _SALT,
}


@dataclass(frozen=True, slots=True)
class Look:
    """How one searcher is drawn in every figure.

    Attributes:
        color: Red, green, blue, each 0..1.
        marker: A matplotlib marker; no two of up to 13 searchers share one, so that figures can be read in grey.
        dashes: A matplotlib line style.
    """

    color: tuple[float, float, float]
    marker: str
    dashes: Any


def assign_looks(searchers: Iterable[str]) -> dict[str, Look]:
    """Give every searcher a look that depends on nothing but the set of names.

    Twelve colours that the colour-blind can tell apart: seaborn's palette without two pale ones and grey, and five dark ones
    of Paul Tol's.
    """
    bright = [color for index, color in enumerate(sns.color_palette("colorblind", 10)) if index not in _LEFT_OUT]
    looks = map(Look, cycle([*bright, *map(to_rgb, _DARK)]), cycle(_MARKERS), cycle(_DASHES))
    return dict(zip(sorted(set(searchers)), looks, strict=False))


@contextmanager
def figure_style() -> Iterator[None]:
    """Draw with the suite's style, whatever the user's matplotlib settings are, and restore these afterwards."""
    with matplotlib.style.context(["default", {**sns.axes_style("ticks"), **sns.plotting_context("paper"), **_STYLE}]):
        yield


@dataclass(frozen=True, slots=True, eq=False)
class Sheet:
    """Where a figure is drawn: all its panels on a figure of its own, or one of them on axes that the caller gave.

    Functions that plot take ``ax``, None for a figure of its own, and return the axes of the first panel.

    Attributes:
        panels: The axes to draw on, row by row; those given, if any, are the only ones.
        given: Whether the caller gave the axes; title and legend then go onto them.
    """

    panels: tuple[Axes, ...]
    given: bool

    @classmethod
    def on(cls, axes: Axes | None, size: tuple[float, float], rows: int = 1, columns: int = 1, **options: Any) -> Sheet:
        """Take ``axes``, or make a figure of that size in inches; options are those of :meth:`Figure.subplots`."""
        if axes is not None:
            return cls((axes,), given=True)
        figure = Figure(figsize=size, layout="constrained")
        return cls(tuple(figure.subplots(rows, columns, squeeze=False, **options).flat), given=False)

    @property
    def figure(self) -> Figure:
        """The figure that holds the panels."""
        return figure_of(self.panels[0])

    def title(self, text: str) -> None:
        """Put a title above all panels."""
        if self.given:
            self.panels[0].set_title(text)
        else:
            self.figure.suptitle(textwrap.fill(text, _LONGEST_TITLE), x=0.01, ha="left")

    def legend(self, location: str = "outside right upper", columns: int = 1) -> None:
        """Put the legend of the first panel beside all panels, where it covers no data."""
        handles, labels = self.panels[0].get_legend_handles_labels()
        owner: Any = self.panels[0] if self.given else self.figure
        place = {"loc": "best"} if self.given else {"loc": location, "ncols": columns}
        owner.legend(handles, [wrap_name(label) for label in labels], handlelength=3.2, **place)


def describe_problem(known: Mapping[str, Any], sigma: str = "$\\sigma$") -> str:
    """Say what a figure or table is about: the problem, budget and sigma that are known; ``sigma`` is how that is written."""
    budget, noise = known["budget"], known["sigma"]
    named = None if budget is None else f"budget {budget}"
    smoothed = None if noise is None else f"{sigma} = {noise:g}"
    return ", ".join(str(part) for part in (known["problem"], named, smoothed) if part is not None)


def figure_of(axes: Axes) -> Figure:
    """The figure that holds ``axes``."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    return figure


def name_layers(axes: Axes, names: Sequence[str], places: NDArray[Any]) -> None:
    """Name the layers along the x-axis, or number every fifth where there are too many names to be read."""
    if len(names) <= MOST_NAMED_LAYERS:
        axes.set_xticks(places, names, rotation=90)
        axes.set_xlabel("layer")
    else:
        axes.set_xticks(places[::5], [str(place) for place in range(0, len(names), 5)], rotation=0)
        axes.set_xlabel("layer, counted from 0")


def wrap_name(name: str) -> str:
    """Put the options of a searcher with a long name on lines of their own; of a path that is too long, the end remains."""
    if len(name) <= _LONGEST_NAME:
        return name
    first, *options = name.split(":")
    return "\n  ".join([first, *map(_shorten, options)])


def short_name(name: str) -> str:
    """A long name of a searcher on one line: of the values of its options the ends remain."""
    if len(name) <= _LONGEST_NAME:
        return name
    first, *options = name.split(":")
    return ":".join([first, *(_shorten(option, _LONGEST_OPTION) for option in options)])


def _shorten(option: str, longest: int = _LONGEST_NAME) -> str:
    key, separator, value = option.partition("=")
    room = max(1, longest - len(key) - len(separator) - 1)
    return option if len(option) <= longest else f"{key}{separator}…{value[-room:]}"


@figure_style()
def render(axes: Axes) -> dict[str, bytes]:
    """Render the figure of ``axes`` as ``png``, at 200 dots per inch, and as ``svg``, text as outlines.

    No version or date goes into either; ids in the SVG are hashes of a fixed salt.
    """
    figure, png, svg = figure_of(axes), io.BytesIO(), io.BytesIO()
    figure.savefig(png, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    engine = figure.get_layout_engine()
    figure.set_layout_engine("none")  # the panels are in place: laying them out again would double the time of the SVG
    try:
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": _SALT})
    finally:
        figure.set_layout_engine(engine)
    return {"png": png.getvalue(), "svg": svg.getvalue()}
