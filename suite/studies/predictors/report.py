"""The report on predictors: correlations with the deployed score and their ceilings, spreads, and what papers show of them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from suite.report.figures import Sheet, assign_looks, describe_problem, figure_style, wrap_name
from suite.report.table import Column, Table, count, magnitude, number, span
from suite.report.write import write_files
from suite.studies.predictors.correlations import correlations, spreads
from suite.studies.predictors.run import FREE, Predictors, Score

_UNITS = dict(zip(FREE, ("BOPs", "bits", "bits", "share of MACs", "share of MACs"), strict=True))


def write_predictors(found: Predictors, directory: Path) -> list[Path]:
    """Write the tables ``correlations`` and ``spreads``, ``scores.csv`` (the :func:`score_rows`), figures, and all as JSON."""
    rows = score_rows(found)
    content = {
        "provenance": dict(found.provenance),
        "deployed": found.deployed.name,
        "correlations": correlations(found),
        "spreads": spreads(found),
        "scores": rows,
    }
    return write_files(
        directory,
        ("correlations", correlation_table(found)),
        ("spreads", spread_table(found)),
        ("scores", rows),
        ("correlations", content),
        ("correlations", plot_correlations(found)),
        ("scatter", plot_scatter(found)),
    )


def score_rows(found: Predictors) -> pd.DataFrame:
    """One row per policy, score and training seed; ``seed`` is missing where nothing is trained."""
    rows = []
    for score in (*found.cheap, found.deployed):
        for position, (policy, (weight, activation)) in enumerate(found.policies.items()):
            for seed, value in zip(score.seeds or (None,), score.values[position], strict=True):
                rows.append(
                    {
                        "policy": position,
                        "weight_bits_from": weight,
                        "input_bits_from": activation,
                        "score": score.name,
                        "kind": score.kind,
                        "deployed": score is found.deployed,
                        "seed": seed,
                        "value": float(value),
                        "bits": policy.to_json(),
                    }
                )
    return pd.DataFrame(rows).astype({"seed": "Int64"})


def correlation_table(found: Predictors) -> Table:
    """Lay out the :func:`correlations` for people."""
    columns = [
        Column("score", lambda row: str(row["score"]), "left"),
        Column("rho", lambda row: number(row["rho"], "+.2f")),
        Column("95 %", lambda row: span(row["low"], row["high"], "+.2f")),
        Column("visible", lambda row: number(row["visible"], ".2f")),
        Column("reliability", lambda row: number(row["reliability"], ".2f"), priority=1),
        Column("BOPs fixed", lambda row: number(row["partial"], "+.2f"), priority=2),
        Column("kind", lambda row: str(row["kind"]), "left", priority=3),
    ]
    frame, known = correlations(found), found.provenance
    policies = count(len(found.policies), "policy", "policies")
    strata = count(len(set(found.policies.values())), "mix", "mixes")
    note = (
        f"rho: Spearman's correlation with the deployed score, {found.objective.label} after {found.deployed.name}, over "
        f"{policies} that no method chose, of {strata} of weight and input bits; 95 % intervals, row by row. Visible: the "
        "largest correlation that one could see, estimated from the reliability of both scores; that of the deployed one is "
        f"{number(frame['deployed_reliability'][0], '.2f')}. Reliability: between halves that share neither images nor seeds, "
        f"stepped up. Cheap scores are measured on {known['cheap_exam']['split']} images, the deployed one on "
        f"{known['exam']['split']} images, after training with other seeds ({len(known['seeds'])} each)."
    )
    return Table(frame, columns, describe_problem(known, "sigma"), [note])


def spread_table(found: Predictors) -> Table:
    """Lay out the :func:`spreads` for people."""
    columns = [
        Column("score", lambda row: f"{row['score']}{' (deployed)' * row['deployed']}", "left"),
        Column("mean", lambda row: f"{row['mean']:.4f}"),
        Column("sd, policies", lambda row: number(row["sd"], ".4f")),
        Column("sd, training", lambda row: number(row["sd_training"], ".4f")),
        Column("training reliability", lambda row: number(row["training_reliability"], ".2f")),
        Column("95 %", lambda row: span(row["training_low"], row["training_high"], ".2f"), priority=1),
        Column("passes", lambda row: magnitude(row["forward_passes"]), priority=2),
    ]
    note = (
        f"{found.objective.label}: mean and standard deviation over policies of means over training seeds, and standard deviation "
        "between the training seeds of a policy. Training reliability: of the mean over seeds, by analysis of variance, on these "
        "images. Passes: of all policies together."
    )
    return Table(spreads(found), columns, describe_problem(found.provenance, "sigma"), [note])


@figure_style()
def plot_scatter(found: Predictors, ax: Axes | None = None, name: str | None = None) -> Axes:
    """The deployed score of every policy against each cheap one, with Spearman's rho; means over training seeds.

    ``ax`` takes one panel alone, that of the score ``name``, the first if None.
    """
    frame = correlations(found).set_index("score")
    scores = [score for score in found.cheap if ax is None or score.name == (name or found.cheap[0].name)]
    columns = min(4, len(scores))
    lines = math.ceil(len(scores) / columns)
    sheet = Sheet.on(ax, (2.3 * columns + 0.4, 2.3 * lines + 0.5), lines, columns, sharey=True)
    looks = assign_looks(["free", "measured", "predicted"])
    for axes, score in zip(sheet.panels, scores, strict=False):
        look, row = looks[score.kind], frame.loc[score.name]
        axes.scatter(
            score.means, found.deployed.means, s=12, marker=look.marker, color=look.color, alpha=0.7, linewidths=0
        )
        title = f"$\\rho$ = {number(row['rho'], '+.2f')} {span(row['low'], row['high'], '+.2f')}, n = {row['policies']}"
        axes.set_title(f"{wrap_name(score.name)}\n{title}", fontsize=8)
        axes.set_xlabel(_unit(found, score), fontsize=8)
        axes.tick_params(labelsize=7)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.ticklabel_format(axis="x", scilimits=(-2, 3))
    for axes in sheet.panels[len(scores) :]:
        axes.set_axis_off()
    label = f"{found.objective.label} as deployed"
    if sheet.given:
        sheet.panels[0].set_ylabel(label)
    else:
        sheet.title(f"{describe_problem(found.provenance)}: deployed after {found.deployed.name}")
        sheet.figure.supylabel(label, fontsize=9)
    return sheet.panels[0]


@figure_style()
def plot_correlations(found: Predictors, ax: Axes | None = None) -> Axes:
    """Spearman's rho of every cheap score with the deployed one, its interval, and the largest that one could see."""
    frame = correlations(found)
    frame = frame.reindex(frame["rho"].abs().sort_values(kind="stable", na_position="first").index)
    sheet = Sheet.on(ax, (6.4, 0.32 * len(frame) + 1.3))
    axes, places, looks = sheet.panels[0], np.arange(len(frame)), assign_looks(["free", "measured", "predicted"])
    for side in (-1, 1):
        label = "largest that could be\nseen (estimate)" if side > 0 else None
        axes.plot(
            side * frame["visible"],
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
            axes.hlines(places[chosen], rows["low"], rows["high"], color=look.color)
            axes.plot(
                rows["rho"], places[chosen], linestyle="", marker=look.marker, color=look.color, label=f"{kind}, 95 %"
            )
    axes.axvline(0, color="0.3", linewidth=0.8)
    axes.set_yticks(places, [wrap_name(name) for name in frame["score"]])
    axes.set(xlim=(-1.02, 1.02), xlabel=f"Spearman's $\\rho$ with {found.objective.label} after {found.deployed.name}")
    sheet.title(f"{describe_problem(found.provenance)}, {count(len(found.policies), 'policy', 'policies')}")
    sheet.legend()
    return axes


def _unit(found: Predictors, score: Score) -> str:
    """What the values of a cheap score are, with their unit."""
    if score.kind == "free":
        return _UNITS[score.name]
    if score.kind == "predicted":
        return "\N{MINUS SIGN} predicted loss"
    return f"{found.objective.label} ({found.provenance['cheap_exam']['split']} images)"
