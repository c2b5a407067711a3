"""Random search conforms, and draws without replacement."""

from searchers.random_search import RandomSearch
from suite.contract.problem import Problem
from suite.contract.searcher import Searcher
from suite.testing.searchers import SearcherConformance
from suite.testing.toys import drive, toy_problem


class TestRandomSearch(SearcherConformance):
    learns = False

    def make(self, problem: Problem, seed: int) -> Searcher:
        return RandomSearch(problem, seed)


def test_results_do_not_change_what_is_drawn() -> None:
    succeeding, failing = toy_problem(), toy_problem()
    trials = drive(RandomSearch(succeeding, seed=0), succeeding, 20)
    others = drive(RandomSearch(failing, seed=0), failing, 20, fails=lambda number: True)
    assert [trial.policy for trial in trials] == [trial.policy for trial in others]
