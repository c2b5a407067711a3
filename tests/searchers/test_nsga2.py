"""NSGA-II conforms, and its generations are made of the policies evaluated."""

import pytest
from optuna.samplers import NSGAIISampler
from optuna.trial import TrialState

from searchers.nsga2 import NSGA2, NSGA2Options
from suite.contract.problem import Problem
from suite.contract.searcher import Searcher
from suite.errors import BitcertError
from suite.testing.searchers import SearcherConformance
from suite.testing.toys import drive, toy_problem

POPULATION = 8


class TestNSGA2(SearcherConformance):
    def make(self, problem: Problem, seed: int) -> Searcher:
        return NSGA2(problem, seed)


def test_generations_are_the_evaluated_policies_in_their_order() -> None:
    problem = toy_problem(budget="w2.5a2.5")
    searcher = NSGA2(problem, 0, NSGA2Options(population=POPULATION))
    trials = drive(searcher, problem, 5 * POPULATION, fails=lambda number: number % 3 == 2)
    succeeded = [trial for trial in trials if trial.metrics is not None]
    study = searcher.study
    complete = study.get_trials(states=[TrialState.COMPLETE])
    assert [problem.space.decode(list(trial.params.values())) for trial in complete] == [t.policy for t in succeeded]
    assert [trial.values for trial in complete] == [[t.metrics.acr] for t in succeeded if t.metrics is not None]
    generations = [trial.system_attrs["NSGAIISampler:generation"] for trial in complete]
    assert generations == [index // POPULATION for index in range(len(complete))]


def test_parents_are_the_best_of_all_generations() -> None:
    problem = toy_problem()
    searcher = NSGA2(problem, 0, NSGA2Options(population=POPULATION))
    trials = drive(searcher, problem, 3 * POPULATION)
    searcher.ask()
    study = searcher.study
    assert isinstance(study.sampler, NSGAIISampler)
    parents = study.sampler.get_parent_population(study, 3)
    best = sorted((trial.metrics.measured("acr") for trial in trials if trial.metrics is not None), reverse=True)[
        :POPULATION
    ]
    assert sorted((trial.values[0] for trial in parents), reverse=True) == best


@pytest.mark.parametrize(
    "options",
    [{"population": 1}, {"crossover_probability": 1.5}, {"mutation_probability": -0.1}],
    ids=lambda o: next(iter(o)),
)
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(BitcertError, match=next(iter(options))):
        NSGA2Options(**options)  # type: ignore[arg-type]
