"""The repair stays within any budget, changes as few variables as it says, and far fewer than HAQ's wall."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from scipy import stats

import suite
from suite.contract.cost import (
    BOPs,
    Budget,
    Cost,
    Limit,
    ModelSize,
    cheapest,
    enforce_budget,
    parse_budget,
    random_feasible,
    repair,
)
from suite.contract.problem import Problem
from suite.contract.space import Layer, Policy, Precision, SearchSpace
from suite.errors import BitcertError
from suite.problems.separable import SeparableProblem
from suite.testing.toys import SPACES, assert_feasible, limits, problem_on, small_layers

FALSE_ALARM = 1e-3
TIGHT = "w2.5a2.5"


@dataclass(frozen=True)
class Slowest(Cost):
    """A layer is as slow as the slower of its parts: lowering one alone saves nothing where both are equal."""

    name: ClassVar[str] = "slowest"
    unit: ClassVar[str] = "ticks"

    def of_layer(self, layer: Layer, precision: Precision) -> int:
        return layer.parameters * max(precision)


def changes(space: SearchSpace, one: Policy, other: Policy) -> list[int]:
    """The variables in which two policies differ."""
    return np.flatnonzero(space.encode(one) != space.encode(other)).tolist()


@pytest.mark.parametrize("cost", [BOPs(), ModelSize(), Slowest()], ids=lambda cost: cost.name)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("space", SPACES)
def test_repaired_policies_are_feasible_and_never_raised(space: str, share: float, cost: Cost) -> None:
    problem, rng = problem_on(SPACES[space], limits(SPACES[space])["top"]), np.random.default_rng(0)
    least, most = (cost.total(problem.space, problem.space.uniform(problem.space.choices[end])) for end in (0, -1))
    problem.budget = Budget((Limit(least + int(share * (most - least)), "", cost),))
    for _ in range(10):
        policy = problem.space.random(rng)
        repaired = repair(problem.space, policy, problem.budget, rng)
        assert_feasible(problem, repaired)
        assert (problem.space.encode(repaired) <= problem.space.encode(policy)).all()
        assert repaired == policy or not problem.is_feasible(policy)


def test_one_variable_pays_alone_where_one_can_and_gives_up_no_more_than_it_must() -> None:
    problem = SeparableProblem(layers=5, budget="w3a3")
    space, rng, met = problem.space, np.random.default_rng(0), 0
    for _ in range(200):
        policy = space.decode(
            np.clip(space.encode(random_feasible(space, problem.budget, rng)) + rng.integers(2, size=10), 0, 6)
        )
        vector = space.encode(policy)
        lowered = {}
        for variable in range(len(vector)):
            for bits in range(vector[variable] - 1, -1, -1):
                near = vector.copy()
                near[variable] = bits
                if variable not in lowered and problem.is_feasible(space.decode(near)):
                    lowered[variable] = space.decode(near)
        repaired = repair(space, policy, problem.budget, rng)
        if problem.is_feasible(policy):
            assert repaired == policy
        elif lowered:
            met += 1
            assert repaired in lowered.values()
        else:
            assert len(changes(space, policy, repaired)) > 1
    assert met > 50


def test_the_variables_that_can_pay_alone_are_drawn_equally_often() -> None:
    space = SearchSpace(small_layers(4), pins={})
    policy = space.uniform(4)
    budget = parse_budget(BOPs().total(space, policy) - 1, space)
    rng = np.random.default_rng(0)
    counts = np.zeros(8)
    for _ in range(800):
        (variable,) = changes(space, policy, repair(space, policy, budget, rng))
        counts[variable] += 1
    assert stats.chisquare(counts).pvalue > FALSE_ALARM


def test_variables_that_save_nothing_are_left_alone() -> None:
    space, rng = SearchSpace(small_layers(4), pins={}), np.random.default_rng(0)
    size = ModelSize()
    budget = Budget((Limit(size.total(space, space.uniform(3)), "", size),))
    for _ in range(20):
        repaired = repair(space, space.uniform(8), budget, rng)
        assert repaired.activations == (8,) * 4


def test_refuses_what_the_wall_refuses() -> None:
    space, rng = SearchSpace(small_layers(3), pins={}), np.random.default_rng(0)
    least = BOPs().total(space, cheapest(space))
    with pytest.raises(BitcertError, match=f"the cheapest has {least}"):
        repair(space, space.uniform(8), Budget((Limit(least - 1, ""),)), rng)
    with pytest.raises(BitcertError, match="has 1 layers, the space 3"):
        repair(space, Policy.from_bits([2], [2]), Budget((Limit(least, ""),)), rng)


Repair = Callable[[SearchSpace, Policy, Budget, np.random.Generator], Policy]


def distortion(problem: Problem, rule: Repair, draws: int = 400) -> np.ndarray:
    """Variables changed beyond the two redrawn ones, for children of feasible parents that are over the budget."""
    space, rng = problem.space, np.random.default_rng(7)
    beyond: list[int] = []
    while len(beyond) < draws:
        parent = random_feasible(space, problem.budget, rng)
        vector, redrawn = space.encode(parent), rng.choice(len(space.variables), size=2, replace=False)
        vector[redrawn] = (vector[redrawn] + rng.integers(1, len(space.choices), size=2)) % len(space.choices)
        child = space.decode(vector)
        if not problem.is_feasible(child):
            repaired = rule(space, child, problem.budget, np.random.default_rng(len(beyond)))
            beyond.append(len(set(changes(space, parent, repaired)) - set(redrawn.tolist())))
    return np.array(beyond)


@pytest.mark.parametrize("name", ["digits", "separable"])
def test_children_are_distorted_far_less_than_by_the_wall(name: str) -> None:
    """The 8 free layers of ResNet-8 in both, of its own sizes in one; the same parents and children for both rules."""
    problem = (
        SeparableProblem(layers=8, budget=TIGHT) if name == "separable" else suite.load_problem(name, budget=TIGHT)
    )
    ours = distortion(problem, repair)
    wall = distortion(problem, lambda space, policy, budget, rng: enforce_budget(space, policy, budget))
    standard_error = (wall - ours).std(ddof=1) / len(ours) ** 0.5
    assert (wall - ours).mean() - 5 * standard_error > 2
    assert ours.mean() < 1
