"""Replays: regrets from the table, the same twice, resumed, and refused where nothing can be judged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from suite.cli import main
from suite.problems import load_problem
from suite.problems.tabular import TabularProblem
from suite.run.registry import make_searcher
from suite.studies.search.run import search

SEARCHERS = "random,random-filled,uniform,tpe"


def replay(built: Path, directory: Path, *options: str, searchers: str = SEARCHERS) -> int:
    command = ["replay", "--tables", str(built), "--budgets", "w4a4,w6a6", "--searchers", searchers, "--seeds", "4"]
    command += ["--evaluations", "12", "--marks", "4", "--executor", "inline", "--directory", str(directory), "--json"]
    return main([*command, *options])


def test_regret_is_the_distance_of_the_best_true_score_from_that_of_what_a_search_holds(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay(built, tmp_path / "replay") == 0
    found = json.loads(capsys.readouterr().out)
    problem = load_problem(f"table:file={built}", budget="w6a6")
    assert isinstance(problem, TabularProblem)
    regrets = []
    for seed in range(4):
        fresh = problem.fresh()
        run = search(
            fresh, make_searcher("tpe", fresh, seed), evaluations=12, directory=tmp_path / str(seed), finalists=0
        )
        assert run.best is not None
        regrets.append(max(problem.truth.values()) - problem.truth[run.best.policy])
    (row,) = [row for row in found["leaderboard"] if (row["task"], row["searcher"]) == ("w6a6", "tpe")]
    assert row["regret@12"] == pytest.approx(np.mean(regrets))
    assert row["regret@4"] >= 0
    assert {each["searcher"] for each in found["overall"]} == set(SEARCHERS.split(","))
    task = next(each for each in found["tasks"] if each["task"] == "w6a6")
    assert task["optimum"] == max(problem.truth.values())
    assert task["feasible"] == len(problem.truth)
    assert {"regret-w4a4.png", "ranks-w6a6.svg", "targets-w6a6.png", "profiles.png", "leaderboard.md"} <= {
        file.name for file in (tmp_path / "replay" / "report").iterdir()
    }


def test_a_replay_goes_on_where_it_stopped_and_takes_more_methods(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay(built, tmp_path / "all") == 0
    whole = json.loads(capsys.readouterr().out)
    assert replay(built, tmp_path / "parts", searchers="random,random-filled") == 0
    courses = tmp_path / "parts" / "courses"
    written = {file.name: file.stat().st_mtime_ns for file in courses.iterdir()}
    assert len(written) == 4
    capsys.readouterr()
    assert replay(built, tmp_path / "parts") == 0
    assert json.loads(capsys.readouterr().out) == whole
    assert all((courses / name).stat().st_mtime_ns == time for name, time in written.items())
    damaged = courses / next(iter(written))
    damaged.write_text(damaged.read_text().replace("truth", "truht"))
    assert replay(built, tmp_path / "parts") == 2
    assert "is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--against", "arq"), "unknown searcher of this replay"),
        (("--budgets", "w4a4,w4a4"), "must differ"),
        (("--searchers", "nonsense"), "unknown searcher"),
        (("--budgets", "w1a1"), "budget"),
        (("--marks", "0"), "marks are positive"),
        (("--protocol", "finetune"), "has no measurements under finetune"),
    ],
)
def test_what_cannot_be_judged_is_refused(
    built: Path, tmp_path: Path, options: tuple[str, ...], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay(built, tmp_path / "replay", *options) == 2
    shown = capsys.readouterr().err
    assert reason in shown
    assert shown.count("\n") == 1


def test_a_table_without_all_policies_has_no_optimum(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "drawn.parquet"
    command = ["build-table", "digits", "--policies", "2", "--budgets", "w4a4", "--fidelities", "5x8"]
    command += ["--noise-seeds", "1", "--directory", str(tmp_path / "parts"), "--out", str(file), "--json"]
    assert main(command) == 0
    assert replay(file, tmp_path / "replay") == 2
    assert "does not hold every policy" in capsys.readouterr().err
