"""The integer program with costs per MAC from a table, against brute force and dynamic programming."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from baselines.prediction import Prediction, best_policy, greedy_policy
from baselines.program import assign
from suite.contract.cost import BOPs, cheapest
from suite.contract.per_mac import TERNARY, PerMac
from suite.contract.space import Layer, Precision, SearchSpace
from suite.testing.toys import problem_on
from tests.contract.test_per_mac import by_hand, tables

MACS = (9, 4, 7, 2, 5)


def space_of(choices: tuple[int, ...], per_mac: PerMac) -> SearchSpace:
    layers = tuple(Layer(f"layer{position}", "conv", macs, 10) for position, macs in enumerate(MACS))
    return SearchSpace(layers, choices, pins={}, per_mac=per_mac)


@given(tables(), st.integers(0, 2**32), st.floats(0, 1))
@settings(max_examples=15)
def test_the_policy_of_least_predicted_loss_equals_brute_force(table: PerMac, seed: int, share: float) -> None:
    space, rng = space_of((1, 2, 3), table), np.random.default_rng(seed)
    least, most = by_hand(space, cheapest(space)), by_hand(space, space.uniform(3))
    assume(most)  # a budget on what is free is refused
    problem = problem_on(space, int(least + share * (most - least)))
    losses = np.sort(rng.random((2, len(MACS), 3)))[:, :, ::-1]
    prediction = Prediction(space, losses[0], losses[1])
    options = list(product(range(3), repeat=2))
    every = np.indices((len(options),) * len(MACS)).reshape(len(MACS), -1)
    rows = list(zip(MACS, losses[0], losses[1], every, strict=True))
    spent = np.sum([np.array([macs * table[w][a] for w, a in options])[taken] for macs, _, _, taken in rows], axis=0)
    lost = np.sum([np.array([by_w[w] + by_a[a] for w, a in options])[taken] for _, by_w, by_a, taken in rows], axis=0)
    best = best_policy(problem, prediction)
    assert by_hand(space, best) <= problem.budget.limits[0].most
    assert prediction.loss(best) == pytest.approx(lost[spent <= problem.budget.limits[0].most].min())
    greedy = greedy_policy(problem, prediction)
    assert by_hand(space, greedy) <= problem.budget.limits[0].most
    assert prediction.loss(greedy) >= prediction.loss(best) - 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_pairs_of_seven_choices_equal_dynamic_programming(seed: int) -> None:
    rng, rule = np.random.default_rng(seed), BOPs(TERNARY)
    space = space_of(tuple(range(1, 8)), TERNARY)
    pairs = [Precision(w, a) for w, a in product(space.choices, repeat=2)]
    costs = [[rule.of_layer(layer, pair) for pair in pairs] for layer in space.layers]
    loss = rng.random((len(MACS), len(pairs)))
    limit = by_hand(space, space.uniform(3))
    reached = np.full(limit + 1, np.inf)  # least loss at exactly this cost
    reached[0] = 0.0
    for row, lost in zip(costs, loss, strict=True):
        after = np.full(limit + 1, np.inf)
        for cost, each in zip(row, lost, strict=True):
            if cost <= limit:
                after[cost:] = np.minimum(after[cost:], reached[: limit + 1 - cost] + each)
        reached = after
    found = assign(loss, costs, limit)
    assert found.loss == pytest.approx(reached.min())
    assert found.cost == sum(row[choice] for row, choice in zip(costs, found.choice, strict=True)) <= limit
