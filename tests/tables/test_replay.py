"""Replays: regrets from the table, the same twice, resumed, and refused where nothing can be judged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from suite.cli import main
from suite.problems import load_problem
from suite.problems.tabular import TabularProblem
from suite.report.anytime import Trajectory
from suite.run.registry import make_searcher
from suite.studies.replay.judge import WITHIN_NOISE, Judged, difference_noise
from suite.studies.replay.run import Replay, Task
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


@pytest.mark.usefixtures("no_figures")
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


@pytest.mark.usefixtures("no_figures")
def test_the_order_elsewhere_is_compared_within_budgets(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ["--evaluations", "2", "--marks", "1"]
    assert replay(built, tmp_path / "one", *short) == 0
    found = json.loads(capsys.readouterr().out)
    regrets = {(row["task"], row["searcher"]): row["regret@2"] for row in found["leaderboard"]}
    names = SEARCHERS.split(",")
    rows = [
        {"budget": "w4a4", "searcher": name, "score": score}
        for name, score in zip(names, (0.3, 0.1, 0.4, 0.2), strict=True)
    ]
    other = tmp_path / "leaderboard.json"
    other.write_text(json.dumps({"leaderboard": [*rows, {"budget": "w4a4", "searcher": "float", "score": 0.9}]}))
    files = [str(tmp_path / "one" / "report" / "replay.json"), str(other)]
    assert replay(built, tmp_path / "one", *short, "--orders", files[0], "--orders", files[1]) == 0
    same, apart = json.loads(capsys.readouterr().out)["orders"]
    assert (same["tau"], same["budgets"], same["methods"]) == (1, 2, 4)
    expected = stats.kendalltau([-regrets["w4a4", name] for name in names], [0.3, 0.1, 0.4, 0.2]).statistic
    assert (apart["tau"], apart["budgets"]) == (pytest.approx(expected), 1)
    assert (tmp_path / "one" / "report" / "orders.md").exists()
    other.write_text("[]")
    assert replay(built, tmp_path / "one", *short, "--orders", str(other)) == 2
    assert "is no replay.json and no leaderboard.json" in capsys.readouterr().err


@pytest.mark.usefixtures("no_figures")
def test_fronts_are_told_as_shares_of_the_true_one(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--objective", "acr+bops", "--against", "random"]
    assert replay(built, tmp_path / "short", *options, searchers="random,tpe,nsga2") == 0
    found = json.loads(capsys.readouterr().out)
    assert all(0 < row["hypervolume"] <= 1 for row in found["leaderboard"])
    assert all(row["hypervolume_low"] <= row["hypervolume"] <= row["hypervolume_high"] for row in found["leaderboard"])
    files = {file.name for file in (tmp_path / "short" / "report").iterdir()}
    assert {"fronts-w4a4.png", "fronts-w6a6.svg"} <= files
    assert replay(built, tmp_path / "all", *options, "--evaluations", "64", searchers="random") == 0
    everything = json.loads(capsys.readouterr().out)["leaderboard"]
    problem = load_problem(f"table:file={built}", budget="w6a6", objective="acr+bops")
    assert isinstance(problem, TabularProblem)
    task = Task("w6a6", problem)
    assert task.hypervolume(task.points) == pytest.approx(1)
    (row,) = [row for row in everything if row["task"] == "w6a6"]
    fresh = problem.fresh()
    shares = []
    for seed in range(4):
        run = search(
            fresh, make_searcher("random", fresh, seed), evaluations=64, directory=tmp_path / f"run{seed}", finalists=0
        )
        points = [(problem.truth[trial.policy], problem.bops(trial.policy)) for trial in run.front]
        shares.append(task.hypervolume(np.array(points)))
    assert row["hypervolume"] == pytest.approx(np.mean(shares))


def test_the_noise_of_a_difference_is_that_of_the_policies_that_differ() -> None:
    same = np.array([0.4, 0.4, 0.4])
    assert difference_noise(same, same, 0.01) == pytest.approx(0, abs=1e-15)
    assert difference_noise(same, same + 0.1, 0.01) == pytest.approx(0.01 * np.sqrt(2))
    assert difference_noise(same, same + 0.1, None) == 0
    rng = np.random.default_rng(0)
    truths, ends, others = rng.normal(0.4, 0.1, 6), rng.integers(0, 6, 12), rng.integers(2, 6, 12)
    measured = truths + rng.normal(0, 0.01, (4000, 6))
    simulated = (measured[:, ends].mean(axis=1) - measured[:, others].mean(axis=1)).std()
    assert difference_noise(truths[ends], truths[others], 0.01) == pytest.approx(simulated, rel=0.05)


@pytest.mark.parametrize(("error", "verdict"), [(None, "better"), (0.001, "better"), (0.01, WITHIN_NOISE)])
def test_a_verdict_needs_more_than_the_noise_of_true_scores(
    built: Path, monkeypatch: pytest.MonkeyPatch, error: float | None, verdict: str
) -> None:
    problem = load_problem(f"table:file={built}", budget="w6a6")
    assert isinstance(problem, TabularProblem)
    monkeypatch.setattr(TabularProblem, "truth_error", error)
    task = Task("w6a6", problem)

    def course(truth: float) -> dict[str, Trajectory]:
        return {"evaluations": Trajectory(np.array([1.0]), np.array([truth]), 8)}

    courses = {
        name: {"w6a6": {seed: course(truth) for seed in range(10)}} for name, truth in (("a", 0.36), ("b", 0.35))
    }
    frame = Judged(Replay([task], courses, 8, {}), [8], "b").board  # type: ignore[arg-type]
    (row,) = [row for _, row in frame.iterrows() if row["searcher"] == "a"]
    assert row["verdict"] == verdict
    assert row["difference_high"] - row["difference"] == pytest.approx(1.96 * np.sqrt(2) * (error or 0), rel=1e-3)
