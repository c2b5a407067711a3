"""Writing reports: whatever a study has to show, rendered into one folder, and the page of a comparison."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes

from suite.files import write_bytes
from suite.report.comparison import Comparison, front_frame
from suite.report.exams import flatten
from suite.report.figures import render
from suite.report.layout import leaderboard_table, milestone_table
from suite.report.page import SCRIPT, STYLE, TABLES, asset, templates
from suite.report.plots import plot_best_so_far, plot_certified_accuracy, plot_front, plot_score_by_bops
from suite.report.policies import plot_policies
from suite.report.ranking import leaderboard
from suite.report.statistics import ranking_reliability
from suite.report.table import Table, to_records

SCHEMA_VERSION = 1

Content = str | bytes | pd.DataFrame | Table | Axes | Mapping[str, Any]

_FIGURES = {
    "certified_accuracy": (
        plot_certified_accuracy,
        "Certified accuracy on the exam by radius: mean over seeds, with its 95 % t interval (range below five)",
    ),
    "score_vs_bops": (plot_score_by_bops, "Exam score of every winner by BOPs, with the budget and the float network"),
    "best_so_far": (plot_best_so_far, "Best search estimate, which is no exam score, by forward passes"),
    "front": (
        plot_front,
        "Pareto fronts of the searches, all seeds: search estimate, which is no exam score, by each cost",
    ),
    "policies": (plot_policies, "Bits of every winner by layer; seeds that found the same policy share a row"),
}


def write_files(directory: Path, *files: tuple[str, Content]) -> list[Path]:
    """Render everything, then write it; each file replaces its predecessor in one step.

    Args:
        directory: Where to; made if need be.
        *files: Names and what they hold. A table becomes ``name.csv``, ``.md``, ``.tex`` and ``.html``, a data frame
            ``name.csv``, axes ``name.png`` and ``.svg`` of their whole figure, a mapping ``name.json`` (its data frames as
            records); text and bytes are written to the name as it is.

    Returns:
        The files, in the order of what was given.
    """
    rendered = {name: data for stem, content in files for name, data in _render(stem, content).items()}
    for name, data in rendered.items():
        write_bytes(directory / name, data.encode("utf-8") if isinstance(data, str) else data)
    return [directory / name for name in rendered]


def write_report(comparison: Comparison, directory: Path, against: str = "random") -> list[Path]:
    """Write the leaderboard, the rows it is made from, all figures, and a page that shows them.

    Equal comparisons give equal bytes.

    Args:
        comparison: What to report.
        directory: Where to; made if need be.
        against: The searcher that all others are tested against.

    Returns:
        The files: ``leaderboard.{csv,md,tex,html,json}``, ``milestones.{csv,md,tex,html}``, ``rows.csv``,
        ``certified_accuracy``, ``score_vs_bops``, ``best_so_far`` and ``policies`` as ``.png`` and ``.svg``, and ``index.html``;
        with costs to minimize also ``front.{csv,png,svg}``.

    Raises:
        BitcertError: If the comparison does not compare like with like; nothing is written then.
    """
    frame, rows = leaderboard(comparison, against), comparison.rows
    reliability = ranking_reliability(comparison)
    table, on_the_way = leaderboard_table(frame, reliability), milestone_table(comparison)
    content = {
        "provenance": dict(comparison.provenance),
        "leaderboard": frame,
        "reliability": asdict(reliability),
        "rows": rows,
    }
    figures = {name: figure for name, figure in _FIGURES.items() if name != "front" or comparison.objective.pareto}
    images = {name: render(plot(comparison)) for name, (plot, _) in figures.items()}
    captioned = {caption: images[name]["png"] for name, (_, caption) in figures.items()}
    return write_files(
        directory,
        ("leaderboard", table),
        ("leaderboard", content),
        ("milestones", on_the_way),
        ("rows", rows),
        *([("front", front_frame(comparison))] if comparison.objective.pareto else []),
        *((f"{name}.{kind}", data) for name, kinds in images.items() for kind, data in kinds.items()),
        ("index.html", render_page(table, captioned, comparison.provenance, {"On the way": on_the_way})),
    )


def to_json(content: Mapping[str, Any]) -> str:
    """Write a report as JSON with the version of its schema; data frames become records, and what is missing null."""
    return (
        json.dumps({"schema_version": SCHEMA_VERSION} | _plain(content), indent=2, allow_nan=False, ensure_ascii=False)
        + "\n"
    )


def _plain(value: Any) -> Any:
    match value:
        case pd.DataFrame():
            return to_records(value)
        case Mapping():
            return {name: _plain(part) for name, part in value.items()}
        case float() if math.isnan(value):
            return None
        case tuple() | list():
            return [_plain(part) for part in value]
    return value


def render_page(
    table: Table,
    figures: Mapping[str, bytes],
    provenance: Mapping[str, Any],
    further: Mapping[str, Table] | None = None,
    *,
    title: str | None = None,
    opening: Sequence[str] = (),
) -> str:
    """Render a self-contained HTML page, whose tables can be sorted.

    Args:
        table: The leaderboard.
        figures: PNG files by caption.
        provenance: Listed in full.
        further: More tables by heading, after the figures.
        title: Of the page; that of the table if None.
        opening: Sentences at the top, numbered.
    """
    return (
        templates()
        .get_template("report.html")
        .render(
            title=table.title if title is None else title,
            opening=opening,
            table=table,
            figures={caption: base64.b64encode(data).decode("ascii") for caption, data in figures.items()},
            further=further or {},
            provenance=flatten(provenance),
            style=Markup(asset(STYLE)),
            scripts=[Markup(asset(name)) for name in (TABLES, SCRIPT)],
        )
    )


def _render(name: str, content: Content) -> Mapping[str, str | bytes]:
    match content:
        case Table():
            return {
                f"{name}.csv": content.to_csv(),
                f"{name}.md": content.to_markdown(),
                f"{name}.tex": content.to_latex(),
                f"{name}.html": content.to_html(),
            }
        case pd.DataFrame():
            return {f"{name}.csv": content.to_csv(index=False, lineterminator="\n")}
        case Axes():
            return {f"{name}.{kind}": data for kind, data in render(content).items()}
        case Mapping():
            return {f"{name}.json": to_json(content)}
        case _:
            return {name: content}
