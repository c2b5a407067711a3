"""The benchmark: the best methods of a table are run for real, and every number of its findings is one of its tables'."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from suite.cli import main
from suite.run.deployed import read_deployed
from suite.run.state import load_run

METHODS = "random,random-filled,uniform,evolution,sensitivity-ilp"


def benchmark(built: Path, directory: Path, *options: str) -> int:
    command = [
        "benchmark",
        "--problem",
        "digits",
        "--table",
        str(built),
        "--budgets",
        "w4a4",
        "--searchers",
        METHODS,
        "--best",
        "2",
    ]
    command += [
        "--table-seeds",
        "6",
        "--table-evaluations",
        "8",
        "--trivial",
        "random-filled,uniform",
        "--budget",
        "w3a3",
    ]
    command += ["--evaluations", "3", "--images", "5", "--noise", "8", "--finalists", "0", "--seeds", "0,1"]
    command += [
        "--exam-images",
        "10",
        "--exam-n0",
        "8",
        "--exam-n",
        "20",
        "--post-step",
        "qat",
        "--post-step-steps",
        "2",
    ]
    return main([*command, "--executor", "inline", "--directory", str(directory), *options])


@pytest.fixture(scope="module")
def done(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("benchmark")
    assert benchmark(built, directory) == 0
    return directory


def content(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "findings.json").read_text(encoding="utf-8"))
    return found


def test_the_best_of_the_table_and_the_trivial_ones_are_run_for_real(done: Path) -> None:
    found = content(done)
    ranked = [
        row["searcher"] for row in found["table"]["overall"] if row["searcher"] not in ("random-filled", "uniform")
    ]
    assert {row["searcher"] for row in found["real"]} == {"random-filled", "uniform", *ranked[:2], "float"}
    assert {row["post_step"] for row in found["real"] if row["searcher"] != "float"} == {"qat"}
    assert found["winner"]["searcher"] == ranked[0]


def test_the_exported_network_is_what_the_best_method_found_by_its_search_score(done: Path) -> None:
    winner = content(done)["winner"]
    description = read_deployed(done / winner["model"])[1]
    assert description["policy"] == winner["policy"]
    assert description["post_step"]["name"] == "qat"
    assert description["exam"]["metrics"]["acr"] > 0
    runs = {seed: load_run(done / "real" / "searches" / f"{winner['searcher']}-{seed}") for seed in (0, 1)}
    bests = {seed: run.best for seed, run in runs.items()}
    scores = {
        seed: best.metrics.measured("acr")
        for seed, best in bests.items()
        if best is not None and best.metrics is not None
    }
    assert scores[winner["seed"]] == max(scores.values())
    assert bests[winner["seed"]].policy.to_dict() == winner["policy"]  # type: ignore[union-attr]


def test_findings_hold_the_numbers_of_the_tables(done: Path) -> None:
    found = content(done)
    table, counted, real = found["findings"]
    top, board = found["table"]["overall"][0], pd.DataFrame(found["table"]["leaderboard"])
    assert f"{top['searcher']} comes nearest" in table
    assert f"a score of {top['score']:.3f}" in table
    rows = board[(board["searcher"] == top["searcher"]) & board["difference"].notna()]
    for _, row in rows.iterrows():
        assert f"{row['difference']:+.4f} at {row['task']} (95 % interval {row['difference_low']:+.4f} to " in table
        assert f"p = {row['p_adjusted']:.2g}" in table
    others = board[board["searcher"] != "random-filled"]
    better = sorted(others[others["verdict"] == "better"]["searcher"])
    assert f"{len(better)} of 4 methods are better than random-filled" in counted
    assert f"at every budget of the table ({', '.join(better) or 'none'})" in counted
    best = max(
        (row for row in found["real"] if row["searcher"] not in ("float", "random-filled")),
        key=lambda row: row["score"],
    )
    assert f"{best['searcher']} certifies an ACR of {best['score']:.4f}, the highest of 3 methods" in real
    assert real.endswith(f"{best['verdict']}.")


def test_the_page_opens_with_the_findings_and_has_every_table_and_figure(done: Path) -> None:
    page = (done / "index.html").read_text(encoding="utf-8")
    opening = re.findall(r"<li>(.*?)</li>", page)
    assert len(opening) == len(content(done)["findings"]) == 3
    assert page.index("<li>") < page.index("<table")
    assert page.count("<figure>") == 3
    assert "For real" in page


def test_it_is_resumed_without_searching_again(built: Path, done: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in [*done.glob("real/searches/*/*"), done / "winner.onnx"]}
    page = (done / "index.html").read_bytes()
    assert benchmark(built, done) == 0
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert (done / "index.html").read_bytes() == page


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--against", "tpe"], "tpe is not among the methods"),
        (["--table", "digits"], "digits is no table"),
        (["--trivial", "nothing"], "unknown searcher"),
        (["--exam-images", "100000"], "images"),
        (["--table-seeds", "1"], "table_seeds"),
    ],
)
def test_mistakes_come_out_before_anything_runs(
    built: Path, tmp_path: Path, options: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert benchmark(built, tmp_path / "new", *options) == 2
    shown = capsys.readouterr().err
    assert reason in shown
    assert shown.count("\n") == 1
    assert not (tmp_path / "new").exists()
