"""A snapshot as people see it: one table for the terminal and for the page."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict
from typing import Any

import pandas as pd

from suite.report.table import NOTHING, Column, Table, count, duration, magnitude, number
from suite.studies.watch.snapshot import Row, Snapshot

NOTE = "Search scores are estimates on search images; once the best policies are measured a second time, that measurement counts."


def snapshot_table(snapshot: Snapshot, most: int | None = None, *, clock: bool = False) -> Table:
    """One row per search.

    Args:
        snapshot: What to show.
        most: Rows that there is room for: searches that are done, then those that wait, are left out; None for all.
        clock: Show when a search was last active by the clock rather than how long ago, as suits a page that is read later.
    """
    rows, left_out = list(snapshot.rows), Counter[str]()
    for state in ("done", "exam", "waiting", "interrupted", "searching"):
        while most is not None and len(rows) > max(1, most):
            unwanted = next((row for row in rows if row.state == state), None)
            if unwanted is None:
                break
            rows.remove(unwanted)
            left_out[state] += 1
    notes = [f"not shown: {', '.join(f'{amount} {state}' for state, amount in left_out.items())}"] if left_out else []
    columns = [
        Column("searcher", lambda row: row["searcher"], "left"),
        Column("seed", lambda row: NOTHING if row["seed"] is None else str(row["seed"])),
        Column("state", lambda row: row["state"], "left"),
        Column("evaluations", lambda row: _of(str(row["evaluations"]), row["planned_evaluations"], str), priority=1),
        Column(
            "forward passes",
            lambda row: _of(magnitude(row["forward_passes"]), row["planned_forward_passes"], magnitude),
            priority=2,
        ),
        Column("best search score", lambda row: number(row["search_score"], ".4f")),
        Column("at", lambda row: NOTHING if row["best_at"] is None else str(row["best_at"]), priority=4),
        Column("failed", lambda row: str(row["failed"]), priority=3),
        Column("last activity", lambda row: _when(row["active_at"], snapshot.at, clock), priority=5),
    ]
    if any(row.part for row in rows):
        columns.insert(0, Column("in", lambda row: row["part"] or ".", "left"))
    # An object column keeps integers and None as they are.
    frame = pd.DataFrame([asdict(row) for row in rows], columns=list(Row.__slots__), dtype=object)
    return Table(frame, columns, headline(snapshot), [*notes, NOTE])


def headline(snapshot: Snapshot) -> str:
    """How far everything is, in one line."""
    if not snapshot.rows:
        return f"{snapshot.directory}: no search has begun yet"
    parts = [
        snapshot.state,
        f"{count(len(snapshot.rows), 'search', 'searches')}, {100 * snapshot.searched:.0f} % searched",
    ]
    if snapshot.exams:
        upto = "" if snapshot.exams_exact else "at most "
        parts.append(f"exams {snapshot.exams_held} of {upto}{snapshot.exams_expected}")
    if snapshot.seconds_left:
        after = " of search" if snapshot.exams and snapshot.searched < 1 else ""
        parts.append(f"about {duration(float(f'{snapshot.seconds_left:.2g}'))}{after} left")
    return f"{snapshot.directory}: {'; '.join(parts)}"


def clock_time(seconds: float) -> str:
    """A time since the epoch by the clock of this place."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _when(active_at: float | None, now: float, clock: bool) -> str:
    if active_at is None:
        return NOTHING
    if clock:
        return clock_time(active_at)[11 * (clock_time(active_at)[:10] == clock_time(now)[:10]) :]
    return f"{duration(round(max(0.0, now - active_at)))} ago"


def _of(spent: str, planned: Any, form: Any) -> str:
    return spent if planned is None else f"{spent} / {form(planned)}"
