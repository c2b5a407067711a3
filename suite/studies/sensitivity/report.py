"""The report on sensitivities: tables, and the figures that papers show."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import SymLogNorm
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from suite.contract.objective import parse_objective
from suite.files import write_text
from suite.report.appearance import assign_looks, figure_style, save_figure, wrap_name
from suite.report.scores import name_objective
from suite.studies.sensitivity.run import Agreement, Sensitivity

SCHEMA_VERSION = 1
_MOST_NAMED_LAYERS = 30
_COLUMNS = ("method", "Kendall tau", "95 %", "passes", "seconds")


def write_sensitivity(found: Sensitivity, directory: Path) -> list[Path]:
    """Write all tables and figures; each file replaces its predecessor in one step.

    Returns:
        The files: ``layers.csv``, ``losses.csv``, ``policies.csv``, ``methods.csv``, ``methods.md``, ``sensitivity.json``,
        and the figures ``layers``, ``losses`` and ``agreement`` as ``.png`` and ``.svg``.
    """
    methods = pd.DataFrame(
        [
            {
                "method": row.method,
                "kendall_tau": row.tau,
                "kendall_low": row.low,
                "kendall_high": row.high,
                "forward_passes": row.forward_passes,
                "seconds": row.seconds,
                "policy": row.planned.to_json(),
            }
            for row in found.agreements
        ]
    )
    texts = {
        "layers.csv": found.layers.to_csv(index=False),
        "losses.csv": found.losses.to_csv(index=False),
        "policies.csv": found.policies.to_csv(index=False),
        "methods.csv": methods.to_csv(index=False),
        "methods.md": to_markdown(found),
        "sensitivity.json": to_json(found, methods),
    }
    for name, text in texts.items():
        write_text(directory / name, text)
    written = [directory / name for name in texts]
    for name, plot in (("layers", plot_layers), ("losses", plot_losses), ("agreement", plot_agreement)):
        written += save_figure(plot(found), directory / name)
    return written


def to_markdown(found: Sensitivity) -> str:
    """The methods by their agreement, as a Markdown table."""
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|---|" + "---:|" * (len(_COLUMNS) - 1)]
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in _ranked(found)]
    return "\n".join(lines) + "\n"


def print_sensitivity(found: Sensitivity, console: Console) -> None:
    """The methods by their agreement, on a console."""
    table = Table(box=SIMPLE_HEAD, title=_title(found, "sigma"), title_justify="left")
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column == "method" else "right", overflow="fold")
    for row in _ranked(found):
        table.add_row(*_cells(row))
    console.print(table)
    console.print(
        f"Kendall tau between predicted losses and measured scores of {len(found.policies)} random feasible policies: 1 is the "
        "same order, 0 no relation. Passes and seconds are those of the probes and the plan.",
        highlight=False,
    )


def to_json(found: Sensitivity, methods: pd.DataFrame) -> str:
    """Everything, machine-readable; what is not a number is null."""
    tables = {"methods": methods, "layers": found.layers, "losses": found.losses, "policies": found.policies}
    content: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "provenance": dict(found.provenance)}
    content |= {
        name: json.loads(table.to_json(orient="records", double_precision=15)) for name, table in tables.items()
    }
    return json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


@figure_style()
def plot_layers(found: Sensitivity) -> Figure:
    """Curvature by layer: average traces with their standard errors, and top eigenvalues by number of weights."""
    layers = found.layers
    places = np.arange(len(layers))
    figure = Figure(figsize=(max(7.0, 0.28 * len(layers) + 4.2), 4.0), layout="constrained")
    axes = figure.subplots()
    looks = assign_looks(["weights", "inputs", "eigenvalue"])
    series = {
        "weights": (
            layers["mean_trace_weights"],
            layers["mean_trace_weights_se"],
            "average trace, weights\n(HAWQ v2, v3)",
        ),
        "inputs": (layers["mean_trace_inputs"], layers["mean_trace_inputs_se"], "average trace, inputs\n(HAWQ v2)"),
        "eigenvalue": (layers["top_eigenvalue"] / layers["weights"], None, "top eigenvalue / weights\n(HAWQ v1)"),
    }
    for name, (values, errors, label) in series.items():
        look = looks[name]
        axes.errorbar(
            places,
            values.abs(),
            errors,
            color=look.color,
            marker=look.marker,
            linestyle=look.dashes,
            label=label,
            capsize=2,
        )
    axes.set_yscale("log")
    axes.set(xlabel="layer", ylabel="absolute value ± standard error", title=_title(found))
    _name_layers(axes, list(layers["layer"]), places)
    figure.legend(loc="outside right upper", handlelength=3.2)
    return figure


@figure_style()
def plot_losses(found: Sensitivity) -> Figure:
    """Predicted loss by layer and bits, a row of panels a method: weights on the left, inputs on the right.

    Each method has its own unit and its own scale of colours, linear near zero and logarithmic beyond.
    """
    methods = list(dict.fromkeys(found.losses["method"]))
    names = list(found.layers["layer"])
    figure = Figure(figsize=(max(6.4, 0.36 * len(names) + 3), 1.35 * len(methods) + 1.2), layout="constrained")
    panels = np.atleast_2d(figure.subplots(len(methods), 2, sharex=True, sharey=True))
    for row, method in enumerate(methods):
        losses = found.losses[found.losses["method"] == method]
        largest = float(losses["loss"].abs().max()) or 1.0
        for column, part in enumerate(("weight", "activation")):
            axes = panels[row, column]
            table = losses[losses["part"] == part].pivot_table(index="bits", columns="layer", values="loss", sort=False)
            sns.heatmap(
                table.reindex(columns=names).sort_index(ascending=False),
                ax=axes,
                cmap="vlag",
                norm=SymLogNorm(largest / 100, vmin=-largest, vmax=largest),
                cbar=False,
                xticklabels=False,
                yticklabels=True,
            )
            axes.set(
                xlabel="",
                ylabel="bits" if column == 0 else "",
                title=f"{method}, {part}s" if column == 0 else f"{part}s",
            )
            axes.tick_params(axis="y", rotation=0, left=column == 0)
        bar = figure.colorbar(
            panels[row, 1].collections[0], ax=list(panels[row]), pad=0.01, ticks=[-largest, 0, largest]
        )
        bar.ax.set_yticklabels([f"{-largest:.2g}", "0", f"{largest:.2g}"])
        bar.ax.minorticks_off()
    for axes in panels[-1]:
        _name_layers(axes, names, np.arange(len(names)) + 0.5)
        axes.set_xlabel("layer")
    figure.suptitle(f"{_title(found)}: predicted loss", x=0.01, ha="left")
    return figure


@figure_style()
def plot_agreement(found: Sensitivity) -> Figure:
    """Measured score against predicted loss of every policy, a panel a method, with Kendall's tau."""
    rows = _ranked(found)
    columns = min(4, len(rows))
    lines = math.ceil(len(rows) / columns)
    figure = Figure(figsize=(2.3 * columns + 0.4, 2.2 * lines + 0.5), layout="constrained")
    panels = np.atleast_1d(figure.subplots(lines, columns, sharey=True)).ravel()
    looks = assign_looks(row.method for row in rows)
    for axes, row in zip(panels, rows, strict=False):
        look = looks[row.method]
        axes.scatter(
            found.policies[row.method], found.policies["score"], s=9, color=look.color, alpha=0.6, linewidths=0
        )
        axes.set_title(f"{wrap_name(row.method)}\n$\\tau$ = {row.tau:.2f} [{row.low:.2f}, {row.high:.2f}]", fontsize=8)
        axes.tick_params(axis="x", labelsize=7)
        axes.ticklabel_format(axis="x", scilimits=(-2, 3))
    for axes in panels[len(rows) :]:
        axes.set_axis_off()
    figure.suptitle(f"{_title(found)}, {len(found.policies)} random feasible policies", x=0.01, ha="left")
    figure.supxlabel("predicted loss", fontsize=9)
    objective = name_objective(parse_objective(str(found.provenance["objective"])))
    figure.supylabel(f"measured {objective} (search estimate)", fontsize=9)
    return figure


def _ranked(found: Sensitivity) -> list[Agreement]:
    """Methods by their agreement, the best first; undefined ones last."""
    return sorted(found.agreements, key=lambda row: (math.isnan(row.tau), -row.tau, row.method))


def _cells(row: Agreement) -> list[str]:
    interval = f"[{row.low:.2f}, {row.high:.2f}]"
    return [row.method, f"{row.tau:.3f}", interval, f"{row.forward_passes:,}", f"{row.seconds:.1f}"]


def _title(found: Sensitivity, sigma: str = "$\\sigma$") -> str:
    known = found.provenance
    return f"{known['problem']}, budget {known['budget']}, {sigma} = {known['sigma']:g}"


def _name_layers(axes: Axes, names: list[str], places: np.ndarray[Any, np.dtype[Any]]) -> None:
    if len(names) <= _MOST_NAMED_LAYERS:
        axes.set_xticks(places, names, rotation=90)
    else:
        axes.set_xticks(places[::5], [str(place) for place in range(0, len(names), 5)], rotation=0)
