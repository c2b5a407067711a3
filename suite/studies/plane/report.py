"""The report on a loss plane: tables, and pictures of loss and certified radius around the captures."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon
from matplotlib.ticker import MaxNLocator
from rich.console import Console

from suite.files import write_text
from suite.report.appearance import assign_looks, figure_style, save_figure
from suite.studies.plane.run import CAPTURES, LossPlane

SCHEMA_VERSION = 1
_LEVELS = 12
_HIGHEST_QUANTILE = 0.9


def write_plane(plane: LossPlane, directory: Path) -> list[Path]:
    """Write tables and figure; each file replaces its predecessor in one step.

    Returns:
        The files: ``points.csv`` (one row a grid point), ``marks.csv``, ``plane.json``, ``plane.png`` and ``plane.svg``.
    """
    points, marks = point_rows(plane), pd.DataFrame([asdict(mark) for mark in plane.marks])
    content: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "marks": [asdict(mark) for mark in plane.marks],
        "points": json.loads(points.to_json(orient="records", double_precision=15)),
        "provenance": dict(plane.provenance),
    }
    texts = {
        "points.csv": points.to_csv(index=False),
        "marks.csv": marks.to_csv(index=False),
        "plane.json": json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n",
    }
    for name, text in texts.items():
        write_text(directory / name, text)
    return [directory / name for name in texts] + save_figure(plot_plane(plane), directory / "plane")


def print_plane(plane: LossPlane, console: Console) -> None:
    """A line for each marked network, on a console."""
    for mark in plane.marks:
        console.print(
            f"{mark.name:<10}  loss {mark.loss:.4f}  ACR {mark.acr:.4f} (search estimate)  {mark.distance:.3g} off the plane",
            highlight=False,
        )


def point_rows(plane: LossPlane) -> pd.DataFrame:
    """One row a grid point: coordinates, loss, estimated ACR."""
    v, u = np.meshgrid(plane.v, plane.u, indexing="ij")
    return pd.DataFrame({"u": u.ravel(), "v": v.ravel(), "loss": plane.loss.ravel(), "acr": plane.acr.ravel()})


@figure_style()
def plot_plane(plane: LossPlane) -> Figure:
    """Loss on the left, estimated ACR on the right, the marked networks on both.

    Losses above the ninth decile of the grid share one colour: far from the captures the loss has no bound.
    """
    figure = Figure(figsize=(9.2, 4.2), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    highest = float(np.quantile(plane.loss, _HIGHEST_QUANTILE))
    lowest = float(plane.loss.min())
    levels = MaxNLocator(_LEVELS).tick_values(lowest, max(highest, lowest + 1e-9))
    for axes, values, title, options in (
        (panels[0], plane.loss, "training loss", {"levels": levels, "extend": "max", "cmap": "viridis_r"}),
        (panels[1], plane.acr, "ACR (search estimate)", {"levels": _LEVELS, "cmap": "viridis"}),
    ):
        drawn = axes.contourf(plane.u, plane.v, values, **options)
        figure.colorbar(drawn, ax=axes, shrink=0.9)
        axes.set(title=title, xlabel="distance in quantized weights", aspect="equal")
        axes.grid(visible=False)
        _mark(axes, plane)
    panels[0].set_ylabel("distance in quantized weights")
    known = plane.provenance
    problem = known["problem"]
    figure.suptitle(
        f"{problem['problem']}, budget {problem['budget']}, $\\sigma$ = {problem['sigma']:g}, "
        f"{known['post_step']['captures']} captures",
        x=0.01,
        ha="left",
    )
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def _mark(axes: Axes, plane: LossPlane) -> None:
    looks = assign_looks(mark.name for mark in plane.marks)
    corners = [(mark.u, mark.v) for mark in plane.marks if mark.name in CAPTURES]
    axes.add_patch(Polygon(np.array(corners), closed=True, fill=False, edgecolor="white", linewidth=1, linestyle=":"))
    for mark in plane.marks:
        off = "" if mark.distance < 1e-6 else f" ({mark.distance:.2g} off the plane)"
        axes.plot(
            mark.u,
            mark.v,
            linestyle="",
            marker=looks[mark.name].marker,
            markersize=8,
            markerfacecolor="white",
            markeredgecolor="black",
            label=f"{mark.name}{off}",
        )
