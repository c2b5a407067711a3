"""Tables fit where they are shown and say what their marks mean."""

from __future__ import annotations

import io

import pandas as pd
import pytest
from rich.console import Console

from suite.report.comparison import Comparison
from suite.report.layout import leaderboard_table
from suite.report.ranking import leaderboard
from tests.report.fabricated import make_comparison


def show(frame: pd.DataFrame, width: int) -> str:
    stream = io.StringIO()
    leaderboard_table(frame).print(Console(file=stream, width=width))
    return stream.getvalue()


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_leaderboard_fits_the_console(large_board: pd.DataFrame, width: int) -> None:
    text = show(large_board, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for searcher in large_board["searcher"]:
        assert str(searcher) in text
    for verdict in set(large_board["verdict"].dropna()) - {"not compared"}:
        assert str(verdict) in text


def test_wide_consoles_show_what_narrow_ones_leave_out(large_board: pd.DataFrame) -> None:
    headers = {
        width: next(line for line in show(large_board, width).splitlines() if "searcher" in line).split()
        for width in (80, 120, 220)
    }
    assert {"searcher", "passes", "random", "verdict"} <= set(headers[80])
    assert {"95", "clean", "BOPs"} <= set(headers[120])
    assert {"seeds", "time", "@0", "@0.5", "images"} <= set(headers[220])
    assert len(headers[80]) < len(headers[120]) < len(headers[220])


def test_underpowered_is_explained_and_is_no_tie(small_board: pd.DataFrame) -> None:
    text = " ".join(leaderboard_table(small_board).notes)
    assert "too few seeds to tell, which is not a tie; with 5 comparisons at least 8 seeds are needed." in text
    assert "‡ too few seeds to tell whether it beats every trivial method. " in text
    assert show(small_board, 120).count("underpowered") >= 5


def test_marks_name_the_methods_that_do_not_beat_trivial_ones() -> None:
    scores = {"random": [0.3] * 6, "uniform": [0.5] * 6, "tpe": [0.4 + 0.001 * seed for seed in range(6)]}
    frame = leaderboard(make_comparison(scores))
    assert not any(note.startswith("†") for note in leaderboard_table(frame).notes)
    eight = {name: [*values, *values] for name, values in scores.items()}
    frame = leaderboard(make_comparison(eight))
    assert "† does not beat every trivial method. tpe: uniform (worse)." in leaderboard_table(frame).notes
    assert "tpe†" in show(frame, 120)
    assert "uniform°" in show(frame, 120)


def test_searchers_with_fewer_seeds_are_named() -> None:
    frame = leaderboard(make_comparison({"random": [0.3] * 3, "tpe": [0.4] * 3, "haq": [0.4]}))
    assert leaderboard_table(frame).notes[0].startswith("Seeds: tpe, random 3; haq 1.")


def test_missing_opponent_is_said() -> None:
    frame = leaderboard(make_comparison({"tpe": [0.2], "haq": [0.1]}))
    assert "not compared: no run of 'random' is in this comparison." in leaderboard_table(frame).notes


def test_markdown_is_a_table_with_all_columns(large_board: pd.DataFrame) -> None:
    lines = leaderboard_table(large_board).to_markdown().splitlines()
    table = [line for line in lines if line.startswith("|")]
    shown = leaderboard_table(large_board).columns
    assert len(table) == 2 + len(large_board)
    assert {line.count("|") for line in table} == {len(shown) + 1}
    assert [cell.strip() for cell in table[0].strip("|").split("|")] == [column.header for column in shown]
    assert lines[0] == f"**{leaderboard_table(large_board).title}**"
    assert any("Holm" in line for line in lines)


def test_title_names_what_was_compared(small: Comparison, small_board: pd.DataFrame) -> None:
    assert (
        leaderboard_table(small_board).title
        == "separable, budget w3a3, sigma 0.25, ranked by ACR, post-step none, 80 exam images"
    )


def test_other_objectives_are_named_and_acr_gets_a_column(small_board: pd.DataFrame) -> None:
    frame = small_board.assign(objective="certified@0.25,0.5")
    headers = [column.header for column in leaderboard_table(frame).columns]
    assert "exam score" in headers
    assert "ranked by certified accuracy at 0.25, 0.5" in leaderboard_table(frame).title
    assert "exam ACR" in headers
    assert [column.header for column in leaderboard_table(small_board).columns].count("exam ACR") == 1


def test_radii_that_nothing_reaches_are_left_out_and_named(small_board: pd.DataFrame) -> None:
    frame = small_board.assign(**{"certified@0.5": 0.0, "certified@0.75": 0.0})
    table = leaderboard_table(frame)
    headers = [column.header for column in table.columns]
    assert "@0.25" in headers
    assert not {"@0.5", "@0.75"} & set(headers)
    assert "Left out, as no network has an image certified there: @0.5, @0.75." in " ".join(table.notes)
    assert not any("Left out" in note for note in leaderboard_table(small_board.assign(**{"certified@1": 0.1})).notes)
