"""The report on landscapes: how hard each table is at each budget, what its layers decide, how tables agree."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter, PercentFormatter

from suite.problems.tabular import TabularProblem
from suite.report.anytime import NEAR
from suite.report.figures import Sheet, assign_looks, figure_style
from suite.report.table import Column, Table, integer, number
from suite.report.write import write_files
from suite.studies.landscape.measure import Additivity, Hardness, kendall

_HATCHES = ("", "///", "...", "xx", "\\\\", "--")

Landscape = tuple[TabularProblem, Additivity, Sequence[Hardness]]
"""A table under a protocol, its sums over variables, and its hardness at each budget."""


def write_landscapes(found: Mapping[str, Landscape], directory: Path) -> list[Path]:
    """Write the tables ``hardness`` and ``additivity``, the frame ``agreement``, all of it as JSON, and three figures."""
    frames = {
        "hardness": hardness_frame(found),
        "additivity": additivity_frame(found),
        "agreement": agreement_frame(found),
    }
    provenance = {name: problem.provenance() for name, (problem, _, _) in found.items()}
    return write_files(
        directory,
        ("hardness", hardness_table(frames["hardness"])),
        ("additivity", additivity_table(frames["additivity"])),
        ("agreement", frames["agreement"]),
        ("landscape", {"provenance": provenance, **frames}),
        ("policies", plot_policies(found)),
        ("main_effects", plot_main_effects(found)),
        *([("agreement_figure", plot_agreement(frames["agreement"]))] if len(found) > 1 else []),
    )


def hardness_frame(found: Mapping[str, Landscape]) -> pd.DataFrame:
    """One row per table and budget: ``table`` and the fields of :class:`.Hardness`."""
    rows = [
        {"table": name, **{field: getattr(each, field) for field in Hardness.__slots__}}
        for name, (_, _, hardnesses) in found.items()
        for each in hardnesses
    ]
    return pd.DataFrame(rows)


def additivity_frame(found: Mapping[str, Landscape]) -> pd.DataFrame:
    """One row per table: ``table``, ``additive``, ``pairwise``, and the share of each variable by its first layer."""
    rows = []
    for name, (problem, sums, _) in found.items():
        row: dict[str, Any] = {"table": name, "additive": sums.additive, "pairwise": sums.pairwise}
        rows.append(row | dict(zip(_names(problem), sums.main.tolist(), strict=True)))
    return pd.DataFrame(rows)


def agreement_frame(found: Mapping[str, Landscape]) -> pd.DataFrame:
    """Kendall's tau between the true scores of all policies of two tables: ``one``, ``other``, ``tau``; equal spaces only."""
    rows = []
    for one, (first, _, _) in found.items():
        for other, (second, _, _) in found.items():
            if first.table.policies == second.table.policies:
                rows.append({"one": one, "other": other, "tau": kendall(first.true_scores, second.true_scores)})
    return pd.DataFrame(rows)


def hardness_table(frame: pd.DataFrame) -> Table:
    """How hard tables are."""
    columns = [
        Column("table", lambda row: str(row["table"]), "left"),
        Column("budget", lambda row: str(row["budget"]), "left"),
        Column("policies", lambda row: integer(row["feasible"])),
        Column("optimum", lambda row: number(row["optimum"], ".4f"), priority=1),
        Column("mean", lambda row: number(row["mean"], ".4f"), priority=1),
        Column(f"within {NEAR:.0%}", lambda row: number(row["near"], ".2%")),
        Column("local optima", lambda row: integer(row["optima"]), priority=1),
        Column("by exchanges", lambda row: integer(row["exchange_optima"])),
        Column("their score", lambda row: number(row["trapped"], ".2f"), priority=1),
        Column("regret of the sum", lambda row: number(row["additive_regret"], ".3f")),
        Column("tau of estimates", lambda row: number(row["selection"], ".2f")),
    ]
    notes = [
        f"Within {NEAR:.0%}: share of policies as close to the optimum, in units of its distance from the mean policy.",
        "Local optima: no step of one variable within the budget is better; by exchanges: nor a step up of one with a step down of "
        "another. Their score: mean of the latter but the best, 0 for the mean policy and 1 for the optimum.",
        "Regret of the sum: of the best policy by a sum over variables that was fitted to the whole table, in the same units. "
        "Tau of estimates: Kendall's, of what a search sees once with the true scores.",
    ]
    return Table(frame, columns, "Landscapes", notes)


def additivity_table(frame: pd.DataFrame) -> Table:
    """How far layers add up."""
    variables = [name for name in frame.columns if name not in ("table", "additive", "pairwise")]
    columns = [
        Column("table", lambda row: str(row["table"]), "left"),
        Column("sum over variables", lambda row: number(row["additive"], ".1%")),
        Column("with pairs", lambda row: number(row["pairwise"], ".1%")),
        *(Column(name, _share_of(name)) for name in variables),
    ]
    notes = ["Share of the variance of true scores over all policies that each explains, by least squares."]
    return Table(frame, columns, "Sums over variables", notes)


def _share_of(name: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda row: number(row[name], ".1%")


def _names(problem: TabularProblem) -> list[str]:
    return [problem.space.layers[slots[0].layer].name for slots in problem.space.variables]


@figure_style()
def plot_policies(found: Mapping[str, Landscape], ax: Axes | None = None) -> Axes:
    """The true score of every policy by BOPs, a panel for each table; dotted lines are budgets, dashes their optima."""
    columns = min(3, len(found))
    rows = -(-len(found) // columns)
    sheet = Sheet.on(ax, (3.2 * columns, 2.8 * rows), rows, columns)
    for axes, (name, (problem, _, hardnesses)) in zip(sheet.panels, found.items(), strict=False):
        bops = [problem.bops(policy) for policy in problem.table.policies]
        axes.plot(bops, problem.true_scores, ".", markersize=1.5, color="0.6", rasterized=True)
        for each in hardnesses:
            axes.axvline(each.limit, color="0.2", linewidth=0.8, linestyle=":")
            axes.text(
                each.limit, 0.02, f" {each.budget}", transform=axes.get_xaxis_transform(), fontsize=7, rotation=90
            )
            axes.plot(each.limit, each.optimum, "_", color="black", markersize=9)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set(title=name, xlabel="BOPs", ylabel="true score")
    for axes in sheet.panels[len(found) :]:
        axes.axis("off")
    return sheet.panels[0]


@figure_style()
def plot_main_effects(found: Mapping[str, Landscape], ax: Axes | None = None) -> Axes:
    """How much of the spread of true scores the bits of each layer decide alone."""
    frame = (
        additivity_frame(found)
        .drop(columns=["additive", "pairwise"])
        .melt("table", var_name="layer", value_name="share")
    )
    sheet = Sheet.on(ax, (6.8, 3.2))
    axes = sheet.panels[0]
    looks = assign_looks(found)
    colors = {name: look.color for name, look in looks.items()}
    sns.barplot(frame, x="layer", y="share", hue="table", palette=colors, ax=axes, legend=False)
    for container, name in zip(axes.containers, found, strict=True):
        for bar in container:
            bar.set_hatch(_HATCHES[list(found).index(name) % len(_HATCHES)])
            bar.set_edgecolor("white")
        container.set_label(name)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.tick_params(axis="x", rotation=30)
    axes.set(xlabel="", ylabel="share of the variance")
    sheet.legend()
    return axes


@figure_style()
def plot_agreement(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Kendall's tau between tables: whether the same policies are good under another noise or protocol."""
    table = frame.pivot(index="one", columns="other", values="tau").loc[lambda square: square.columns]
    size, longest = 1.6 + 0.7 * len(table), max(map(len, table.columns))
    sheet = Sheet.on(ax, (size + 1.2 + 0.06 * longest, size))
    axes = sheet.panels[0]
    sns.heatmap(
        table,
        annot=True,
        fmt=".2f",
        vmin=-1,
        vmax=1,
        cmap="vlag",
        square=True,
        ax=axes,
        cbar_kws={"label": "Kendall's tau"},
    )
    axes.set(xlabel="", ylabel="")
    axes.tick_params(axis="x", rotation=30)
    axes.tick_params(axis="y", rotation=0)
    return axes
