"""NSGA-II conforms, and its generations are made of the policies evaluated."""

import inspect

import numpy as np
import pytest
from optuna.samplers import NSGAIISampler
from optuna.trial import TrialState
from scipy import stats

from searchers.nsga2 import NSGA2, NSGA2Options
from searchers.random_search import RandomSearch
from suite.contract.problem import Problem
from suite.contract.searcher import Searcher
from suite.errors import BitcertError
from suite.testing.searchers import SearcherConformance
from suite.testing.toys import best_score, drive, toy_problem

POPULATION = 8


class TestNSGA2(SearcherConformance):
    learns = False  # in 64 evaluations, of which the first generation is 50; on longer runs below

    def make(self, problem: Problem, seed: int) -> Searcher:
        return NSGA2(problem, seed)


def test_defaults_are_those_of_optuna() -> None:
    defaults = {name: parameter.default for name, parameter in inspect.signature(NSGAIISampler).parameters.items()}
    options = NSGA2Options()
    assert options.population == defaults["population_size"]
    assert options.crossover_probability == defaults["crossover_prob"]
    assert options.mutation_probability is defaults["mutation_prob"] is None


def test_the_first_population_is_random_and_no_more() -> None:
    """The first policies are the generator's random feasible ones, the next ones near the best of them."""
    problem = toy_problem(budget="w2.5a2.5")
    trials = drive(NSGA2(problem, 0, NSGA2Options(population=POPULATION)), problem, 3 * POPULATION)
    vectors = np.array([problem.space.encode(trial.policy) for trial in trials])
    nearest = [(vectors[:index] != vectors[index]).sum(axis=1).min() for index in range(1, len(vectors))]
    assert np.mean(nearest[: POPULATION - 1]) > np.mean(nearest[POPULATION - 1 :]) + 1


def test_beats_random_search_in_four_generations() -> None:
    """One-sided paired t-test: a method as good as random search passes one time in 100."""
    gains = []
    for seed in range(5):
        problem = toy_problem(seed=seed)
        bred, drawn = (drive(method(problem, seed), problem, 200) for method in (NSGA2, RandomSearch))
        gains.append(best_score(problem, bred) - best_score(problem, drawn))
    assert stats.ttest_1samp(gains, 0, alternative="greater").pvalue < 0.01


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
