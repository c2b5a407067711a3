"""The report of a replay: leaderboards by true score, and figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from suite.report.aggregates import interquartile_mean, performance_profile, probability_of_improvement
from suite.report.anytime import NEAR, hitting_times, normalized_score, simple_regret
from suite.report.curves import Band
from suite.report.decision_figures import (
    plot_attainment,
    plot_critical_difference,
    plot_profiles,
    plot_regret,
    plot_times_to_target,
)
from suite.report.fronts import attainment_surfaces
from suite.report.intervals import CONFIDENCE, seed_interval
from suite.report.power import seeds_for_power
from suite.report.ranks import rank_biserial, rank_searchers
from suite.report.statistics import SIGNIFICANCE, correct_p_values, sign_flip_p_value
from suite.report.table import Column, Table, integer, number, span
from suite.report.write import write_files
from suite.studies.replay.orders import order_frame, order_of, order_table
from suite.studies.replay.run import Replay, Task

_NO_TEST = dict.fromkeys(
    ("difference", "difference_low", "difference_high", "p_adjusted", "effect", "verdict", "seeds_needed")
)
_NO_IMPROVEMENT = dict.fromkeys(("improvement", "improvement_low", "improvement_high"))
WITHIN_NOISE = "within the table's noise"
"""Verdict on a difference that seeds tell from zero, and the noise of true scores does not."""
_POINTS = 100
_CURVES = 8


def write_replay(
    found: Replay, marks: Sequence[int], against: str, directory: Path, orders: Sequence[str] = ()
) -> list[Path]:
    """Write the tables ``leaderboard`` and ``overall``, both as JSON in ``replay``, and the figures of every task.

    ``orders`` are reports of other replays and comparisons, whose orders are compared in the table ``orders``.
    """
    board, overall = task_frame(found, marks, against), overall_frame(found, against)
    figures = [("profiles", plot_profiles(_profiles(found)))]
    for task in found.tasks:
        shown = _shown(board, task, against)
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
            figures.append((f"ranks-{task.name}", plot_critical_difference(rank_searchers(_finals(found, task)))))
    elsewhere = order_frame(order_of(board), orders)
    return write_files(
        directory,
        *([("orders", order_table(elsewhere))] if orders else []),
        ("leaderboard", task_table(found, board, marks, against)),
        ("overall", overall_table(found, overall, against)),
        ("replay", {"tasks": _describe(found), "leaderboard": board, "overall": overall, "orders": elsewhere}),
        *figures,
    )


def task_frame(found: Replay, marks: Sequence[int], against: str) -> pd.DataFrame:
    """One row per task and searcher, the lowest regret at the last mark first.

    Columns: ``task``, ``searcher``; ``regret@N``, the mean simple regret of the incumbents after N evaluations, with its 95 % t
    interval after the last, ``low`` and ``high``; ``rank``, the mean over seeds; ``at_optimum``, the share of searches that end
    within :data:`NEAR` of the optimum, and ``evaluations_to_target``, the median until then, missing if half never are;
    ``difference``, in true score, from ``against``, paired by seed, with its 95 % interval ``difference_low`` and
    ``difference_high`` over seeds and the noise of true scores, ``p_adjusted`` of the sign-flip test over seeds after Holm's
    correction within the task, ``effect``, the rank-biserial correlation, ``verdict``, and ``seeds_needed`` for a power of 0.8.
    A verdict needs both the test and the interval. Where BOPs are a further objective also ``hypervolume``, that of the fronts as
    a share of the true one's, with its interval.
    """
    rows = []
    for task in found.tasks:
        finals = _finals(found, task)
        others = [name for name in finals if name != against]
        p_values = [sign_flip_p_value(finals[name] - finals[against]) for name in others]
        adjusted = dict(zip(others, correct_p_values(p_values), strict=True)) if others else {}
        ranks = stats.rankdata(-np.array(list(finals.values())), axis=0).mean(axis=1)
        for (name, truths), rank in zip(finals.items(), ranks, strict=True):
            regrets = simple_regret(found.truths(name, task, marks), task.optimum)
            times = hitting_times(
                [course["evaluations"] for course in found.courses[name][task.name].values()], _target(task)
            )
            half = float(np.median(np.where(times.reached, times.spend, np.inf)))
            row: dict[str, Any] = {"task": task.name, "searcher": name}
            row |= {f"regret@{mark}": regret for mark, regret in zip(marks, regrets.mean(axis=0), strict=True)}
            row |= asdict(seed_interval(regrets[:, -1]))
            row |= {"rank": rank, "at_optimum": float(np.mean(truths >= _target(task)))}
            row["evaluations_to_target"] = half if np.isfinite(half) else np.nan
            if name in adjusted:
                noise = difference_noise(truths, finals[against], task.problem.truth_error)
                row |= _against(truths - finals[against], adjusted[name], len(others), noise)
            else:
                row |= _NO_TEST
            if found.fronts:
                shares = [task.hypervolume(front) for front in found.fronts[name][task.name]]
                held = seed_interval(shares)
                row |= {
                    "hypervolume": float(np.mean(shares)),
                    "hypervolume_low": held.low,
                    "hypervolume_high": held.high,
                }
            rows.append(row)
    frame = pd.DataFrame(rows)
    order = {task.name: place for place, task in enumerate(found.tasks)}
    return frame.sort_values(
        ["task", f"regret@{marks[-1]}", "searcher"],
        key=lambda column: column.map(order) if column.name == "task" else column,
    ).reset_index(drop=True)


def difference_noise(ends: NDArray[np.float64], others: NDArray[np.float64], error: float | None) -> float:
    """Standard error that the noise of true scores gives a mean difference of what searches end with; 0 without noise.

    Searches that end with the same policy share its noise: the mean difference is a sum over policies of what is measured of each,
    weighted by how many more of the ones than of the others end there.

    Args:
        ends: True scores at the end, shape ``(seeds,)``; equal scores are taken for the same policy.
        others: Those of the other method, likewise.
        error: Standard error of the true score of one policy.
    """
    policies, places = np.unique(np.concatenate([ends, others]), return_inverse=True)
    weights = np.concatenate([np.full(len(ends), 1 / len(ends)), np.full(len(others), -1 / len(others))])
    return (error or 0.0) * float(np.linalg.norm(np.bincount(places, weights, len(policies))))


def _against(differences: NDArray[np.float64], p_adjusted: float, comparisons: int, noise: float) -> dict[str, Any]:
    mean, over_seeds = float(differences.mean()), seed_interval(differences)
    half = float(np.hypot((over_seeds.high - over_seeds.low) / 2, stats.norm.ppf((1 + CONFIDENCE) / 2) * noise))
    verdict = "better" if mean > 0 else "worse"
    if p_adjusted > SIGNIFICANCE:
        verdict = "not distinguishable"
    elif abs(mean) <= half:
        verdict = WITHIN_NOISE
    needed = seeds_for_power(differences, comparisons=comparisons) if len(differences) > 1 else None
    return {
        "difference": mean,
        "difference_low": mean - half,
        "difference_high": mean + half,
        "p_adjusted": p_adjusted,
        "effect": rank_biserial(differences),
        "verdict": verdict,
        "seeds_needed": np.nan if needed is None else needed,
    }


def overall_frame(found: Replay, against: str) -> pd.DataFrame:
    """One row per searcher: interquartile mean of normalized scores over all tasks, and its probability of improvement.

    Columns: ``searcher``, ``score``, ``low``, ``high``; ``improvement`` over ``against``, with ``improvement_low`` and
    ``improvement_high``.
    """
    scores = {name: _normalized(found, name) for name in found.courses}
    rows = []
    for name, tasks in scores.items():
        middle = interquartile_mean(tasks)
        row = {"searcher": name, "score": middle.value, "low": middle.low, "high": middle.high}
        if name != against:
            better = probability_of_improvement(tasks, scores[against])
            row |= {"improvement": better.value, "improvement_low": better.low, "improvement_high": better.high}
        else:
            row |= _NO_IMPROVEMENT
        rows.append(row)
    return pd.DataFrame(rows).sort_values(["score", "searcher"], ascending=[False, True]).reset_index(drop=True)


def task_table(found: Replay, frame: pd.DataFrame, marks: Sequence[int], against: str) -> Table:
    """The leaderboard of every task."""
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


def overall_table(found: Replay, frame: pd.DataFrame, against: str) -> Table:
    """All tasks in one number."""
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
    return Table(frame, columns, "Over all tasks", notes)


def _at(column: str, form: str) -> Any:
    return lambda row: number(row[column], form)


def _finals(found: Replay, task: Task) -> dict[str, np.ndarray[Any, Any]]:
    """True scores at the end, by searcher, shape ``(seeds,)``."""
    return {name: found.truths(name, task, [found.evaluations])[:, 0] for name in found.courses}


def _normalized(found: Replay, name: str) -> list[np.ndarray[Any, Any]]:
    return [normalized_score(_finals(found, task)[name], task.optimum, task.reference) for task in found.tasks]


def _target(task: Task) -> float:
    return task.optimum - NEAR * (task.optimum - task.reference)


def _regret(found: Replay, name: str, task: Task) -> Band:
    points = np.unique(np.geomspace(1, found.evaluations, _POINTS).round())
    return Band.over(points, list(simple_regret(found.truths(name, task, points.tolist()), task.optimum)))


def _times(found: Replay, task: Task, names: Sequence[str]) -> dict[str, Band]:
    return {
        name: hitting_times(
            [course["evaluations"] for course in found.courses[name][task.name].values()], _target(task)
        ).distribution()
        for name in names
    }


def _profiles(found: Replay) -> dict[str, Band]:
    thresholds = np.linspace(0, 1, _POINTS)
    best = overall_frame(found, next(iter(found.courses)))["searcher"][:_CURVES]
    return {name: performance_profile(_normalized(found, name), thresholds) for name in best}


def _shown(board: pd.DataFrame, task: Task, against: str) -> list[str]:
    """The best searchers of a task, as many as a figure can tell apart, that which all are tested against among them."""
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
