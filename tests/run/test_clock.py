"""The time of a run is read from the clock of its problem: a virtual clock makes it a result like any other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from suite.contract.clock import WallClock
from suite.contract.cost import random_feasible
from suite.contract.problem import Problem
from suite.contract.searcher import Searcher
from suite.contract.space import Policy
from suite.contract.trial import Trial
from suite.problems.separable import SeparableProblem
from suite.run.journal import FILE_NAME
from suite.run.records import Run
from suite.studies.search.run import search
from tests.run.virtual import TimedProblem, seconds_of


class Thinking(Searcher):
    """Random policies, each after half a second, and a quarter of a second for every trial."""

    def __init__(self, problem: TimedProblem) -> None:
        super().__init__(problem, 0)
        self._timed, self._rng = problem, np.random.default_rng(0)

    def ask(self, pending: Sequence[Trial] = ()) -> Policy:
        self._timed.virtual.advance(0.5)
        return random_feasible(self.problem.space, self.problem.budget, self._rng)

    def tell(self, trial: Trial) -> None:
        self._timed.virtual.advance(0.25)


def go(directory: Path, seconds: float = 60) -> Run:
    problem = TimedProblem()
    return search(problem, Thinking(problem), evaluations=None, seconds=seconds, finalists=2, directory=directory)


def test_limit_elapsed_time_and_the_time_of_the_searcher_are_the_virtual_ones(tmp_path: Path) -> None:
    run = go(tmp_path)
    each = [0.75 + seconds_of(trial.policy) for trial in run.trials]
    assert run.stopped == "seconds"
    assert sum(each) >= 60 > sum(each[:-1])
    assert run.searcher_seconds == 0.75 * len(run.trials)
    finals = sum(seconds_of(trial.policy) for trial in run.finals)
    last = (tmp_path / FILE_NAME).read_text().splitlines()[-1]
    assert f'"elapsed":{sum(each) + finals}' in last


def test_a_run_is_the_same_to_the_last_byte_wherever_it_was_interrupted(tmp_path: Path) -> None:
    go(tmp_path / "whole", seconds=25)
    content = (tmp_path / "whole" / FILE_NAME).read_bytes()
    ends = [position + 1 for position, byte in enumerate(content) if byte == ord("\n")]
    assert len(ends) > 10
    for number, end in enumerate(ends):
        cut = tmp_path / f"cut{number}"
        cut.mkdir()
        (cut / FILE_NAME).write_bytes(content[:end])
        go(cut, seconds=25)
        assert (cut / FILE_NAME).read_bytes() == content


def test_other_problems_read_the_wall_clock() -> None:
    problem: Problem = SeparableProblem()
    assert isinstance(problem.clock, WallClock)
    before = problem.clock.now()
    assert problem.clock.now() >= before
