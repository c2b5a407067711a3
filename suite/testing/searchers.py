"""What every searcher has to pass; as a program, it answers what the searchers of other files propose."""

from __future__ import annotations

import atexit
import functools
import json
import os
import random
import runpy
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from searchers.random_search import RandomSearch
from suite.contract.cost import ModelSize
from suite.contract.objective import nondominated
from suite.contract.problem import Problem
from suite.contract.searcher import Exhausted, Searcher
from suite.contract.space import Precision, SearchSpace
from suite.contract.trial import Trial
from suite.testing.toys import SPACES, assert_feasible, best_score, drive, limits, problem_on, small_layers, toy_problem

EVALUATIONS = 64
SEEDS = range(10)
T_QUANTILE = 2.821  # Student's t at 0.99 with 9 degrees of freedom


class SearcherConformance(ABC):
    """Feasibility, determinism, learning, and survival of what a run does to a searcher.

    Subclasses define :meth:`make` and, where their method is unusual, the class attributes.
    """

    seeded: ClassVar[bool] = True
    """Whether proposals depend on the seed."""

    learns: ClassVar[bool] = True
    """Whether the method claims to find better policies than random search in as many evaluations."""

    @abstractmethod
    def make(self, problem: Problem, seed: int) -> Searcher:
        """Build the searcher under test."""

    def trajectory(self, seed: int, between: Callable[[], None] = lambda: None) -> list[str]:
        """What is proposed on the toy problem with two trials pending and every fifth one failing, as JSON."""
        problem = toy_problem()
        searcher = self.make(problem, seed)
        trials = drive(searcher, problem, 32, width=2, fails=lambda number: number % 5 == 4, between=between)
        return [trial.policy.to_json() for trial in trials]

    @pytest.mark.parametrize("limit", ["cheapest", "one step", "half", "top"])
    @pytest.mark.parametrize("space", SPACES)
    def test_every_proposal_is_feasible(self, space: str, limit: str) -> None:
        problem = problem_on(SPACES[space], limits(SPACES[space])[limit])
        drive(self.make(problem, seed=0), problem, 24)

    @pytest.mark.parametrize("also", ["", "+{bops}"], ids=["bytes alone", "bytes and BOPs"])
    @pytest.mark.parametrize("space", SPACES)
    def test_every_proposal_is_within_a_model_size(self, space: str, also: str) -> None:
        size, found = ModelSize(), SPACES[space]
        most, least = (size.total(found, found.uniform(found.choices[end])) for end in (-1, 0))
        budget = f"bytes<={size.units((least + most) // 2)}" + also.format(bops=limits(found)["half"])
        problem = problem_on(found, budget)
        drive(self.make(problem, seed=0), problem, 24)

    def test_proposals_stay_feasible_on_a_tight_budget_while_it_learns(self) -> None:
        problem = toy_problem(budget="w2.1a2.1")
        drive(self.make(problem, seed=1), problem, EVALUATIONS, width=3)

    def test_same_seed_proposes_the_same_policies(self) -> None:
        assert self.trajectory(seed=3) == _trajectory(type(self), 3)

    def test_another_seed_proposes_other_policies(self) -> None:
        if not self.seeded:
            pytest.skip("the method has no randomness")
        assert _trajectory(type(self), 3) != self.trajectory(seed=4)

    def test_another_process_proposes_the_same_policies(self) -> None:
        file = Path(str(sys.modules[type(self).__module__].__file__)).resolve()
        assert _ask_other_process(str(file), type(self).__name__, 3) == _trajectory(type(self), 3)

    def test_global_random_state_is_neither_used_nor_changed(self) -> None:
        import torch  # not at the top: the process started by the test above would load it for nothing

        def state() -> tuple[Any, ...]:
            numpy_state = np.random.get_state(legacy=False)["state"]  # noqa: NPY002 (global state is what this is about)
            of_numpy = numpy_state["key"].tobytes(), numpy_state["pos"]
            return random.getstate(), of_numpy, torch.get_rng_state().numpy().tobytes()

        saved = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
        calls, left = iter(range(1000)), state()

        def disturb() -> None:
            nonlocal left
            assert state() == left
            call = next(calls)
            random.seed(call)
            np.random.seed(call)  # noqa: NPY002
            torch.manual_seed(call)
            left = state()

        try:
            found = self.trajectory(seed=3, between=disturb)
            assert state() == left
        finally:
            random.setstate(saved[0])
            np.random.set_state(saved[1])  # noqa: NPY002
            torch.set_rng_state(saved[2])
        assert found == _trajectory(type(self), 3)

    def test_pending_trials_are_not_just_proposed_again(self) -> None:
        problem = toy_problem()
        searcher = self.make(problem, seed=0)
        pending: list[Trial] = []
        for number in range(len(drive(searcher, problem, 20)), 24):
            try:
                policy = searcher.ask(tuple(pending))
            except Exhausted:
                break
            assert_feasible(problem, policy)
            pending.append(Trial(number, policy, problem.fidelity, seed=0))
        assert len(pending) < 2 or len({trial.policy for trial in pending}) > 1
        for trial in reversed(pending):
            searcher.tell(replace(trial, metrics=problem.evaluate(trial.policy, trial.fidelity)))

    def test_results_may_arrive_out_of_order(self) -> None:
        problem = toy_problem()
        assert drive(self.make(problem, seed=0), problem, 40, width=4)

    @pytest.mark.parametrize("failing", ["every third", "the first ten", "all"])
    def test_survives_failed_trials(self, failing: str) -> None:
        fails: Callable[[int], bool] = {
            "every third": lambda number: number % 3 == 2,
            "the first ten": lambda number: number < 10,
            "all": lambda number: True,
        }[failing]
        problem = toy_problem()
        assert drive(self.make(problem, seed=0), problem, 40, fails=fails)

    def test_exhausted_stays_exhausted(self) -> None:
        space = SearchSpace(small_layers(2), choices=(2, 4), pins={"layer1": Precision(4, 4)})
        problem = problem_on(space, limits(space)["top"])
        searcher = self.make(problem, seed=0)
        if len(drive(searcher, problem, 20)) == 20:
            pytest.skip("the method proposes policies again rather than stop")
        for _ in range(3):
            with pytest.raises(Exhausted):
                searcher.ask()

    def test_beats_random_search_on_a_separable_problem(self) -> None:
        """One-sided paired t-test over problems and seeds: a method as good as random search passes one time in 100."""
        if not self.learns:
            pytest.skip("the method does not claim to learn")
        gains = []
        for seed in SEEDS:
            problem = toy_problem(seed=seed)
            learned = drive(self.make(problem, seed), problem, EVALUATIONS)
            gains.append(best_score(problem, learned) - _score_of_random_search(seed))
        standard_error = np.std(gains, ddof=1) / len(gains) ** 0.5
        assert np.mean(gains) > T_QUANTILE * standard_error

    @pytest.mark.parametrize("costs", ["bops", "bops+bytes"])
    def test_two_or_three_objectives_give_a_front(self, costs: str) -> None:
        problem = toy_problem(objective=f"acr+{costs}")
        searcher = self.make(problem, seed=0)
        if not searcher.supports_pareto:
            pytest.skip("the method knows one objective")
        trials = drive(searcher, problem, 40, width=2, fails=lambda number: number % 7 == 6)
        assert len(nondominated(trials, problem.objective)) > 1


@functools.cache
def _trajectory(conformance: type[SearcherConformance], seed: int) -> list[str]:
    """The first of the trajectories that the tests of a class compare others with."""
    return conformance().trajectory(seed)


@functools.cache
def _score_of_random_search(seed: int) -> float:
    problem = toy_problem(seed=seed)
    return best_score(problem, drive(RandomSearch(problem, seed), problem, EVALUATIONS))


@functools.cache
def _other_process() -> subprocess.Popen[str]:
    """A process with another hash seed that answers one question a line, for all tests; it ends with this one."""
    hash_seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "suite.testing.searchers"],
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    atexit.register(process.communicate)
    return process


def _ask_other_process(file: str, name: str, seed: int) -> Any:
    """The trajectory of a conformance class of a file, from the other process."""
    process = _other_process()
    assert process.stdin is not None
    assert process.stdout is not None
    print(json.dumps([sys.path, file, name, seed]), file=process.stdin, flush=True)
    answer = process.stdout.readline()
    if not answer:  # it has failed and ended; the next question starts another
        _other_process.cache_clear()
        atexit.unregister(process.communicate)
        pytest.fail(process.communicate()[1])
    return json.loads(answer)


def _answer_questions() -> None:
    for line in sys.stdin:
        path, file, name, seed = json.loads(line)
        sys.path[:] = path
        conformance: SearcherConformance = runpy.run_path(file)[name]()
        print(json.dumps(conformance.trajectory(seed)), flush=True)


if __name__ == "__main__":
    _answer_questions()
