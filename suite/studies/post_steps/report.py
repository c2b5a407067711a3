"""The report on post-steps: scores after each, and paired differences from one of them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from scipy import stats

from suite.files import write_text
from suite.protocols import parse_post_step
from suite.report.appearance import assign_looks, figure_style, save_figure, wrap_name
from suite.report.checks import check_same_exam
from suite.report.intervals import CONFIDENCE, Interval, mean_interval
from suite.report.scores import exam_score, image_scores, name_objective
from suite.run.records import Outcome
from suite.studies.post_steps.run import PostStepComparison

SCHEMA_VERSION = 1
_UNKNOWN = Interval(float("nan"), float("nan"))
_COLUMNS = ("post-step", "score", "change", "95 % over training", "95 % over images", "by policy")


def write_post_steps(comparison: PostStepComparison, directory: Path) -> list[Path]:
    """Write tables and figure; each file replaces its predecessor in one step.

    Returns:
        The files: ``post_steps.csv``, ``.md`` and ``.json``, ``rows.csv`` (one row an exam), ``post_steps.png`` and ``.svg``.
    """
    frame, rows = table(comparison), exam_rows(comparison)
    texts = {
        "post_steps.csv": frame.to_csv(index=False),
        "post_steps.md": to_markdown(comparison, frame),
        "post_steps.json": to_json(comparison, frame, rows),
        "rows.csv": rows.to_csv(index=False),
    }
    for name, text in texts.items():
        write_text(directory / name, text)
    written = [directory / name for name in texts]
    return written + save_figure(plot_post_steps(comparison, frame), directory / "post_steps")


def table(comparison: PostStepComparison) -> pd.DataFrame:
    """One row a post-step: first the one that the others are measured by, then the best first.

    ``difference`` is the mean over policies and seeds of paired differences. ``low`` and ``high`` bound it over training
    (order and noise), policies and images held fixed, for all rows at once; ``image_low`` and ``image_high`` bound it over
    images, the trained networks held fixed, row by row. ``least`` and ``most`` are its extremes over policies.
    """
    names = list(comparison.exams)
    scores = {name: _scores(comparison, name) for name in names}
    rows = []
    for name in names:
        row = {"post_step": name, "score": float(scores[name].mean())}
        if name != names[0]:
            differences = scores[name] - scores[names[0]]
            training = training_interval(differences, len(names) - 1)
            images = _image_interval(comparison, name, names[0])
            row |= {
                "difference": float(differences.mean()),
                "low": training.low,
                "high": training.high,
                "image_low": images.low,
                "image_high": images.high,
                "least": float(differences.mean(axis=1).min()),
                "most": float(differences.mean(axis=1).max()),
            }
        rows.append(row)
    columns = ["post_step", "score", "difference", "low", "high", "image_low", "image_high", "least", "most"]
    frame = pd.DataFrame(rows, columns=columns)
    others = frame.iloc[1:].sort_values("score", ascending=False, kind="stable")
    return pd.DataFrame(frame.loc[[0, *others.index]]).reset_index(drop=True)


def exam_rows(comparison: PostStepComparison) -> pd.DataFrame:
    """One row an exam: post-step, policy, seed, score, certified accuracies, and the losses on the way."""
    rows = []
    for name, policies in comparison.exams.items():
        for position, outcomes in enumerate(policies):
            for seed, outcome in zip(comparison.provenance["seeds"], outcomes, strict=False):
                certified = outcome.metrics.certified_accuracy
                record = outcome.provenance.get("post_step_record", {})
                rows.append(
                    {
                        "post_step": name,
                        "policy": comparison.policies[position].to_json(),
                        "seed": seed,
                        "score": exam_score(outcome, comparison.objective),
                        "acr": outcome.metrics.acr,
                        "clean_accuracy": outcome.metrics.clean_accuracy,
                        **{f"certified_at_{radius:g}": share for radius, share in certified.items()},
                        "loss_last_capture": (record.get("captures") or [None])[-1],
                        "loss_averaged": record.get("averaged"),
                        "loss_requantized": record.get("requantized"),
                        "loss_finetuned": record.get("finetuned"),
                        "seconds": outcome.metrics.seconds,
                    }
                )
    return pd.DataFrame(rows)


def training_interval(differences: ArrayLike, comparisons: int = 1) -> Interval:
    """Confidence interval for the mean over fixed policies of paired differences, over the randomness of training.

    Each policy is a stratum: its seeds vary, the policy does not. Student's t with the variance pooled within policies;
    for one policy, the usual paired interval. With several comparisons, each interval is wide enough for all of them to
    hold at once (Bonferroni).

    Args:
        differences: Shape ``(policies, seeds)``.
        comparisons: How many intervals are to hold at once.

    Returns:
        The 95 % interval; NaN with a single seed.
    """
    values = np.atleast_2d(np.asarray(differences, dtype=np.float64))
    policies, seeds = values.shape
    if seeds < 2:
        return _UNKNOWN
    error = math.sqrt(float(values.var(axis=1, ddof=1).mean()) / values.size)
    quantile = float(stats.t.ppf(1 - (1 - CONFIDENCE) / (2 * comparisons), policies * (seeds - 1)))
    mean = float(values.mean())
    return Interval(mean - quantile * error, mean + quantile * error)


def to_markdown(comparison: PostStepComparison, frame: pd.DataFrame) -> str:
    """The table with a note on how to read it, as Markdown."""
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|---|" + "---:|" * (len(_COLUMNS) - 1)]
    lines += ["| " + " | ".join(cells) + " |" for cells in _cells(frame)]
    return "\n".join([*lines, "", f"{_title(comparison, 'sigma')}. {_note(comparison)}", ""])


def print_post_steps(comparison: PostStepComparison, console: Console) -> None:
    """The table with a note on how to read it, on a console."""
    shown = Table(box=SIMPLE_HEAD, title=_title(comparison, "sigma"), title_justify="left")
    for column in _COLUMNS[:-1]:
        shown.add_column(column, justify="left" if column == _COLUMNS[0] else "right", no_wrap=True)
    for name, *cells, _ in _cells(table(comparison)):
        short = [cell.replace("+0.", "+.").replace("-0.", "-.") for cell in cells]
        shown.add_row(name.replace(":", "\n  "), *short)
    console.print(shown)
    console.print(_note(comparison), highlight=False)


def to_json(comparison: PostStepComparison, frame: pd.DataFrame, rows: pd.DataFrame) -> str:
    """Everything, machine-readable; what is not a number is null."""
    content: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "objective": comparison.objective.text,
        "float_score": exam_score(comparison.reference, comparison.objective),
        "post_steps": json.loads(frame.to_json(orient="records", double_precision=15)),
        "rows": json.loads(rows.to_json(orient="records", double_precision=15)),
        "provenance": comparison.provenance,
    }
    return json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


@figure_style()
def plot_post_steps(comparison: PostStepComparison, frame: pd.DataFrame) -> Figure:
    """On the left every exam, a colour a policy; on the right the mean paired differences with both intervals.

    What is not trained at all is left out where something is: it would press everything else together.
    """
    untrained = frame["post_step"].map(lambda name: not parse_post_step(name).trains)
    untrained &= not untrained.all() and not untrained[0]
    without = "".join(f", without training {score:.4f}" for score in frame["score"][untrained])
    frame = frame[~untrained]
    names = list(frame["post_step"])
    places = np.arange(len(names))[::-1]
    figure = Figure(figsize=(8.0, 0.42 * len(names) + 1.7), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    labels = [f"policy {number + 1}" for number in range(len(comparison.policies))]
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
    left.set_xlabel(f"{name_objective(comparison.objective)} ({comparison.provenance['exam']['split']} images)")
    right.axvline(0, color="0.3", linewidth=0.8)
    for place, row in zip(places[1:], frame.iloc[1:].to_dict("records"), strict=True):
        below = place - 0.18
        right.plot([row["image_low"], row["image_high"]], [below, below], color="0.55", linewidth=1.2)
        right.plot([row["low"], row["high"]], [place, place], color="0.1", linewidth=2.6)
        right.plot(row["difference"], place, marker="o", color="0.1", markersize=5)
    right.set_xlabel(f"difference from {names[0]}\n95 % over training (thick), over images (thin)")
    figure.suptitle(_title(comparison, "$\\sigma$") + without, x=0.01, ha="left")
    figure.legend(*left.get_legend_handles_labels(), loc="outside right upper")
    return figure


def _outcomes(comparison: PostStepComparison, name: str) -> list[Outcome]:
    return [outcome for outcomes in comparison.exams[name] for outcome in outcomes]


def _scores(comparison: PostStepComparison, name: str) -> NDArray[np.float64]:
    """Shape ``(policies, seeds)``; what no seed changes counts for all of them when it is paired."""
    for outcome in _outcomes(comparison, name):
        check_same_exam(outcome, comparison.reference)
    return np.array(
        [[exam_score(outcome, comparison.objective) for outcome in outcomes] for outcomes in comparison.exams[name]]
    )


def _image_interval(comparison: PostStepComparison, name: str, first: str) -> Interval:
    if comparison.objective.measure == "clean":
        return _UNKNOWN
    averages = [
        np.mean([image_scores(outcome, comparison.objective) for outcome in _outcomes(comparison, which)], axis=0)
        for which in (name, first)
    ]
    return mean_interval(averages[0] - averages[1])


def _cells(frame: pd.DataFrame) -> list[list[str]]:
    return [
        [
            str(row["post_step"]),
            f"{row['score']:.4f}",
            "" if math.isnan(row["difference"]) else f"{row['difference']:+.4f}",
            _range(row["low"], row["high"]),
            _range(row["image_low"], row["image_high"]),
            _range(row["least"], row["most"], " to "),
        ]
        for row in frame.to_dict("records")
    ]


def _range(low: float, high: float, between: str = ", ") -> str:
    if math.isnan(low):
        return ""
    return f"{low:+.4f}{between}{high:+.4f}" if between != ", " else f"[{low:+.4f}, {high:+.4f}]"


def _title(comparison: PostStepComparison, sigma: str) -> str:
    known = comparison.provenance
    return f"{known['problem']}, budget {known['budget']}, {sigma} = {known['sigma']:g}"


def _note(comparison: PostStepComparison) -> str:
    known, names = comparison.provenance, list(comparison.exams)
    policies, seeds = len(comparison.policies), len(known["seeds"])
    images = f"{len(comparison.reference.labels)} {known['exam']['split']} images, n = {known['exam']['n']}"
    return (
        f"Score: {name_objective(comparison.objective)} on {images}, mean over {_count(policies, 'policy', 'policies')} and "
        f"{_count(seeds, 'seed', 'seeds')}; the float network has "
        f"{exam_score(comparison.reference, comparison.objective):.4f}. Differences from {names[0]}, paired by policy and seed, "
        "with 95 % intervals; those over training hold for all rows at once, those over images for one row each."
    )


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
