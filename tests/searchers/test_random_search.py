"""Random search conforms, draws without replacement, and, filled, leaves no step of the budget unspent."""

import pytest

from searchers.random_search import RandomFilled, RandomSearch
from suite.contract.problem import Problem
from suite.contract.searcher import Searcher
from suite.testing.searchers import SearcherConformance
from suite.testing.toys import drive, toy_problem


class TestRandomSearch(SearcherConformance):
    learns = False

    def make(self, problem: Problem, seed: int) -> Searcher:
        return RandomSearch(problem, seed)


class TestRandomFilled(SearcherConformance):
    learns = False  # it beats random search on the toy problem, by filling the budget only

    def make(self, problem: Problem, seed: int) -> Searcher:
        return RandomFilled(problem, seed)


@pytest.mark.parametrize("method", [RandomSearch, RandomFilled])
def test_results_do_not_change_what_is_drawn(method: type[Searcher]) -> None:
    succeeding, failing = toy_problem(), toy_problem()
    trials = drive(method(succeeding, 0), succeeding, 20)
    others = drive(method(failing, 0), failing, 20, fails=lambda number: True)
    assert [trial.policy for trial in trials] == [trial.policy for trial in others]


@pytest.mark.parametrize("budget", ["w2.2a2.2", "w3a3"])
def test_filled_policies_differ_and_leave_no_step_unspent(budget: str) -> None:
    problem = toy_problem(budget=budget)
    trials = drive(RandomFilled(problem, seed=0), problem, 60)
    assert len({trial.policy for trial in trials}) == 60
    for trial in trials:
        spent = problem.bops(trial.policy)
        dearer = [other for other in problem.space.neighbours(trial.policy) if problem.bops(other) > spent]
        assert not any(problem.is_feasible(other) for other in dearer)
