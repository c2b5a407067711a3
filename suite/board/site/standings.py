"""The methods of one board, averaged over seeds and tested against a trivial one; only verified entries count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from suite.board.site.loading import Board, Listed
from suite.report.intervals import table_interval
from suite.report.ranking import NOT_COMPARED
from suite.report.statistics import SIGNIFICANCE, Difference, compare_scores, seeds_needed
from suite.report.table import NOTHING, Column, Row, Table, count, integer, magnitude, number, span

REFERENCES = ("random-filled", "random")
"""What methods are tested against: the first of these that is there."""


@dataclass(frozen=True, slots=True)
class Standings:
    """One row per method of a board.

    Attributes:
        table: The rows, ready to be written in any format.
        against: The method that all others are tested against; None if there is none.
    """

    table: Table
    against: str | None


def rank_entries(listed: Sequence[Listed]) -> dict[str, int]:
    """Rank the verified entries of one board by their score, from 1; those at the level of a constant have no rank."""
    ranked = [each for each in listed if each.status == "verified" and not each.constant_level]
    return {each.name: 1 + sum(other.score > each.score for other in ranked) for each in ranked}


def standings(board: Board, listed: Sequence[Listed]) -> Standings | None:
    """Summarize the verified entries of a board; None if it has none.

    Methods are told apart by their options. Where a method has several entries of one seed, the earliest counts, so that
    nobody improves a mean by submitting a seed again.
    """
    verified = sorted(
        (each for each in listed if each.status == "verified"), key=lambda each: (each.entry.origin.date, each.name)
    )
    if not verified:
        return None
    methods: dict[str, dict[int, Listed]] = {}
    for each in verified:
        methods.setdefault(each.entry.method.text, {}).setdefault(each.entry.method.seed, each)
    against = next((name for name in REFERENCES if name in methods), None)
    tests = _compare(methods, against)
    rows = [_describe(name, list(seeds.values()), tests.get(name)) for name, seeds in methods.items()]
    frame = pd.DataFrame(rows).sort_values(["score", "method"], ascending=[False, True], ignore_index=True)
    frame.insert(0, "rank", frame["score"].mask(frame["constant"]).rank(method="min", ascending=False).astype("Int64"))
    repeated = len(verified) - sum(map(len, methods.values()))
    columns, notes = _columns(frame, against, verified[0].objective.label), _notes(frame, against, len(tests), repeated)
    return Standings(Table(frame, columns, f"Methods on {board.title}", notes), against)


def _compare(methods: dict[str, dict[int, Listed]], against: str | None) -> dict[str, Difference]:
    """Test every method against one, paired by seed; pairs that searched different networks are left out."""
    if against is None:
        return {}
    networks = {seed: each.entry.hashes.network for seed, each in methods[against].items()}
    scores: dict[str, dict[int, NDArray[np.float64]]] = {
        name: {seed: each.scores for seed, each in seeds.items() if networks.get(seed) == each.entry.hashes.network}
        for name, seeds in methods.items()
    }
    return {test.searcher: test for test in compare_scores(scores, against)}


def _describe(method: str, seeds: Sequence[Listed], test: Difference | None) -> dict[str, object]:
    scores = np.array([each.scores for each in seeds])
    interval = table_interval(scores)
    entries = [each.entry for each in seeds]
    radii = sorted(set.intersection(*(set(each.certified_accuracy) for each in seeds)))
    return {
        "method": method,
        "seeds": len(seeds),
        "score": float(scores.mean(axis=1).mean()),
        "low": interval.low,
        "high": interval.high,
        "difference": None if test is None else test.mean,
        "difference_low": None if test is None else test.crossed.low,
        "difference_high": None if test is None else test.crossed.high,
        "seeds_paired": None if test is None else len(test.seeds),
        "p_adjusted": None if test is None else test.p_adjusted,
        "verdict": None if test is None else test.verdict,
        "acr": float(np.mean([entry.results.acr for entry in entries])),
        **{
            f"certified@{radius:g}": float(np.mean([each.certified_accuracy[radius] for each in seeds]))
            for radius in radii
        },
        "clean_accuracy": float(np.mean([entry.results.clean_accuracy for entry in entries])),
        "bops_share": float(np.mean([entry.results.bops_share for entry in entries])),
        "forward_passes": round(np.mean([entry.spend.forward_passes for entry in entries])),
        "constant": all(each.constant_level for each in seeds),
    }


def _columns(frame: pd.DataFrame, against: str | None, label: str) -> list[Column]:
    def verdict(row: Row) -> str:
        if row["method"] == against:
            return NOTHING
        return NOT_COMPARED if pd.isna(row["verdict"]) else str(row["verdict"])

    compared = [
        Column(f"Δ {against}", lambda row: number(row["difference"], "+.4f")),
        Column("95 % Δ", lambda row: span(row["difference_low"], row["difference_high"], "+.3f")),
        Column("verdict", verdict, "left"),
    ]
    return [
        Column("#", lambda row: integer(row["rank"])),
        Column("method", lambda row: f"{row['method']}{' §' if row['constant'] else ''}", "left"),
        Column("seeds", lambda row: integer(row["seeds"])),
        Column(label, lambda row: number(row["score"], ".4f")),
        Column("95 %", lambda row: span(row["low"], row["high"], ".3f")),
        *([] if against is None else compared),
        *([] if label == "ACR" else [Column("ACR", lambda row: number(row["acr"], ".4f"))]),
        *(_share(name) for name in map(str, frame) if name.startswith("certified@")),
        Column("clean", lambda row: number(100 * row["clean_accuracy"], ".1f")),
        Column("BOPs", lambda row: number(100 * row["bops_share"], ".3g")),
        Column("passes", lambda row: magnitude(row["forward_passes"])),
    ]


def _share(name: str) -> Column:
    return Column(name.removeprefix("certified"), lambda row: number(100 * row[name], ".1f"))


def _notes(frame: pd.DataFrame, against: str | None, comparisons: int, repeated: int) -> list[str]:
    found = [
        "Verified entries only. 95 %: interval of the mean over seeds and images (one seed: over images). @r: certified "
        "accuracy at radius r in %; clean accuracy in %; BOPs in % of the float network's; passes: forward passes of one search."
    ]
    if against is None:
        found.append(f"No verdicts: no verified entry of {' or '.join(REFERENCES)} to compare with.")
    else:
        found.append(
            f"Δ {against}: mean difference paired by seed and image, with its 95 % interval over both; verdict by sign-flip test "
            f"over seeds, Holm-corrected, at {SIGNIFICANCE:g}."
        )
    if "underpowered" in set(frame["verdict"]):
        found.append(
            f"underpowered: too few seeds to tell, which is not a tie; with {count(comparisons, 'comparison')} at least "
            f"{count(seeds_needed(comparisons), 'common seed')} are needed."
        )
    if frame["constant"].any():
        found.append("§ not above the best constant classifier, and not ranked.")
    if repeated:
        entries = "1 entry repeats" if repeated == 1 else f"{repeated} entries repeat"
        found.append(f"{entries} the seed of an earlier one of the same method and does not count here.")
    return found
