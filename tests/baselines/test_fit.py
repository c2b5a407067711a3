"""FIT: exact on the separable problem; on a network the trace of a Fisher matrix written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from baselines.fit import FIT
from baselines.planned import ProbedOptions
from suite.contract.problem import Problem
from suite.contract.searcher import Searcher
from suite.problems import load_problem
from suite.problems.vision import VisionProblem
from suite.testing.searchers import SearcherConformance
from suite.testing.toys import SPACES, feasible_policies, limits, problem_on, toy_problem


class TestFIT(SearcherConformance):
    seeded = False  # on the separable problem every probe gives the same

    def make(self, problem: Problem, seed: int) -> Searcher:
        return FIT(problem, seed)


@pytest.mark.parametrize("space", ["tied layers", "everything tied", "4 or 8 bits"])
def test_the_optimum_of_the_formula_is_found(space: str) -> None:
    problem = problem_on(SPACES[space], limits(SPACES[space])["half"])
    found = FIT(problem, 0).ask()
    if problem.space.cardinality <= 100_000:
        assert problem.loss(found) == pytest.approx(min(map(problem.loss, feasible_policies(problem))))


def test_the_prediction_is_the_loss_of_the_formula() -> None:
    problem = toy_problem(seed=2)
    prediction, rng = FIT(problem, 0).prediction, np.random.default_rng(0)
    for policy in [problem.space.random(rng) for _ in range(10)]:
        assert prediction.loss(policy) == pytest.approx(problem.loss(policy))


def test_the_loss_of_the_last_layer_is_the_trace_of_its_fisher_matrix_times_the_mean_squared_noise() -> None:
    """For logits ``W x + b`` the Fisher matrix of W is the mean of the outer products of ``(p - y) x'``, in closed form."""
    problem = load_problem("digits", budget="w3a3")
    assert isinstance(problem, VisionProblem)
    searcher = FIT(problem, 1, ProbedOptions(images=20, noise=2))
    name = problem.space.layers[-1].name
    linear = problem.network.get_submodule(name)
    assert isinstance(linear, nn.Linear)
    seen: list[torch.Tensor] = []
    errors: list[torch.Tensor] = []
    handle = linear.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].detach()))
    for inputs, labels in searcher.probes._batches:  # type: ignore[attr-defined]
        chances = problem.network(inputs).softmax(dim=1).detach()
        errors.append(chances - nn.functional.one_hot(labels, chances.shape[1]))
    handle.remove()
    values, error, weight = torch.cat(seen).double(), torch.cat(errors).double(), linear.weight.detach()
    trace_of_weights = float((error.square().sum(dim=1) * values.square().sum(dim=1)).mean())
    trace_of_inputs = float((error @ weight.double()).square().sum(dim=1).mean())
    for column, bits in enumerate(problem.space.choices):
        noise = (problem.bench.calibration.quantized_weight(name, bits) - weight).double().square().mean()
        assert searcher.prediction.weights[-1, column] == pytest.approx(trace_of_weights * float(noise), rel=1e-3)
    noise_of_inputs = searcher.probes.perturbations("activation")[-1] / values.shape[1]
    assert searcher.prediction.activations[-1] == pytest.approx(trace_of_inputs * noise_of_inputs, rel=1e-3)


def test_on_a_network_it_costs_one_backward_and_one_forward_pass() -> None:
    problem = load_problem("digits", budget="w3a3")
    assert problem.is_feasible(FIT(problem, 1, ProbedOptions(images=20, noise=2)).ask())
    assert problem.meter.forward_passes == (3 + 1) * 40
