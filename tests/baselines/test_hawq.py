"""HAWQ v1, v2 and v3 conform; on the separable problem their predictions are exact and their policies known."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from baselines.hawq import HAWQ1, HAWQ2, HAWQ3, HAWQ3Options, TraceOptions, raise_in_order
from baselines.planned import PlannedSearcher
from suite.contract.problem import Problem
from suite.contract.searcher import Searcher
from suite.contract.space import Policy, Precision, SearchSpace
from suite.errors import BitcertError
from suite.problems import load_problem
from suite.run.registry import make_searcher
from suite.testing.searchers import SearcherConformance
from suite.testing.toys import drive, feasible_policies, limits, problem_on, small_layers, toy_problem


class TestHAWQ1(SearcherConformance):
    seeded = False  # on the separable problem every probe gives the same
    learns = False

    def make(self, problem: Problem, seed: int) -> Searcher:
        return HAWQ1(problem, seed)


class TestHAWQ2(SearcherConformance):
    seeded = False
    learns = False

    def make(self, problem: Problem, seed: int) -> Searcher:
        return HAWQ2(problem, seed)


class TestHAWQ3(SearcherConformance):
    seeded = False

    def make(self, problem: Problem, seed: int) -> Searcher:
        return HAWQ3(problem, seed, HAWQ3Options(tie_bits=False, activations=True))


class TestRefinedHAWQ2(SearcherConformance):
    seeded = False

    def make(self, problem: Problem, seed: int) -> Searcher:
        return HAWQ2(problem, seed, TraceOptions(refine=True))


@pytest.mark.parametrize("seed", range(5))
def test_version_3_with_free_bits_finds_the_optimum_of_the_formula(seed: int) -> None:
    problem = problem_on(space := SearchSpace(small_layers(3), choices=(2, 4, 6), pins={}), limits(space)["half"])
    problem.sensitivity = np.random.default_rng(seed).lognormal(size=3)
    found = HAWQ3(problem, 0, HAWQ3Options(tie_bits=False, activations=True)).ask()
    assert problem.loss(found) == pytest.approx(min(map(problem.loss, feasible_policies(problem))))


@pytest.mark.parametrize("seed", range(5))
def test_version_3_as_published_finds_the_best_policy_of_tied_bits(seed: int) -> None:
    problem = toy_problem(seed=seed)
    tied = [
        policy
        for bits in product(problem.space.choices, repeat=6)
        if problem.is_feasible(policy := Policy.from_bits(bits, bits))
    ]
    assert problem.loss(HAWQ3(problem, 0).ask()) == pytest.approx(min(map(problem.loss, tied)))


@pytest.mark.parametrize("seed", range(5))
def test_version_2_finds_the_best_policy_that_is_monotone_in_the_average_trace(seed: int) -> None:
    problem = toy_problem(seed=seed)
    searcher = HAWQ2(problem, 0)
    found = searcher.ask()
    order = np.argsort(-searcher.traces("weight").mean)
    monotone = [
        policy
        for bits in product(problem.space.choices, repeat=6)
        if all(np.diff(np.array(bits)[order]) <= 0) and problem.is_feasible(policy := Policy.from_bits(bits, bits))
    ]
    assert found in monotone
    assert problem.loss(found) == pytest.approx(min(map(problem.loss, monotone)))


def test_version_1_raises_the_most_sensitive_layers_first() -> None:
    problem = toy_problem(seed=2)
    searcher = HAWQ1(problem, 0)
    found = searcher.ask()
    weights = np.array([layer.parameters for layer in problem.space.layers])
    order = np.argsort(-searcher.eigenvalues.value / weights)
    bits = np.array(found.weights)[order]
    assert found.weights == found.activations
    assert all(np.diff(bits) <= 0)
    assert set(np.diff(bits)) <= {0, -1}
    first_low = order[np.argmin(bits)]
    raised = list(found.weights)
    raised[first_low] += 1
    assert not problem.is_feasible(Policy.from_bits(raised, raised)), "the next layer in order would have fitted"


def test_raising_in_order_respects_ties_and_pins() -> None:
    space = SearchSpace(small_layers(6), ties=(("layer1", "layer4"),), pins={"layer0": Precision(8, 8)})
    problem = problem_on(space, limits(space)["half"])
    policy = raise_in_order(problem, np.array([9.0, 1.0, 2.0, 3.0, 8.0, 0.0]))
    assert problem.is_feasible(policy)
    assert policy.precisions[0] == Precision(8, 8)
    assert policy.precisions[1] == policy.precisions[4]
    assert policy.weights[1] >= policy.weights[3] >= policy.weights[2] >= policy.weights[5]


def test_free_bits_without_the_inputs_losses_are_refused() -> None:
    with pytest.raises(BitcertError, match="fewest bits"):
        HAWQ3Options(tie_bits=False)


def test_probes_are_charged_before_the_first_policy_and_never_again() -> None:
    problem = toy_problem()
    searcher = HAWQ2(problem, 0, TraceOptions(refine=True))
    assert problem.meter.forward_passes == 0
    policy = searcher.ask()
    probed = problem.meter.forward_passes
    assert probed > 0
    trials = drive(searcher, problem, 5)
    assert policy not in [trial.policy for trial in trials]
    assert problem.meter.forward_passes == probed + 5 * problem.fidelity.images * problem.fidelity.noise


@pytest.mark.parametrize("method", ["hawq-v1", "hawq-v2", "hawq-v3"])
def test_real_networks_get_feasible_policies_that_the_seed_reproduces(method: str) -> None:
    problem, other = load_problem("digits", budget="w3a3"), load_problem("digits", budget="w3a3")
    first, again = (make_searcher(method, where, 1, images=24) for where in (problem, other))
    assert isinstance(first, PlannedSearcher)
    assert isinstance(again, PlannedSearcher)
    policy = first.ask()
    assert problem.is_feasible(policy)
    assert again.ask() == policy
    assert np.array_equal(first.prediction.weights, again.prediction.weights)
    another = make_searcher(method, problem, 2, images=24)
    assert isinstance(another, PlannedSearcher)
    assert not np.array_equal(first.prediction.weights, another.prediction.weights)
