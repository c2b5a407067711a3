"""The cheapest baseline conforms, and proposes one policy, below which there is none."""

import pytest

from baselines.cheapest import Cheapest
from suite.contract.problem import Problem
from suite.contract.searcher import Searcher
from suite.testing.searchers import SearcherConformance
from suite.testing.toys import SPACES, drive, feasible_policies, limits, problem_on


class TestCheapest(SearcherConformance):
    seeded = False
    learns = False

    def make(self, problem: Problem, seed: int) -> Searcher:
        return Cheapest(problem, seed)


@pytest.mark.parametrize("space", ["4 or 8 bits", "tied weight and activation", "one choice", "every layer pinned"])
def test_the_policy_with_the_fewest_bops_is_proposed_once(space: str) -> None:
    problem = problem_on(SPACES[space], limits(SPACES[space])["top"])
    trials = drive(Cheapest(problem, 0), problem, 10)
    assert len(trials) == 1
    assert problem.bops(trials[0].policy) == min(problem.bops(policy) for policy in feasible_policies(problem))
