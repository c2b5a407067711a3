"""The leaderboard: searchers ranked by what their winners score on the exam, as a frame and as the table that people see."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from suite.contract.objective import parse_objective
from suite.report.comparison import FLOAT, Comparison, certified_column, check_comparison, search_seconds, set_bounds
from suite.report.exams import exam_score
from suite.report.statistics import (
    SIGNIFICANCE,
    Difference,
    Summary,
    average_images,
    compare_searchers,
    correct_p_values,
    seeds_needed,
    summarize,
)
from suite.report.table import NOTHING, Column, Row, Table, count, duration, integer, magnitude, number
from suite.run.records import Entry, Outcome

TRIVIAL = ("random", "uniform", "cheapest", "sensitivity-greedy")
NOT_COMPARED = "not compared"
_MARKS = {"no": "†", "underpowered": "‡", "trivial": "°"}
_LIMITS = {"evaluations": "evaluations", "forward_passes": "forward passes", "seconds": "seconds"}


def leaderboard(comparison: Comparison, against: str = "random") -> pd.DataFrame:
    """Rank the searchers by their run's objective, measured on the exam; search scores have no part in it.

    Columns (shares are 0..1; means are over seeds):
        rank: From 1, equal scores share one; missing for the float network, which is the last row.
        searcher, seeds: The name; how many seeds.
        problem, budget, sigma, objective, post_step, exam_images: What was compared; ``score`` is the objective.
        score, score_sd, score_least, score_most: Exam score: mean, standard deviation and range over seeds.
        score_before: Mean exam score before the post-step; missing if there was none.
        image_low, image_high: 95 % interval of ``score`` over exam images, seeds held fixed.
        acr, ``certified@r``, clean_accuracy: Exam means.
        set_acr, ``set_certified@r``: Means of the lower bounds on the set of exam images, if the exams have them.
        bops_share: BOPs of the winners as a share of the float network's.
        forward_passes, probe_passes, seconds: Spend of a search, the part of it that its probes made, and its time.
        limit_evaluations, limit_forward_passes, limit_seconds: When a search ended; missing if it was not limited so.
        finetune_steps, exam_split, exam_method: Finetuning in every evaluation; the images that judge, and how they are certified.
        to_float, to_float_low, to_float_high: Score less that of the float network, with its interval over images.
        against, difference, p_adjusted, verdict: The test against ``against``, see :class:`.statistics.Difference`.
        seeds_paired: Seeds in that test.
        beats_trivial: ``yes`` if better than every trivial method, by a test of all of them at once, ``no`` if tested and
            not, ``underpowered`` if only more seeds could tell, ``trivial`` for these methods themselves, ``not compared``
            if there are none.
        unbeaten: The trivial methods that it is not better than, each with the verdict.

    Args:
        comparison: What to rank.
        against: The searcher all others are tested against; where it has no run, verdicts are ``not compared``.

    Raises:
        BitcertError: If the comparison does not compare like with like.
    """
    check_comparison(comparison)
    entries = comparison.by_searcher()
    tests = {
        name: {test.searcher: test for test in compare_searchers(comparison, name)}
        for name in {against, *TRIVIAL} & set(entries)
    }
    trivial = {name: tests[name] for name in TRIVIAL if name in entries}
    joint = _joint_p_values([name for name in entries if name not in TRIVIAL], trivial)
    rows = [
        {
            **_describe(summary, entries[summary.searcher], comparison),
            **_describe_test(tests.get(against, {}).get(summary.searcher), against),
            **_describe_trivial(summary.searcher, trivial, joint),
        }
        for summary in summarize(comparison)
    ]
    frame = pd.DataFrame(rows).sort_values("score", ascending=False, kind="stable")
    frame.insert(0, "rank", frame["score"].rank(method="min", ascending=False))
    frame = pd.DataFrame([*frame.to_dict("records"), _describe_float(comparison)], columns=frame.columns)
    return frame.astype(dict.fromkeys(("rank", "seeds", "seeds_paired", "forward_passes", "probe_passes"), "Int64"))


def leaderboard_table(frame: pd.DataFrame) -> Table:
    """Lay out what :func:`leaderboard` made for people, with columns and notes for its objective and radii."""
    emphasized = frozenset(np.flatnonzero(frame["searcher"] == FLOAT).tolist())
    return Table(frame, _columns(frame), _title(frame), _notes(frame), emphasized)


def _columns(frame: pd.DataFrame) -> list[Column]:
    score, against = parse_objective(frame["objective"].iloc[0]).label, frame["against"].iloc[0]
    tuned, bounded = frame["score_before"].notna().any(), "set_acr" in frame
    shares = [
        Column(name.removeprefix("certified"), _number(name, ".1f", 100), priority=6 + place / 10)
        for place, name in enumerate(name for name in frame.columns if name.startswith("certified@"))
    ]
    return [
        Column("#", lambda row: integer(row["rank"])),
        Column("searcher", lambda row: f"{row['searcher']}{_MARKS.get(row['beats_trivial'], '')}", "left"),
        Column("seeds", lambda row: integer(row["seeds"]), priority=9),
        Column("exam ACR" if score == "ACR" else "exam score", _score),
        *([Column("before", _number("score_before"), priority=1.5)] if tuned else []),
        *([Column("set ACR ≥", _number("set_acr"), priority=1.2)] if bounded else []),
        Column("95 % images", _image_interval, priority=5),
        *([] if score == "ACR" else [Column("exam ACR", _number("acr"), priority=4)]),
        *shares,
        Column("clean", _number("clean_accuracy", ".1f", 100), priority=4),
        Column("BOPs", _number("bops_share", ".3g", 100), priority=3),
        Column("passes", lambda row: magnitude(row["forward_passes"]), priority=2),
        Column("time", lambda row: duration(row["seconds"]), priority=8),
        Column(f"Δ {against}", _number("difference", "+.4f"), priority=1),
        Column("verdict", _verdict, "left"),
    ]


def _notes(frame: pd.DataFrame) -> list[str]:
    """Say what a reader has to know about the marks and numbers of this leaderboard, a paragraph each."""
    against = frame["against"].iloc[0]
    ranked = frame[frame["searcher"] != FLOAT]
    found = [
        f"{_seeds(ranked)} {_limit(ranked)}{_exam_split(ranked)} ± is the standard deviation over seeds, "
        "'95 % images' the interval over exam images for these very policies, @r the certified accuracy at L2 radius r in %; "
        "clean accuracy in %; BOPs in % of the float network's; passes and time of one search, its probes and the second "
        "measurement of its best included.",
        f"Δ {against}: mean exam difference paired by seed; verdict by sign-flip test, Holm-corrected, at "
        f"{SIGNIFICANCE:g}.",
    ]
    if ranked["score_before"].notna().any():
        found.append("before: mean exam score of the same winners before the post-step.")
    if "set_acr" in frame:
        found.append(
            "set ACR ≥: lower bound on the average certified radius of the exam images, one for the whole set instead of one for "
            "each image; mean over seeds of bounds that are each true with probability 1 - alpha. It may exceed the exam ACR, the "
            "average of one pessimistic certificate for each image, none above what n agreeing samples certify."
        )
    if frame["exam_method"].iloc[0] == "sequential":
        found.append(
            "exam ACR: images are certified at the radii of the columns @r only, so it is a lower bound by steps."
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


def _title(frame: pd.DataFrame) -> str:
    """Say in one line what the leaderboard is about."""
    row = frame.iloc[0]
    problem = [str(row["problem"])] if pd.notna(row["problem"]) else []
    named = [f"{name} {row[name]}" for name in ("budget", "sigma") if pd.notna(row[name])]
    named.append(f"ranked by {parse_objective(row['objective']).label}")
    if row["finetune_steps"] > 0:
        named.append(f"searched after {int(row['finetune_steps'])} steps of finetuning")
    return ", ".join([*problem, *named, f"post-step {row['post_step']}", f"{row['exam_images']} exam images"])


def _describe(summary: Summary, entries: Sequence[Entry], comparison: Comparison) -> dict[str, Any]:
    outcomes, objective = [entry.outcome for entry in entries], comparison.objective
    to_float = average_images(outcomes, objective, baseline=[comparison.reference])
    before = [exam_score(entry.before, objective) for entry in entries if entry.before is not None]
    return {
        "searcher": summary.searcher,
        "seeds": len(summary.seeds),
        **_describe_setting(comparison),
        "score": summary.mean,
        "score_sd": summary.sd,
        "score_least": summary.least,
        "score_most": summary.most,
        "score_before": _mean(before or [float("nan")]),
        "image_low": summary.images.low,
        "image_high": summary.images.high,
        **_describe_exams(outcomes, comparison),
        "bops_share": _mean([outcome.metrics.bops / comparison.float_bops for outcome in outcomes]),
        "forward_passes": round(_mean([entry.run.forward_passes for entry in entries])),
        "probe_passes": round(_mean([entry.run.probe_spend for entry in entries])),
        "seconds": _mean([search_seconds(entry.run) for entry in entries]),
        "to_float": to_float.mean,
        "to_float_low": to_float.images.low,
        "to_float_high": to_float.images.high,
    }


def _describe_exams(outcomes: Sequence[Outcome], comparison: Comparison) -> dict[str, Any]:
    radii = comparison.radii
    certified = [outcome.certificates.certified_accuracy(outcome.labels, radii) for outcome in outcomes]
    return {
        "acr": _mean([outcome.metrics.measured("acr") for outcome in outcomes]),
        **{certified_column(radius): _mean([shares[radius] for shares in certified]) for radius in radii},
        **set_bounds(outcomes, radii),
        "clean_accuracy": _mean([outcome.metrics.measured("clean_accuracy") for outcome in outcomes]),
    }


def _describe_setting(comparison: Comparison) -> dict[str, Any]:
    first = comparison.entries[0]
    return {
        **{name: comparison.recorded(name) for name in ("problem", "budget", "sigma")},
        "objective": first.run.objective.text,
        "post_step": first.outcome.post_step,
        "exam_images": len(comparison.reference.labels),
        "exam_method": comparison.reference.metrics.method,
        "exam_split": comparison.recorded("exam.split") or "exam",
        "finetune_steps": comparison.recorded("fidelity.finetune_steps") or 0,
        **{f"limit_{name}": comparison.recorded(f"limits.{name}") for name in _LIMITS},
    }


def _describe_test(test: Difference | None, against: str) -> dict[str, Any]:
    return {
        "against": against,
        "seeds_paired": None if test is None else len(test.seeds),
        "difference": None if test is None else test.mean,
        "p_adjusted": None if test is None else test.p_adjusted,
        "verdict": NOT_COMPARED if test is None else test.verdict,
    }


def _joint_p_values(searchers: Sequence[str], tests: Mapping[str, Mapping[str, Difference]]) -> dict[str, float]:
    """P-values of "better than every trivial method": the largest over those methods, Holm-corrected over searchers.

    References:
        Berger, Multiparameter hypothesis testing and acceptance sampling, Technometrics 24 (1982), intersection-union tests.
    """
    largest = [max((test[searcher].p_value for test in tests.values()), default=1.0) for searcher in searchers]
    return dict(zip(searchers, correct_p_values(largest), strict=True))


def _describe_trivial(
    searcher: str, tests: Mapping[str, Mapping[str, Difference]], joint: Mapping[str, float]
) -> dict[str, str]:
    if searcher in TRIVIAL or not tests:
        return {"beats_trivial": "trivial" if searcher in TRIVIAL else NOT_COMPARED, "unbeaten": ""}
    unbeaten = {name: test[searcher].verdict for name, test in tests.items() if test[searcher].verdict != "better"}
    if not unbeaten and joint[searcher] > SIGNIFICANCE:
        return {"beats_trivial": "no", "unbeaten": "each alone, not all of them at once"}
    tested = [verdict for verdict in unbeaten.values() if verdict != "underpowered"]
    return {
        "beats_trivial": "no" if tested else "underpowered" if unbeaten else "yes",
        "unbeaten": ", ".join(f"{name} ({verdict})" for name, verdict in unbeaten.items()),
    }


def _describe_float(comparison: Comparison) -> dict[str, Any]:
    score = average_images([comparison.reference], comparison.objective)
    return {
        "searcher": FLOAT,
        **_describe_setting(comparison),
        "post_step": comparison.reference.post_step,
        "score": score.mean,
        "image_low": score.images.low,
        "image_high": score.images.high,
        **_describe_exams([comparison.reference], comparison),
        "bops_share": 1.0,
    }


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


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
    said = [f"{row[f'limit_{name}']:,.15g} {what}" for name, what in _LIMITS.items() if pd.notna(row[f"limit_{name}"])]
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


def _image_interval(row: Row) -> str:
    return NOTHING if pd.isna(row["image_low"]) else f"{row['image_low']:.3f}..{row['image_high']:.3f}"


def _verdict(row: Row) -> str:
    if row["searcher"] == FLOAT:
        return ""
    return NOTHING if row["searcher"] == row["against"] else str(row["verdict"])


def _number(name: str, form: str = ".4f", scale: float = 1) -> Callable[[Row], str]:
    return lambda row: number(scale * row[name], form)
