"""Methods that plan, with a limit on BOPs and one on bytes at once, against enumeration of small spaces."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.amq import AMQ, AMQOptions, pin_sensitive
from baselines.clado import QuadraticPrediction, best_quadratic
from baselines.hawq import HAWQ1, HAWQ1Options
from baselines.output_fisher import PairPrediction, best_of_pairs
from baselines.prediction import Prediction, best_policy, free_groups, greedy_policy
from searchers._heuristics import fill_up, heuristic_policies
from searchers._proposals import spend
from suite.contract.cost import BOPs, ModelSize, cheapest, random_feasible
from suite.contract.space import Precision, SearchSpace
from suite.errors import BitcertError
from suite.problems.separable import SeparableProblem
from suite.studies.predictors.design import design_policies
from suite.testing.toys import drive, feasible_policies, problem_on, small_layers, toy_problem

SPACE = SearchSpace(small_layers(4), choices=(2, 4, 7), pins={}, ties=(("layer0", "layer2"),))
PINNED = SearchSpace(small_layers(5), choices=(2, 3, 8))


def limited(space: SearchSpace, bops: float, size: float) -> SeparableProblem:
    """The separable problem with limits on BOPs and bytes, each a share of the way from the cheapest to the top."""
    texts = []
    for rule, share in ((BOPs(), bops), (ModelSize(), size)):
        least, most = (rule.total(space, space.uniform(space.choices[end])) for end in (0, -1))
        texts.append(f"{rule.name}<={rule.units(int(least + share * (most - least)))}")
    return problem_on(space, "+".join(texts))


SHARES = st.sampled_from([0.0, 0.1, 0.25, 0.4, 0.6, 1.0])


@given(st.sampled_from([SPACE, PINNED]), SHARES, SHARES, st.integers(0, 2**32))
@settings(max_examples=12, deadline=None)
def test_the_integer_programs_equal_brute_force(space: SearchSpace, bops: float, size: float, seed: int) -> None:
    problem, rng = limited(space, bops, size), np.random.default_rng(seed)
    feasible, layers = feasible_policies(problem), len(space.layers)
    losses = np.sort(rng.random((2, layers, 3)))[:, :, ::-1]
    prediction = Prediction(space, losses[0], losses[1])
    best = best_policy(problem, prediction)
    assert best in feasible
    assert prediction.loss(best) == pytest.approx(min(map(prediction.loss, feasible)))
    greedy = greedy_policy(problem, prediction)
    assert greedy in feasible
    pairs = rng.random((layers, 3, 3))
    together = PairPrediction(space, pairs[:, :, -1], pairs[:, -1, :], pairs)
    assert best_of_pairs(problem, together) in feasible
    assert together.loss(best_of_pairs(problem, together)) == pytest.approx(min(map(together.loss, feasible)))


@pytest.mark.parametrize("seed", range(6))
def test_the_quadratic_program_equals_brute_force(seed: int) -> None:
    """With one limit binding, the other, and both."""
    rng = np.random.default_rng(seed)
    problem = limited(SPACE, *[(0.2, 0.9), (0.9, 0.2), (0.3, 0.3)][seed % 3])
    bits, groups = (2, 4, 7), free_groups(SPACE)
    pairs = tuple(Precision(w, a) for w, a in product(bits, repeat=2))
    factor = rng.standard_normal((27, 8)) * np.tile([3.0, 1.0, 0.3], 9)[:, None]
    zeros = np.zeros((4, 3))
    prediction = QuadraticPrediction(SPACE, zeros, zeros, groups, bits, pairs, factor @ factor.T)
    policy, gap = best_quadratic(problem, prediction, nodes=10_000)
    feasible = feasible_policies(problem)
    assert gap == 0
    assert policy in feasible
    assert prediction.loss(policy) == pytest.approx(min(map(prediction.loss, feasible)))


@pytest.mark.parametrize("shares", [(0.2, 0.8), (0.8, 0.2), (0.3, 0.3), (0.0, 1.0)])
def test_filled_policies_leave_no_step_that_all_limits_allow(shares: tuple[float, float]) -> None:
    problem, rng = limited(SearchSpace(small_layers(5), pins={}), *shares), np.random.default_rng(0)

    def full(policy: object) -> bool:
        return not any(
            problem.is_feasible(near)
            for near in problem.space.neighbours(policy)  # type: ignore[arg-type]
            if (problem.space.encode(near) >= problem.space.encode(policy)).all()  # type: ignore[arg-type]
        )

    for _ in range(5):
        start = random_feasible(problem.space, problem.budget, rng)
        for filled in (fill_up(problem, start), spend(problem, start, rng)):
            assert problem.is_feasible(filled)
            assert full(filled)
            assert (problem.space.encode(filled) >= problem.space.encode(start)).all()
    assert all(map(problem.is_feasible, heuristic_policies(problem)))


def test_the_greedy_planner_lowers_nothing_for_a_limit_that_holds() -> None:
    """Bytes are exceeded, BOPs are not: no activation is lowered although it costs no predicted loss at all."""
    space = SearchSpace(small_layers(4), choices=(2, 4, 7), pins={})
    problem = limited(space, 1.0, 0.5)
    weights = np.tile([3.0, 2.0, 1.0], (4, 1))
    found = greedy_policy(problem, Prediction(space, weights, np.zeros((4, 3))))
    assert found.activations == (7,) * 4
    assert problem.is_feasible(found)


@pytest.mark.parametrize("tight", ["bops", "bytes"])
def test_pins_of_amq_leave_half_of_every_limit(tight: str) -> None:
    space = SearchSpace(small_layers(5), choices=(2, 8), pins={})
    losses: dict[tuple[str, ...], float] = {(f"layer{n}",): loss for n, loss in enumerate([9.0, 8.0, 1.0, 1.0, 1.0])}
    problem = limited(space, 0.5 if tight == "bops" else 1.0, 0.5 if tight == "bytes" else 1.0)
    alone = problem_on(space, next(limit.text for limit in problem.budget.limits if limit.cost.name == tight))
    pruned = pin_sensitive(problem, losses, 2.0)
    assert pruned == pin_sensitive(alone, losses, 2.0)
    assert set(pruned.pinned) == {"layer0"}
    other = problem_on(space, next(limit.text for limit in problem.budget.limits if limit.cost.name != tight))
    assert set(pin_sensitive(other, losses, 2.0).pinned) == {"layer0", "layer1"}
    for limit in problem.budget.limits:
        least, pinned = (limit.cost.total(each, cheapest(each)) for each in (space, pruned))
        assert pinned - least <= (limit.most - least) / 2


def test_batches_of_amq_spread_over_the_costs_of_budget_and_objective() -> None:
    problem = toy_problem(budget="w4a4+12KB", objective="acr+bytes")
    searcher = AMQ(problem, 0, AMQOptions(initial=16, batch=8, population=40, generations=6, threshold=None))
    assert [rule.name for rule in searcher._rules] == ["bops", "bytes"]
    trials = drive(searcher, problem, 40)
    later = {trial.policy for trial in trials[16:]}
    for limit in problem.budget.limits:
        shares = [limit.cost.total(problem.space, policy) / limit.most for policy in later]
        assert max(shares) <= 1
        assert max(shares) - min(shares) > 0.25


def test_a_method_that_cannot_start_says_by_which_limits() -> None:
    problem = limited(SearchSpace(small_layers(4), pins={}), 0.05, 1.0)
    with pytest.raises(BitcertError, match=r"activation_bits=8 with the fewest weight bits, 2, costs \d+ BOPs, over"):
        HAWQ1(problem, 0, HAWQ1Options(activation_bits=8)).ask()


def test_a_design_uses_up_one_of_the_limits_and_keeps_the_other() -> None:
    problem = limited(SearchSpace(small_layers(5), pins={}), 0.4, 0.4)
    drawn = design_policies(problem, 8, within=0.05)
    assert len(drawn) == 8
    used = [
        [limit.cost.total(problem.space, policy) / limit.most for limit in problem.budget.limits] for policy in drawn
    ]
    assert all(0.95 <= max(shares) <= 1 for shares in used)
    assert {shares.index(max(shares)) for shares in used} == {0, 1}, "now one limit binds, now the other"
