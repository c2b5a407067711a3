"""Whether methods stand in the same order on a table and elsewhere: on another table, a surrogate, or a network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from suite.errors import BitcertError
from suite.report.agreement import rank_agreement
from suite.report.comparison import FLOAT
from suite.report.table import Column, Table, number, span

Order = dict[str, dict[str, float]]
"""By budget the score of every method."""


def read_order(path: Path) -> Order:
    """Read the scores of methods from the report of a replay (``replay.json``) or of a comparison (``leaderboard.json``).

    Raises:
        BitcertError: If the file is neither.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["leaderboard"]
        found = order_of(pd.DataFrame(rows))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BitcertError(f"{path} is no replay.json and no leaderboard.json: {error}") from None
    return found


def order_of(board: pd.DataFrame) -> Order:
    """The scores of methods in a leaderboard, of a replay (less regret is better) or of a comparison."""
    rows = board[board["searcher"] != FLOAT]
    regrets = [name for name in board.columns if name.startswith("regret@")]
    scores = -rows[max(regrets, key=lambda name: int(name.partition("@")[2]))] if regrets else rows["score"]
    groups = rows["task" if regrets else "budget"]
    return {
        str(group): dict(zip(rows["searcher"][groups == group], scores[groups == group], strict=True))
        for group in groups.unique()
    }


def order_frame(own: Order, files: Sequence[str]) -> pd.DataFrame:
    """One row per file: Kendall's tau with its order, over the methods and within the budgets that both have.

    Columns: ``source``, ``budgets``, ``methods``, ``tau``, ``low``, ``high`` (bootstrap over methods); see :func:`.rank_agreement`.

    Budgets at which all methods score the same, here or there, have no order and are left out.

    Raises:
        BitcertError: If no budget is left.
    """
    rows = []
    for file in files:
        other, groups, methods = read_order(Path(file)), [], set[str]()
        for budget, scores in own.items():
            common = sorted(scores.keys() & other.get(budget, {}).keys())
            pair = [scores[name] for name in common], [other[budget][name] for name in common]
            if min(len(set(values)) for values in pair) > 1:  # else there is no order
                groups.append(pair)
                methods |= set(common)
        if not groups:
            raise BitcertError(
                f"{file} has no budget at which methods of this replay differ on both sides; it has {', '.join(other)}"
            )
        tau = rank_agreement(groups).tau
        rows.append(
            {
                "source": file,
                "budgets": len(groups),
                "methods": len(methods),
                "tau": tau.rho,
                "low": tau.low,
                "high": tau.high,
            }
        )
    return pd.DataFrame(rows)


def order_table(frame: pd.DataFrame) -> Table:
    """The agreements of a replay's order with others."""
    columns = [
        Column("source", lambda row: str(row["source"]), "left"),
        Column("budgets", lambda row: str(row["budgets"])),
        Column("methods", lambda row: str(row["methods"])),
        Column("Kendall's tau", lambda row: number(row["tau"], "+.2f")),
        Column("95 %", lambda row: span(row["low"], row["high"], "+.2f")),
    ]
    notes = [
        "Order of the methods both have, within budgets; 1 is the same order, 0 none in common. Bootstrap intervals over methods."
    ]
    return Table(frame, columns, "The same order elsewhere?", notes)
