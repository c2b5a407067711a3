"""The leaderboard for human eyes: the same columns on a console, in Markdown and on a page."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from suite.contract.objective import parse_objective
from suite.report.checks import FLOAT
from suite.report.leaderboard import NOT_COMPARED
from suite.report.scores import name_objective
from suite.report.statistics import SIGNIFICANCE, seeds_needed

_NOTHING = "—"
_MARKS = {"no": "†", "underpowered": "‡", "trivial": "°"}

Row = pd.Series  # of one searcher, by column of the leaderboard


@dataclass(frozen=True, slots=True)
class Column:
    """One column as people see it.

    Attributes:
        header: Its title, short.
        show: Turns a row of the leaderboard into text.
        priority: Where space is short, columns of the highest number go first; 0 always stays.
        align: Side on which the text stands.
    """

    header: str
    show: Callable[[Row], str]
    priority: float
    align: Literal["left", "right"] = "right"


def columns(frame: pd.DataFrame) -> list[Column]:
    """List the columns of a leaderboard in their order, made for its objective and radii."""
    score = name_objective(parse_objective(str(frame["objective"].iloc[0])))
    against = str(frame["against"].iloc[0])
    certified = [name for name in frame.columns if name.startswith("certified@")]
    tuned, bounded = frame["score_before"].notna().any(), "set_acr" in frame
    shares = [
        Column(name.removeprefix("certified"), _share_of(name), 6 + place / 10) for place, name in enumerate(certified)
    ]
    return [
        Column("#", lambda row: _integer(row["rank"]), 0),
        Column("searcher", lambda row: f"{row['searcher']}{_MARKS.get(row['beats_trivial'], '')}", 0, "left"),
        Column("seeds", lambda row: _integer(row["seeds"]), 9),
        Column("exam ACR" if score == "ACR" else "exam score", _score, 0),
        *([Column("before", lambda row: _number(row["score_before"], ".4f"), 1.5)] if tuned else []),
        *([Column("set ACR ≥", lambda row: _number(row["set_acr"], ".4f"), 1.2)] if bounded else []),
        Column("95 % images", lambda row: _interval(row["image_low"], row["image_high"]), 5),
        *([] if score == "ACR" else [Column("exam ACR", lambda row: _number(row["acr"], ".4f"), 4)]),
        *shares,
        Column("clean", _share_of("clean_accuracy"), 4),
        Column("BOPs", lambda row: _number(100 * row["bops_share"], ".3g"), 3),
        Column("passes", lambda row: _count(row["forward_passes"]), 2),
        Column("time", lambda row: _duration(row["seconds"]), 8),
        Column(f"Δ {against}", lambda row: _number(row["difference"], "+.4f"), 1),
        Column("verdict", _verdict, 0, "left"),
    ]


def cells(frame: pd.DataFrame, shown: Iterable[Column]) -> list[list[str]]:
    """Write the text of every cell, one list a row."""
    shown = list(shown)
    return [[column.show(row) for column in shown] for _, row in frame.iterrows()]


def notes(frame: pd.DataFrame) -> list[str]:
    """Say what a reader has to know about the marks and numbers of this leaderboard, a paragraph each."""
    against = str(frame["against"].iloc[0])
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
        count = len(ranked) - 1
        found.append(
            "underpowered: too few seeds to tell, which is not a tie; with "
            f"{count} comparison{'' if count == 1 else 's'} at least {seeds_needed(count)} seeds are needed."
        )
    if NOT_COMPARED in set(ranked.loc[ranked["searcher"] != against, "verdict"]):
        found.append(f"{NOT_COMPARED}: no run of {against!r} is in this comparison.")
    for state, meaning in {
        "trivial": "trivial method",
        "no": "does not beat every trivial method",
        "underpowered": "too few seeds to tell whether it beats every trivial method",
    }.items():
        marked = ranked[ranked["beats_trivial"] == state]
        alike: dict[str, list[str]] = {}
        for searcher, unbeaten in zip(marked["searcher"], marked["unbeaten"], strict=True):
            alike.setdefault(str(unbeaten), []).append(str(searcher))
        listed = "; ".join(f"{', '.join(names)}: {unbeaten}" for unbeaten, names in alike.items() if unbeaten)
        if len(marked):
            found.append(f"{_MARKS[state]} {meaning}.{f' {listed}.' if listed else ''}")
    return found


def title(frame: pd.DataFrame) -> str:
    """Say in one line what the leaderboard is about."""
    row = frame.iloc[0]
    problem = [str(row["problem"])] if pd.notna(row["problem"]) else []
    named = [f"{name} {row[name]}" for name in ("budget", "sigma") if pd.notna(row[name])]
    objective = name_objective(parse_objective(str(row["objective"])))
    named.append(f"ranked by {objective}")
    if row["finetune_steps"] > 0:
        named.append(f"searched after {int(row['finetune_steps'])} steps of finetuning")
    return ", ".join([*problem, *named, f"post-step {row['post_step']}", f"{row['exam_images']} exam images"])


def print_leaderboard(frame: pd.DataFrame, console: Console) -> None:
    """Print a leaderboard; columns that the console is too narrow for are left out, the least important first."""
    shown = columns(frame)
    table = _table(frame, shown)
    while Measurement.get(console, console.options.update(width=10_000), table).maximum > console.width:
        least = max(column.priority for column in shown)
        if least == 0:
            break
        drop = next(index for index in reversed(range(len(shown))) if shown[index].priority == least)
        shown = shown[:drop] + shown[drop + 1 :]
        table = _table(frame, shown)
    console.print(title(frame), style="bold", highlight=False, markup=False)
    console.print(table)
    for note in notes(frame):
        console.print(note, style="dim", highlight=False, markup=False)


def to_markdown(frame: pd.DataFrame) -> str:
    """Write a leaderboard as a Markdown table, with its notes beneath."""
    shown = columns(frame)
    rule = ["---:" if column.align == "right" else ":---" for column in shown]
    lines = [[column.header for column in shown], rule, *cells(frame, shown)]
    table = "\n".join(" | ".join(["", *(cell.replace("|", "&#124;") for cell in line), ""]).strip() for line in lines)
    return "\n\n".join([f"**{title(frame)}**", table, *notes(frame)]) + "\n"


def _table(frame: pd.DataFrame, shown: list[Column]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for column in shown:
        table.add_column(column.header, justify=column.align, no_wrap=True)
    lines = cells(frame, shown)
    for line, searcher in zip(lines, frame["searcher"], strict=True):
        if searcher == FLOAT:
            table.add_section()
        table.add_row(*map(Text, line), style="dim" if searcher == FLOAT else None)
    return table


def _seeds(ranked: pd.DataFrame) -> str:
    counts: dict[int, list[str]] = {}
    for searcher, seeds in zip(ranked["searcher"], ranked["seeds"], strict=True):
        counts.setdefault(int(seeds), []).append(str(searcher))
    if len(counts) == 1:
        (count,) = counts
        return f"{count} seed{'' if count == 1 else 's'} each."
    listed = "; ".join(f"{', '.join(names)} {count}" for count, names in counts.items())
    return f"Seeds: {listed}."


def _limit(ranked: pd.DataFrame) -> str:
    """The limit of a search, and who went over it by probes alone: those are made before there is a trial to stop at."""
    row = ranked.iloc[0]
    limits = {"limit_evaluations": "evaluations", "limit_forward_passes": "forward passes", "limit_seconds": "seconds"}
    said = [f"{row[name]:,.15g} {what}" for name, what in limits.items() if pd.notna(row[name])]
    if not said:
        return ""
    passes = row["limit_forward_passes"]
    over = ranked[ranked["probe_passes"] > (float("inf") if pd.isna(passes) else passes)]
    listed = ", ".join(
        f"{name} ({_count(probes)})" for name, probes in zip(over["searcher"], over["probe_passes"], strict=True)
    )
    beyond = f" OVER THE LIMIT by probes alone: {listed}." if listed else ""
    return f"Limit of a search: {', '.join(said)}.{beyond} "


def _exam_split(ranked: pd.DataFrame) -> str:
    if ranked["exam_split"].iloc[0] == "search":
        return "Judged on search images with other noise: to choose settings by, not to report."
    return "Exam: images and noise that no search has seen."


def _score(row: Row) -> str:
    spread = "" if pd.isna(row["score_sd"]) else f"±{row['score_sd']:.4f}"
    return _number(row["score"], ".4f") + spread


def _verdict(row: Row) -> str:
    if row["searcher"] == FLOAT:
        return ""
    return _NOTHING if row["searcher"] == row["against"] else str(row["verdict"])


def _share_of(name: str) -> Callable[[Row], str]:
    return lambda row: _number(100 * row[name], ".1f")


def _number(value: Any, form: str) -> str:
    return _NOTHING if pd.isna(value) else format(value, form)


def _integer(value: Any) -> str:
    return _NOTHING if pd.isna(value) else str(int(value))


def _interval(low: Any, high: Any) -> str:
    return _NOTHING if pd.isna(low) else f"{low:.3f}..{high:.3f}"


def _count(value: Any) -> str:
    if pd.isna(value):
        return _NOTHING
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * size:
            return f"{value / size:.3g}{unit}"
    return str(int(value))


def _duration(seconds: Any) -> str:
    if pd.isna(seconds):
        return _NOTHING
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
