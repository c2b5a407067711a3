"""Tables of entries: what the pages show of each, what can be filtered, and the rows that can be downloaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from suite.board.site.loading import STATUSES, Listed

_FORMULA = ("=", "+", "-", "@")
"""Signs at which spreadsheets begin to compute."""


@dataclass(frozen=True, slots=True)
class EntryColumn:
    """One column of a table of entries.

    Attributes:
        key: Its name in links to a filtered or sorted table.
        header: Its title.
        show: What a cell says; empty where there is no value.
        numeric: Whether it is sorted by value, the largest first.
        filtered: Whether readers can choose one of its values.
    """

    key: str
    header: str
    show: Callable[[Listed], str]
    numeric: bool = False
    filtered: bool = False


def entry_columns(
    ranks: Mapping[str, int], *, radii: Sequence[float] = (), one_board: bool = False, label: str = "ACR"
) -> list[EntryColumn]:
    """The columns after the method's: those of one board leave out what all its entries share, and show certified accuracies.

    Args:
        ranks: Name -> rank within its board.
        radii: At which certified accuracy is shown.
        one_board: Whether all entries are of one board.
        label: The objective, which has a column of its own unless it is the ACR.
    """
    shared = [
        EntryColumn("problem", "Problem", lambda row: row.board.problem, filtered=True),
        EntryColumn("budget", "Budget", lambda row: row.board.budget, filtered=True),
        EntryColumn("sigma", "Sigma", lambda row: f"{row.board.sigma:g}", numeric=True, filtered=True),
        EntryColumn("protocol", "Protocol", lambda row: row.board.protocol, filtered=True),
        EntryColumn("guarantee", "Guarantee", lambda row: row.board.guarantee, filtered=True),
        EntryColumn("post", "Post-step", lambda row: row.entry.post_step.name),
    ]
    return [
        EntryColumn("rank", "Rank", lambda row: str(ranks.get(row.name, "")), numeric=True),
        EntryColumn("status", "Status", lambda row: row.status, filtered=True),
        *([] if one_board else shared),
        *([] if label == "ACR" else [EntryColumn("score", label, lambda row: f"{row.score:.4f}", numeric=True)]),
        EntryColumn("acr", "ACR", lambda row: f"{row.entry.results.acr:.4f}", numeric=True),
        *(EntryColumn(f"at{radius:g}", f"@{radius:g} %", _certified(radius), numeric=True) for radius in radii),
        EntryColumn("clean", "Clean %", lambda row: f"{100 * row.entry.results.clean_accuracy:.1f}", numeric=True),
        EntryColumn("bops", "BOPs %", lambda row: f"{100 * row.entry.results.bops_share:.4g}", numeric=True),
        EntryColumn("passes", "Passes", lambda row: f"{row.entry.spend.forward_passes:,}", numeric=True),
        EntryColumn("seed", "Seed", lambda row: str(row.entry.method.seed), numeric=True),
        EntryColumn("date", "Date", lambda row: row.entry.origin.date),
    ]


def table_content(
    listed: Sequence[Listed], boards: Mapping[str, int], columns: Sequence[EntryColumn]
) -> dict[str, Any]:
    """What the template of a table of entries needs.

    Args:
        listed: The entries.
        boards: Slug of a board -> its number.
        columns: What is shown.
    """
    rows = [
        {
            "name": each.name,
            "method": each.entry.method.text,
            "constant": each.constant_level,
            "board": boards[each.board.slug],
            "at": " ".join(f"{radius:g}={100 * share:.4g}" for radius, share in each.certified_accuracy.items()),
            "costs": " ".join(f"{name}={cost}" for name, cost in each.entry.results.costs.items() if name != "bops"),
            "cells": [column.show(each) for column in columns],
        }
        for each in sorted(listed, key=_order)
    ]
    filters = {
        column: _options({column.show(each) for each in listed}, column) for column in columns if column.filtered
    }
    radii = sorted({radius for each in listed for radius in each.certified_accuracy})
    costs = sorted({name for each in listed for name in each.entry.results.costs if name != "bops"})
    has_verified = any(each.status == "verified" for each in listed)
    return {
        "rows": rows,
        "columns": columns,
        "filters": filters,
        "radii": [f"{radius:g}" for radius in radii],
        "costs": costs,
        "default": "verified" if has_verified else "",
    }


def entries_frame(listed: Sequence[Listed], ranks: Mapping[str, int]) -> pd.DataFrame:
    """One row per entry with everything but its images, for downloads."""
    frame = pd.DataFrame([_record(each, ranks) for each in sorted(listed, key=_order)])
    counts = ["rank", *(name for name in frame if str(name).startswith("cost."))]
    return frame.astype(dict.fromkeys(counts, "Int64"))  # a missing value makes floats of a column's integers


def images_frame(each: Listed) -> pd.DataFrame:
    """One row per image of an entry."""
    found, rows = each.certificates, each.entry.images
    counts = {} if rows.successes is None else {"successes": rows.successes}
    return pd.DataFrame(
        {
            "id": rows.id,
            "label": rows.label,
            "prediction": found.prediction,
            **counts,
            "p_lower": found.p_lower,
            "radius": found.radius,
            "forward_passes": found.forward_passes,
        }
    )


def to_csv(frame: pd.DataFrame) -> str:
    """CSV in which no text begins like a formula: spreadsheets would compute what a stranger wrote."""
    texts = {
        name: frame[name].map(lambda value: f"'{value}" if isinstance(value, str) and value[:1] in _FORMULA else value)
        for name in frame.columns
        if frame[name].dtype == object or str(frame[name].dtype) in ("str", "string")
    }
    return frame.assign(**texts).to_csv(index=False, lineterminator="\n")


def _certified(radius: float) -> Callable[[Listed], str]:
    def show(row: Listed) -> str:
        share = row.certified_accuracy.get(radius)
        return "" if share is None else f"{100 * share:.1f}"

    return show


def _options(values: set[str], column: EntryColumn) -> list[str]:
    if column.key == "status":
        return [status for status in STATUSES if status in values]
    return sorted(values, key=float) if column.numeric else sorted(values)


def _order(each: Listed) -> tuple[int, str, float, str]:
    return STATUSES.index(each.status), each.board.title, -each.score, each.name


def _record(each: Listed, ranks: Mapping[str, int]) -> dict[str, Any]:
    entry, results = each.entry, each.entry.results
    return {
        "name": each.name,
        "status": each.status,
        "board": each.board.slug,
        "rank": ranks.get(each.name),
        "method": entry.method.text,
        "seed": entry.method.seed,
        **entry.problem.model_dump(exclude={"name", "record"}),
        "problem": entry.problem.name,
        "post_step": entry.post_step.name,
        "score": each.score,
        "constant": results.constant,
        "constant_level": each.constant_level,
        "acr": results.acr,
        **{f"certified@{radius:g}": share for radius, share in each.certified_accuracy.items()},
        "clean_accuracy": results.clean_accuracy,
        "bops_share": results.bops_share,
        **{f"cost.{name}": cost for name, cost in sorted(results.costs.items())},
        "forward_passes": entry.spend.forward_passes,
        "evaluations": entry.spend.evaluations,
        "seconds": entry.spend.seconds,
        "weight_bits": " ".join(map(str, entry.policy.weights)),
        "activation_bits": " ".join(map(str, entry.policy.activations)),
        "date": entry.origin.date,
        "authors": "; ".join(entry.origin.authors),
        "commit": entry.origin.commit,
        "verified_on": each.verification.date if each.verification and each.status == "verified" else None,
        "sha256": entry.sha256,
    }
