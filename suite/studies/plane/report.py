"""The report on a loss plane: tables, and pictures of loss and certified radius around the captures."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Polygon
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from suite.report.figures import Sheet, assign_looks, describe_problem, figure_style
from suite.report.table import Column, Table
from suite.report.write import write_files
from suite.studies.plane.run import CAPTURES, LossPlane

_LEVELS = 12
_HIGHEST_QUANTILE = 0.9


def write_plane(plane: LossPlane, directory: Path) -> list[Path]:
    """Write the table ``marks``, ``points.csv`` (one row per grid point), ``plane.json``, and the figure ``plane``."""
    points, marks = point_rows(plane), mark_table(plane)
    return write_files(
        directory,
        ("points", points),
        ("marks", marks),
        ("plane", {"marks": marks.frame, "points": points, "provenance": dict(plane.provenance)}),
        ("plane", plot_plane(plane)),
    )


def mark_table(plane: LossPlane) -> Table:
    """One row per marked network."""
    columns = [
        Column("network", lambda row: str(row["name"]), "left"),
        Column("loss", lambda row: f"{row['loss']:.4f}"),
        Column("ACR (search estimate)", lambda row: f"{row['acr']:.4f}"),
        Column("off the plane", lambda row: f"{row['distance']:.3g}"),
    ]
    return Table(pd.DataFrame([asdict(mark) for mark in plane.marks]), columns, _title(plane, "sigma"))


def point_rows(plane: LossPlane) -> pd.DataFrame:
    """One row per grid point: coordinates, loss, estimated ACR."""
    v, u = np.meshgrid(plane.v, plane.u, indexing="ij")
    return pd.DataFrame({"u": u.ravel(), "v": v.ravel(), "loss": plane.loss.ravel(), "acr": plane.acr.ravel()})


@figure_style()
def plot_plane(plane: LossPlane, ax: Axes | None = None, values: Literal["loss", "acr"] = "loss") -> Axes:
    """Loss on the left, estimated ACR on the right, the marked networks on both.

    Losses above the ninth decile of the grid share one colour: far from the captures the loss has no bound. ``ax`` takes the
    panel of ``values`` alone.
    """
    sheet = Sheet.on(ax, (9.2, 4.2), 1, 2, sharex=True, sharey=True)
    highest = float(np.quantile(plane.loss, _HIGHEST_QUANTILE))
    lowest = float(plane.loss.min())
    levels = MaxNLocator(_LEVELS).tick_values(lowest, max(highest, lowest + 1e-9))
    kinds: dict[str, tuple[NDArray[np.float64], str, dict[str, Any]]] = {
        "loss": (plane.loss, "training loss", {"levels": levels, "extend": "max", "cmap": "viridis_r"}),
        "acr": (plane.acr, "ACR (search estimate)", {"levels": _LEVELS, "cmap": "viridis"}),
    }
    for axes, kind in zip(sheet.panels, (values,) if sheet.given else kinds, strict=True):
        heights, title, options = kinds[kind]
        drawn = axes.contourf(plane.u, plane.v, heights, **options)
        sheet.figure.colorbar(drawn, ax=axes, shrink=0.9)
        axes.set(title=title, xlabel="distance in quantized weights", aspect="equal")
        axes.grid(visible=False)
        _mark(axes, plane)
    first = sheet.panels[0]
    first.set_ylabel("distance in quantized weights")
    if not sheet.given:
        sheet.title(_title(plane))
    sheet.legend("outside lower center", columns=len(plane.marks))
    return first


def _title(plane: LossPlane, sigma: str = "$\\sigma$") -> str:
    known = plane.provenance
    return f"{describe_problem(known['problem'], sigma)}, {known['post_step']['captures']} captures"


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
