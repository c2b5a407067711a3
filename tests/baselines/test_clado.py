"""CLADO: interactions of layers measured, the nearest semidefinite matrix, and its program against brute force."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from baselines.clado import CLADO, CLADOOptions, QuadraticPrediction, best_quadratic, noise_shares, project
from baselines.prediction import free_groups
from suite.contract.probes import ProbeSettings, Quality
from suite.contract.problem import Problem
from suite.contract.searcher import Searcher
from suite.contract.space import FLOAT_BITS, Policy, Precision, SearchSpace
from suite.errors import BitcertError
from suite.problems import load_problem
from suite.run.registry import make_searcher
from suite.testing.searchers import SearcherConformance
from suite.testing.toys import SPACES, drive, feasible_policies, limits, problem_on, small_layers, toy_problem


class TestCLADO(SearcherConformance):
    seeded = False  # on the separable problem every probe gives the same
    learns = False  # three choices a layer, equal for weights and inputs, do not hold the best policies

    def make(self, problem: Problem, seed: int) -> Searcher:
        return CLADO(problem, seed)


def tied_policies(problem: Problem, bits: tuple[int, ...]) -> list[Policy]:
    """All feasible policies with these bits for weights and inputs alike."""
    return [
        policy
        for policy in feasible_policies(problem)
        if all(
            policy.precisions[layer].weight == policy.precisions[layer].activation in bits
            for group in free_groups(problem.space)
            for layer in group
        )
    ]


def tied(bits: tuple[int, ...]) -> tuple[Precision, ...]:
    return tuple(Precision(choice, choice) for choice in bits)


@pytest.mark.parametrize("space", ["tied layers", "tied weight and activation", "everything tied", "4 or 8 bits"])
def test_the_best_tied_policy_of_the_formula_is_found(space: str) -> None:
    problem = problem_on(SPACES[space], limits(SPACES[space])["half"])
    searcher = CLADO(problem, 0, CLADOOptions(bits=(2, 3, 4, 5, 6, 7, 8)))
    found = searcher.ask()
    if problem.space.cardinality <= 100_000:
        best = min(map(problem.loss, tied_policies(problem, problem.space.choices)))
        assert problem.loss(found) == pytest.approx(best)
    groups, choices = len(free_groups(problem.space)), len(problem.space.choices)
    probes = 1 + groups * choices + groups * (groups - 1) // 2 * choices**2
    assert problem.meter.forward_passes == probes * 128


def test_all_policies_that_it_proposes_have_equal_bits_for_both_parts() -> None:
    problem = toy_problem(seed=2)
    searcher = CLADO(problem, 0)
    proposed = [trial.policy for trial in drive(searcher, problem, 10)]
    assert len(set(proposed)) == searcher._options.proposals
    assert all(policy.weights == policy.activations for policy in proposed)


@pytest.mark.parametrize("space", ["tied layers", "4 or 8 bits", "choices with gaps"])
def test_with_bits_untied_the_optimum_of_the_formula_is_found(space: str) -> None:
    problem = problem_on(SPACES[space], limits(SPACES[space])["half"])
    found = CLADO(problem, 0, CLADOOptions(bits=(2, 4, 8), tie_bits=False)).ask()
    bits = {problem.space.choices[0], *problem.space.choices} & {2, 4, 8}
    inside = [
        policy
        for policy in feasible_policies(problem)
        if all(set(policy.precisions[layer]) <= bits for group in free_groups(problem.space) for layer in group)
    ]
    assert problem.loss(found) == pytest.approx(min(map(problem.loss, inside)))


@pytest.mark.parametrize("seed", range(6))
def test_the_program_equals_brute_force(seed: int) -> None:
    space = SearchSpace(small_layers(5), choices=(2, 4, 7), pins={}, ties=(("layer0", "layer3"),))
    bits = (2, 4, 7)
    least, most = limits(space)["cheapest"], limits(space)["top"]
    problem = problem_on(space, int(least + (0.15 + 0.15 * seed) * (most - least)))
    rng = np.random.default_rng(seed)
    factor = rng.standard_normal((12, 5)) * np.tile([3.0, 1.0, 0.3], 4)[:, None]
    zeros = np.zeros((5, 3))
    prediction = QuadraticPrediction(space, zeros, zeros, free_groups(space), bits, tied(bits), factor @ factor.T)
    policy, gap = best_quadratic(problem, prediction, nodes=10_000)
    assert gap == 0
    assert problem.is_feasible(policy)
    feasible = tied_policies(problem, bits)
    assert len(feasible) > 5

    def by_hand(policy: Policy) -> float:
        chosen = np.zeros(12)
        for number, group in enumerate(prediction.groups):
            chosen[3 * number + bits.index(policy.weights[group[0]])] = 1
        return float(chosen @ prediction.matrix @ chosen / 2)

    assert prediction.loss(policy) == pytest.approx(by_hand(policy))
    assert by_hand(policy) == pytest.approx(min(map(by_hand, feasible)))


def test_interactions_are_what_a_pair_loses_beyond_its_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = toy_problem()
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((6, 3, 4)) / 10

    def loss(policy: Policy) -> float:
        moved = sum(
            vectors[layer, (2, 4, 6).index(bits)] for layer, bits in enumerate(policy.weights) if bits != FLOAT_BITS
        )
        return float(np.sum(np.square(moved))) + 7

    probes = problem.probes(ProbeSettings())
    monkeypatch.setattr(type(probes), "measure", lambda self, policy: Quality(loss(policy), 0.0))
    choices = tied((2, 4, 6))
    groups = free_groups(problem.space)
    measured = CLADO(problem, 0)._interactions(groups, choices)
    zeros = np.zeros((6, 5))
    prediction = QuadraticPrediction(problem.space, zeros, zeros, groups, (2, 4, 6), choices, measured)
    for chosen in product((2, 4, 6), repeat=6):
        policy = Policy.from_bits(chosen, chosen)
        assert prediction.loss(policy) == pytest.approx(loss(policy) - 7), "a quadratic loss is predicted exactly"
    found = CLADO(problem, 0, CLADOOptions(bits=(2, 4, 6))).prediction
    assert isinstance(found, QuadraticPrediction)
    assert found.matrix == pytest.approx(project(measured))


def test_projection_is_nearest_and_leaves_semidefinite_matrices() -> None:
    drawn = np.random.default_rng(1).standard_normal((6, 6))
    symmetric = drawn + drawn.T
    projected = project(symmetric)
    assert np.linalg.eigvalsh(projected).min() > -1e-9
    assert project(drawn @ drawn.T) == pytest.approx(drawn @ drawn.T)
    # Nearest: what was taken away is semidefinite too and orthogonal to what stays (Moreau).
    assert np.linalg.eigvalsh(projected - symmetric).min() > -1e-9
    assert abs(np.sum(projected * (projected - symmetric))) < 1e-9
    with pytest.raises(BitcertError, match="not finite"):
        project(np.array([[np.nan]]))


def test_shares_are_exact_at_the_choices_and_average_to_the_noise_between_them() -> None:
    bits = (2, 4, 8)
    powers = 4.0 ** -np.array(bits)
    for column, choice in enumerate(bits):
        assert noise_shares(4.0**-choice, bits) == pytest.approx(np.eye(3)[column])
    for power in (4.0**-3, 4.0**-5):
        assert noise_shares(power, bits) @ powers == pytest.approx(power)


@pytest.mark.parametrize("tie_bits", [True, False])
def test_bits_that_were_not_measured_are_interpolated(tie_bits: bool) -> None:
    problem = toy_problem(seed=3)
    options = CLADOOptions(bits=(2, 6), tie_bits=tie_bits)
    prediction = CLADO(problem, 0, options).prediction
    rng = np.random.default_rng(0)
    for policy in [problem.space.random(rng) for _ in range(20)]:
        # The formula is linear in the noise power; the matrix, of which some eigenvalues were negative, is not quite its.
        assert prediction.loss(policy) == pytest.approx(problem.loss(policy), rel=0.1)


def test_a_program_that_is_cut_short_says_so() -> None:
    layers = 9
    space = SearchSpace(small_layers(layers), choices=(2, 3, 4, 8), pins={})
    problem = problem_on(space, limits(space)["half"] // 2)
    factor = np.random.default_rng(0).standard_normal((4 * layers, 40))
    zeros = np.zeros((layers, 4))
    prediction = QuadraticPrediction(
        space, zeros, zeros, free_groups(space), space.choices, tied(space.choices), factor @ factor.T
    )
    policy, gap = best_quadratic(problem, prediction, nodes=1)
    assert problem.is_feasible(policy)
    assert gap > 0
    searcher = CLADO(problem, 0, CLADOOptions(nodes=1))
    with pytest.warns(UserWarning, match="raise the option nodes"):
        assert searcher._plan(prediction) == policy


@pytest.mark.parametrize(
    ("option", "message"), [("bits=[]", "list of integers"), ("nodes=0", "nodes"), ("bits=4", "bits")]
)
def test_options_out_of_range_are_refused(option: str, message: str) -> None:
    with pytest.raises(BitcertError, match=message):
        make_searcher(f"clado:{option}", toy_problem())


def test_options_are_read_from_text() -> None:
    searcher = make_searcher("clado:bits=[2,3]:images=8", toy_problem())
    assert isinstance(searcher, CLADO)
    assert searcher._options == CLADOOptions(bits=(2, 3), images=8)


def test_on_a_network_every_pair_is_measured() -> None:
    problem = load_problem("digits", budget="w3a3")
    searcher = CLADO(problem, 1, CLADOOptions(bits=(2, 4), images=4, noise=0))
    policy = searcher.ask()
    assert problem.is_feasible(policy)
    assert set(policy.precisions[1:-1]) <= {(2, 2), (4, 4)}
    probes = 1 + 8 * 2 + 28 * 4
    assert problem.meter.forward_passes == probes * (4 + problem.bench.statistics_passes())  # type: ignore[attr-defined]
