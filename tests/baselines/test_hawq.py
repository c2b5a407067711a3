"""HAWQ v1, v2 and v3 conform; on the separable problem their predictions are exact and their policies known."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from baselines.hawq import HAWQ1, HAWQ2, HAWQ3, HAWQ1Options, HAWQ3Options, TraceOptions, raise_in_order
from baselines.hessian import Traces
from baselines.planned import PlannedSearcher
from suite.contract.problem import Problem
from suite.contract.searcher import Searcher
from suite.contract.space import PARTS, Part, Policy, Precision, SearchSpace
from suite.errors import BitcertError
from suite.problems import load_problem
from suite.run.registry import make_searcher
from suite.testing.searchers import SearcherConformance
from suite.testing.toys import SPACES, drive, feasible_policies, limits, problem_on, small_layers, toy_problem


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


class TestTiedHAWQ1(SearcherConformance):
    seeded = False
    learns = False

    def make(self, problem: Problem, seed: int) -> Searcher:
        return HAWQ1(problem, seed, HAWQ1Options(tie_bits=True))


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


def bits_by_trace(policy: Policy, searcher: HAWQ2, part: Part) -> list[int]:
    """Bits of a part of the free layers, from the largest to the smallest average trace by it."""
    space = searcher.problem.space
    free = [position for position, layer in enumerate(space.layers) if layer.name not in space.pinned]
    order = sorted(free, key=lambda layer: -searcher.traces(part).mean[layer])
    bits = policy.weights if part == "weight" else policy.activations
    return [bits[layer] for layer in order]


@pytest.mark.parametrize("seed", range(5))
def test_version_2_with_tied_bits_finds_the_best_policy_that_is_monotone_in_the_average_trace(seed: int) -> None:
    problem = toy_problem(seed=seed)
    searcher = HAWQ2(problem, 0, TraceOptions(tie_bits=True))
    found = searcher.ask()
    order = np.argsort(-searcher.traces("weight").mean)
    monotone = [
        policy
        for bits in product(problem.space.choices, repeat=6)
        if all(np.diff(np.array(bits)[order]) <= 0) and problem.is_feasible(policy := Policy.from_bits(bits, bits))
    ]
    assert found in monotone
    assert problem.loss(found) == pytest.approx(min(map(problem.loss, monotone)))


@pytest.mark.parametrize("seed", range(5))
def test_version_2_finds_the_best_policy_that_is_monotone_in_each_parts_trace(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = SearchSpace(small_layers(4), choices=(2, 4, 6), pins={"layer1": Precision(8, 8)})
    problem = problem_on(space, limits(space)["half"])
    searcher = HAWQ2(problem, 0)
    rng = np.random.default_rng(seed)
    sizes = np.array([layer.parameters for layer in space.layers])
    known = {part: Traces(rng.lognormal(size=4) * sizes, np.zeros(4), sizes, np.full(4, 8)) for part in PARTS}
    monkeypatch.setattr(searcher, "traces", known.__getitem__)
    found = searcher.ask()
    monotone = [
        policy
        for policy in feasible_policies(problem)
        if all(max(np.diff(bits_by_trace(policy, searcher, part))) <= 0 for part in PARTS)
    ]
    assert found in monotone
    assert searcher.prediction.loss(found) == pytest.approx(min(map(searcher.prediction.loss, monotone)))
    everything = [found, *(trial.policy for trial in drive(searcher, problem, 9))]
    assert len(set(everything)) == len(everything) <= 4
    assert set(everything) <= set(monotone)


def test_version_1_raises_the_weights_of_the_most_sensitive_layers_first() -> None:
    problem = toy_problem(seed=2, budget="w3.4a3.4")
    searcher = HAWQ1(problem, 0)
    found = searcher.ask()
    assert set(found.activations) == {3}, "the bits of the largest uniform policy"
    sensitivity = searcher.eigenvalues.value / [layer.parameters for layer in problem.space.layers]
    assert_raised(problem, found, np.argsort(-sensitivity), tied=False)
    others = [trial.policy for trial in drive(searcher, problem, 9)]
    assert len({found, *others}) == 4
    for policy in others:
        assert set(policy.activations) == {3}
        assert all(np.diff(np.array(policy.weights)[np.argsort(-sensitivity)]) <= 0)


def test_version_1_with_tied_bits_raises_weights_and_inputs_together() -> None:
    problem = toy_problem(seed=2, budget="w3.4a3.4")
    searcher = HAWQ1(problem, 0, HAWQ1Options(tie_bits=True))
    found = searcher.ask()
    assert found.weights == found.activations
    sensitivity = searcher.eigenvalues.value / [layer.parameters for layer in problem.space.layers]
    assert_raised(problem, found, np.argsort(-sensitivity), tied=True)
    assert all(trial.policy.weights == trial.policy.activations for trial in drive(searcher, problem, 9))


def assert_raised(problem: Problem, policy: Policy, order: NDArray[np.int64], *, tied: bool) -> None:
    """No layer has more weight bits than one before it, and nothing that keeps this could still be raised."""
    weights = np.array(policy.weights)
    assert all(np.diff(weights[order]) <= 0)
    assert len(set(policy.weights)) > 1
    for layer in range(len(weights)):
        raised = weights.copy()
        raised[layer] += 1
        if all(np.diff(raised[order]) <= 0):
            bits = raised.tolist()
            assert not problem.is_feasible(Policy.from_bits(bits, bits if tied else policy.activations))


@pytest.mark.parametrize("bits", [2, 4])
def test_version_1_gives_inputs_the_bits_asked_for(bits: int) -> None:
    found = HAWQ1(toy_problem(), 0, HAWQ1Options(activation_bits=bits)).ask()
    assert set(found.activations) == {bits}
    assert np.mean(found.weights) > 3 if bits < 3 else np.mean(found.weights) < 3


@pytest.mark.parametrize(
    ("options", "problem", "message"),
    [
        (
            {"activation_bits": 6},
            toy_problem(budget="w2a2"),
            r"activation_bits=6 .* over the budget .* lower activation_bits",
        ),
        ({"activation_bits": 7}, toy_problem(), "7 bits are not among the choices"),
        ({"activation_bits": 4}, problem_on(SPACES["tied weight and activation"], 10**9), "leave activation_bits out"),
        ({"activation_bits": 4, "tie_bits": True}, toy_problem(), "leave activation_bits out"),
        ({"activation_bits": 0}, toy_problem(), "activation_bits must be an integer >= 1"),
    ],
)
def test_input_bits_that_cannot_be_are_refused(options: dict[str, Any], problem: Problem, message: str) -> None:
    with pytest.raises(BitcertError, match=message):
        HAWQ1(problem, 0, HAWQ1Options(**options))


@pytest.mark.parametrize("tied", [False, True])
def test_raising_in_order_respects_ties_and_pins(tied: bool) -> None:
    space = SearchSpace(small_layers(6), ties=(("layer1", "layer4"),), pins={"layer0": Precision(8, 8)})
    problem = problem_on(space, limits(space)["half"])
    policy = raise_in_order(problem, np.array([9.0, 1.0, 2.0, 3.0, 8.0, 0.0]), space.uniform(2), tie_bits=tied)
    assert problem.is_feasible(policy)
    assert policy.precisions[0] == Precision(8, 8)
    assert policy.precisions[1] == policy.precisions[4]
    assert policy.weights[1] >= policy.weights[3] >= policy.weights[2] >= policy.weights[5]
    assert policy.activations[1:] == (policy.weights[1:] if tied else (2,) * 5)


@pytest.mark.parametrize(
    ("options", "given"), [(HAWQ3Options, {"tie_bits": False}), (TraceOptions, {"activations": False})]
)
def test_free_bits_without_the_inputs_losses_are_refused(options: type[TraceOptions], given: dict[str, bool]) -> None:
    with pytest.raises(BitcertError, match="fewest bits"):
        options(**given)


def test_version_3_proposes_policies_of_tied_bits_and_refines_them_first() -> None:
    problem = toy_problem()
    proposed = [trial.policy for trial in drive(HAWQ3(problem, 0), problem, 9)]
    refined = [trial.policy for trial in drive(HAWQ3(problem, 0, HAWQ3Options(refine=True)), problem, 9)]
    assert len(set(proposed)) == 4
    assert all(policy.weights == policy.activations for policy in proposed + refined)


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


@pytest.mark.parametrize("method", ["hawq-v1", "hawq-v2:tolerance=0.5", "hawq-v3:tolerance=0.5"])
def test_real_networks_get_feasible_policies_that_the_seed_reproduces(method: str) -> None:
    problem, other = load_problem("digits", budget="w3a3"), load_problem("digits", budget="w3a3")
    first, again = (make_searcher(method, where, 1, images=2) for where in (problem, other))
    assert isinstance(first, PlannedSearcher)
    assert isinstance(again, PlannedSearcher)
    policy = first.ask()
    assert problem.is_feasible(policy)
    assert again.ask() == policy
    assert np.array_equal(first.prediction.weights, again.prediction.weights)
    another = make_searcher(method, problem, 2, images=2)
    assert isinstance(another, PlannedSearcher)
    assert not np.array_equal(first.prediction.weights, another.prediction.weights)
