"""Operations per MAC: the identities behind the table, budgets, the wall and the sampler on tables, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from searchers._heuristics import fill_up, heuristic_policies
from suite.contract.cost import (
    BOPs,
    Budget,
    Limit,
    bops,
    cheapest,
    enforce_budget,
    largest_uniform,
    parse_budget,
    random_feasible,
    repair,
)
from suite.contract.per_mac import TERNARY, PerMac
from suite.contract.space import Layer, Policy, Precision, SearchSpace
from suite.errors import BitcertError
from suite.networks import network_layers
from suite.testing.toys import problem_on
from tests.strategies import all_policies, belongs, spaces

FALSE_ALARM = 1e-6
ALL_BITS = tuple(range(1, 9))

Numbers = Any  # an array of integers; numpy's types lose it in sums
Bits = NDArray[np.bool_]


# The identities that the operations are counted by


class Passes:
    """Counts population counts that every pair of a filter and an input takes; those of one of the two alone are shared."""

    def __init__(self) -> None:
        self.count = 0

    def pair(self, bits: Bits) -> Numbers:
        self.count += 1
        return self.alone(bits)

    @staticmethod
    def alone(bits: Bits) -> Numbers:
        return bits.sum(axis=-1)


def plane(numbers: Numbers, place: int) -> Bits:
    bits: Bits = (numbers >> place & 1).astype(bool)
    return bits


def binary_binary(w: Numbers, x: Numbers, passes: Passes) -> Numbers:
    return 2 * passes.pair(~((w > 0) ^ (x > 0))) - w.shape[-1]


def binary_levels(w: Numbers, x: Numbers, passes: Passes) -> Numbers:
    planes = [plane(x, place) for place in range(3)]
    return sum(2**i * (2 * passes.pair(each & (w > 0)) - passes.alone(each)) for i, each in enumerate(planes))


def ternary_binary(w: Numbers, x: Numbers, passes: Passes) -> Numbers:
    mask = w != 0
    return 2 * passes.pair(~((w > 0) ^ (x > 0)) & mask) - passes.alone(mask)


def ternary_levels(w: Numbers, x: Numbers, passes: Passes) -> Numbers:
    planes = [plane(x, place) for place in range(3)]
    return sum(2**i * (passes.pair(each & (w > 0)) - passes.pair(each & (w < 0))) for i, each in enumerate(planes))


def ternary_ternary(w: Numbers, x: Numbers, passes: Passes) -> Numbers:
    mask = (w != 0) & (x != 0)
    return 2 * passes.pair(~((w > 0) ^ (x > 0)) & mask) - passes.pair(mask)


def two_bits(w: Numbers, x: Numbers, passes: Passes) -> Numbers:
    return sum(2 ** (i + j) * passes.pair(plane(w, i) & plane(x, j)) for i, j in product(range(2), repeat=2))


IDENTITIES: dict[str, tuple[Callable[[Numbers, Numbers, Passes], Numbers], list[int], list[int], int, int]] = {
    "binary, binary": (binary_binary, [-1, 1], [-1, 1], 1, TERNARY[0][0]),
    "binary, 3 bits": (binary_levels, [-1, 1], list(range(8)), 3, TERNARY[0][2]),
    "ternary, binary": (ternary_binary, [-1, 0, 1], [-1, 1], 1, TERNARY[1][0] - 1),  # counted as 2
    "ternary, 3 bits": (ternary_levels, [-1, 0, 1], list(range(8)), 6, TERNARY[1][2]),
    "ternary, ternary": (ternary_ternary, [-1, 0, 1], [-1, 0, 1], 2, TERNARY[1][1]),
    "2 bits, 2 bits": (two_bits, [0, 1, 2, 3], [0, 1, 2, 3], 4, 2 * 2),
}


@pytest.mark.parametrize("name", IDENTITIES)
def test_each_identity_is_the_inner_product_of_all_short_vectors_in_as_many_passes_as_the_table_says(name: str) -> None:
    identity, levels, inputs, counted, entry = IDENTITIES[name]
    assert counted == entry
    for length in range(1, 4 if len(inputs) == 8 else 5):
        w = np.array(list(product(levels, repeat=length)))[:, None]
        x = np.array(list(product(inputs, repeat=length)))[None]
        passes = Passes()
        w, x = np.broadcast_arrays(w, x)
        assert np.array_equal(identity(w, x, passes), (w * x).sum(axis=-1))
        assert passes.count == counted


@given(st.sampled_from(sorted(IDENTITIES)), st.integers(1, 1000), st.integers(0, 2**32))
def test_each_identity_is_the_inner_product_of_long_vectors(name: str, length: int, seed: int) -> None:
    identity, levels, inputs, *_ = IDENTITIES[name]
    rng = np.random.default_rng(seed)
    w, x = rng.choice(levels, length), rng.choice(inputs, length)
    assert identity(w, x, Passes()) == w @ x
    if name == "ternary, ternary":  # inputs of 0, 1, 2 are shifted ones, and the shift is a constant of the filter
        assert identity(w, x, Passes()) + w.sum() == w @ (x + 1)


# Exact costs


@pytest.mark.parametrize(
    ("bits", "table", "expected"),
    [(1, None, 68_460_544), (2, None, 188_784_640), (3, None, 389_324_800), (2, TERNARY, 108_568_576)],
)
def test_resnet_20_below_two_bits(bits: int, table: PerMac | None, expected: int) -> None:
    space = SearchSpace(network_layers("resnet20", 10, (3, 32, 32)), ALL_BITS, per_mac=table)
    assert bops(space, space.uniform(bits)) == parse_budget(f"w{bits}a{bits}", space).limits[0].most == expected
    assert expected == 443_008 * 64 + (40_551_040 - 443_008) * (2 if table else bits**2)


@pytest.mark.parametrize(
    ("narrow", "shape", "stem", "shortcut"),
    [("resnet20", (3, 32, 32), 16 * 27 * 1024, 0), ("resnet8", (1, 8, 8), 16 * 9 * 64, 16 * 32 * 64)],
)
def test_twice_the_channels_cost_four_times_the_bops_but_for_the_stem(
    narrow: str, shape: tuple[int, int, int], stem: int, shortcut: int
) -> None:
    one, two = (SearchSpace(network_layers(name, 10, shape), ALL_BITS) for name in (narrow, f"{narrow}-wide2"))
    macs = [sum(layer.macs for layer in space.layers) for space in (one, two)]
    first = 16 * 16 * 9 * shape[1] ** 2  # of the first block: its inputs are not doubled
    free = 4 * (macs[0] - stem - 640) - 2 * first + shortcut
    assert macs[1] == stem + free + 1280
    for bits in (1, 2):
        assert bops(two, two.uniform(bits)) == 64 * (stem + 1280) + bits**2 * free
    assert bops(two, two.uniform(1)) < bops(one, one.uniform(2)) < bops(two, two.uniform(2))


def small_space(per_mac: PerMac | None = None, choices: tuple[int, ...] = (1, 2, 3)) -> SearchSpace:
    macs = (1000, 10_003, 2000, 7)
    layers = tuple(Layer(f"layer{position}", "conv", count, 10) for position, count in enumerate(macs))
    return SearchSpace(layers, choices, per_mac=per_mac)


def test_budgets_read_the_table_at_integers_and_are_products_between() -> None:
    space, ternary, pinned = small_space(), small_space(TERNARY), 64 * 1007
    for text, product_of_bits, by_table in (("w1a1", 1, 1), ("w2a2", 4, 2), ("w2a1", 2, 2), ("w3a2", 6, 6)):
        assert parse_budget(text, space).limits[0].most == pinned + 12_003 * product_of_bits
        assert parse_budget(text, ternary).limits[0].most == pinned + 12_003 * by_table
    for either in (space, ternary):
        assert parse_budget("w1.5a1.5", either).limits[0].most == pinned + 27_006  # 2.25 * 12,003 = 27,006.75
        assert parse_budget("w1.5a2", either).limits[0].most == pinned + 36_009


@pytest.mark.parametrize("text", ["bops<=100000", "100000", "2/266"])
def test_a_budget_of_bops_follows_the_table_however_it_is_given(text: str) -> None:
    budget = parse_budget(text, small_space(TERNARY))
    assert budget == Budget((Limit(13_010 * 2 * 1024 // 266 if "/" in text else 100_000, text, BOPs(TERNARY)),))
    assert "budget_bops" in budget.to_dict()


def test_the_table_is_part_of_what_a_space_is() -> None:
    assert small_space() != small_space(TERNARY)
    assert small_space(TERNARY) == small_space(tuple(tuple(row) for row in TERNARY))
    assert hash(small_space(TERNARY)) == hash(replace(small_space(), per_mac=TERNARY))


@given(st.integers(0, 7), st.integers(0, 7), st.booleans())
def test_a_table_that_falls_is_refused_with_the_pair(weight: int, activation: int, down: bool) -> None:
    table = [[w * a for a in ALL_BITS] for w in ALL_BITS]
    below = (weight + 1, activation) if down else (weight, activation + 1)
    if max(below) > 7:
        return
    table[below[0]][below[1]] = table[weight][activation] - 1
    pair = rf"w{below[0] + 1}a{below[1] + 1} costs {table[below[0]][below[1]]}, less than one of w\d+a\d+"
    for make in (small_space, BOPs):
        with pytest.raises(BitcertError, match=pair):
            make(tuple(map(tuple, table)))


@pytest.mark.parametrize("table", [(), ((1,) * 8,) * 7, ((1,) * 9,) * 8, ((1.0,) * 8,) * 8, ((-1,) * 8,) * 8])
def test_a_table_that_is_none_is_refused(table: PerMac) -> None:
    with pytest.raises(BitcertError, match="8 rows of 8 integers"):
        BOPs(table)


# The wall and the sampler on random tables


@st.composite
def tables(draw: st.DrawFn) -> PerMac:
    """Tables that never fall, flat in many places or nowhere."""
    rng, most = np.random.default_rng(draw(st.integers(0, 2**32))), draw(st.sampled_from([2, 10, 1000]))
    rising = np.maximum.accumulate(np.maximum.accumulate(rng.integers(0, most, (8, 8)), axis=0), axis=1)
    return tuple(tuple(row) for row in rising.tolist())


def by_hand(space: SearchSpace, policy: Policy) -> int:
    assert space.per_mac is not None
    pairs = zip(space.layers, policy.precisions, strict=True)
    return sum(layer.macs * space.per_mac[weight - 1][activation - 1] for layer, (weight, activation) in pairs)


@given(spaces(), tables(), st.data())
def test_everything_stays_within_the_budget_on_any_table(
    space: SearchSpace, table: PerMac, data: st.DataObject
) -> None:
    space = replace(space, per_mac=table)
    seed = data.draw(st.integers(0, 2**32))
    rng = np.random.default_rng(seed)
    least, most = by_hand(space, cheapest(space)), by_hand(space, space.uniform(space.choices[-1]))
    assume(most)  # a budget on what is free is refused
    limit = data.draw(st.sampled_from([least, most]) | st.integers(least, most))
    problem = problem_on(space, limit)
    budget, policy = problem.budget, space.random(rng)
    assert bops(space, policy) == problem.budget.spent(space, policy) == by_hand(space, policy)
    for lowered in (enforce_budget(space, policy, budget), repair(space, policy, budget, rng)):
        assert belongs(space, lowered)
        assert by_hand(space, lowered) <= limit
        assert all(low <= high for low, high in zip(lowered.weights, policy.weights, strict=True))
        assert all(low <= high for low, high in zip(lowered.activations, policy.activations, strict=True))
    drawn = random_feasible(space, budget, rng)
    filled = fill_up(problem, drawn)
    for feasible in (drawn, filled):
        assert belongs(space, feasible)
        assert by_hand(space, feasible) <= limit
    assert by_hand(space, filled) >= by_hand(space, drawn)
    bits = [bits for bits in space.choices if by_hand(space, space.uniform(bits)) <= limit]
    assert largest_uniform(space, budget) == (space.uniform(max(bits)) if bits else None)
    assert all(by_hand(space, found) <= limit for found in heuristic_policies(problem))


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_random_policies_are_close_to_uniform_where_steps_save_nothing(share: float) -> None:
    layers = small_space().layers
    space = SearchSpace(layers[:2], (1, 2, 3, 4), pins={}, per_mac=TERNARY)
    least, most = by_hand(space, cheapest(space)), by_hand(space, space.uniform(4))
    budget = parse_budget(least + int(share * (most - least)), space)
    counts = {policy: 0 for policy in all_policies(space) if by_hand(space, policy) <= budget.limits[0].most}
    rng = np.random.default_rng(1)
    for _ in range(20 * len(counts)):
        counts[random_feasible(space, budget, rng)] += 1
    assert len(counts) > 4
    assert stats.chisquare(list(counts.values())).pvalue > FALSE_ALARM


def test_a_ternary_pair_is_as_cheap_as_ternary_by_binary_and_the_wall_takes_what_saves() -> None:
    space = small_space(TERNARY)
    assert bops(space, space.uniform(2)) == bops(space, space.uniform(2, 1)) == bops(space, space.uniform(1, 2))
    lowered = enforce_budget(space, space.uniform(2), parse_budget("w1a1", space))
    assert lowered == cheapest(space)
    assert lowered.precisions[1] == Precision(1, 1)
