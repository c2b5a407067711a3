"""Output Fisher: exact on the separable problem and on pairs that do not add up; all pairs scored on a network."""

from __future__ import annotations

import numpy as np
import pytest

from baselines.output_fisher import OutputFisher, PairPrediction, best_of_pairs
from baselines.planned import ProbedOptions
from suite.contract.problem import Problem
from suite.contract.searcher import Searcher
from suite.contract.space import SearchSpace
from suite.errors import BitcertError
from suite.problems import load_problem
from suite.testing.searchers import SearcherConformance
from suite.testing.toys import SPACES, feasible_policies, limits, problem_on, small_layers, toy_problem


class TestOutputFisher(SearcherConformance):
    seeded = False  # on the separable problem every probe gives the same

    def make(self, problem: Problem, seed: int) -> Searcher:
        return OutputFisher(problem, seed)


@pytest.mark.parametrize("space", ["tied layers", "tied weight and activation", "everything tied", "4 or 8 bits"])
def test_the_optimum_of_the_formula_is_found(space: str) -> None:
    problem = problem_on(SPACES[space], limits(SPACES[space])["half"])
    searcher = OutputFisher(problem, 0)
    found = searcher.ask()
    assert searcher.prediction.loss(found) == pytest.approx(problem.loss(found) - pinned_loss(problem))
    if problem.space.cardinality <= 100_000:
        assert problem.loss(found) == pytest.approx(min(map(problem.loss, feasible_policies(problem))))


def pinned_loss(problem: Problem) -> float:
    names = [layer.name for layer in problem.space.layers]
    return float(
        sum(
            problem.sensitivity[names.index(name)] * sum(4.0**-bits for bits in pin if bits)  # type: ignore[attr-defined]
            for name, pin in problem.space.pinned.items()
        )
    )


@pytest.mark.parametrize("seed", range(5))
def test_pairs_that_do_not_add_up_are_chosen_as_brute_force_does(seed: int) -> None:
    space = SearchSpace(small_layers(4), choices=(2, 3, 5), pins={}, ties=(("layer0", "layer2"),))
    problem = problem_on(space, limits(space)["half"])
    pairs = np.random.default_rng(seed).uniform(size=(4, 3, 3))
    prediction = PairPrediction(space, pairs[:, :, -1], pairs[:, -1], pairs)
    best = min(feasible_policies(problem), key=prediction.loss)
    assert best_of_pairs(problem, prediction) == best
    by_hand = sum(pairs[i, (2, 3, 5).index(w), (2, 3, 5).index(a)] for i, (w, a) in enumerate(best.precisions))
    assert prediction.loss(best) == pytest.approx(by_hand)


def test_a_layer_whose_loss_is_not_finite_is_named() -> None:
    problem = toy_problem()
    pairs = np.zeros((6, 5, 5))
    pairs[2, 1, 3] = np.nan
    with pytest.raises(BitcertError, match=r"layer2.*w3a5"):
        best_of_pairs(problem, PairPrediction(problem.space, pairs[:, :, -1], pairs[:, -1], pairs))


def test_on_a_network_every_pair_costs_a_forward_pass_and_fewer_bits_change_more() -> None:
    problem = load_problem("digits", budget="w3a3")
    searcher = OutputFisher(problem, 1, ProbedOptions(images=20, noise=2))
    assert problem.is_feasible(searcher.ask())
    assert problem.meter.forward_passes == (3 + 49) * 40
    prediction = searcher.prediction
    assert isinstance(prediction, PairPrediction)
    free = list(problem.space.free_layers)
    assert (prediction.pairs[free, 0, 0] > prediction.pairs[free, -1, -1]).all()
    assert not np.allclose(
        prediction.pairs[1, 0, 0], prediction.weights[1, 0] + prediction.activations[1, 0], rtol=1e-3
    )
