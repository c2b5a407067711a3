"""The page of a snapshot: one file without scripts or references to others, which loads itself again while searches go on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

import jinja2

from suite.studies.watch.show import NOTE, clock_time, headline, snapshot_table
from suite.studies.watch.snapshot import Snapshot

WIDTH, HEIGHT = 120, 24
"""Of a sparkline, in pixels."""

_MOST_STEPS = 60


def render_page(snapshot: Snapshot, interval: float) -> str:
    """Render a snapshot as HTML.

    Args:
        snapshot: What to show.
        interval: Seconds after which the page loads itself again; it does not once everything is done.
    """
    table = snapshot_table(snapshot, clock=True)
    return _template().render(
        title=headline(snapshot),
        note=NOTE,
        state=snapshot.state,
        searched=round(100 * snapshot.searched, 1),
        at=clock_time(snapshot.at),
        refresh=None if snapshot.state == "done" else math.ceil(interval),
        columns=table.columns,
        name=table.headers.index("searcher"),
        rows=[(row, cells, spark(row.curve)) for row, cells in zip(snapshot.rows, table.cells, strict=True)],
        width=WIDTH,
        height=HEIGHT,
    )


def spark(curve: Sequence[tuple[float, float]]) -> str:
    """The path of a step curve in a box of :data:`WIDTH` by :data:`HEIGHT`, 1 pixel of margin; empty below two points."""
    kept = [point for place, point in enumerate(curve[:-1]) if place == 0 or point[1] > curve[place - 1][1]]
    kept = [*kept[:: math.ceil(len(kept) / _MOST_STEPS) or 1], *curve[-1:]]
    if len(curve) < 2:
        return ""
    end, (low, high) = curve[-1][0] or 1.0, (min(y for _, y in curve), max(y for _, y in curve))
    places = [
        (1 + (WIDTH - 2) * x / end, HEIGHT - 1 - (HEIGHT - 2) * ((y - low) / (high - low) if high > low else 0.5))
        for x, y in kept
    ]
    first, *others = [(f"{x:.1f}", f"{y:.1f}") for x, y in places]
    return f"M{first[0]} {first[1]}" + "".join(f"H{x}V{y}" for x, y in others)


@cache
def _template() -> jinja2.Template:
    source = files("suite.studies.watch").joinpath("page.html.jinja").read_text(encoding="utf-8")
    options = {"trim_blocks": True, "lstrip_blocks": True}
    return jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, **options).from_string(source)  # type: ignore[arg-type]
