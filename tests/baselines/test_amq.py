"""AMQ: its pins, its predictor, its genetic algorithm, and the search that they make."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from baselines.amq import AMQ, AMQOptions, Predictor, added_losses, pin_sensitive, spread
from baselines.nondominated import NondominatedSort, evolve
from suite.contract.cost import cheapest
from suite.contract.probes import ProbeSettings
from suite.contract.problem import Problem
from suite.contract.searcher import Exhausted, Searcher
from suite.contract.space import Pin, SearchSpace
from suite.errors import BitcertError
from suite.problems import load_problem
from suite.run.registry import make_searcher
from suite.testing.searchers import SearcherConformance
from suite.testing.toys import drive, limits, problem_on, small_layers, toy_problem

QUICK = AMQOptions(initial=16, batch=8, population=40, generations=10)


class TestAMQ(SearcherConformance):
    def make(self, problem: Problem, seed: int) -> Searcher:
        return AMQ(problem, seed, QUICK)


class TestAMQWithoutPins(SearcherConformance):
    def make(self, problem: Problem, seed: int) -> Searcher:
        return AMQ(problem, seed, AMQOptions(initial=12, batch=4, population=30, generations=8, threshold=None))


def test_layers_are_pinned_that_add_more_than_the_threshold_times_the_median_while_the_budget_lasts() -> None:
    problem = toy_problem(seed=1, budget="w4a4")
    settings = ProbeSettings(images=4)
    losses = added_losses(problem, settings)
    assert problem.meter.forward_passes == 7 * 4
    assert list(losses.values()) == pytest.approx(problem.sensitivity * 2 * (4.0**-2 - 4.0**-6))
    median = float(np.median(list(losses.values())))
    for threshold in (0.5, 1.0, 2.0):
        space = pin_sensitive(problem, losses, threshold)
        for name in space.pinned:
            assert losses[(name,)] > threshold * median
            assert space.pinned[name] == Pin(6, 6)
        slack = problem.budget.limits[0].most - problem.budget.spent(problem.space, cheapest(problem.space))
        spent = problem.budget.spent(problem.space, cheapest(space)) - problem.budget.spent(
            problem.space, cheapest(problem.space)
        )
        assert 2 * spent <= slack
        for group in losses:
            if losses[group] > threshold * median and group[0] not in space.pinned:
                layer = next(layer for layer in problem.space.layers if layer.name == group[0])
                assert 2 * (spent + layer.macs * (36 - 4)) > slack, "a pin that fits is made"
    assert pin_sensitive(problem, losses, 1e9).pinned == {}


def test_tied_layers_are_pinned_together() -> None:
    space = SearchSpace(small_layers(4), choices=(2, 3), pins={}, ties=(("layer0", "layer2"),))
    problem = problem_on(space, limits(space)["top"])
    losses = {("layer0", "layer2"): 5.0, ("layer1",): 1.0, ("layer3",): 1.0}
    pruned = pin_sensitive(problem, losses, 2.0)
    assert set(pruned.pinned) == {"layer0", "layer2"}
    assert pruned.ties == ()
    assert all(policy in space for policy in [pruned.uniform(2), pruned.uniform(3)])


def test_the_predictor_goes_through_its_points_and_is_exact_on_planes() -> None:
    rng = np.random.default_rng(0)
    points = np.unique(rng.integers(5, size=(40, 6)), axis=0)
    values = rng.standard_normal(len(points))
    assert Predictor(points, values, 5)(points) == pytest.approx(values, abs=1e-6)
    slopes = rng.standard_normal(6)
    elsewhere = rng.integers(5, size=(50, 6))
    assert Predictor(points, points @ slopes + 3, 5)(elsewhere) == pytest.approx(elsewhere @ slopes + 3)


@pytest.mark.parametrize("count", [2, 3, 6])
def test_few_points_or_a_variable_that_never_moved_are_enough_for_a_predictor(count: int) -> None:
    points = np.zeros((count, 6), dtype=np.int64)
    points[:, 0] = np.arange(count)
    found = Predictor(points, np.arange(count, dtype=float), count)(points)
    assert found == pytest.approx(np.arange(count), abs=1e-9)


def test_fronts_and_crowding_equal_their_definition() -> None:
    rng = np.random.default_rng(0)
    points = rng.integers(6, size=(40, 2)).astype(float)
    violation = np.maximum(0, rng.standard_normal(40))

    def dominates(one: int, other: int) -> bool:
        if violation[one] != violation[other]:
            return bool(violation[one] < violation[other])
        return bool((points[one] <= points[other]).all() and (points[one] < points[other]).any())

    left, number = set(range(40)), 0
    expected: dict[int, int] = {}
    while left:
        front = {point for point in left if not any(dominates(other, point) for other in left)}
        expected |= dict.fromkeys(front, number)
        left -= front
        number += 1
    assert NondominatedSort(points, violation).rank.tolist() == [expected[point] for point in range(40)]
    line = np.array([[0.0, 4.0], [1.0, 2.0], [3.0, 1.0], [4.0, 0.0]])
    assert NondominatedSort(line).crowding.tolist() == [np.inf, 3 / 4 + 3 / 4, 3 / 4 + 2 / 4, np.inf]


def test_the_genetic_algorithm_finds_the_front_of_a_small_problem() -> None:
    """Minimize two sums that pull apart, one variable forbidden to exceed 1: the front is known by enumeration."""
    weights = np.array([5.0, 3.0, 2.0, 1.0, 0.5])

    def evaluate(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.column_stack([(3 - vectors) ** 2 @ weights, vectors.sum(axis=1)]), np.maximum(0.0, vectors[:, 0] - 1)

    found, objectives = evolve(
        np.zeros((1, 5), dtype=np.int64),
        evaluate,
        choices=4,
        population=60,
        generations=40,
        crossover_probability=0.9,
        mutation_probability=0.1,
        rng=np.random.default_rng(0),
    )
    assert evaluate(found)[0] == pytest.approx(objectives)
    assert len(np.unique(found, axis=0)) == len(found)
    every = np.array(list(product(range(4), repeat=5)))
    every = every[every[:, 0] <= 1]
    values = evaluate(every)[0]
    front = {tuple(value) for value in values[NondominatedSort(values).rank == 0]}
    assert len(front) > 8
    assert {tuple(value) for value in objectives[found[:, 0] <= 1]} >= front


def test_candidates_fill_the_largest_gaps_of_cost() -> None:
    costs, losses = np.array([1.0, 5.0, 5.0, 9.0, 5.2]), np.array([0.0, 2.0, 1.0, 0.0, 0.0])
    assert spread(costs[:, None], losses, np.array([[0.0], [10.0]]), 3) == [2, 0, 3]
    assert sorted(spread(costs[:, None], losses, np.array([[0.0]]), 9)) == [0, 1, 2, 3, 4]


def test_candidates_fill_gaps_of_any_cost() -> None:
    costs = np.array([[1.0, 0.0], [0.0, 4.0], [2.0, 2.0], [5.0, 5.0]])
    assert spread(costs, np.zeros(4), np.array([[0.0, 0.0]]), 4) == [3, 1, 2, 0]


def test_batches_are_better_than_the_random_start() -> None:
    """The best of the first three batches against the best of as many random policies, over ten problems."""
    gains = []
    for seed in range(10):
        problem = toy_problem(seed=seed)
        trials = drive(AMQ(problem, seed, AMQOptions(initial=26, batch=8, population=40, generations=10)), problem, 50)
        losses = [problem.loss(trial.policy) for trial in trials]
        assert len({trial.policy for trial in trials}) == 50
        gains.append(min(losses[2:26]) - min(losses[26:]))  # the first two are uniform
    assert np.mean(gains) > 2.821 * np.std(gains, ddof=1) / len(gains) ** 0.5, "Student's t at 0.99"


def test_all_policies_are_proposed_once_before_it_is_exhausted() -> None:
    space = SearchSpace(small_layers(2), choices=(2, 3, 4), pins={})
    problem = problem_on(space, limits(space)["half"])
    searcher = AMQ(problem, 0, AMQOptions(initial=5, batch=3, population=10, generations=3, images=2))
    trials = drive(searcher, problem, 100)
    feasible = {space.decode(vector) for vector in product(range(3), repeat=4)}
    feasible = {policy for policy in feasible if problem.is_feasible(policy)}
    assert {trial.policy for trial in trials} == feasible
    assert len(trials) == len(feasible)
    with pytest.raises(Exhausted):
        searcher.ask()


@pytest.mark.parametrize(
    ("option", "message"),
    [("initial=1", "initial"), ("batch=0", "batch"), ("threshold=0", "threshold"), ("mutation_probability=2", "0..1")],
)
def test_options_out_of_range_are_refused(option: str, message: str) -> None:
    with pytest.raises(BitcertError, match=message):
        make_searcher(f"amq:{option}", toy_problem())


def test_on_a_network_the_sensitivities_are_measured_once_and_charged() -> None:
    problem = load_problem("digits", budget="w3a3")
    searcher = AMQ(problem, 0, AMQOptions(images=8, noise=0))
    assert problem.meter.forward_passes == 0
    policies = [searcher.ask() for _ in range(3)]
    assert all(problem.is_feasible(policy) for policy in policies)
    recalibration = problem.bench.statistics_passes()  # type: ignore[attr-defined]
    assert problem.meter.forward_passes == (1 + 8) * (8 + recalibration)
