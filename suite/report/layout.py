"""The leaderboard as people see it: columns, marks, and notes on what they mean and how far they can be trusted."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from suite.contract.objective import parse_objective
from suite.report.comparison import AFTER, CHEAPEST, COST, FLOAT, Comparison
from suite.report.curves import milestone_frame
from suite.report.exams import is_stepped, norm_text
from suite.report.figures import describe_problem
from suite.report.ranking import LIMITS, NOT_COMPARED
from suite.report.statistics import SIGNIFICANCE, RankingReliability, seeds_needed
from suite.report.table import NOTHING, Column, Row, Table, count, duration, integer, magnitude, number, span

_MARKS = {"no": "†", "underpowered": "‡", "trivial": "°"}
_NOT_ABOVE_CONSTANT = "§"


def leaderboard_table(frame: pd.DataFrame, reliability: RankingReliability | None = None) -> Table:
    """Lay out what :func:`.ranking.leaderboard` made for people, with columns and notes for its objective and radii.

    Args:
        frame: The leaderboard.
        reliability: What :func:`.statistics.ranking_reliability` says of the same comparison, for a note on it.
    """
    emphasized = frozenset(np.flatnonzero(frame["searcher"] == FLOAT).tolist())
    notes = _notes(frame) + ([] if reliability is None else _describe_reliability(reliability, len(frame) - 1))
    return Table(frame, _columns(frame), _title(frame), notes, emphasized)


def milestone_table(comparison: Comparison) -> Table:
    """Lay out the :func:`.curves.milestone_frame` for people."""
    frame = milestone_frame(comparison)
    problem = describe_problem({name: comparison.recorded(name) for name in ("problem", "budget", "sigma")}, "sigma")
    columns = [
        Column("searcher", lambda row: str(row["searcher"]), "left"),
        Column("seeds", lambda row: integer(row["seeds"]), priority=2),
        Column("trials", lambda row: number(row["trials"], ".0f"), priority=1),
        *(Column(name, _number(name)) for name in map(str, frame) if name.startswith("at ")),
        Column("end", _number("end")),
    ]
    note = (
        f"Best {comparison.objective.label} that the search itself had measured after so many trials (an agent's episodes; repeats "
        "included), mean over seeds. Second measurements are left out. The best of many noisy measurements is optimistic, the more "
        "of them the more: these are no exam scores."
    )
    return Table(frame, columns, f"{problem}, on the way", [note])


def _columns(frame: pd.DataFrame) -> list[Column]:
    score, against = parse_objective(frame["objective"].iloc[0]).label, frame["against"].iloc[0]
    tuned, bounded = frame["score_before"].notna().any(), "set_acr" in frame
    shares = [
        Column(name.removeprefix("certified"), _number(name, ".1f", 100), priority=6 + place / 10)
        for place, name in enumerate(_certified(frame, reached=True))
    ]
    return [
        Column("#", lambda row: integer(row["rank"])),
        Column("searcher", _name, "left"),
        Column("seeds", lambda row: integer(row["seeds"]), priority=9),
        Column("exam ACR" if score == "ACR" else "exam score", _score),
        Column(f"Δ {against}", _number("difference", "+.4f"), priority=1),
        Column("95 % Δ", lambda row: span(row["difference_low"], row["difference_high"], "+.3f"), priority=4.5),
        Column("verdict", _verdict, "left"),
        *([Column("before", _number("score_before"), priority=1.5)] if tuned else []),
        *(Column(name, _number(name), priority=1.6) for name in frame.columns if name.startswith(AFTER)),
        *([Column("set ACR ≥", _number("set_acr"), priority=1.2)] if bounded else []),
        Column("95 %", _interval("low", "high"), priority=2.5),
        Column("95 % images", _interval("image_low", "image_high"), priority=10),
        *([] if score == "ACR" else [Column("exam ACR", _number("acr"), priority=4)]),
        *shares,
        Column("clean", _number("clean_accuracy", ".1f", 100), priority=4),
        Column("BOPs", _number("bops_share", ".3g", 100), priority=3),
        *(Column(name.removeprefix(COST), _magnitude(name), priority=3) for name in _costs(frame)),
        Column("passes", lambda row: magnitude(row["forward_passes"]), priority=2),
        Column("time", lambda row: duration(row["seconds"]), priority=8),
    ]


def _notes(frame: pd.DataFrame) -> list[str]:
    """Say what a reader has to know about the marks and numbers of this leaderboard, a paragraph each."""
    against = frame["against"].iloc[0]
    ranked = frame[frame["searcher"] != FLOAT]
    found = [
        f"{_seeds(ranked)} {_limit(ranked)}{_exam_split(ranked)} ± is the standard deviation over seeds, "
        "'95 %' the interval over seeds and exam images, '95 % images' that over exam images for these very policies, "
        f"@r the certified accuracy at {norm_text(ranked['norm'].iloc[0])} radius r in %; "
        "clean accuracy in %; BOPs in % of the float network's; passes and time of one search, its probes and the second "
        "measurement of its best included.",
        f"Δ {against}: mean exam difference paired by seed, with its 95 % interval over seeds and exam images, row by row; "
        f"verdict by sign-flip test over seeds, Holm-corrected, at {SIGNIFICANCE:g}. The test is exact for searchers that are "
        "equally good in every way; if only their means are equal and differences are skewed, its level rises up to 0.09.",
    ]
    if out_of_reach := _certified(frame, reached=False):
        radii = ", ".join(out_of_reach).replace("certified", "")
        found.append(f"Left out, as no network has an image certified there: {radii}.")
    if ranked["score_before"].notna().any():
        found.append("before: mean exam score of the same winners before the post-step.")
    if any(name.startswith(AFTER) for name in frame.columns):
        found.append("after NAME: mean exam score of the same winners after that post-step instead.")
    if costs := _costs(frame):
        found.append(f"{', '.join(costs).replace(COST, '')}: mean over the winners, in whole units.")
    if passes := frame["setup_passes"].max():
        policies = math.ceil(passes / frame["finetune_passes"].max())
        found.append(
            f"Searched on a supernet, whose training took {magnitude(passes)} forward passes; no search is charged for them. To "
            f"finetune every policy for 100 steps instead would take more from {policies} policies on."
        )
    if "set_acr" in frame:
        found.append(
            "set ACR ≥: lower bound on the average certified radius of the exam images, one for the whole set instead of one for "
            "each image; mean over seeds of bounds that are each true with probability 1 - alpha. It may exceed the exam ACR, the "
            "average of one pessimistic certificate for each image, none above what n agreeing samples certify."
        )
    if is_stepped(frame["exam_method"].iloc[0]):
        found.append(
            "exam ACR: images are certified at the radii of the columns @r only, so it is a lower bound by steps."
        )
    if _not_above_constant(frame).any():
        found.append(
            f"{_NOT_ABOVE_CONSTANT} not above the score of the best constant classifier ({frame['constant'].max():.4f}), and not "
            "ranked."
        )
    if "underpowered" in set(ranked["verdict"]):
        comparisons = len(ranked) - 1
        found.append(
            f"underpowered: too few seeds to tell, which is not a tie; with {count(comparisons, 'comparison')} at least "
            f"{seeds_needed(comparisons)} seeds are needed."
        )
    if NOT_COMPARED in set(ranked.loc[ranked["searcher"] != against, "verdict"]):
        found.append(f"{NOT_COMPARED}: no run of {against!r} is in this comparison.")
    for state, meaning in {
        "trivial": "trivial method",
        "no": "does not beat every trivial method",
        "underpowered": "too few seeds to tell whether it beats every trivial method",
    }.items():
        alike = _searchers_by("unbeaten", ranked[ranked["beats_trivial"] == state])
        listed = "; ".join(f"{names}: {unbeaten}" for unbeaten, names in alike.items() if unbeaten)
        if alike:
            found.append(f"{_MARKS[state]} {meaning}.{f' {listed}.' if listed else ''}")
    return found


def _certified(frame: pd.DataFrame, *, reached: bool) -> list[str]:
    """The columns of certified accuracy that differ from zero somewhere, or those that do not."""
    return [name for name in frame.columns if name.startswith("certified@") and frame[name].gt(0).any() == reached]


def _costs(frame: pd.DataFrame) -> list[str]:
    """The columns of costs other than BOPs."""
    return [name for name in frame.columns if name.startswith(COST)]


def _describe_reliability(found: RankingReliability, ranked: int) -> list[str]:
    """Say how far the ranking of so many searchers can be trusted; nothing where too few searchers or seeds tell."""
    images = [] if np.isnan(found.images) else [f"{found.images:.2f} over exam images (split halves)"]
    own = found.over_seeds
    seeds = [] if np.isnan(own.value) else [f"{own.value:.2f} [{own.low:.2f}, {own.high:.2f}] over seeds (ANOVA)"]
    if not images and not seeds:
        return []
    left_out = f" ({CHEAPEST} left out)" if found.searchers < ranked else ""
    said = [
        f"Reliability of the mean scores of {count(found.searchers, 'searcher')}{left_out} over {count(found.seeds, 'seed')}, "
        f"from 0 to 1: {', '.join(images + seeds)}."
    ]
    for name, agreement in found.agreements.items():
        if not np.isnan(agreement.reliability.value):
            rho, low, high = agreement.correlation
            said.append(
                f"Means {name}{' the post-step' * (name == 'before')} have rank correlation {rho:+.2f} "
                f"[{low:+.2f}, {high:+.2f}] with these; their reliability is {agreement.reliability.value:.2f}, so a correlation "
                f"above {agreement.visible:.2f} could not be seen."
            )
    return [" ".join(said)]


def _not_above_constant(frame: pd.DataFrame) -> pd.Series[bool]:
    return frame["score"] <= frame["constant"]


def _title(frame: pd.DataFrame) -> str:
    """Say in one line what the leaderboard is about."""
    row = frame.iloc[0]
    problem = [str(row["problem"])] if pd.notna(row["problem"]) else []
    named = [f"{name} {row[name]}" for name in ("budget", "sigma") if pd.notna(row[name])]
    named.append(f"ranked by {parse_objective(row['objective']).label}")
    if row["finetune_steps"] > 0:
        named.append(f"searched after {int(row['finetune_steps'])} steps of finetuning")
    return ", ".join([*problem, *named, f"post-step {row['post_step']}", f"{row['exam_images']} exam images"])


def _searchers_by(column: str, ranked: pd.DataFrame) -> dict[Any, str]:
    """The names of the searchers that share a value of a column, in the order of the ranking."""
    names: dict[Any, str] = ranked.groupby(column, sort=False)["searcher"].agg(", ".join).to_dict()
    return names


def _seeds(ranked: pd.DataFrame) -> str:
    by_count = _searchers_by("seeds", ranked)
    if len(by_count) == 1:
        return f"{count(next(iter(by_count)), 'seed')} each."
    return f"Seeds: {'; '.join(f'{names} {seeds}' for seeds, names in by_count.items())}."


def _limit(ranked: pd.DataFrame) -> str:
    """The limits of a search, and the searchers whose probes alone exceed them: probes run before the first trial."""
    row = ranked.iloc[0]
    said = [f"{row[f'limit_{name}']:,.15g} {what}" for name, what in LIMITS.items() if pd.notna(row[f"limit_{name}"])]
    if not said:
        return ""
    passes = row["limit_forward_passes"]
    over = ranked[ranked["probe_passes"] > (float("inf") if pd.isna(passes) else passes)].to_dict("records")
    listed = ", ".join(f"{search['searcher']} ({magnitude(search['probe_passes'])})" for search in over)
    beyond = f" OVER THE LIMIT by probes alone: {listed}." if listed else ""
    return f"Limit of a search: {', '.join(said)}.{beyond} "


def _exam_split(ranked: pd.DataFrame) -> str:
    if ranked["exam_split"].iloc[0] == "search":
        return "Judged on search images with other noise: to choose settings by, not to report."
    return "Exam: images and noise that no search has seen."


def _score(row: Row) -> str:
    mean, sd = number(row["score"], ".4f"), row["score_sd"]
    return mean if pd.isna(sd) else f"{mean}±{sd:.4f}"


def _name(row: Row) -> str:
    below = _NOT_ABOVE_CONSTANT if row["score"] <= row["constant"] else ""
    return f"{row['searcher']}{_MARKS.get(row['beats_trivial'], '')}{below}"


def _interval(low: str, high: str) -> Callable[[Row], str]:
    return lambda row: NOTHING if pd.isna(row[low]) else f"{row[low]:.3f}..{row[high]:.3f}"


def _verdict(row: Row) -> str:
    if row["searcher"] == FLOAT:
        return ""
    return NOTHING if row["searcher"] == row["against"] else str(row["verdict"])


def _magnitude(name: str) -> Callable[[Row], str]:
    return lambda row: magnitude(row[name])


def _number(name: str, form: str = ".4f", scale: float = 1) -> Callable[[Row], str]:
    return lambda row: number(scale * row[name], form)
