"""TPE conforms, and its study holds the policies evaluated and, unscored, the suggestions over the budget."""

import inspect
from typing import Any

import pytest
from optuna.samplers import TPESampler
from optuna.trial import TrialState

from searchers.random_search import RandomSearch
from searchers.tpe import TPE, TPEOptions
from suite.contract.cost import cheapest
from suite.contract.objective import nondominated
from suite.contract.problem import Problem
from suite.contract.searcher import Searcher
from suite.contract.trial import Trial
from suite.errors import BitcertError
from suite.testing.searchers import SearcherConformance
from suite.testing.toys import drive, toy_problem


def hypervolume(problem: Problem, trials: list[Trial]) -> float:
    """Area dominated in the plane of spent budget (towards the cheapest policy) and score, within the budget.

    In units of score: the mean, over all limits between the cheapest policy's BOPs and the budget, of the best score
    that the trials reach within that limit; 0 where they reach none.
    """
    least, limit = problem.bops(cheapest(problem.space)), problem.budget.limits[0].most
    front = nondominated(trials, problem.objective)
    ends = [problem.bops(trial.policy) for trial in front[1:]] + [limit]
    area = 0.0
    for trial, end in zip(front, ends, strict=True):
        assert trial.metrics is not None
        area += (end - problem.bops(trial.policy)) * problem.objective.score(trial.metrics)
    return area / (limit - least)


class TestTPE(SearcherConformance):
    def make(self, problem: Problem, seed: int) -> Searcher:
        return TPE(problem, seed)


def test_defaults_are_those_of_optuna() -> None:
    defaults = {name: parameter.default for name, parameter in inspect.signature(TPESampler).parameters.items()}
    options = TPEOptions()
    assert options.startup == defaults["n_startup_trials"]
    assert options.candidates == defaults["n_ei_candidates"]
    usual, ours = vars(TPESampler(seed=0)), vars(TPE(toy_problem(), 0).study.sampler)
    plain = {name for name, value in usual.items() if isinstance(value, int | bool | type(None))}
    assert {name: ours[name] for name in plain} == {name: usual[name] for name in plain}


def test_suggestions_over_the_budget_are_told_as_violated_constraints_without_a_score() -> None:
    problem = toy_problem(budget="w2.2a2.2")
    searcher = TPE(problem, seed=0)
    drive(searcher, problem, 48)
    pruned = searcher.study.get_trials(states=[TrialState.PRUNED])
    assert pruned
    for trial in pruned:
        suggested = problem.space.decode(list(trial.params.values()))
        assert trial.values is None
        assert trial.constraints["excess bops"] == problem.bops(suggested) / problem.budget.limits[0].most - 1 > 0


def test_every_repelling_pending_trial_is_the_policy_that_was_proposed() -> None:
    problem = toy_problem()
    searcher = TPE(problem, seed=0)
    drive(searcher, problem, 30)
    proposed = [searcher.ask() for _ in range(4)]
    running = searcher.study.get_trials(states=[TrialState.RUNNING])
    assert [problem.space.decode(list(trial.params.values())) for trial in running] == proposed


def test_two_objectives_dominate_more_than_random_search() -> None:
    gains = []
    for seed in range(3):
        problem = toy_problem(budget="w4a4", objective="acr+bops", seed=seed)
        searched, drawn = (drive(method(problem, seed), problem, 40) for method in (TPE, RandomSearch))
        gains.append(hypervolume(problem, searched) - hypervolume(problem, drawn))
    assert min(gains) > 0


@pytest.mark.parametrize("options", [{"startup": 0}, {"candidates": 0}, {"startup": 2.5}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(BitcertError, match=rf"{next(iter(options))} must be an integer >= 1"):
        TPEOptions(**options)
