"""Landscapes: shares of variance, local optima and agreement against definitions, on scores that a formula wrote into a table."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from suite.cli import main
from suite.files import read_sealed
from suite.problems import load_problem
from suite.problems.tabular import TabularProblem
from suite.studies.landscape.measure import additivity, hardness
from suite.tables.table import write_table

Formula = Callable[[np.ndarray], np.ndarray]


def written(built: Path, folder: Path, formula: Formula, name: str = "made") -> Path:
    """The table with the scores of a formula of the policies' bits (0 or 1 for each variable) in place of measured ones."""
    file = folder / f"{name}.parquet"
    frame = pd.read_parquet(built)
    bits = np.array([list(map(int, text)) for text in frame["policy"]])
    write_table(file, read_sealed(built.with_suffix(".json"), "a table's record"), frame.assign(acr=formula(bits)))
    shutil.copy(built.with_name("small.probes.json"), folder / f"{name}.probes.json")
    return file


def at(file: Path, budget: str) -> TabularProblem:
    problem = load_problem(f"table:file={file}", budget=budget)
    assert isinstance(problem, TabularProblem)
    return problem


def test_sums_explain_what_sums_made_and_pairs_the_rest(built: Path, tmp_path: Path) -> None:
    weights = np.array([1.0, 2.0, 3.0, 0.0, 0.0, 0.0])
    plain = additivity(at(written(built, tmp_path, lambda bits: 0.1 + bits @ weights / 50), "w8a8"))
    assert plain.additive == pytest.approx(1)
    np.testing.assert_allclose(plain.main, weights**2 / (weights @ weights), atol=1e-9)
    # A product of two balanced bits less their means is uncorrelated with every sum, and has a variance of 1/16.
    crossed = additivity(
        at(
            written(built, tmp_path, lambda bits: 0.3 + bits[:, 0] / 10 + (bits[:, 1] - 0.5) * (bits[:, 2] - 0.5) / 10),
            "w8a8",
        )
    )
    assert crossed.additive == pytest.approx((1 / 4) / (1 / 4 + 1 / 16))
    assert crossed.pairwise == pytest.approx(1)


def test_more_bits_that_always_help_leave_no_trap_but_the_wall(built: Path, tmp_path: Path) -> None:
    file = written(built, tmp_path, lambda bits: 0.2 + bits.sum(axis=1) / 20)
    free = hardness(at(file, "w8a8"))
    assert (free.feasible, free.optima, free.exchange_optima) == (64, 1, 1)
    assert free.additive_regret == 0
    assert free.near == 1 / 64
    assert np.isnan(free.trapped)
    assert free.selection == pytest.approx(1)


def test_local_optima_are_those_of_the_definition(built: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = dict(zip(itertools.product((0, 1), repeat=6), rng.uniform(0.1, 0.5, 64), strict=True))
    problem = at(written(built, tmp_path, lambda bits: np.array([noise[tuple(row)] for row in bits.tolist()])), "w6a6")
    scores = {tuple(problem.space.encode(policy)): score for policy, score in problem.truth.items()}

    def beaten(vector: tuple[int, ...], flips: int) -> bool:
        for places in itertools.combinations(range(6), flips):
            other = tuple(1 - bit if place in places else bit for place, bit in enumerate(vector))
            if flips == 2 and vector[places[0]] == vector[places[1]]:
                continue  # two steps in the same direction are no exchange
            if scores.get(other, -1.0) > scores[vector]:
                return True
        return False

    single = [vector for vector in scores if not beaten(vector, 1)]
    both = [vector for vector in single if not beaten(vector, 2)]
    found = hardness(problem)
    assert (found.optima, found.exchange_optima) == (len(single), len(both))
    best, mean = max(scores.values()), np.mean(list(scores.values()))
    stuck = [(scores[vector] - mean) / (best - mean) for vector in both if scores[vector] < best]
    assert found.trapped == pytest.approx(np.mean(stuck))
    assert found.limit == problem.budget.limit


def test_the_report_has_how_tables_agree(built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = written(built, tmp_path, lambda bits: 0.2 + bits @ np.arange(1, 7) / 100, "other")
    command = ["landscape", "--tables", str(built), "--tables", str(other), "--budgets", "w4a4,w6a6"]
    assert main([*command, "--out", str(tmp_path / "report"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["hardness"]) == 4
    (row,) = [each for each in found["agreement"] if (each["one"], each["other"]) == ("small", "other")]
    expected = stats.kendalltau(at(built, "w4a4").true_scores, at(other, "w4a4").true_scores).statistic
    assert row["tau"] == pytest.approx(expected)
    names = {file.name for file in (tmp_path / "report").iterdir()}
    assert {"hardness.md", "additivity.md", "policies.png", "main_effects.png", "agreement_figure.png"} <= names


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--tables", "nothing.parquet", "--budgets", "w4a4"], "missing"),
        (["--budgets", "w2a2"], "alike"),
        (["--budgets", "w4a4", "--protocols", "finetune"], "has no measurements"),
    ],
)
def test_what_has_no_landscape_is_refused(
    built: Path, tmp_path: Path, options: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = [] if "--tables" in options else ["--tables", str(built)]
    assert main(["landscape", *tables, *options, "--out", str(tmp_path / "report")]) == 2
    assert reason in capsys.readouterr().err
