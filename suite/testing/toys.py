"""Free problems to try searchers on, and the loop that runs a searcher on them in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product

from suite.contract import cost
from suite.contract.problem import Problem
from suite.contract.searcher import Exhausted, Searcher
from suite.contract.space import Layer, Pin, Policy, Precision, SearchSpace
from suite.contract.trial import Trial
from suite.execute.evaluation import evaluate_trial
from suite.problems.separable import SeparableProblem


def toy_problem(*, budget: str | int = "w3a3", objective: str = "acr", seed: int = 0) -> SeparableProblem:
    """A free problem with 12 variables of 5 choices, on which learning shows within 64 evaluations."""
    return SeparableProblem(layers=6, choices=(2, 3, 4, 5, 6), budget=budget, objective=objective, seed=seed)


def problem_on(space: SearchSpace, budget: str | int) -> SeparableProblem:
    """The separable problem with as many layers, on another space and with another budget."""
    problem = SeparableProblem(layers=len(space.layers))
    problem.space, problem.budget = space, cost.parse_budget(budget, space)
    return problem


def small_layers(count: int) -> tuple[Layer, ...]:
    """Layers that differ in MACs and parameters."""
    return tuple(
        Layer(f"layer{index}", "conv", macs=1000 + 371 * index, parameters=9 + index) for index in range(count)
    )


SPACES: dict[str, SearchSpace] = {
    "first and last layer pinned": SearchSpace(small_layers(5)),
    "middle layer pinned": SearchSpace(small_layers(5), pins={"layer2": Precision(3, 7)}),
    "states and spikes": SearchSpace(
        small_layers(4), pins={"layer0": Precision(8, 8), "layer1": Pin(8, None), "layer2": Pin(None, 1)}
    ),
    "tied beside states and spikes": SearchSpace(
        small_layers(4), pins={"layer1": Pin(8, None), "layer2": Pin(None, 1)}, tie_weight_activation=True
    ),
    "tied layers": SearchSpace(small_layers(6), ties=(("layer1", "layer4"), ("layer2", "layer3"))),
    "tied weight and activation": SearchSpace(small_layers(4), pins={}, tie_weight_activation=True),
    "everything tied": SearchSpace(
        small_layers(5), pins={}, ties=(("layer0", "layer3", "layer4"),), tie_weight_activation=True
    ),
    "4 or 8 bits": SearchSpace(small_layers(4), choices=(4, 8), pins={}),
    "choices with gaps": SearchSpace(small_layers(4), choices=(2, 3, 8), pins={}),
    "one choice": SearchSpace(small_layers(3), choices=(4,), pins={}),
    "every layer pinned": SearchSpace(small_layers(2)),
}


def limits(space: SearchSpace) -> dict[str, int]:
    """Limits on BOPs from the tightest to none: the cheapest policy, one step above it, halfway to the top, the top."""
    lowest = cost.cheapest(space)
    least, most = cost.bops(space, lowest), cost.bops(space, space.uniform(space.choices[-1]))
    one_step = min((cost.bops(space, neighbour) for neighbour in space.neighbours(lowest)), default=least)
    return {"cheapest": least, "one step": one_step, "half": (least + most) // 2, "top": most}


def feasible_policies(problem: Problem) -> set[Policy]:
    """All feasible policies of a small space, by brute force."""
    vectors = product(range(len(problem.space.choices)), repeat=len(problem.space.variables))
    return {policy for vector in vectors if problem.is_feasible(policy := problem.space.decode(vector))}


def assert_feasible(problem: Problem, policy: Policy) -> None:
    """Check choices, pins, ties and budget one by one, without the code that searchers use for it."""
    space = problem.space
    assert len(policy.precisions) == len(space.layers)
    by_name = {layer.name: precision for layer, precision in zip(space.layers, policy.precisions, strict=True)}
    for name, precision in by_name.items():
        pin = space.pinned.get(name, Pin(None, None))
        for bits, fixed in zip(precision, pin, strict=True):
            assert bits == fixed if fixed is not None else bits in space.choices, (
                f"{name} breaks its pin or the choices"
            )
        if space.tie_weight_activation and pin == (None, None):
            assert precision.weight == precision.activation, f"{name} is tied"
    for group in space.ties:
        assert len({by_name[name] for name in group}) == 1, f"{group} are tied"
    for limit in problem.budget.limits:
        rule = limit.cost
        spent = sum(rule.of_layer(layer, by_name[layer.name]) for layer in space.layers) + rule.constant(space)
        assert spent <= limit.most, f"{rule.units(spent)} {rule.unit} are over the budget of {rule.units(limit.most)}"


def drive(
    searcher: Searcher,
    problem: Problem,
    evaluations: int,
    *,
    width: int = 1,
    fails: Callable[[int], bool] = lambda number: False,
    between: Callable[[], None] = lambda: None,
) -> list[Trial]:
    """Run a searcher for a number of trials, or until it is exhausted; every proposal must be feasible.

    Args:
        searcher: Asked and told.
        problem: Evaluates the proposals.
        evaluations: Most trials.
        width: Trials pending at a time; with more than one, results arrive out of order.
        fails: Whether the trial of a number fails.
        between: Called before each ask and each tell.

    Returns:
        All trials by number.
    """
    pending: list[Trial] = []
    finished: list[Trial] = []

    def finish_one() -> None:
        trial = pending.pop(len(finished) % len(pending))
        failed = replace(trial, failure="did not converge")
        trial = failed if fails(trial.number) else evaluate_trial(problem, trial)
        finished.append(trial)
        between()
        searcher.tell(trial)

    for number in range(evaluations):
        between()
        try:
            policy = searcher.ask(tuple(pending))
        except Exhausted:
            break
        assert_feasible(problem, policy)
        pending.append(Trial(number, policy, problem.fidelity, seed=0))
        if len(pending) == width:
            finish_one()
    while pending:
        finish_one()
    return sorted(finished, key=lambda trial: trial.number)


def best_score(problem: Problem, trials: list[Trial]) -> float:
    """The highest objective among the trials that did not fail."""
    return max(problem.objective.score(trial.metrics) for trial in trials if trial.metrics is not None)
