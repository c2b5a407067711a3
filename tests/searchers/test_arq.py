"""ARQ conforms, is rewarded as it says, pays for its probe, and does not mind the order in which results arrive."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from numpy.typing import ArrayLike

from searchers._ddpg import AgentSettings
from searchers._heuristics import fill_up, heuristic_policies
from searchers.arq import ARQ, ARQOptions, ARQPlus, ARQPlusOptions, schedule
from suite.contract.cost import cheapest
from suite.contract.problem import Problem
from suite.contract.searcher import Exhausted, Searcher
from suite.contract.space import SearchSpace
from suite.contract.trial import Trial
from suite.errors import BitcertError
from suite.run.registry import make_searcher
from suite.testing.searchers import SearcherConformance
from suite.testing.toys import SPACES, assert_feasible, drive, limits, problem_on, small_layers, toy_problem


class TestARQ(SearcherConformance):
    learns = False  # within 64 episodes; what it gains is measured in results/, and on longer runs below

    def make(self, problem: Problem, seed: int) -> Searcher:
        return ARQ(problem, seed)


class TestARQPlus(SearcherConformance):
    def make(self, problem: Problem, seed: int) -> Searcher:
        return ARQPlus(problem, seed, ARQPlusOptions(episodes=64))


def test_arq_plus_is_arq_with_its_options() -> None:
    problem = toy_problem()
    options: dict[str, Any] = {"relabel": True, "warm_start": True, "twin_critics": True, "avoid_repeats": True}
    plus, spelled = (
        [trial.policy for trial in drive(searcher, problem, 30)]
        for searcher in (
            ARQPlus(problem, 0, ARQPlusOptions(episodes=40)),
            ARQ(problem, 0, ARQOptions(episodes=40, **options)),
        )
    )
    assert plus == spelled


@pytest.mark.parametrize("name", ["arq", "arq+", "haq"])
def test_agents_end_after_their_episodes_failed_ones_included(name: str) -> None:
    problem = toy_problem()
    searcher = make_searcher(name, problem, episodes=30)
    assert searcher.learns_from_repeats
    trials = drive(searcher, problem, 100, width=3, fails=lambda number: number % 5 == 0)
    assert len(trials) == 30
    with pytest.raises(Exhausted, match="all 30 episodes"):
        searcher.ask()


def test_a_repeated_policy_is_learned_from_again() -> None:
    space = SearchSpace(small_layers(3), choices=(2, 3))
    problem = problem_on(space, limits(space)["top"])
    searcher = ARQ(problem, 0, ARQOptions(episodes=20))
    remember, learned = searcher.agent.remember, []

    def record(states: ArrayLike, actions: ArrayLike, rewards: ArrayLike) -> None:
        learned.append(rewards)
        remember(states, actions, rewards)

    searcher.agent.remember = record  # type: ignore[method-assign]
    trials = drive(searcher, problem, 20)
    assert len({trial.policy for trial in trials}) <= 4
    assert len(learned) == 20


def tell_all(searcher: ARQ, problem: Problem, order: list[int]) -> None:
    """Ask for as many episodes as ``order`` has, and tell their results in that order."""
    trials = [Trial(number, searcher.ask(), problem.fidelity, seed=0) for number in range(len(order))]
    for number in order:
        metrics = problem.evaluate(trials[number].policy, problem.fidelity)
        searcher.tell(replace(trials[number], metrics=metrics))


def test_results_that_arrive_in_another_order_make_the_same_agent() -> None:
    proposals = []
    for order in ([*range(24)], [5, 0, 3, 1, 2, 4, *range(23, 5, -1)]):
        problem = toy_problem()
        searcher = ARQ(problem, seed=0)
        tell_all(searcher, problem, order)
        proposals.append([searcher.ask() for _ in range(3)])
    assert proposals[0] == proposals[1]


def test_episodes_under_way_together_explore_differently() -> None:
    problem = toy_problem()
    searcher = ARQ(problem, seed=0)
    tell_all(searcher, problem, [*range(22)])
    assert len({searcher.ask() for _ in range(8)}) > 4


def test_learns_over_the_episodes() -> None:
    problem = toy_problem(seed=2)
    trials = drive(ARQ(problem, 0, ARQOptions(episodes=150)), problem, 150)
    scores = [trial.metrics.measured("acr") for trial in trials if trial.metrics is not None]
    assert sum(scores[-30:]) > sum(scores[:30])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 40 * (0.2 - 0.25)),
        ({"scale": 3.0}, 3 * (0.2 - 0.25)),
        ({"reward": "clean"}, 10 * (0.8 - 1.0)),
        ({"reward": "certified@0.25"}, 10 * (0.4 - 0.5)),
    ],
)
def test_reward_is_the_scaled_difference_to_the_float_network(options: dict[str, Any], expected: float) -> None:
    problem = toy_problem()
    searcher = ARQ(problem, 0, ARQOptions(**options))
    learned: list[float] = []
    searcher.agent.remember = lambda states, actions, rewards: learned.extend(rewards)  # type: ignore[method-assign, arg-type]
    policy = searcher.ask()
    metrics = replace(problem.evaluate(policy, problem.fidelity), acr=0.2, clean_accuracy=0.8)
    metrics = replace(metrics, certified_accuracy={**metrics.certified, 0.25: 0.4})
    searcher.tell(Trial(0, policy, problem.fidelity, seed=0, metrics=metrics))
    assert learned == pytest.approx([expected] * 12), "every step gets the whole reward"


def test_the_float_network_is_measured_once_and_paid_for() -> None:
    problem = toy_problem()
    searcher = ARQ(problem, seed=0)
    drive(searcher, problem, 5)
    one = problem.fidelity.images * problem.fidelity.noise
    assert problem.meter.forward_passes == 5 * one + one


@pytest.mark.parametrize(
    "options",
    [
        {"reward": "certified@0.3"},
        {"reward": "acr+bops"},
        {"reward": 5},
        {"scale": 0},
        {"scale": "much"},
        {"episodes": 0},
        {"updates": 0},
        {"relabel": "yes"},
        {"gradient_norm": -1},
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(BitcertError):
        make_searcher("arq", toy_problem(), **options)


@pytest.mark.parametrize(
    "options", [{"episodes": 0}, {"updates": 0}, {"scale": -1.0}, {"gradient_norm": 0.0}, {"reward": "x"}]
)
def test_options_built_in_python_are_checked_too(options: dict[str, Any]) -> None:
    with pytest.raises(BitcertError):
        ARQOptions(**options)


def test_avoiding_repeats_proposes_every_policy_once() -> None:
    problem = toy_problem()
    trials = drive(ARQ(problem, 1, ARQOptions(episodes=80, avoid_repeats=True)), problem, 80)
    assert len({trial.policy for trial in trials}) == 80


def test_schedule_fits_warm_up_and_exploration_to_the_run() -> None:
    usual = AgentSettings()
    assert schedule(usual, 600) == usual
    short = schedule(usual, 40)
    assert short.warmup == 10
    assert short.decay**30 == pytest.approx(usual.decay**580)


@pytest.mark.parametrize("limit", ["cheapest", "one step", "half", "top"])
@pytest.mark.parametrize("space", SPACES)
def test_heuristic_policies_are_feasible_and_use_the_budget_up(space: str, limit: str) -> None:
    problem = problem_on(SPACES[space], limits(SPACES[space])[limit])
    policies = heuristic_policies(problem)
    assert len(set(policies)) == len(policies) > 0
    for policy in policies:
        assert_feasible(problem, policy)
    filled = fill_up(problem, cheapest(problem.space))
    assert filled in policies
    spent = problem.bops(filled)
    assert not any(
        spent < problem.bops(near) <= problem.budget.limits[0].most for near in problem.space.neighbours(filled)
    )
