"""Evolution conforms, forgets by age, and breeds from successful trials only."""

import numpy as np
import pytest

from searchers.evolution import Evolution, EvolutionOptions
from suite.contract.problem import Problem
from suite.contract.searcher import Searcher
from suite.contract.space import Policy
from suite.contract.trial import Trial
from suite.errors import BitcertError
from suite.testing.searchers import SearcherConformance
from suite.testing.toys import drive, toy_problem

POPULATION = 6


class TestEvolution(SearcherConformance):
    def make(self, problem: Problem, seed: int) -> Searcher:
        return Evolution(problem, seed)


def distance(problem: Problem, one: Policy, other: Policy) -> int:
    return int(np.sum(problem.space.encode(one) != problem.space.encode(other)))


def mutating_only(problem: Problem) -> Evolution:
    """One changed variable a child, the parent always the best member; the budget is out of the way."""
    options = EvolutionOptions(
        population=POPULATION, tournament=POPULATION, crossover_probability=0, mutation_rate=0, spend_budget=False
    )
    return Evolution(problem, 0, options)


def test_children_differ_from_the_best_of_the_youngest_in_one_variable() -> None:
    problem = toy_problem(budget="w6a6")
    trials = drive(mutating_only(problem), problem, 40)
    for trial in trials[POPULATION:]:
        young = trials[trial.number - POPULATION : trial.number]
        best = max(young, key=lambda member: member.metrics.measured("acr") if member.metrics is not None else 0)
        assert distance(problem, trial.policy, best.policy) == 1


def test_members_leave_by_age_even_if_they_are_the_best() -> None:
    problem = toy_problem(budget="w6a6")
    searcher = mutating_only(problem)
    first = Trial(
        0,
        problem.space.uniform(6),
        problem.fidelity,
        seed=0,
        metrics=problem.evaluate(problem.space.uniform(6), problem.fidelity),
    )
    searcher.tell(first)
    others = drive(searcher, problem, POPULATION)
    child = searcher.ask()
    assert distance(problem, child, first.policy) > 1
    assert min(distance(problem, child, trial.policy) for trial in others) == 1


def test_failed_trials_become_no_parents_and_push_nobody_out() -> None:
    problem = toy_problem(budget="w6a6")
    trials = drive(mutating_only(problem), problem, 40, fails=lambda number: number % 2 == 1)
    for trial in trials[2 * POPULATION :]:
        succeeded = [earlier for earlier in trials[: trial.number] if earlier.metrics is not None][-POPULATION:]
        best = max(succeeded, key=lambda member: member.metrics.measured("acr") if member.metrics is not None else 0)
        assert distance(problem, trial.policy, best.policy) == 1


def test_children_leave_no_step_unspent() -> None:
    problem = toy_problem()
    for trial in drive(Evolution(problem, seed=0), problem, 40)[16:]:
        dearer = [
            other
            for other in problem.space.neighbours(trial.policy)
            if problem.bops(other) > problem.bops(trial.policy)
        ]
        assert not any(problem.is_feasible(other) for other in dearer)


@pytest.mark.parametrize(
    "options",
    [{"population": 1}, {"tournament": 0}, {"tournament": 17}, {"crossover_probability": 2}, {"mutation_rate": -1}],
    ids=str,
)
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(BitcertError, match=next(iter(options))):
        EvolutionOptions(**options)  # type: ignore[arg-type]
