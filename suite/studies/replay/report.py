"""The report of a replay: leaderboards by true score, and figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from suite.report.aggregates import performance_profile
from suite.report.anytime import NEAR, hitting_times, simple_regret
from suite.report.curves import Band
from suite.report.decision_figures import (
    plot_attainment,
    plot_critical_difference,
    plot_profiles,
    plot_regret,
    plot_times_to_target,
)
from suite.report.fronts import attainment_surfaces
from suite.report.ranks import rank_searchers
from suite.report.table import Column, Table, integer, number, span
from suite.report.write import write_files
from suite.studies.replay.judge import WITHIN_NOISE, Judged, target
from suite.studies.replay.orders import order_frame, order_of, order_table
from suite.studies.replay.run import Replay, Task

_POINTS = 100
_CURVES = 8


def write_replay(judged: Judged, directory: Path, orders: Sequence[str] = ()) -> list[Path]:
    """Write the tables ``leaderboard`` and ``overall``, both as JSON in ``replay``, and the figures of every task.

    ``orders`` are reports of other replays and comparisons, whose orders are compared in the table ``orders``.
    """
    found = judged.replay
    figures = [("profiles", plot_profiles(_profiles(judged)))]
    for task in found.tasks:
        shown = _shown(judged, task)
        figures += [
            (f"regret-{task.name}", plot_regret({name: _regret(found, name, task) for name in shown})),
            (
                f"targets-{task.name}",
                plot_times_to_target(_times(found, task, shown), f"the optimum within {NEAR:.0%}"),
            ),
        ]
        if found.fronts:
            surfaces = {name: attainment_surfaces(found.fronts[name][task.name]) for name in shown}
            figures.append((f"fronts-{task.name}", plot_attainment(surfaces)))
        if len(found.courses) > 2 and found.seeds > 1:
            figures.append((f"ranks-{task.name}", plot_critical_difference(rank_searchers(judged.finals(task)))))
    elsewhere = order_frame(order_of(judged.board), orders)
    return write_files(
        directory,
        *([("orders", order_table(elsewhere))] if orders else []),
        ("leaderboard", task_table(judged)),
        ("overall", overall_table(judged)),
        (
            "replay",
            {
                "tasks": _describe(found),
                "leaderboard": judged.board,
                "overall": judged.overall,
                "orders": elsewhere,
            },
        ),
        *figures,
    )


def task_table(judged: Judged) -> Table:
    """The leaderboard of every task."""
    found, frame, marks, against = judged.replay, judged.board, judged.marks, judged.against
    columns = [
        Column("task", lambda row: str(row["task"]), "left"),
        Column("searcher", lambda row: str(row["searcher"]), "left"),
        *(Column(f"regret at {mark}", _at(f"regret@{mark}", ".4f"), priority=mark != marks[-1]) for mark in marks),
        Column("95 %", lambda row: span(row["low"], row["high"], ".4f"), priority=1),
        Column("rank", _at("rank", ".1f")),
        Column(f"within {NEAR:.0%}", _at("at_optimum", ".0%")),
        Column("evaluations until then", lambda row: integer(row["evaluations_to_target"]), priority=2),
        Column(f"above {against}", _at("difference", "+.4f")),
        Column("95 % of it", lambda row: span(row["difference_low"], row["difference_high"], "+.4f"), priority=1),
        Column("p", _at("p_adjusted", ".3g")),
        *(
            [
                Column("hypervolume", _at("hypervolume", ".1%")),
                Column("95 % of this", lambda row: span(row["hypervolume_low"], row["hypervolume_high"], ".1%")),
            ]
            if "hypervolume" in frame
            else []
        ),
        Column("verdict", lambda row: "" if pd.isna(row["verdict"]) else str(row["verdict"]), "left"),
        Column("seeds needed", lambda row: integer(row["seeds_needed"]), priority=2),
    ]
    notes = [
        f"Regret: how far the true score of what a search holds best lies below the optimum, mean over {found.seeds} seeds; true "
        "scores are those of images and noise that searches do not see, where the table has them.",
        f"Within {NEAR:.0%}: share of searches that end as close to the optimum, in units of the distance between it and the mean "
        "policy; after how many evaluations half of them are.",
        f"Differences in true score from {against}, paired by seed; p of the sign-flip test, Holm-corrected within the task. "
        "Seeds needed for a verdict with a probability of 0.8, were the difference true.",
        "All of this is about searches on the recorded network. Methods that draw nothing at random differ from seed to seed by "
        "the recorded noises and probes alone.",
    ]
    errors = [error for task in found.tasks if (error := task.problem.truth_error) is not None]
    if any(task.problem.norm == "linf" for task in found.tasks):
        notes.append(
            "Scores are L-infinity certificates without noise: optimum and differences are exact on the table's images, and "
            "verdicts are about these; other images would move them."
        )
    if errors:
        notes.append(
            f"True scores have a standard error of {max(errors):.4f} over noise, and the optimum is the highest of them: smaller "
            f"regrets are none. A verdict needs the test, and an interval over seeds and this noise without 0; else it reads "
            f"'{WITHIN_NOISE}'."
        )
    if "hypervolume" in frame:
        notes.append(
            "Hypervolume: of the fronts of true score and BOPs, as a share of the true front's, above the worst policy."
        )
    return Table(frame, columns, f"Searches on recorded tables, at most {found.evaluations} evaluations", notes)


def overall_table(judged: Judged) -> Table:
    """All tasks in one number."""
    found, against = judged.replay, judged.against
    columns = [
        Column("searcher", lambda row: str(row["searcher"]), "left"),
        Column("score", _at("score", ".3f")),
        Column("95 %", lambda row: span(row["low"], row["high"], ".3f")),
        Column(f"P(above {against})", _at("improvement", ".2f")),
        Column("95 % of it", lambda row: span(row["improvement_low"], row["improvement_high"], ".2f")),
    ]
    notes = [
        f"Score: interquartile mean over {len(found.tasks)} tasks and {found.seeds} seeds each, 0 for the mean policy within the "
        "budget and 1 for the best; P: probability that a search ends above one of the other, ties counted half. Bootstrap "
        "intervals, seeds drawn within tasks."
    ]
    return Table(judged.overall, columns, "Over all tasks", notes)


def _at(column: str, form: str) -> Any:
    return lambda row: number(row[column], form)


def _regret(found: Replay, name: str, task: Task) -> Band:
    points = np.unique(np.geomspace(1, found.evaluations, _POINTS).round())
    return Band.over(points, list(simple_regret(found.truths(name, task, points.tolist()), task.optimum)))


def _times(found: Replay, task: Task, names: Sequence[str]) -> dict[str, Band]:
    return {
        name: hitting_times(
            [course["evaluations"] for course in found.courses[name][task.name].values()], target(task)
        ).distribution()
        for name in names
    }


def _profiles(judged: Judged) -> dict[str, Band]:
    thresholds = np.linspace(0, 1, _POINTS)
    best = judged.overall["searcher"][:_CURVES]
    return {name: performance_profile(judged.normalized(name), thresholds) for name in best}


def _shown(judged: Judged, task: Task) -> list[str]:
    """The best searchers of a task, as many as a figure can tell apart, that which all are tested against among them."""
    board, against = judged.board, judged.against
    ranked = board.loc[board["task"] == task.name, "searcher"].tolist()
    kept = {against, *[name for name in ranked if name != against][: _CURVES - 1]}
    return [name for name in ranked if name in kept]


def _describe(found: Replay) -> list[dict[str, Any]]:
    return [
        {
            "task": task.name,
            "optimum": task.optimum,
            "reference": task.reference,
            "truth_error": task.problem.truth_error,
            "feasible": len(task.truth),
            "best": max(task.truth, key=task.truth.__getitem__).to_dict(),
            "provenance": task.problem.provenance(),
        }
        for task in found.tasks
    ]
