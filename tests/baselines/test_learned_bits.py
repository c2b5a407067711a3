"""AdaQAT, FracBits and NIPQ on problems whose losses are known, and how real bits are rounded within a budget."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.adaqat import AdaQAT, AdaQATOptions
from baselines.fracbits import FracBits, FracBitsOptions
from baselines.nipq import NIPQ, NIPQOptions
from baselines.rounding import round_within_budget
from baselines.sensitivity import SensitivityILP
from suite.contract.problem import Problem
from suite.contract.searcher import Searcher
from suite.contract.space import SearchSpace
from suite.errors import BitcertError
from suite.run.registry import make_searcher
from suite.testing.searchers import SearcherConformance
from suite.testing.toys import SPACES, assert_feasible, limits, problem_on, small_layers, toy_problem


class TestAdaQAT(SearcherConformance):
    seeded = False  # one pair of numbers moves in every step
    learns = False  # a pair names a policy among few

    def make(self, problem: Problem, seed: int) -> Searcher:
        return AdaQAT(problem, seed, AdaQATOptions(steps=20))


class TestRefinedFracBits(SearcherConformance):
    seeded = False  # the separable problem has no batches

    def make(self, problem: Problem, seed: int) -> Searcher:
        return FracBits(problem, seed, FracBitsOptions(steps=20, refine=True))


class TestNIPQ(SearcherConformance):
    seeded = False  # what is drawn moves the rounding by less than a step here
    learns = False

    def make(self, problem: Problem, seed: int) -> Searcher:
        return NIPQ(problem, seed, NIPQOptions(steps=20))


@pytest.mark.parametrize("space", SPACES)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_rounding_is_the_largest_offset_that_bisection_finds_and_then_single_steps(
    space: str, data: st.DataObject
) -> None:
    found = SPACES[space]
    low, high = limits(found)["cheapest"], limits(found)["top"]
    problem = problem_on(found, data.draw(st.integers(low, high)))
    drawn = data.draw(st.lists(st.floats(1, 9), min_size=len(found.variables), max_size=len(found.variables)))
    bits = np.zeros(2 * len(found.layers))
    for slots, value in zip(found.flat_variables, drawn, strict=True):
        bits[list(slots)] = value
    policy = round_within_budget(problem, bits.reshape(2, -1))
    assert_feasible(problem, policy)
    vector = found.encode(policy)

    def shifted(offset: float) -> list[int]:
        return [int(np.abs(np.array(found.choices) - (value + offset)).argmin()) for value in drawn]

    below, above = -20.0, 20.0
    for _ in range(60):
        middle = (below + above) / 2
        below, above = (middle, above) if problem.is_feasible(found.decode(shifted(middle))) else (below, middle)
    assert (vector >= shifted(below)).all()
    for variable in range(len(vector)):
        if vector[variable] + 1 < len(found.choices):
            raised = vector.copy()
            raised[variable] += 1
            assert not problem.is_feasible(found.decode(raised)), "the budget has room for a step"


def test_the_variable_closest_to_its_next_choice_gets_what_is_left() -> None:
    space = SearchSpace(small_layers(2), choices=(2, 3, 4), pins={})
    cost = space.layers[0].macs * 6 + space.layers[1].macs * 4
    policy = round_within_budget(problem_on(space, cost), np.array([[3.4, 2.9], [3.3, 2.8]]))
    assert policy.weights == (3, 2)
    assert policy.activations == (2, 2)


@pytest.mark.parametrize("method", ["adaqat", "adaqat:scope=layer", "adaqat:price=0.15", "fracbits", "nipq"])
@pytest.mark.parametrize("budget", ["w2.1a2.1", "w3a3", "w3a3+10KB"])
def test_no_proposal_is_over_any_limit(method: str, budget: str) -> None:
    problem = toy_problem(budget=budget)
    searcher = make_searcher(f"{method}:steps=30", problem, seed=0)
    proposed = [searcher.ask() for _ in range(4)]
    assert len(set(proposed)) == 4
    for policy in proposed:
        assert_feasible(problem, policy)


@pytest.mark.parametrize("method", ["adaqat:scope=layer:coordinates=12:steps=2000", "fracbits:steps=2000:rate=0.01"])
def test_bits_of_layers_reach_the_optimum_of_the_integer_program_or_miss_it_by_what_rounding_costs(method: str) -> None:
    excess = []
    for seed in range(6):
        problem = toy_problem(seed=seed)
        least = problem.loss(SensitivityILP(problem, 0).ask())
        excess.append(problem.loss(make_searcher(method, problem, seed=0).ask()) / least - 1)
    assert sum(share < 1e-9 for share in excess) >= 4
    assert np.mean(excess) < 0.015


def test_published_adaqat_gives_all_layers_one_pair_of_bits() -> None:
    bits = AdaQAT(toy_problem(), 0, AdaQATOptions(steps=50, price=0.15)).bits
    assert len(np.unique(bits[0])) == len(np.unique(bits[1])) == 1


def test_nipq_refuses_spaces_with_one_bit() -> None:
    space = SearchSpace(small_layers(3), choices=(1, 2, 4), pins={})
    with pytest.raises(BitcertError, match="no noise for 1 bit"):
        NIPQ(problem_on(space, limits(space)["half"]), 0).ask()
