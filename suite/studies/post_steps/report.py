"""The report on post-steps: scores after each, and paired differences from one of them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from suite.protocols import parse_post_step
from suite.report.exams import check_same_exam, exam_score
from suite.report.figures import Sheet, assign_looks, describe_problem, figure_style, wrap_name
from suite.report.intervals import CONFIDENCE, UNKNOWN, Interval, average
from suite.report.table import NOTHING, Column, Row, Table, count, number, span
from suite.report.write import write_files
from suite.run.records import Outcome
from suite.studies.post_steps.policies import exam_scores, plot_policies, policy_table
from suite.studies.post_steps.run import PostStepComparison


def write_post_steps(comparison: PostStepComparison, directory: Path) -> list[Path]:
    """Write table, JSON and figure, all called ``post_steps``; the same by policy, ``policies``; ``rows.csv``, one row per exam."""
    table, rows = post_step_table(comparison), exam_rows(comparison)
    content = {
        "objective": comparison.objective.text,
        "float_score": exam_score(comparison.reference, comparison.objective),
        "post_steps": table.frame,
        "rows": rows,
        "provenance": comparison.provenance,
    }
    return write_files(
        directory,
        ("post_steps", table),
        ("post_steps", content),
        ("rows", rows),
        ("post_steps", plot_post_steps(comparison)),
        ("policies", policy_table(comparison)),
        ("policies", plot_policies(comparison)),
    )


def post_step_table(comparison: PostStepComparison) -> Table:
    """Lay out the :func:`differences` for people."""
    columns = [
        Column("post-step", lambda row: str(row["post_step"]), "left"),
        Column("steps", lambda row: number(row["steps"], ",.0f"), priority=1),
        Column("passes", lambda row: number(row["passes"], ",.0f"), priority=1),
        Column("score", lambda row: f"{row['score']:.4f}"),
        Column("change", lambda row: number(row["difference"], "+.4f")),
        Column("95 % over training", lambda row: span(row["low"], row["high"], "+.4f")),
        Column("95 % over images", lambda row: span(row["image_low"], row["image_high"], "+.4f"), priority=1),
        Column("by policy", _policy_range, priority=2),
    ]
    return Table(
        differences(comparison), columns, describe_problem(comparison.provenance, "sigma"), [_note(comparison)]
    )


def differences(comparison: PostStepComparison) -> pd.DataFrame:
    """One row per post-step: first the one that the others are measured by, then the best first.

    ``difference`` is the mean over policies and seeds of paired differences. ``low`` and ``high`` bound it over training
    (order and noise), policies and images held fixed, for all rows at once; ``image_low`` and ``image_high`` bound it over
    images, the trained networks held fixed, row by row. ``least`` and ``most`` are its extremes over policies. ``steps`` are
    optimizer steps and ``passes`` the forward passes of one post-step, by which rows are to be compared.
    """
    names = list(comparison.exams)
    scores = {name: _scores(comparison, name) for name in names}
    rows, first = [], _outcomes(comparison, names[0])
    for name in names:
        row = {
            "post_step": name,
            "steps": parse_post_step(name, comparison.provenance.get("steps")).steps,
            "passes": _passes(comparison, name),
            "score": float(scores[name].mean()),
        }
        if name != names[0]:
            paired = scores[name] - scores[names[0]]
            training = training_interval(paired, len(names) - 1)
            images = average(_outcomes(comparison, name), comparison.objective, first).images
            row |= {
                "difference": float(paired.mean()),
                "low": training.low,
                "high": training.high,
                "image_low": images.low,
                "image_high": images.high,
                "least": float(paired.mean(axis=1).min()),
                "most": float(paired.mean(axis=1).max()),
            }
        rows.append(row)
    columns = [
        "post_step",
        "steps",
        "passes",
        "score",
        "difference",
        "low",
        "high",
        "image_low",
        "image_high",
        "least",
        "most",
    ]
    frame = pd.DataFrame(rows, columns=columns)
    others = frame.iloc[1:].sort_values("score", ascending=False, kind="stable")
    return pd.DataFrame(frame.loc[[0, *others.index]]).reset_index(drop=True)


def exam_rows(comparison: PostStepComparison) -> pd.DataFrame:
    """One row per exam: post-step, policy, seed, score, certified accuracies, and the losses on the way."""
    rows = []
    for name, exams in comparison.exams.items():
        for policy, outcomes in zip(comparison.policies, exams, strict=True):
            for seed, outcome in zip(comparison.provenance["seeds"], outcomes, strict=False):
                metrics, record = outcome.metrics, outcome.provenance.get("post_step_record", {})
                rows.append(
                    {
                        "post_step": name,
                        "policy": policy.to_json(),
                        "seed": seed,
                        "score": exam_score(outcome, comparison.objective),
                        "acr": metrics.acr,
                        "clean_accuracy": metrics.clean_accuracy,
                        **{f"certified_at_{radius:g}": share for radius, share in metrics.certified.items()},
                        "loss_last_capture": (record.get("captures") or [None])[-1],
                        **{f"loss_{at}": record.get(at) for at in ("averaged", "requantized", "finetuned")},
                        "seconds": metrics.seconds,
                    }
                )
    return pd.DataFrame(rows)


def training_interval(differences: ArrayLike, comparisons: int = 1) -> Interval:
    """Confidence interval for the mean over fixed policies of paired differences, over the randomness of training.

    Each policy is a stratum of its own spread: its seeds vary, the policy does not. Student's t with the degrees of freedom of
    Welch and Satterthwaite; for one policy, the usual paired interval. With several comparisons, each interval is wide enough for
    all of them to hold at once (Bonferroni). Simulated coverage with 5 policies of 5 seeds is 94 to 97 %, with equal spreads and
    with spreads that differ tenfold; jointly over 6 comparisons 95 to 97 %, 91 % where one policy has nearly all of the spread.

    Args:
        differences: Shape ``(policies, seeds)``.
        comparisons: How many intervals are to hold at once.

    Returns:
        The 95 % interval; NaN with a single seed, or if seeds change nothing at all.

    References:
        Satterthwaite, An approximate distribution of estimates of variance components, Biometrics Bull. 2 (1946).
    """
    values = np.atleast_2d(np.asarray(differences, dtype=np.float64))
    policies, seeds = values.shape
    if seeds < 2:
        return UNKNOWN
    variances, mean = values.var(axis=1, ddof=1), float(values.mean())
    total = float(variances.sum())
    if total == 0:
        return UNKNOWN
    degrees = (seeds - 1) * total**2 / float((variances**2).sum())
    half = float(stats.t.ppf(1 - (1 - CONFIDENCE) / (2 * comparisons), degrees)) * math.sqrt(total / seeds) / policies
    return Interval(mean - half, mean + half)


@figure_style()
def plot_post_steps(comparison: PostStepComparison, ax: Axes | None = None) -> Axes:
    """On the left every exam, one colour per policy; on the right the mean paired differences with both intervals.

    What is not trained at all is left out where something is: it would press everything else together. ``ax`` takes the left
    panel alone.
    """
    frame = differences(comparison)
    untrained = frame["post_step"].map(lambda name: not parse_post_step(name).trains)
    untrained &= not untrained.all() and not untrained[0]
    without = "".join(f", without training {score:.4f}" for score in frame["score"][untrained])
    frame = frame[~untrained]
    names = list(frame["post_step"])
    places = np.arange(len(names))[::-1]
    sheet = Sheet.on(ax, (8.0, 0.42 * len(names) + 1.7), 1, 2, sharey=True, width_ratios=(3, 2))
    left = sheet.panels[0]
    labels = comparison.names
    looks = assign_looks(labels)
    for position, label in enumerate(labels):
        offset = 0.0 if len(labels) == 1 else 0.5 * (0.5 - position / (len(labels) - 1))
        for place, name in zip(places, names, strict=True):
            scores = _scores(comparison, name)[position]
            left.plot(
                scores,
                np.full(len(scores), place + offset),
                linestyle="",
                marker=looks[label].marker,
                color=looks[label].color,
                alpha=0.7,
                markersize=4,
                label=label if name == names[0] else None,
            )
    left.axvline(
        exam_score(comparison.reference, comparison.objective),
        color="0.3",
        linestyle=(0, (4, 3)),
        label="float network",
    )
    left.set_yticks(places, [wrap_name(name) for name in names])
    left.set_xlabel(f"{comparison.objective.label} ({comparison.provenance['exam']['split']} images)")
    for panel in sheet.panels:
        panel.locator_params(axis="x", nbins=4)
    for right in sheet.panels[1:]:
        right.axvline(0, color="0.3", linewidth=0.8)
        for place, row in zip(places[1:], frame.iloc[1:].to_dict("records"), strict=True):
            below = place - 0.18
            right.plot([row["image_low"], row["image_high"]], [below, below], color="0.55", linewidth=1.2)
            right.plot([row["low"], row["high"]], [place, place], color="0.1", linewidth=2.6)
            right.plot(row["difference"], place, marker="o", color="0.1", markersize=5)
        right.set_xlabel(f"difference from {names[0]}\n95 % over training (thick), over images (thin)")
    sheet.title(describe_problem(comparison.provenance) + without)
    sheet.legend()
    return left


def _outcomes(comparison: PostStepComparison, name: str) -> list[Outcome]:
    return [outcome for outcomes in comparison.exams[name] for outcome in outcomes]


def _scores(comparison: PostStepComparison, name: str) -> NDArray[np.float64]:
    """Shape ``(policies, seeds)``; what no seed changes counts for all of them when it is paired."""
    for outcome in _outcomes(comparison, name):
        check_same_exam(outcome, comparison.reference)
    return exam_scores(comparison, name)


def _passes(comparison: PostStepComparison, name: str) -> float:
    """Mean forward passes that a post-step makes; NaN for exams of versions that did not record them."""
    return float(
        np.mean([outcome.provenance.get("preparation_passes", math.nan) for outcome in _outcomes(comparison, name)])
    )


def _policy_range(row: Row) -> str:
    return NOTHING if math.isnan(row["least"]) else f"{row['least']:+.4f} to {row['most']:+.4f}"


def _note(comparison: PostStepComparison) -> str:
    known, names = comparison.provenance, list(comparison.exams)
    policies, seeds = len(comparison.policies), len(known["seeds"])
    images = f"{len(comparison.reference.labels)} {known['exam']['split']} images, n = {known['exam']['n']}"
    return (
        f"Score: {comparison.objective.label} on {images}, mean over {count(policies, 'policy', 'policies')} and "
        f"{count(seeds, 'seed')}; the float network has "
        f"{exam_score(comparison.reference, comparison.objective):.4f}. Differences from {names[0]}, paired by policy and seed, "
        "with 95 % intervals; those over training hold for all rows at once, those over images for one row each. Only rows with "
        "equal steps compare at equal steps, only rows with about equal passes at equal spend (a backward pass counts as two)."
    )
