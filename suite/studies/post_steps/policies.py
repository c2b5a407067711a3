"""The report on post-steps, policy by policy: scores against BOPs, and how much the choice of the policy decides."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from suite.report.exams import exam_score
from suite.report.figures import Sheet, assign_looks, describe_problem, figure_style
from suite.report.intervals import average
from suite.report.reliability import anova_reliability
from suite.report.table import Column, Row, Table, number, span
from suite.studies.post_steps.run import PostStepComparison

_LEGEND = "Score: mean over seeds; sd: over seeds; the interval holds networks fixed. Uniform policies are called by their bits."
_PLAIN = {"facecolor": "white", "edgecolor": "none", "pad": 0.4}
_WIDE = 4.0  # ratio of BOPs from which on they are drawn on a logarithmic scale


def exam_scores(comparison: PostStepComparison, name: str) -> NDArray[np.float64]:
    """Scores after a post-step, shape ``(policies, seeds)``; a single column where no seed changes anything."""
    rows = comparison.exams[name]
    return np.array([[exam_score(outcome, comparison.objective) for outcome in outcomes] for outcomes in rows])


def policy_rows(comparison: PostStepComparison) -> pd.DataFrame:
    """One row per policy and post-step, the cheapest policy first.

    Columns:
        policy: Its name, see :func:`suite.studies.post_steps.run.name_policies`.
        bops, of_float: BOPs, absolute and as a share of the float network's.
        post_step: What the policy has gone through.
        score, sd: Mean and standard deviation over seeds; the latter is missing with a single seed.
        image_low, image_high: 95 % interval of the mean over images, the networks held fixed.
        ``certified_at_r``: Certified accuracy, mean over seeds.
    """
    rows = []
    for name, exams in comparison.exams.items():
        scores = exam_scores(comparison, name)
        for policy, outcomes, own in zip(comparison.names, exams, scores, strict=True):
            certified = pd.DataFrame([outcome.metrics.certified for outcome in outcomes]).mean()
            bops, images = outcomes[0].metrics.bops, average(outcomes, comparison.objective).images
            rows.append(
                {
                    "policy": policy,
                    "bops": bops,
                    "of_float": bops / comparison.reference.metrics.bops,
                    "post_step": name,
                    "score": float(own.mean()),
                    "sd": float(own.std(ddof=1)) if len(own) > 1 else None,
                    "image_low": images.low,
                    "image_high": images.high,
                    **{f"certified_at_{radius:g}": share for radius, share in certified.items()},
                }
            )
    return pd.DataFrame(rows).sort_values(["bops", "policy"], kind="stable").reset_index(drop=True)


def policy_table(comparison: PostStepComparison) -> Table:
    """Lay out :func:`policy_rows` for people, with what the policies' spread means."""
    frame = policy_rows(comparison)
    radii = [str(column) for column in frame if str(column).startswith("certified_at_") and frame[column].any()]
    columns = [
        Column("policy", lambda row: str(row["policy"]), "left"),
        Column("BOPs, % of float", lambda row: f"{100 * row['of_float']:.3g}"),
        Column("post-step", lambda row: str(row["post_step"]), "left"),
        Column("score", lambda row: f"{row['score']:.4f}"),
        Column("sd", lambda row: number(row["sd"], ".4f"), priority=1),
        Column("95 % over images", lambda row: span(row["image_low"], row["image_high"], ".3f"), priority=1),
        *(Column(f"r={name.removeprefix('certified_at_')}", _three_digits(name), priority=2) for name in radii),
    ]
    return Table(frame, columns, describe_problem(comparison.provenance, "sigma"), _notes(comparison))


@figure_style()
def plot_policies(comparison: PostStepComparison, ax: Axes | None = None) -> Axes:
    """Score against BOPs: the mean over seeds of every policy after every post-step, with the range where there are several."""
    frame, looks = policy_rows(comparison), assign_looks(comparison.exams)
    sheet = Sheet.on(ax, (8.0, 3.9))
    axes = sheet.panels[0]
    shares = 100 * frame.groupby("policy", sort=False)["of_float"].first()
    for name in comparison.exams:
        scores = exam_scores(comparison, name)
        means, places = scores.mean(axis=1), [shares[policy] for policy in comparison.names]
        axes.errorbar(
            places,
            means,
            yerr=(means - scores.min(axis=1), scores.max(axis=1) - means),
            linestyle="",
            marker=looks[name].marker,
            markersize=6,
            markerfacecolor=(*looks[name].color, 0.35),
            color=looks[name].color,
            elinewidth=0.9,
            label=name,
        )
    best = frame.groupby("policy", sort=False)["score"].max()
    named: list[tuple[float, float]] = []
    for policy in best.index:
        if policy.startswith("w"):
            place = float(shares[policy]), float(best[policy])
            wide, high = shares.max() - shares.min(), best.max() - best.min()
            beside = any(abs(x - place[0]) < 0.08 * wide and abs(y - place[1]) < 0.08 * high for x, y in named)
            named.append(place)
            axes.annotate(
                policy,
                place,
                xytext=(6, -3) if beside else (0, 6),
                textcoords="offset points",
                ha="left" if beside else "center",
                fontsize=8,
                bbox=_PLAIN,
            )
    reference = exam_score(comparison.reference, comparison.objective)
    axes.axhline(reference, color="0.3", linestyle=(0, (4, 3)), label=f"float network: {reference:.4f}")
    if shares.max() > _WIDE * shares.min():
        axes.set_xscale("log")
        ticks = [tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20) if shares.min() / 1.5 <= tick <= 1.5 * shares.max()]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    axes.margins(y=0.12)
    axes.set(
        xlabel="BOPs, % of the float network",
        ylabel=f"{comparison.objective.label} ({comparison.provenance['exam']['split']} images)",
    )
    sheet.title(describe_problem(comparison.provenance))
    sheet.legend()
    return axes


def _notes(comparison: PostStepComparison) -> list[str]:
    return [_LEGEND, *(note for name in comparison.exams if (note := _spread(comparison, name)))]


def _spread(comparison: PostStepComparison, name: str) -> str:
    """What the spread of the policies is worth; the cheapest one, which stretches it, is left out of three or more."""
    scores = exam_scores(comparison, name)
    costs = [outcomes[0].metrics.bops for outcomes in comparison.exams[name]]
    kept, without = scores, ""
    if len(scores) > 2:
        kept, without = np.delete(scores, int(np.argmin(costs)), axis=0), ", the cheapest left out"
    policies, seeds = kept.shape
    if policies < 2:
        return ""
    between = kept.mean(axis=1).std(ddof=1)
    said = f"{name}: standard deviation between the means of {policies} policies{without}, {between:.4f}"
    if seeds > 1:
        said += f"; between trainings of one policy {np.sqrt(kept.var(axis=1, ddof=1).mean()):.4f}"
        found = anova_reliability(kept)
        if not np.isnan(found.value):
            said += f"; reliability of the means {found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"
    return f"{said}."


def _three_digits(column: str) -> Callable[[Row], str]:
    return lambda row: number(row[column], ".3f")
