"""Reports of several objectives and limits: every cost is listed, and the front is what enumeration finds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from suite.contract.cost import ModelSize
from suite.errors import BitcertError
from suite.problems.separable import SeparableProblem
from suite.report import plot_front, write_report
from suite.report.comparison import Comparison, front_frame
from suite.report.figures import figure_of
from suite.report.layout import leaderboard_table
from suite.report.ranking import leaderboard
from tests.report.fabricated import fabricate

SEARCHERS = ("random", "tpe", "nsga2")


@pytest.fixture(scope="module")
def three() -> Comparison:
    return fabricate(SEARCHERS, layers=6, images=20, evaluations=12, objective="acr+bops+bytes", budget="w4a4+11KB")


def undominated(comparison: Comparison) -> set[tuple[str, int, int]]:
    """Searcher, seed and number of the trials that no other trial of their search beats; bytes are those of the formula."""
    space, found = SeparableProblem(layers=6).space, set()
    for entry in comparison.entries:
        rows = {}
        for trial in entry.run.trials:
            if trial.metrics is not None:
                size = -(-ModelSize().total(space, trial.policy) // 8)
                rows[trial.number] = (trial.metrics.bops, size, -trial.metrics.measured("acr"))
        for number, mine in rows.items():
            others = [row for place, row in rows.items() if row != mine or place < number]
            if not any(all(a <= b for a, b in zip(other, mine, strict=True)) for other in others):
                found.add((entry.run.searcher, entry.run.seed, number))
    return found


def test_the_front_of_every_search_is_listed(three: Comparison) -> None:
    frame = front_frame(three)
    expected = undominated(three)
    assert len(expected) > 6
    assert set(zip(frame["searcher"], frame["seed"], frame["trial"], strict=True)) == expected
    assert len(frame) == len(expected)
    assert {"search_score", "bops", "cost.bytes", "policy"} < set(frame)


def test_each_panel_shows_every_point_of_the_front_by_one_cost(three: Comparison) -> None:
    axes, frame = plot_front(three), front_frame(three)
    panels = figure_of(axes).axes
    assert [panel.get_xlabel() for panel in panels] == ["BOPs", "bytes"]
    for panel, column in zip(panels, ["bops", "cost.bytes"], strict=True):
        for searcher, rows in frame.groupby("searcher"):
            (drawn,) = (points for points in panel.collections if points.get_label() == searcher)
            wanted = {(float(cost), score) for cost, score in zip(rows[column], rows["search_score"], strict=True)}
            assert {(x, y) for x, y in np.asarray(drawn.get_offsets()).tolist()} == wanted
        drawn_limits = [places.tolist() for line in panel.lines if len(places := np.asarray(line.get_xdata()))]
        assert drawn_limits == [[three.limits[column.removeprefix("cost.")]] * 2]


def test_a_front_needs_a_cost_to_minimize() -> None:
    with pytest.raises(BitcertError, match="the objective acr has no costs to minimize"):
        plot_front(fabricate(SEARCHERS, seeds=1, layers=4, images=20))


def test_rows_table_and_files_list_the_bytes(three: Comparison, tmp_path: Path) -> None:
    space = SeparableProblem(layers=6).space
    sizes = [-(-ModelSize().total(space, entry.run.best.policy) // 8) for entry in three.entries if entry.run.best]
    assert three.rows["cost.bytes"].tolist()[:-1] == sizes
    board = leaderboard(three)
    table = leaderboard_table(board)
    place = table.headers.index("bytes")
    for row, cells in zip(board.to_dict("records"), table.cells, strict=True):
        of_searcher = [
            size for size, entry in zip(sizes, three.entries, strict=True) if entry.run.searcher == row["searcher"]
        ]
        assert cells[place] == (f"{np.mean(of_searcher) / 1000:.3g}k" if of_searcher else "—")
    files = {file.name for file in write_report(three, tmp_path)}
    assert {"front.csv", "front.png", "front.svg"} <= files
    assert len(pd.read_csv(tmp_path / "front.csv")) == len(undominated(three))
    assert "Pareto fronts of the searches" in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_bytes_are_listed_for_several_limits_without_further_objectives() -> None:
    comparison = fabricate(("random", "tpe"), seeds=1, layers=6, images=20, budget="w4a4+11KB")
    assert comparison.rows["cost.bytes"].iloc[:-1].between(1, 11_000).all()
    assert comparison.rows["budget_bops"].nunique() == 1


@pytest.mark.parametrize("name", ["bops", "bytes"])
def test_a_winner_over_any_limit_is_refused(three: Comparison, name: str) -> None:
    with pytest.raises(BitcertError, match=rf"costs \d+ {name}, over the budget of 5;"):
        replace(three, limits={**three.limits, name: 5}).rows  # noqa: B018
