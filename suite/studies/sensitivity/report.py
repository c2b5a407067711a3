"""The report on sensitivities: tables, and the figures that papers show."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import SymLogNorm

from suite.contract.objective import parse_objective
from suite.contract.space import PARTS, Part
from suite.report.figures import Sheet, assign_looks, describe_problem, figure_style, name_layers, wrap_name
from suite.report.table import Column, Table, number, span
from suite.report.write import write_files
from suite.studies.sensitivity.run import Agreement, Sensitivity


def write_sensitivity(found: Sensitivity, directory: Path) -> list[Path]:
    """Write the table ``methods``, the frames ``layers``, ``losses`` and ``policies``, all of it as JSON, and three figures."""
    frames = {
        "methods": method_frame(found),
        "layers": found.layers,
        "losses": found.losses,
        "policies": found.policies,
    }
    return write_files(
        directory,
        ("methods", method_table(found)),
        *frames.items(),
        ("sensitivity", {"provenance": dict(found.provenance), **frames}),
        ("layers", plot_layers(found)),
        ("losses", plot_losses(found)),
        ("agreement", plot_agreement(found)),
    )


def method_frame(found: Sensitivity) -> pd.DataFrame:
    """One row per method, in the order in which they were asked for."""
    names = {"method": "method", "kendall_tau": "tau", "kendall_low": "low", "kendall_high": "high"}
    names |= {"forward_passes": "forward_passes", "seconds": "seconds"}
    measured = [{name: getattr(row, field) for name, field in names.items()} for row in found.agreements]
    return pd.DataFrame(measured).assign(policy=[row.planned.to_json() for row in found.agreements])


def method_table(found: Sensitivity) -> Table:
    """The methods, the best agreement first."""
    columns = [
        Column("method", lambda row: str(row["method"]), "left"),
        Column("Kendall tau", lambda row: number(row["kendall_tau"], ".3f")),
        Column("95 %", lambda row: span(row["kendall_low"], row["kendall_high"], ".2f")),
        Column("passes", lambda row: f"{row['forward_passes']:,}"),
        Column("seconds", lambda row: f"{row['seconds']:.1f}", priority=1),
    ]
    note = (
        f"Kendall tau between predicted losses and measured scores of {len(found.policies)} random feasible policies: 1 is the "
        "same order, 0 no relation. Passes and seconds are those of the probes and the plan."
    )
    order = [row.method for row in _ranked(found)]
    frame = method_frame(found).set_index("method").loc[order].reset_index()
    return Table(frame, columns, describe_problem(found.provenance, "sigma"), [note])


@figure_style()
def plot_layers(found: Sensitivity, ax: Axes | None = None) -> Axes:
    """Curvature by layer: average traces with their standard errors, and top eigenvalues by number of weights."""
    layers = found.layers
    places = np.arange(len(layers))
    sheet = Sheet.on(ax, (max(7.0, 0.28 * len(layers) + 4.2), 4.0))
    axes = sheet.panels[0]
    looks = assign_looks(["weights", "inputs", "eigenvalue"])
    series = {
        "weights": ("mean_trace_weights", "average trace, weights\n(HAWQ v2, v3)"),
        "inputs": ("mean_trace_inputs", "average trace, inputs\n(HAWQ v2)"),
        "eigenvalue": ("top_eigenvalue", "top eigenvalue / weights\n(HAWQ v1)"),
    }
    for name, (column, label) in series.items():
        values = layers[column] / (layers["weights"] if name == "eigenvalue" else 1)
        axes.errorbar(
            places,
            values.abs(),
            layers.get(f"{column}_se"),
            color=looks[name].color,
            marker=looks[name].marker,
            linestyle=looks[name].dashes,
            label=label,
            capsize=2,
        )
    axes.set_yscale("log")
    axes.set(ylabel="absolute value ± standard error", title=describe_problem(found.provenance))
    name_layers(axes, list(layers["layer"]), places)
    sheet.legend()
    return axes


@figure_style()
def plot_losses(found: Sensitivity, ax: Axes | None = None, method: str | None = None, part: Part = "weight") -> Axes:
    """Predicted loss by layer and bits, one row of panels per method: weights on the left, inputs on the right.

    Each method has its own unit and its own colour scale, linear near zero and logarithmic beyond. ``ax`` takes one panel
    alone, that of ``method``, the first if None, and ``part``.
    """
    methods = list(dict.fromkeys(found.losses["method"]))
    names = list(found.layers["layer"])
    size = (max(6.4, 0.36 * len(names) + 3), 1.35 * len(methods) + 1.2)
    sheet = Sheet.on(ax, size, len(methods), 2, sharex=True, sharey=True)
    every = [(name, side) for name in methods for side in PARTS]
    for axes, (name, side) in zip(sheet.panels, [(method or methods[0], part)] if sheet.given else every, strict=True):
        losses = found.losses[found.losses["method"] == name]
        largest = float(losses["loss"].abs().max()) or 1.0
        table = losses[losses["part"] == side].pivot_table(index="bits", columns="layer", values="loss", sort=False)
        table = table.reindex(columns=names).sort_index(ascending=False)
        sns.heatmap(
            table,
            ax=axes,
            annot=np.where(table < 0, "\N{MINUS SIGN}", ""),  # in grey, red and blue are the same
            fmt="",
            annot_kws={"size": 7},
            cmap="vlag",
            norm=SymLogNorm(largest / 100, vmin=-largest, vmax=largest),
            cbar=False,
            xticklabels=False,
            yticklabels=True,
        )
        first = sheet.given or side == PARTS[0]
        axes.set(xlabel="", ylabel="bits" if first else "", title=f"{name}, {side}s" if first else f"{side}s")
        axes.tick_params(axis="y", rotation=0, left=first)
        if sheet.given or side == PARTS[-1]:
            row = [axes] if sheet.given else list(sheet.panels[sheet.panels.index(axes) - 1 :][:2])
            bar = sheet.figure.colorbar(axes.collections[0], ax=row, pad=0.01, ticks=[-largest, 0, largest])
            bar.ax.set_yticklabels([f"{-largest:.2g}", "0", f"{largest:.2g}"])
            bar.ax.minorticks_off()
    for axes in sheet.panels[-2:]:
        name_layers(axes, names, np.arange(len(names)) + 0.5)
    if not sheet.given:
        sheet.title(f"{describe_problem(found.provenance)}: predicted loss")
    return sheet.panels[0]


@figure_style()
def plot_agreement(found: Sensitivity, ax: Axes | None = None, method: str | None = None) -> Axes:
    """Measured score against predicted loss of every policy, one panel per method, with Kendall's tau.

    ``ax`` takes one panel alone, that of ``method``, or of the method that agrees best if None.
    """
    rows = [row for row in _ranked(found) if ax is None or method in (None, row.method)]
    columns = min(4, len(rows))
    lines = math.ceil(len(rows) / columns)
    sheet = Sheet.on(ax, (2.3 * columns + 0.4, 2.2 * lines + 0.5), lines, columns, sharey=True)
    looks = assign_looks(row.method for row in found.agreements)
    scores = f"measured {parse_objective(str(found.provenance['objective'])).label} (search estimate)"
    for axes, row in zip(sheet.panels, rows, strict=False):
        look = looks[row.method]
        axes.scatter(
            found.policies[row.method], found.policies["score"], s=9, color=look.color, alpha=0.6, linewidths=0
        )
        axes.set_title(f"{wrap_name(row.method)}\n$\\tau$ = {row.tau:.2f} [{row.low:.2f}, {row.high:.2f}]", fontsize=8)
        axes.tick_params(axis="x", labelsize=7)
        axes.ticklabel_format(axis="x", scilimits=(-2, 3))
    for axes in sheet.panels[len(rows) :]:
        axes.set_axis_off()
    if sheet.given:
        sheet.panels[0].set(xlabel="predicted loss", ylabel=scores)
    else:
        sheet.title(f"{describe_problem(found.provenance)}, {len(found.policies)} random feasible policies")
        sheet.figure.supxlabel("predicted loss", fontsize=9)
        sheet.figure.supylabel(scores, fontsize=9)
    return sheet.panels[0]


def _ranked(found: Sensitivity) -> list[Agreement]:
    """Methods by their agreement, the best first; undefined ones last."""
    return sorted(found.agreements, key=lambda row: (math.isnan(row.tau), -row.tau, row.method))
