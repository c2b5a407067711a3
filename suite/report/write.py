"""Everything a comparison has to show, written into one folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from suite.files import write_bytes, write_text
from suite.report.appearance import to_png, to_svg
from suite.report.leaderboard import leaderboard
from suite.report.page import render_page
from suite.report.plots import plot_best_so_far, plot_certified_accuracy, plot_score_by_bops
from suite.report.policies import plot_policies
from suite.report.rows import tidy_rows
from suite.report.tables import to_markdown
from suite.run.records import Comparison

SCHEMA_VERSION = 1

_FIGURES = {
    "certified_accuracy": (
        plot_certified_accuracy,
        "Certified accuracy on the exam by radius: mean over seeds, with its 95 % t interval (range below five)",
    ),
    "score_vs_bops": (plot_score_by_bops, "Exam score of every winner by BOPs, with the budget and the float network"),
    "best_so_far": (plot_best_so_far, "Best search estimate, which is no exam score, by forward passes"),
    "policies": (plot_policies, "Bits of every winner by layer; seeds that found the same policy share a row"),
}


def write_report(comparison: Comparison, directory: Path, against: str = "random") -> list[Path]:
    """Write the leaderboard, the rows it is made from, all figures, and a page that shows them.

    Equal comparisons give equal bytes. Each file replaces its predecessor in one step.

    Args:
        comparison: What to report.
        directory: Where to; made if need be.
        against: The searcher that all others are tested against.

    Returns:
        The files: ``leaderboard.{csv,json,md}``, ``rows.csv``, ``certified_accuracy``, ``score_vs_bops``,
        ``best_so_far`` and ``policies`` as ``.png`` and ``.svg``, and ``index.html``.

    Raises:
        BitcertError: If the comparison does not compare like with like; nothing is written then.
    """
    frame, rows = leaderboard(comparison, against), tidy_rows(comparison)
    texts = {
        "leaderboard.csv": frame.to_csv(index=False),
        "leaderboard.json": to_json(comparison, frame, rows),
        "leaderboard.md": to_markdown(frame),
        "rows.csv": rows.to_csv(index=False),
    }
    images: dict[str, bytes] = {}
    captioned: dict[str, bytes] = {}
    for name, (plot, caption) in _FIGURES.items():
        figure = plot(comparison)
        images[f"{name}.png"] = captioned[caption] = to_png(figure)
        images[f"{name}.svg"] = to_svg(figure)
    texts["index.html"] = render_page(comparison, frame, captioned)
    for name, text in texts.items():
        write_text(directory / name, text)
    for name, data in images.items():
        write_bytes(directory / name, data)
    return [directory / name for name in (*texts, *images)]


def to_json(comparison: Comparison, frame: pd.DataFrame, rows: pd.DataFrame) -> str:
    """Write a leaderboard with its provenance and the rows of all seeds as JSON; what is missing is null."""
    content = {
        "schema_version": SCHEMA_VERSION,
        "provenance": dict(comparison.provenance),
        "leaderboard": _records(frame),
        "rows": _records(rows),
    }
    return json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(column): _plain(value) for column, value in record.items()} for record in frame.to_dict("records")]


def _plain(value: Any) -> Any:
    if pd.isna(value):
        return None
    return value.item() if isinstance(value, np.generic) else value
