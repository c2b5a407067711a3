"""Moves stay within the budget, and no policy is proposed twice while a new one exists."""

import numpy as np
import pytest

from searchers._proposals import Proposals, mutate, spend
from suite.contract.searcher import Exhausted
from suite.contract.space import SearchSpace
from suite.contract.trial import Trial
from suite.run.registry import make_searcher
from suite.testing.toys import (
    SPACES,
    assert_feasible,
    drive,
    feasible_policies,
    limits,
    problem_on,
    small_layers,
    toy_problem,
)

GENERAL_PURPOSE = ["random", "random-filled", "tpe", "nsga2", "evolution"]


@pytest.mark.parametrize("name", GENERAL_PURPOSE)
def test_a_small_space_is_proposed_completely_and_once(name: str) -> None:
    space = SearchSpace(small_layers(3), choices=(2, 3, 8), pins={}, ties=(("layer0", "layer2"),))
    problem = problem_on(space, limits(space)["half"])
    searcher = make_searcher(name, problem)
    proposed = [trial.policy for trial in drive(searcher, problem, 1000, width=3)]
    assert len(proposed) == len(set(proposed))
    assert set(proposed) == feasible_policies(problem)


@pytest.mark.parametrize("limit", ["cheapest", "one step", "half"])
@pytest.mark.parametrize("space", ["tied layers", "everything tied", "4 or 8 bits", "one choice", "every layer pinned"])
def test_without_candidates_the_feasible_policies_are_enumerated(space: str, limit: str) -> None:
    problem = problem_on(SPACES[space], limits(SPACES[space])[limit])
    proposals, expected = Proposals(problem), feasible_policies(problem)
    count = min(len(expected), 40)
    assert len({proposals.take(()) for _ in range(count)} & expected) == count
    if count == len(expected):
        with pytest.raises(Exhausted, match=f"all {count} feasible"):
            proposals.take(())


def test_candidates_are_taken_in_order_and_pending_ones_passed_over() -> None:
    problem = toy_problem()
    low, high = problem.space.uniform(2), problem.space.uniform(3)
    proposals = Proposals(problem)
    pending = [Trial(0, low, problem.fidelity, seed=0)]
    assert proposals.take((low, high), pending) == high
    assert proposals.take((low, high)) not in (low, high)


def test_mutation_redraws_every_variable_equally_often() -> None:
    problem, rng = toy_problem(budget="w6a6"), np.random.default_rng(0)
    start = problem.space.uniform(4)
    changed = np.array([problem.space.encode(mutate(problem, start, rng, rate=0)) != 2 for _ in range(2400)])
    assert (changed.sum(axis=1) == 1).all()
    # 12 variables, 200 changes expected in each; chi-square with 11 degrees of freedom is above 31.3 once in 1000.
    assert np.sum((changed.sum(axis=0) - 200) ** 2 / 200) < 31.3


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("space", SPACES)
def test_moves_stay_feasible(space: str, rate: float) -> None:
    problem, rng = problem_on(SPACES[space], limits(SPACES[space])["half"]), np.random.default_rng(0)
    policy = problem.space.uniform(problem.space.choices[0])
    for _ in range(20):
        policy = mutate(problem, policy, rng, rate)
        assert_feasible(problem, policy)
        policy = spend(problem, policy, rng)
        assert_feasible(problem, policy)
