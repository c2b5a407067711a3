"""Measured sensitivities: exact on the separable problem, honest on a real network."""

from __future__ import annotations

import numpy as np
import pytest

from baselines.limpq import LIMPQ, LIMPQOptions
from baselines.planned import PROPOSALS, Moves, exchanges
from baselines.prediction import Prediction, best_policy
from baselines.sensitivity import (
    CertifiedILP,
    CertifiedOptions,
    MeasuredOptions,
    SensitivityGreedy,
    SensitivityILP,
    measure_losses,
)
from suite.contract.probes import ProbeSettings
from suite.contract.problem import Problem
from suite.contract.searcher import Exhausted, Searcher
from suite.contract.space import Layer, Policy, Precision, SearchSpace
from suite.errors import BitcertError
from suite.problems import load_problem
from suite.run.limits import FINALISTS
from suite.run.registry import make_searcher
from suite.testing.searchers import SearcherConformance
from suite.testing.toys import SPACES, drive, feasible_policies, limits, problem_on, small_layers, toy_problem


class TestSensitivityILP(SearcherConformance):
    seeded = False  # on the separable problem every probe gives the same

    def make(self, problem: Problem, seed: int) -> Searcher:
        return SensitivityILP(problem, seed)


class TestSensitivityGreedy(SearcherConformance):
    seeded = False

    def make(self, problem: Problem, seed: int) -> Searcher:
        return SensitivityGreedy(problem, seed)


class TestCertifiedILP(SearcherConformance):
    seeded = False

    def make(self, problem: Problem, seed: int) -> Searcher:
        return CertifiedILP(problem, seed)


class TestRefinedCertifiedILP(SearcherConformance):
    seeded = False

    def make(self, problem: Problem, seed: int) -> Searcher:
        return CertifiedILP(problem, seed, CertifiedOptions(refine=True))


class TestLIMPQ(SearcherConformance):
    seeded = False

    def make(self, problem: Problem, seed: int) -> Searcher:
        return LIMPQ(problem, seed, LIMPQOptions(alpha=1.0))


@pytest.mark.parametrize("around", ["float", "budget"])
@pytest.mark.parametrize("space", ["tied layers", "tied weight and activation", "everything tied", "4 or 8 bits"])
def test_measured_losses_and_the_integer_program_find_the_optimum_of_the_formula(space: str, around: str) -> None:
    problem = problem_on(SPACES[space], limits(SPACES[space])["half"])
    found = SensitivityILP(problem, 0, MeasuredOptions(around=around)).ask()
    if problem.space.cardinality <= 100_000:
        assert problem.loss(found) == pytest.approx(min(map(problem.loss, feasible_policies(problem))))


def test_predicted_losses_are_the_formulas_up_to_a_constant() -> None:
    problem = toy_problem(seed=4)
    rng = np.random.default_rng(0)
    policies = [problem.space.random(rng) for _ in range(20)]
    for around in ("float", "budget"):
        prediction = measure_losses(problem, problem.probes(ProbeSettings()), around, lambda quality: quality.loss)
        differences = [prediction.loss(policy) - problem.loss(policy) for policy in policies]
        assert differences == pytest.approx([differences[0]] * 20)


def test_greedy_is_never_better_than_the_integer_program_and_sometimes_worse() -> None:
    worse = 0
    for seed in range(20):
        problem = toy_problem(seed=seed)
        best, greedy = SensitivityILP(problem, 0), SensitivityGreedy(problem, 0)
        losses = [searcher.prediction.loss(searcher.ask()) for searcher in (best, greedy)]
        assert losses[0] <= losses[1] + 1e-9
        worse += losses[0] < losses[1] - 1e-9
    assert worse > 0


def test_greedy_leaves_nothing_that_still_fits_and_helps() -> None:
    problem = toy_problem(seed=1)
    searcher = SensitivityGreedy(problem, 0)
    policy = searcher.ask()
    for neighbour in problem.space.neighbours(policy):
        if problem.is_feasible(neighbour):
            assert searcher.prediction.loss(neighbour) >= searcher.prediction.loss(policy)


def test_a_layer_whose_loss_is_not_finite_is_named() -> None:
    problem = toy_problem()
    losses = np.zeros((6, 5))
    losses[2, 1] = np.nan
    with pytest.raises(BitcertError, match=r"layer2.*w3"):
        best_policy(problem, Prediction(problem.space, losses, np.zeros((6, 5))))


def test_refining_stays_around_the_best_policy_measured() -> None:
    problem = toy_problem(seed=3)
    searcher = CertifiedILP(problem, 0, CertifiedOptions(refine=True))
    first = searcher.ask()
    around = set(exchanges(problem, first))
    second = searcher.ask()
    assert second in around
    assert searcher.prediction.loss(second) == min(map(searcher.prediction.loss, around))
    trials = drive(searcher, problem, 30)
    assert len({trial.policy for trial in trials} | {first, second}) == 32


def test_exchanges_are_the_feasible_policies_one_exchange_away() -> None:
    space = SearchSpace(small_layers(3), choices=(2, 3, 4), pins={"layer1": Precision(8, 8)})
    problem = problem_on(space, limits(space)["half"])
    start = space.uniform(3)
    expected = set()
    for policy in feasible_policies(problem):
        steps = space.encode(policy) - space.encode(start)
        moved = sorted(steps[steps != 0])
        if moved in ([1], [-1], [-1, 1]):
            expected.add(policy)
    assert set(exchanges(problem, start)) == expected
    assert len(list(exchanges(problem, start))) == len(expected)


@pytest.mark.parametrize("moves", ["tied", "weights"])
def test_exchanges_can_be_limited_to_what_a_method_decides(moves: Moves) -> None:
    space = SearchSpace(small_layers(3), choices=(2, 3, 4), pins={"layer1": Precision(8, 7)})
    problem = problem_on(space, limits(space)["half"])
    start = space.uniform(3)
    expected = {
        policy
        for policy in exchanges(problem, start)
        if (policy.activations == start.activations if moves == "weights" else False)
    }
    if moves == "tied":
        for steps in ((1, 0), (0, 1), (-1, 0), (0, -1), (1, -1), (-1, 1)):
            bits = [3 + steps[0], 3, 3 + steps[1]]
            policy = Policy.from_bits([bits[0], 8, bits[2]], [bits[0], 7, bits[2]])
            if problem.is_feasible(policy):
                expected.add(policy)
    assert set(exchanges(problem, start, moves)) == expected
    assert len(expected) > 1
    if moves == "tied":
        assert not list(exchanges(problem, Policy.from_bits([3, 8, 3], [2, 7, 3]), moves)), "no policy of tied bits"


@pytest.mark.parametrize("proposals", [1, 3, PROPOSALS])
def test_without_refinement_a_few_policies_are_proposed(proposals: int) -> None:
    problem = toy_problem()
    searcher = SensitivityILP(problem, 0, MeasuredOptions(proposals=proposals))
    trials = drive(searcher, problem, 20)
    assert len({trial.policy for trial in trials}) == len(trials) == proposals
    losses = [searcher.prediction.loss(trial.policy) for trial in trials]
    assert losses == sorted(losses)
    with pytest.raises(Exhausted, match="refine=true"):
        searcher.ask()


def test_as_many_policies_are_proposed_as_are_measured_a_second_time() -> None:
    assert PROPOSALS == FINALISTS


def test_the_next_policies_are_mostly_the_next_best_of_all() -> None:
    """Against brute force over all policies of random predictions, as in the docstring of ``PlannedSearcher``."""
    exact, ranks = 0, []
    for seed in range(25):
        rng = np.random.default_rng(seed)
        macs = rng.integers(1, 20, 3).tolist()
        space = SearchSpace(
            tuple(Layer(f"layer{i}", "conv", macs=macs[i], parameters=9) for i in range(3)), choices=(2, 3, 4), pins={}
        )
        least, most = limits(space)["cheapest"], limits(space)["top"]
        problem = problem_on(space, int(least + (most - least) * rng.uniform(0.1, 0.6)))
        losses = rng.lognormal(size=(2, 3, 1)) * 4.0 ** -np.array(space.choices)
        searcher = SensitivityILP(problem, 0)
        vars(searcher)["prediction"] = prediction = Prediction(space, *losses)
        every = np.sort([prediction.loss(policy) for policy in feasible_policies(problem)])
        found = sorted(prediction.loss(trial.policy) for trial in drive(searcher, problem, 9))
        exact += found == pytest.approx(every[:4], rel=1e-12)
        ranks.append(np.searchsorted(every, found[-1] * (1 - 1e-12)))
    assert exact >= 0.55 * 25
    assert np.quantile(ranks, 0.9) <= 8


def test_limpq_takes_an_indicator_that_falls_with_fewer_bits_for_that_of_more_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    problem = toy_problem()
    steps = np.tile([5.0, 1.0, 3.0, 2.0, 1.0], (2, 6, 1))
    probes = problem.probes(ProbeSettings())
    monkeypatch.setattr(type(probes), "learned_steps", lambda self, epochs, images, *, freeze_weights: steps)
    prediction = LIMPQ(problem, 0, LIMPQOptions(alpha=2.0)).prediction
    assert prediction.weights[0].tolist() == [10.0, 6.0, 6.0, 4.0, 2.0]
    assert prediction.activations[0].tolist() == [5.0, 3.0, 3.0, 2.0, 1.0]


@pytest.mark.parametrize(
    ("searcher", "message"),
    [
        ("sensitivity-ilp:around=here", "around"),
        ("certified-ilp:images=0", "images must be an integer >= 1"),
        ("limpq:epochs=0", "epochs"),
        ("limpq:alpha=-1", "alpha"),
        ("limpq:images=0", "images"),
        ("limpq:proposals=0", "proposals"),
        ("certified-ilp:proposals=0", "proposals must be an integer >= 1"),
        ("hawq-v2:tolerance=0", "tolerance"),
        ("hawq-v1:refine=1", "refine of searcher hawq-v1 must be a valid boolean"),
    ],
)
def test_options_out_of_range_are_refused_before_anything_is_probed(searcher: str, message: str) -> None:
    problem = toy_problem()
    with pytest.raises(BitcertError, match=message):
        make_searcher(searcher, problem)
    assert problem.meter.forward_passes == 0


@pytest.mark.parametrize("method", [SensitivityILP, CertifiedILP])
def test_real_networks_are_measured_layer_by_layer(method: type[SensitivityILP]) -> None:
    problem = load_problem("digits", budget="w3a3")
    searcher = method(problem, 1, MeasuredOptions(images=20, noise=2))
    policy = searcher.ask()
    assert problem.is_feasible(policy)
    free = len(problem.space.layers) - 2
    recalibration = 250
    assert problem.meter.forward_passes == (20 * 2 + recalibration) * (1 + free * 2 * 7)
    prediction = searcher.prediction
    total = prediction.weights + prediction.activations
    assert total[1:-1, 0].mean() > total[1:-1, -1].mean(), "2 bits hurt more than 8"
    assert not total[[0, -1]].any(), "pinned layers are not measured"
