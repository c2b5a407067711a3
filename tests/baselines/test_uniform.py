"""The uniform baseline conforms, and proposes each affordable pair of bits once, in the order it documents."""

import pytest

from baselines.uniform import Uniform
from suite.contract.problem import Problem
from suite.contract.searcher import Searcher
from suite.contract.space import Policy, SearchSpace
from suite.testing.searchers import SearcherConformance
from suite.testing.toys import SPACES, drive, feasible_policies, limits, problem_on, small_layers


class TestUniform(SearcherConformance):
    seeded = False
    learns = False

    def make(self, problem: Problem, seed: int) -> Searcher:
        return Uniform(problem, seed)


def proposals(problem: Problem) -> list[Policy]:
    return [trial.policy for trial in drive(Uniform(problem, 0), problem, 1000)]


def test_most_bops_come_first_then_the_balanced_then_more_weight_bits() -> None:
    space = SearchSpace(small_layers(3), choices=(2, 4, 8), pins={})
    problem = problem_on(space, limits(space)["half"])
    pairs = [(policy.weights[0], policy.activations[0]) for policy in proposals(problem)]
    assert pairs == [(8, 4), (4, 8), (4, 4), (8, 2), (2, 8), (4, 2), (2, 4), (2, 2)]


@pytest.mark.parametrize("limit", ["cheapest", "half", "top"])
@pytest.mark.parametrize("space", ["4 or 8 bits", "tied weight and activation", "tied layers", "every layer pinned"])
def test_exactly_the_feasible_uniform_policies_are_proposed(space: str, limit: str) -> None:
    problem = problem_on(SPACES[space], limits(SPACES[space])[limit])
    free = [index for index, layer in enumerate(problem.space.layers) if layer.name not in problem.space.pinned]
    uniform = {p for p in feasible_policies(problem) if len({p.precisions[index] for index in free}) <= 1}
    assert set(proposals(problem)) == uniform
    assert len(proposals(problem)) == len(uniform)
