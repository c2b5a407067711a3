"""How figures look and how they are saved: one style, one look per searcher, equal bytes for equal input."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.style
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from suite.files import write_bytes
from suite.report.rows import recorded
from suite.run.records import Comparison

DOTS_PER_INCH = 200
_SALT = "bitcert"
_LONGEST_NAME = 24
_LEFT_OUT = (6, 7, 8)  # of seaborn's palette: pink and yellow are lost on white paper, grey is for those not told apart
_DARK = ("#332288", "#882255", "#117733", "#999933", "#661100")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "*", ">", "p", "d", "h")
_SOLID: Any = "-"
_DASHES: tuple[Any, ...] = (_SOLID, (0, (6, 1.5)), (0, (3, 1, 1, 1)), (0, (6, 1, 1, 1, 1, 1)), (0, (2, 1)))

_STYLE: dict[str, Any] = {
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "0.92",
    "grid.linewidth": 0.6,
    "legend.fontsize": 8,
    "figure.titlesize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
    "svg.fonttype": "path",
    "svg.hashsalt": _SALT,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
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
    names = sorted(set(searchers))
    bright = [color for index, color in enumerate(sns.color_palette("colorblind", 10)) if index not in _LEFT_OUT]
    palette = [*bright, *map(to_rgb, _DARK)]
    return {
        name: Look(
            color=palette[index % len(palette)],
            marker=_MARKERS[index % len(_MARKERS)],
            dashes=_DASHES[index % len(_DASHES)],
        )
        for index, name in enumerate(names)
    }


@contextmanager
def figure_style() -> Iterator[None]:
    """Draw with the suite's style, whatever the user's matplotlib settings are, and restore these afterwards."""
    with matplotlib.style.context(["default", {**sns.axes_style("ticks"), **sns.plotting_context("paper"), **_STYLE}]):
        yield


def place_title(figure: Figure, comparison: Comparison, exam: bool = True) -> None:
    """Say above all axes which problem a figure is about, and on how many exam images if it shows an exam."""
    problem, budget, sigma = (recorded(comparison, name) for name in ("problem", "budget", "sigma"))
    parts = [
        problem,
        None if budget is None else f"budget {budget}",
        None if sigma is None else f"$\\sigma$ = {sigma:g}",
    ]
    post_step = comparison.entries[0].outcome.post_step
    tuned = "" if post_step == "none" else f" after {post_step}"
    parts.append(f"{len(comparison.reference.labels)} exam images{tuned}" if exam else None)
    figure.suptitle(", ".join(str(part) for part in parts if part is not None), x=0.01, ha="left")


def place_legend(figure: Figure, axes: Axes, columns: int = 1) -> None:
    """Put the legend of ``axes`` to the right of all axes, where it covers no data."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, map(wrap_name, labels), loc="outside right upper", ncols=columns, handlelength=3.2)


def wrap_name(name: str) -> str:
    """Put the options of a searcher with a long name on lines of their own."""
    return name if len(name) <= _LONGEST_NAME else name.replace(":", "\n  ")


@figure_style()
def to_png(figure: Figure) -> bytes:
    """Render at 200 dots per inch; no version or date goes into the file."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    return stream.getvalue()


@figure_style()
def to_svg(figure: Figure) -> bytes:
    """Render as vector graphics, text as outlines; ids are hashes of a fixed salt, and no date goes into the file."""
    stream = io.BytesIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": _SALT})
    return stream.getvalue()


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write ``stem.png`` and ``stem.svg`` and return their paths."""
    paths = [stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.svg")]
    write_bytes(paths[0], to_png(figure))
    write_bytes(paths[1], to_svg(figure))
    return paths
