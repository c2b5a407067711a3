"""Figures of predictors: the deployed score against each cheap one, and their correlations with the largest that could be seen."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from suite.report.figures import Sheet, assign_looks, describe_problem, figure_style, wrap_name
from suite.report.table import count, number, span
from suite.studies.predictors.correlations import correlations
from suite.studies.predictors.scores import FREE, Predictors

_UNITS = dict(zip(FREE, ("BOPs", "bits", "bits", "share of MACs", "share of MACs"), strict=True))
_KINDS = ("free", "measured", "predicted")


@figure_style()
def plot_scatter(
    found: Predictors, ax: Axes | None = None, name: str | None = None, frame: pd.DataFrame | None = None
) -> Axes:
    """The deployed score of every policy against each cheap one, with Kendall's tau within budgets; means over training seeds.

    Policies of a budget share colour and marker. ``ax`` takes one panel alone, that of the score ``name``, the first if None;
    ``frame`` are the correlations, if they were computed before.
    """
    frame = (correlations(found) if frame is None else frame).set_index("score")
    names = [other for other in found.names if ax is None or other == (name or found.names[0])]
    columns = min(4, len(names))
    lines = math.ceil(len(names) / columns)
    sheet = Sheet.on(ax, (2.3 * columns + 0.4, 2.3 * lines + 0.5), lines, columns, sharey=True)
    several, truths = len(found.budgets) > 1, [part.truth.means for part in found.budgets]
    for axes, score in zip(sheet.panels, names, strict=False):
        scores, row = found.cheap(score), frame.loc[score]
        keys = [part.budget if several else scores[0].kind for part in found.budgets]
        looks = assign_looks(keys if several else _KINDS)
        for key, cheap, truth in zip(keys, scores, truths, strict=True):
            look = looks[key]
            label = f"budget {key}" if several else None
            axes.scatter(
                cheap.means, truth, s=16, marker=look.marker, color=look.color, alpha=0.8, linewidths=0, label=label
            )
        title = f"$\\tau$ = {number(row['tau'], '+.2f')} {span(row['tau_low'], row['tau_high'], '+.2f')}, n = {row['policies']}"
        axes.set_title(f"{wrap_name(score)}\n{title}", fontsize=8)
        axes.set_xlabel(_unit(found, score), fontsize=8)
        axes.tick_params(labelsize=7)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.ticklabel_format(axis="x", scilimits=(-2, 3))
    for axes in sheet.panels[len(names) :]:
        axes.set_axis_off()
    label = f"{found.objective.label} as deployed"
    if sheet.given:
        sheet.panels[0].set_ylabel(label)
    else:
        within = "; $\\tau$ within budgets" if several else ""
        sheet.title(f"{_describe(found)}: deployed after {found.deployed}{within}")
        sheet.figure.supylabel(label, fontsize=9)
    if several:
        sheet.legend("outside lower center", columns=len(found.budgets))
    return sheet.panels[0]


@figure_style()
def plot_correlations(found: Predictors, ax: Axes | None = None, frame: pd.DataFrame | None = None) -> Axes:
    """Kendall's tau within budgets of every cheap score with the deployed one, its interval, and the largest one could see.

    ``frame`` are the correlations, if they were computed before.
    """
    frame = correlations(found) if frame is None else frame
    frame = frame.reindex(frame["tau"].abs().sort_values(kind="stable", na_position="first").index)
    sheet = Sheet.on(ax, (6.4, 0.32 * len(frame) + 1.3))
    axes, places, looks = sheet.panels[0], np.arange(len(frame)), assign_looks(_KINDS)
    for side in (-1, 1):
        label = "largest that could be\nseen (estimate)" if side > 0 else None
        axes.plot(
            side * frame["tau_visible"],
            places,
            linestyle="",
            marker="|",
            markersize=12,
            markeredgewidth=2,
            color="0.3",
            label=label,
        )
    for kind in ("measured", "predicted", "free"):
        chosen = (frame["kind"] == kind).to_numpy()
        rows, look = frame[chosen], looks[kind]
        if chosen.any():
            axes.hlines(places[chosen], rows["tau_low"], rows["tau_high"], color=look.color)
            axes.plot(
                rows["tau"], places[chosen], linestyle="", marker=look.marker, color=look.color, label=f"{kind}, 95 %"
            )
    axes.axvline(0, color="0.3", linewidth=0.8)
    axes.set_yticks(places, [wrap_name(name) for name in frame["score"]])
    within = " within budgets" if len(found.budgets) > 1 else ""
    axes.set(xlim=(-1.02, 1.02))
    axes.set_xlabel(f"Kendall's $\\tau${within} with {found.objective.label}\nafter {found.deployed}")
    sheet.title(f"{_describe(found)}, {count(found.policies, 'policy', 'policies')}")
    sheet.legend()
    return axes


def _describe(found: Predictors) -> str:
    """The problem and sigma, and the budget if it is one."""
    budget = found.budgets[0].budget if len(found.budgets) == 1 else None
    return describe_problem({**found.provenance, "budget": budget})


def _unit(found: Predictors, name: str) -> str:
    """What the values of a cheap score are, with their unit."""
    kind = found.cheap(name)[0].kind
    if kind == "free":
        return _UNITS[name]
    if kind == "predicted":
        return "\N{MINUS SIGN} predicted loss"
    return f"{found.objective.label} ({found.provenance['cheap_exam']['split']} images)"
