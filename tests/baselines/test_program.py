"""The integer program against brute force, dynamic programming, bounds found by hand and HAWQ-V3's published optima."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import milp

from baselines import program
from baselines.program import Assignment, assign
from suite.errors import BitcertError


@dataclass(frozen=True)
class Case:
    """Arguments of ``assign``, each budget as a table of Python integers and a limit."""

    loss: list[list[float]]
    budgets: list[tuple[list[list[int]], int]]
    ties: list[list[int]] = field(default_factory=list)
    pins: dict[int, int] = field(default_factory=dict)
    descending: list[tuple[list[int], list[int]]] = field(default_factory=list)

    def solve(self) -> Assignment:
        (cost, limit), *also = self.budgets
        return assign(self.loss, cost, limit, self.ties, pins=self.pins, also=also, descending=self.descending)

    def policies(self) -> NDArray[np.int64]:
        """Every policy that respects ties, pins, order and budgets, shape ``(policies, layers)``."""
        layers, choices = len(self.loss), len(self.loss[0])
        every = np.indices((choices,) * layers).reshape(layers, -1)
        good = np.ones(every.shape[1], dtype=bool)
        for group in self.ties:
            good &= (every[group] == every[group[0]]).all(axis=0)
        for layer, choice in self.pins.items():
            good &= every[layer] == choice
        for path, levels in self.descending:
            good &= (np.diff(np.array(levels)[every[path]], axis=0) <= 0).all(axis=0)
        for cost, limit in self.budgets:
            good &= sum(np.array(row)[taken] for row, taken in zip(cost, every, strict=True)) <= limit
        return every[:, good].T

    def check(self) -> None:
        """Assert that the solution is feasible and as good as the best of all policies."""
        policies = self.policies()
        if not len(policies):
            with pytest.raises(BitcertError, match=r"raise (the|a) limit|the pins rise"):
                self.solve()
            return
        found = self.solve()
        assert list(found.choice) in policies.tolist()
        totals = [sum(row[taken] for row, taken in zip(cost, found.choice, strict=True)) for cost, _ in self.budgets]
        assert [found.cost, *found.further_costs] == totals
        assert all(total <= limit for total, (_, limit) in zip(totals, self.budgets, strict=True))
        assert all(type(total) is int for total in (found.cost, *found.further_costs, *found.choice))
        table = np.array(self.loss)
        assert found.loss == pytest.approx(math.fsum(table[range(len(table)), found.choice]), rel=1e-12)
        best = min(math.fsum(row) for row in table[range(len(table)), policies])
        rounding = 1e-13 * np.abs(table).sum()
        assert found.loss - best <= 1e-9 * (best - table.min(axis=1).sum()) + rounding
        assert found.lower_bound <= min(found.loss, best + rounding)
        assert found.gap == found.loss - found.lower_bound
        if not (self.ties or self.pins or self.descending) and len(self.budgets) == 1:
            assert found.lower_bound >= _relaxation(table, *self.budgets[0]) - 1e-7 * np.ptp(table) - rounding


def _relaxation(loss: NDArray[np.float64], cost: list[list[int]], limit: int) -> float:
    """The bound of the linear relaxation as a Lagrangian dual, greatest at a price at which some layer changes."""
    spread = np.array([[value - min(row) for value in row] for row in cost], dtype=float)
    room = limit - sum(map(min, cost))
    with np.errstate(divide="ignore", invalid="ignore"):
        prices = (loss[:, :, None] - loss[:, None, :]) / (spread[:, None, :] - spread[:, :, None])
    prices = np.unique(np.append(prices[np.isfinite(prices) & (prices > 0)], 0.0))

    def dual(price: float) -> float:
        return math.fsum((loss + price * spread).min(axis=1)) - price * room

    low, high = 0, len(prices) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if dual(prices[middle + 1]) > dual(prices[middle]) else (low, middle)
    return dual(prices[low])


@st.composite
def cases(draw: st.DrawFn, *, plain: bool = False) -> Case:
    layers = draw(st.integers(1, 6))
    choices = draw(st.integers(1, 4 if layers > 4 else 6))
    scale = 10.0 ** draw(st.integers(-12, 12))
    losses = st.integers(0, 4) if draw(st.booleans()) else st.floats(-1, 1, width=32)
    units = draw(st.sampled_from([1, 1000, 10**11]))
    costs = (
        st.integers(0, 9) if units == 1 else st.builds(lambda a, b: a * units + b, st.integers(0, 5), st.integers(0, 5))
    )

    def table(values: st.SearchStrategy[Any]) -> list[list[Any]]:
        return draw(st.lists(st.lists(values, min_size=choices, max_size=choices), min_size=layers, max_size=layers))

    def budget() -> tuple[list[list[int]], int]:
        cost = table(costs)
        least, most = (sum(map(end, cost)) for end in (min, max))
        some = sum(row[draw(st.integers(0, choices - 1))] for row in cost)
        return cost, some + draw(st.integers(-1, 1)) if draw(st.booleans()) else draw(st.integers(least, most))

    loss = [[value * scale for value in row] for row in table(losses)]
    if plain:
        return Case(loss, [budget()])
    order = draw(st.permutations(range(layers)))
    ties = [order[:2], order[2 : 2 + draw(st.integers(1, 3))]][: draw(st.integers(0, 2))]
    pins = draw(st.dictionaries(st.integers(0, layers - 1), st.integers(0, choices - 1), max_size=2))
    for group in ties:
        for layer in group[1:]:
            pins.pop(layer, None)
    paths = draw(st.lists(st.lists(st.integers(0, layers - 1), max_size=7), max_size=2))
    levels = st.just(list(range(choices))) | st.lists(st.integers(-1, 2), min_size=choices, max_size=choices)
    descending = [(path, draw(levels)) for path in paths]
    return Case(loss, [budget() for _ in range(draw(st.integers(1, 2)))], [g for g in ties if g], pins, descending)


# Against brute force


@settings(max_examples=80)
@given(cases(plain=True))
def test_the_assignment_is_the_best_within_the_budget(case: Case) -> None:
    case.check()


def test_costs_that_differ_by_eleven_orders_of_magnitude_do_not_stop_the_solver() -> None:
    unit = 10**11
    cost = [[3 * unit, 0, 3, 3 * unit], [4 * unit, 2 * unit, 4 * unit, 2 * unit], [0, 0, 0, 0]]
    Case([[0, 2, 1, 0], [0, 1, 0, 1], [0, 0, 0, 0]], [(cost, 682_864_016_153)]).check()


@settings(max_examples=120)
@given(cases())
def test_ties_pins_order_and_a_second_budget_are_respected_without_loss_of_optimality(case: Case) -> None:
    case.check()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("scale", [1e-300, 1e-12, 1.0, 1e12, 1e300])
def test_the_scale_of_the_losses_does_not_matter(scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    cost = rng.integers(0, 10**6, (7, 4))
    loss = rng.random((7, 4)) * scale
    Case(loss.tolist(), [(cost.tolist(), int(cost.mean(axis=1).sum()))]).check()


@pytest.mark.parametrize("seed", range(8))
def test_choices_that_ruin_the_network_do_not_blur_the_rest(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cost = np.sort(rng.integers(0, 1000, (6, 5)), axis=1)
    loss = 1e-3 * rng.random((6, 5))
    loss[:, 0] = 1e15  # the cheapest choice of every layer
    case = Case(loss.tolist(), [(cost.tolist(), int(cost[:, 2].sum()))])
    table = loss[range(6), case.policies()]
    assert case.solve().loss == pytest.approx(table.sum(axis=1).min(), rel=1e-9)


# Against dynamic programming


def _least_losses(loss: NDArray[np.float64], cost: NDArray[np.int64], limit: int) -> float:
    """Least total loss at a cost of at most ``limit``, by the recursion over layers and costs."""
    best = np.zeros(limit + 1)
    for losses, costs in zip(loss, cost, strict=True):
        reached = np.full(limit + 1, np.inf)
        for more, spent in zip(losses, costs, strict=True):
            np.minimum(reached[spent:], best[: limit + 1 - spent] + more, out=reached[spent:])
        best = reached
    return float(best[-1])


@pytest.mark.parametrize(
    ("layers", "bits", "noise"), [(20, (2, 4, 8), 1.0), (50, (2, 3, 4, 6, 8), 0.3), (150, range(2, 9), 0.3)]
)
def test_networks_of_realistic_size_are_solved_exactly(layers: int, bits: range, noise: float) -> None:
    rng = np.random.default_rng(layers)
    weight, activation = (part.ravel() for part in np.meshgrid(bits, bits))
    macs = rng.integers(1, 20, layers)
    cost = macs[:, None] * weight * activation
    damage = rng.lognormal(0, 1.5, (layers, 1)) * (4.0**-weight + 4.0**-activation)
    loss = damage * np.exp(noise * rng.standard_normal(cost.shape))
    limit = int(macs.sum()) * 12
    found = assign(loss, cost, limit)
    assert found.cost <= limit
    assert found.loss == pytest.approx(_least_losses(loss, cost, limit), rel=1e-12)
    assert _relaxation(loss, cost.tolist(), limit) == pytest.approx(found.lower_bound, rel=1e-6)


# Budgets hold to the last unit


HUGE = 10**11


@pytest.mark.parametrize(
    ("limit", "choice"), [(2 * HUGE, (1, 0, 1)), (2 * HUGE + 1, (1, 1, 0)), (2 * HUGE + 6, (1, 1, 1))]
)
def test_a_choice_one_unit_above_a_huge_limit_is_rejected(limit: int, choice: tuple[int, ...]) -> None:
    loss, cost = [[12, 0], [10, 0], [1, 0]], [[0, HUGE], [0, HUGE + 1], [0, 5]]
    assert assign(loss, cost, limit).choice == choice
    assert assign(loss, np.zeros((3, 2), dtype=int), 0, also=[(cost, limit)]).choice == choice


def test_more_choices_above_a_huge_limit_than_can_be_cut_off_are_an_error_rather_than_a_guess() -> None:
    cost = [[0, HUGE, HUGE, HUGE, HUGE, HUGE], *([0, 1, 2, 3, 4, 5] for _ in range(5))]
    loss = [[100.0, 0, 0, 0, 0, 0], *([5.0, 4, 3, 2, 1, 0] for _ in range(5))]
    with pytest.raises(BitcertError, match="give costs in a coarser unit"):
        assign(loss, cost, HUGE + 3)


def test_costs_that_only_64_bits_hold_are_summed_exactly() -> None:
    loss, cost = [[2, 0], [2, 0], [1, 0]], [[0, 2**61 - 1], [0, 2**61], [0, 1]]
    assert assign(loss, cost, 2**62).cost == 2**62
    assert assign(loss, cost, 2**62 - 1).choice == (1, 1, 0)
    assert assign(loss, cost, 2**62 - 2).choice == (1, 0, 1)
    assert assign(loss, cost, 10**30).choice == (1, 1, 1)


# Bounds found by hand


def test_the_lower_bound_is_the_linear_relaxation() -> None:
    # Losses fall by 10/4 and 6/4 a unit of cost: the relaxation upgrades the first layer and half of the second.
    found = assign([[10, 0], [6, 0]], [[0, 4], [0, 4]], 6)
    assert (found.choice, found.loss, found.cost) == ((1, 0), 6.0, 4)
    assert found.lower_bound == pytest.approx(3)
    assert found.gap == pytest.approx(3)
    # A choice above the line between its neighbours is of no use to the relaxation: 20 of 30 on the way from 30 to 0.
    found = assign([[30, 21, 0], [0, 0, 0]], [[0, 10, 30], [5, 5, 5]], 25 + 5 + 5)
    assert (found.choice, found.lower_bound, found.gap) == ((2, 0), 0.0, 0.0)
    found = assign([[30, 22, 0], [30, 22, 0]], [[0, 10, 30], [0, 10, 30]], 40)
    assert (found.choice, found.loss) in [((1, 2), 22.0), ((2, 1), 22.0)]
    assert found.lower_bound == pytest.approx(20)


def test_the_bound_is_tight_where_the_budget_does_not_bind() -> None:
    found = assign([[3, -1, 2], [0, -5, 7]], [[1, 2, 3], [1, 2, 3]], 4)
    assert found == Assignment((1, 1), -6.0, 4, -6.0)
    assert found.gap == 0


def test_a_network_without_layers_costs_nothing() -> None:
    assert assign([], [], 0) == Assignment((), 0.0, 0, 0.0)
    assert assign(np.zeros((0, 3)), np.zeros((0, 3), dtype=int), 5, also=[([], 1)]) == Assignment((), 0.0, 0, 0.0, (0,))
    with pytest.raises(BitcertError, match="at most -1: the cheapest costs 0"):
        assign([], [], -1)


def test_of_equal_choices_the_first_is_taken() -> None:
    assert assign([[1, 1, 1], [2, 1, 1]], [[4, 4, 4], [4, 4, 4]], 8).choice == (0, 1)
    assert assign([[1, 1, 1]], [[4, 3, 3]], 8).choice == (1,)


# HAWQ-V3's ResNet-18: the data published in Zhen-Dong/HAWQ, its optima found by enumeration


TRACE = (0.06857826, 0.03162379, 0.03298575, 0.01205663, 0.02222431, 0.00596336, 0.06931772, 0.00807129, 0.00372905,
         0.00530698, 0.00209011, 0.00737569, 0.00210454, 0.00151197, 0.00158041, 0.00078146, 0.00451841, 0.00098745,
         0.00072944)  # fmt: skip
PERTURBATION = {
    4: (6.743, 3.9691, 3.3281, 2.6796, 4.7277, 10.5966, 0.6827, 9.0942, 4.8857, 10.7599, 21.7546, 0.8603, 14.5324,
        10.9651, 18.7706, 36.4044, 3.1572, 29.6994, 17.4016),
    8: (0.0235, 0.0125, 0.0102, 0.0082, 0.0145, 0.0344, 0.0023, 0.0287, 0.0148, 0.0333, 0.0682, 0.0027, 0.0448, 0.0336,
        0.0576, 0.113, 0.0102, 0.0947, 0.0532),
}  # fmt: skip
MACS = [115_605_504] * 19
MACS[4] = MACS[9] = MACS[14] = 57_802_752
MACS[6] = MACS[11] = MACS[16] = 6_422_528
TIES = [(4, 6), (9, 11), (14, 16)]


def _resnet_18(share: float, descending: tuple[int, ...] = ()) -> Assignment:
    """Bits 4 or 8 for weights and activations; the limit is the given share of the way from all 4 to all 8."""
    omega = np.transpose([np.multiply(TRACE, PERTURBATION[bits]) for bits in (4, 8)])
    bops = np.array([[macs * bits * bits for bits in (4, 8)] for macs in MACS])
    least, most = bops.sum(axis=0).tolist()
    limit = int(least + share * (most - least))
    return assign(omega, bops, limit, TIES, descending=[(descending, (4, 8))] if descending else ())


@pytest.mark.parametrize(("share", "omega"), [(0.25, 0.460424), (0.5, 0.215689), (0.75, 0.079965)])
def test_the_optima_of_hawq_v3_are_reproduced(share: float, omega: float) -> None:
    found = _resnet_18(share)
    assert found.loss == pytest.approx(omega, abs=5e-7)
    assert all(found.choice[first] == found.choice[second] for first, second in TIES)


def test_the_layers_at_8_bits_are_those_of_the_optimum() -> None:
    eight = [layer for layer, choice in enumerate(_resnet_18(0.5).choice) if choice]
    assert eight == [0, 1, 2, 4, 5, 6, 7, 9, 10, 11]


def test_bits_that_fall_with_the_trace_are_hawq_v2s_and_lose_more() -> None:
    found = _resnet_18(0.5, descending=tuple(np.argsort(TRACE)[::-1].tolist()))
    assert found.loss == pytest.approx(0.228808, abs=5e-7)


# Order


def _along(loss: list[list[int]], cost: NDArray[np.int64], path: list[int]) -> Assignment:
    return assign(loss, cost, 0, descending=[(path, range(3))])


@pytest.mark.parametrize("seed", range(12))
def test_pairs_of_bits_can_descend_in_two_orders_at_once(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = (part.ravel() for part in np.indices((3, 3)))
    macs = rng.integers(1, 20, 4)
    cost = macs[:, None] * (first + 2) * (second + 2)
    loss = rng.lognormal(size=(4, 1)) * 4.0**-first + rng.lognormal(size=(4, 1)) * 4.0**-second
    orders = [(rng.permutation(4).tolist(), level.tolist()) for level in (first, second)]
    limit = int(macs.sum() * rng.integers(5, 12))
    Case(loss.tolist(), [(cost.tolist(), limit)], descending=orders).check()


def test_choices_of_equal_level_are_free() -> None:
    loss, cost = [[0, 5, 5, 5], [5, 5, 5, 0]], np.zeros((2, 4), dtype=int)
    assert assign(loss, cost, 0, descending=[([0, 1], [7, 7, 7, 7])]).choice == (0, 3)
    assert assign(loss, cost, 0, descending=[([0, 1], [3, 5, 4, 3])]).choice == (0, 3)
    assert assign(loss, cost, 0, descending=[([0, 1], [0, 1, 2, 3])]).loss == 5


def test_a_layer_that_occurs_twice_in_the_order_binds_all_between() -> None:
    loss, cost = [[0, 1, 2], [2, 1, 0], [2, 1, 0]], np.zeros((3, 3), dtype=int)
    assert _along(loss, cost, [0, 1, 2]).loss == 2
    assert _along(loss, cost, [0, 1, 0, 2]).choice in [(0, 0, 0), (1, 1, 1), (2, 2, 2)]
    assert _along(loss, cost, [2, 1, 0]).choice == (0, 2, 2)
    assert assign(loss, cost, 0, [(0, 2)], descending=[([0, 1], [0, 1, 2])]).choice == (2, 2, 2)


# Errors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": [[0, math.nan], [0, 0]]}, "the loss of layer 0 at choice 1 is nan; losses must be finite"),
        ({"loss": [[0, 0], [-math.inf, 0]]}, "the loss of layer 1 at choice 0 is -inf"),
        ({"loss": [[0, 0], [math.inf, 0]], "layers": ["a", "b"]}, "the loss of layer 'b' at choice 0 is inf"),
        ({"loss": [[0, 0], [0, math.nan]], "layers": ["a", "conv1"], "choices": ["w2a2", "w2a3"]},
         "the loss of layer 'conv1' at w2a3 is nan"),
        ({"loss": [[0, 1e308], [0, 1e308]]}, "losses up to 1e\\+308 overflow"),
        ({"loss": [[0, 1], [0]]}, "one row per layer and one column per choice"),
        ({"loss": [["a", "b"]]}, "not a table of numbers"),
        ({"loss": [1.0, 2.0]}, r"one row per layer and one column per choice, got shape \(2,\)"),
        ({"loss": 1.0}, "got shape"),
        ({"loss": [[], []]}, r"got shape \(2, 0\)"),
        ({"layers": ["a"]}, "1 names for 2 layers"),
        ({"choices": ["a", "b", "c"]}, "3 names for 2 choices"),
        ({"cost": [[1, 2]]}, r"costs need the shape of the losses, \(2, 2\), got \(1, 2\)"),
        ({"cost": [[1, 2], [3]]}, "costs need the shape"),
        ({"cost": []}, "costs need the shape"),
        ({"cost": [[1, 2], [3, 4.0]]}, "the cost of layer 1 at choice 1 is 4.0; costs must be integers"),
        ({"cost": np.ones((2, 2)), "layers": ["a", "b"], "choices": ["w2", "w3"]}, "the cost of layer 'a' at w2 is"),
        ({"cost": [[1, 2], [-3, 4]]}, "the cost of layer 1 at choice 0 is -3; costs must be integers and at least 0"),
        ({"cost": [[1, 2**62], [1, 2]]}, "the most expensive choices cost 4611686018427387906 together, more than 2"),
        ({"also": [([[1, 2]], 9)]}, "costs need the shape"),
        ({"also": [([[1, 2], [1, 0.5]], 9)]}, "the cost of layer 1 at choice 1 is 0.5"),
        ({"limit": 5.0}, "a limit must be an integer, got 5.0"),
        ({"limit": "w4a4"}, "a limit must be an integer, got 'w4a4'"),
        ({"ties": [(0, 1), (1,)]}, "layer 1 is tied more than once"),
        ({"ties": [(0, 2)]}, "a tied layer must be an integer from 0 to 1, got 2"),
        ({"ties": [(-1, 0)]}, "a tied layer must be an integer from 0 to 1, got -1"),
        ({"pins": {2: 0}}, "a pinned layer must be an integer from 0 to 1, got 2"),
        ({"pins": {1: 2}}, "the pin of layer 1 must be an integer from 0 to 1, got 2"),
        ({"pins": {0: 0.0}}, "the pin of layer 0 must be an integer from 0 to 1, got 0.0"),
        ({"ties": [(0, 1)], "pins": {0: 0, 1: 1}}, r"the tied layers \[0, 1\] are pinned to different choices, \[0, 1\]"),
        ({"descending": [([0, 5], [0, 1])]}, "a layer of `descending` must be an integer from 0 to 1, got 5"),
        ({"descending": [([0, 1], [0, 1, 2])]}, "an integer level for each of the 2 choices"),
        ({"descending": [([0, 1], [0.5, 1.0])]}, "an integer level for each of the 2 choices"),
        ({"limit": 3}, "no assignment costs at most 3: the cheapest costs 4; raise the limit or allow cheaper choices"),
        ({"limit": -(10**30)}, "at most -10{30}: the cheapest costs 4"),
        ({"limit": 5, "pins": {0: 1}}, "at most 5: the cheapest costs 6"),
        ({"limit": 7, "pins": {1: 1}, "descending": [([0, 1], [0, 1])]},
         "no assignment that respects `descending` costs at most 7: the cheapest costs 9"),
        ({"limit": 4, "also": [([[9, 0], [9, 0]], 9)]},
         r"is within all limits at once \(limit 4, cheapest 4; limit 9, cheapest 0\); raise a limit"),
        ({"pins": {0: 0, 1: 1}, "descending": [([0, 1], [0, 1])]}, "the pins rise along `descending`"),
    ],
)  # fmt: skip
def test_a_mistake_is_named(changes: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"loss": [[1, 0], [1, 0]], "cost": [[1, 3], [3, 6]], "limit": 9, **changes}
    with pytest.raises(BitcertError, match=message):
        assign(**arguments)


def test_limits_that_only_fractions_of_choices_meet_are_refused() -> None:
    there, back = [[0, 2]] * 3, [[2, 0]] * 3  # mixed by halves, each budget is met
    with pytest.raises(BitcertError, match="limit 3, cheapest 0; limit 3, cheapest 0"):
        assign([[1, 0]] * 3, there, 3, also=[(back, 3)])
    assert sum(assign([[1, 0]] * 3, there, 4, also=[(back, 3)]).choice) == 2


def test_what_the_solver_prints_stays_out_of_standard_output(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def chatty(*arguments: Any, **options: Any) -> Any:
        os.write(1, b"a stray line")
        return milp(*arguments, **options)

    monkeypatch.setattr(program, "milp", chatty)
    assert assign([[1, 0], [1, 0]], [[1, 2], [1, 2]], 3).loss == 1
    print("after")
    assert capfd.readouterr().out == "after\n"


def test_an_optimum_that_is_not_proven_is_not_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(program, "milp", lambda *_, **__: SimpleNamespace(status=1, message="Time limit reached."))
        with pytest.raises(BitcertError, match="no optimum could be proven: Time limit reached"):
            assign([[1, 0], [1, 0]], [[1, 2], [1, 2]], 3)
    with monkeypatch.context() as patch:
        rising = SimpleNamespace(status=0, x=np.array([1.0, 0.0, 0.0, 1.0]))
        patch.setattr(program, "milp", lambda *_, **__: rising)
        with pytest.raises(BitcertError, match="breaks an order"):
            assign([[1, 0], [1, 0]], [[1, 2], [1, 2]], 9, descending=[([0, 1], [0, 1])])
    monkeypatch.setattr(program, "MOST_CUTS", 1)
    with pytest.raises(BitcertError, match="give costs in a coarser unit"):
        assign([[12, 0], [10, 0], [1, 0]], [[0, HUGE], [0, HUGE + 1], [0, 5]], 2 * HUGE)
