"""DeltaLoss: exact on the separable problem, one backward pass for each bit width on a network."""

from __future__ import annotations

import numpy as np
import pytest

from baselines.delta_loss import DeltaLoss
from baselines.planned import ProbedOptions
from suite.contract.problem import Problem
from suite.contract.searcher import Searcher
from suite.problems import load_problem
from suite.testing.searchers import SearcherConformance
from suite.testing.toys import SPACES, feasible_policies, limits, problem_on, toy_problem


class TestDeltaLoss(SearcherConformance):
    seeded = False  # on the separable problem every probe gives the same

    def make(self, problem: Problem, seed: int) -> Searcher:
        return DeltaLoss(problem, seed)


@pytest.mark.parametrize("space", ["tied layers", "everything tied", "4 or 8 bits"])
def test_the_optimum_of_the_formula_is_found(space: str) -> None:
    problem = problem_on(SPACES[space], limits(SPACES[space])["half"])
    found = DeltaLoss(problem, 0).ask()
    if problem.space.cardinality <= 100_000:
        assert problem.loss(found) == pytest.approx(min(map(problem.loss, feasible_policies(problem))))


def test_the_prediction_is_twice_the_loss_of_a_quadratic() -> None:
    problem = toy_problem(seed=2)
    prediction, rng = DeltaLoss(problem, 0).prediction, np.random.default_rng(0)
    for policy in [problem.space.random(rng) for _ in range(10)]:
        assert prediction.loss(policy) == pytest.approx(2 * problem.loss(policy))


def test_on_a_network_every_bit_width_costs_a_backward_pass_and_fewer_bits_lose_more() -> None:
    problem = load_problem("digits", budget="w3a3")
    searcher = DeltaLoss(problem, 1, ProbedOptions(images=20, noise=2))
    assert problem.is_feasible(searcher.ask())
    recalibration = problem.bench.statistics_passes()  # type: ignore[attr-defined]
    assert problem.meter.forward_passes == 7 * (3 * 40 + recalibration)
    prediction = searcher.prediction
    for losses in (prediction.weights[1:-1], prediction.activations[1:-1]):
        assert (losses[:, 0] > losses[:, -1]).all(), "2 bits hurt more than 8"
