"""Runs as data frames."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas
import pytest

from suite.contract.space import Policy
from suite.contract.trial import Fidelity, Metrics
from suite.problems.separable import SeparableProblem
from suite.run.journal import FILE_NAME
from suite.run.records import Run
from suite.run.registry import make_searcher
from suite.run.state import load_run
from suite.studies.search.run import search


class Failing(SeparableProblem):
    """The second evaluation goes wrong."""

    calls = 0

    def evaluate(self, policy: Policy, fidelity: Fidelity, seed: int = 0) -> Metrics:
        self.calls += 1
        if self.calls == 2:
            self.meter.charge(5)
            raise RuntimeError("out of memory")
        return super().evaluate(policy, fidelity, seed)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    problem = Failing()
    searcher = make_searcher("random", problem, 3)
    return search(problem, searcher, evaluations=8, finalists=2, retries=0, directory=tmp_path, fidelity=Fidelity(7, 9))


def test_a_frame_has_one_row_per_trial_and_everything_known_of_it(run: Run) -> None:
    frame = run.to_dataframe()
    trials = [*run.trials, *run.finals]
    assert frame["number"].tolist() == [trial.number for trial in trials]
    assert [Policy.from_json(text) for text in frame["policy"]] == [trial.policy for trial in trials]
    assert frame["spend"].sum() == run.forward_passes
    assert frame["is_final"].tolist() == [False] * 6 + [True] * 2
    assert set(frame["images"]) == {7}
    assert frame["seed"].tolist() == [6] * 6 + [7] * 2
    for position, trial in enumerate(trials):
        row = frame.iloc[position]
        if trial.metrics is None:
            assert (row["failure"], row["spend"]) == ("RuntimeError: out of memory", 5)
            assert pandas.isna(row["acr"])
        else:
            assert (row["acr"], row["bops"]) == (trial.metrics.acr, trial.metrics.bops)
            assert row["certified@0.25"] == trial.metrics.certified[0.25]


def test_the_frame_survives_csv(run: Run, tmp_path: Path) -> None:
    frame = run.to_dataframe()
    frame.to_csv(tmp_path / "run.csv", index=False)
    again = pandas.read_csv(tmp_path / "run.csv")
    assert again["acr"].dropna().tolist() == pytest.approx(frame["acr"].dropna().tolist())
    assert [json.loads(text) for text in again["policy"]] == [
        trial.policy.to_dict() for trial in (*run.trials, *run.finals)
    ]


def test_a_run_without_trials_gives_an_empty_frame(run: Run) -> None:
    empty = Run("random", 0, (), 0, run.objective, {}, None)
    assert empty.to_dataframe().empty


def test_the_recorded_runs_can_be_read() -> None:
    journals = sorted((Path(__file__).parents[2] / "results").rglob(FILE_NAME))
    assert journals
    for journal in journals:
        run = load_run(journal.parent)
        assert run.stopped is not None
        assert run.best is not None


def test_records_are_imported_without_pandas() -> None:
    code = "import sys, suite.run.records; sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
