"""BOPs, bytes, budgets and the budget wall, against plain sums, a naive walk and enumeration."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from suite.contract.cost import (
    BOPs,
    Budget,
    Cost,
    Limit,
    ModelSize,
    bops,
    cheapest,
    enforce_budget,
    float_bops,
    parse_budget,
    random_feasible,
)
from suite.contract.space import Layer, Policy, Precision, SearchSpace
from suite.errors import BitcertError
from tests.strategies import all_policies, belongs, naive_bops, spaces

FALSE_ALARM = 1e-6
"""Probability that a statistical test of this file fails on correct code; the seeds are fixed."""


def _layers(*macs: int) -> tuple[Layer, ...]:
    return tuple(Layer(f"layer{position}", "conv", count, 10) for position, count in enumerate(macs))


def _budget(limit: int) -> Budget:
    return Budget((Limit(limit, str(limit)),))


def _draw_policy(space: SearchSpace, data: st.DataObject) -> Policy:
    indices = st.integers(0, len(space.choices) - 1)
    return space.decode(data.draw(st.lists(indices, min_size=len(space.variables), max_size=len(space.variables))))


# What a policy costs


@given(spaces(), st.data())
def test_bops_are_the_exact_sum(space: SearchSpace, data: st.DataObject) -> None:
    policy = _draw_policy(space, data)
    macs = np.array([layer.macs for layer in space.layers], dtype=np.int64)
    vectorized = macs @ (np.array(policy.weights, dtype=np.int64) * np.array(policy.activations, dtype=np.int64))
    assert bops(space, policy) == naive_bops(space, policy) == int(vectorized)
    assert type(bops(space, policy)) is int
    assert float_bops(space) == int(macs.sum()) * 1024


def test_bops_of_huge_networks_do_not_overflow_or_round() -> None:
    space = SearchSpace(_layers(2**60 + 1, 2**60 + 3), pins={})
    assert bops(space, space.uniform(8)) == 64 * (2**61 + 4)


def test_bops_of_resnet_20_are_the_published_ones() -> None:
    # ResNet-20 for CIFAR-10 with padding shortcuts: 40,551,040 MACs, 443,008 of them in the first and the last layer.
    space = SearchSpace(_layers(442_368, 40_551_040 - 443_008, 640))
    assert float_bops(space) == 40_551_040 * 1024
    assert bops(space, space.uniform(8)) == 40_551_040 * 64
    assert bops(space, space.uniform(4)) == parse_budget("w4a4", space).limits[0].most
    assert f"{bops(space, space.uniform(4)) / 1e9:.4f}" == "0.6701"


@given(spaces(), st.data())
def test_model_bytes_are_packed_bits_and_32_bit_biases(space: SearchSpace, data: st.DataObject) -> None:
    policy = _draw_policy(space, data)
    weight_bits = sum(layer.parameters * weight for layer, weight in zip(space.layers, policy.weights, strict=True))
    expected = math.ceil(Fraction(weight_bits, 8)) + 4 * sum(layer.biases for layer in space.layers)
    assert ModelSize().units(ModelSize().total(space, policy)) == expected


def test_model_bytes_of_a_network_counted_by_hand() -> None:
    layers = (Layer("a", "conv", 1, parameters=5, biases=2), Layer("b", "linear", 1, parameters=3))
    space = SearchSpace(layers, pins={})
    size = ModelSize()
    assert size.total(space, Policy.from_bits([3, 4], [8, 8])) == 27 + 64  # 15 + 12 bits of weights, two biases
    assert size.units(27 + 64) == 4 + 8, "27 bits fill 4 bytes"
    assert size.units(size.total(space, Policy.from_bits([8, 8], [2, 2]))) == 8 + 8


@given(spaces(most_layers=3, most_choices=2))
def test_the_cheapest_policy_is_the_minimum_of_all(space: SearchSpace) -> None:
    assert bops(space, cheapest(space)) == min(naive_bops(space, policy) for policy in all_policies(space))


# Budgets


@given(spaces(), st.data())
def test_a_budget_in_bits_is_the_uniform_policy_with_the_same_pins(space: SearchSpace, data: st.DataObject) -> None:
    weight = data.draw(st.sampled_from(space.choices))
    activation = weight if space.tie_weight_activation else data.draw(st.sampled_from(space.choices))
    text = f"w{weight}a{activation}"
    assert parse_budget(text, space) == Budget((Limit(naive_bops(space, space.uniform(weight, activation)), text),))


def test_a_budget_between_the_integers_is_exact_and_rounded_down() -> None:
    space = SearchSpace(_layers(1000, 10_003, 2000))
    assert parse_budget("w2.5a2.5", space).limits[0].most == 64 * 3000 + 62_518  # 6.25 * 10,003 = 62,518.75
    assert parse_budget("w2.1a3", space).limits[0].most == 64 * 3000 + 63_018  # 6.3 * 10,003 = 63,018.9
    huge = SearchSpace(_layers(1, 10**18 + 1, 1))
    assert parse_budget("w2.5a2.5", huge).limits[0].most == 128 + (10**18 + 1) * 25 // 4


def test_a_budget_as_a_share_of_float_is_exact_and_rounded_down() -> None:
    space = SearchSpace(_layers(1001, 10_007))
    assert parse_budget("1/16", space).limits[0].most == 1024 * 11_008 // 16
    assert parse_budget("3/47", space).limits[0].most == 3 * 1024 * 11_008 // 47
    huge = SearchSpace(_layers(10**18 + 1), pins={})
    assert parse_budget("3/47", huge).limits[0].most == 3 * 1024 * (10**18 + 1) // 47
    with pytest.raises(BitcertError, match="1/64"):
        parse_budget("1/64", space)  # w4a4, and both layers are pinned at 8/8


def test_a_budget_in_bops_is_taken_as_it_is() -> None:
    space = SearchSpace(_layers(10, 20), pins={})
    assert parse_budget(1000, space) == Budget((Limit(1000, "1000"),))
    assert parse_budget(" 1000 ", space) == Budget((Limit(1000, "1000"),))
    assert parse_budget(120, space).limits[0].most == 120, "exactly the cheapest policy"


@given(spaces(), st.integers(1, 10**6))
def test_a_budget_below_the_cheapest_policy_is_refused_with_both_numbers(space: SearchSpace, below: int) -> None:
    least = bops(space, cheapest(space))
    assert parse_budget(least, space).limits[0].most == least
    limit = max(0, least - below)
    with pytest.raises(BitcertError) as refused:
        parse_budget(limit, space)
    assert str(limit) in str(refused.value)
    assert str(least) in str(refused.value)


@pytest.mark.parametrize(
    ("text", "size"),
    [("10B", 10), ("1KB", 1000), ("0.01KB", 10), ("1.5MB", 1_500_000), ("0.0119KB", 11), ("bytes<=12", 12)],
)
def test_a_model_size_is_decimal_and_rounded_down_to_bytes(text: str, size: int) -> None:
    space = SearchSpace(_layers(10, 20), pins={})  # 2 x 10 weights at 2 bits are 5 bytes
    budget = parse_budget(text, space)
    assert budget == Budget((Limit(8 * size, text, ModelSize()),))
    most = min(8, size * 8 // 20)
    assert budget.allows(space, space.uniform(most, 8))
    assert most == 8 or not budget.allows(space, Policy.from_bits([most + 1] * 2, [2] * 2))


def test_a_model_size_below_the_cheapest_policy_is_refused_in_bytes() -> None:
    with pytest.raises(
        BitcertError, match=r"\(4 bytes\) is below the cheapest policy \(5 bytes at 2/2 bits\).*at least 5"
    ):
        parse_budget("4B", SearchSpace(_layers(10, 20), pins={}))


def test_a_budget_may_name_any_cost() -> None:
    space = SearchSpace(_layers(10, 20), pins={})
    assert parse_budget("bops<=1000", space) == Budget((Limit(1000, "bops<=1000", BOPs()),))
    with pytest.raises(BitcertError, match="unknown cost 'joules'; known: bops, bytes"):
        parse_budget("joules<=1000", space)
    with pytest.raises(BitcertError, match="does not inherit from"):
        parse_budget("suite.contract.trial:Trial<=3", space)


@pytest.mark.parametrize("text", ["w999a999", "w0.9a3", "w3a9", "w8.5a8", "w0a0"])
def test_a_budget_of_bits_that_no_policy_has_is_refused(text: str) -> None:
    with pytest.raises(BitcertError, match=r"must lie in 1\.\.8"):
        parse_budget(text, SearchSpace(_layers(10, 20)))


@pytest.mark.parametrize(
    "text",
    [
        *["", "w4", "a4", "W4A4", "w4a", "w-4a4", "4/4/4", "1/0", "-5", "1e9", "1.5", "w4a4 ish", "w.5a2", "budget"],
        *[
            "w\uff11a\uff13",
            "\u0663",
            "1/\u0666",
            "0/0",
            "1/00",
            "9" * 400,
            "w" + "2" * 400 + "a2",
            "1kb",
            "1TB",
            "-1B",
        ],
        *["bytes<=", "bytes<=1.5", "bytes<5", "<=5", "bytes<=\u0663", "True"],
    ],
)
def test_a_budget_that_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(BitcertError, match="is not understood; give w4a4"):
        parse_budget(text, SearchSpace(_layers(10, 20)))


# The wall


def _walk(space: SearchSpace, policy: Policy, limit: int) -> Policy:
    """The documented walk, with every sum written out: layers from last to first, the activation before the weight."""
    bits = {
        (layer, part): getattr(policy.precisions[layer], part)
        for layer in range(len(space.layers))
        for part in ("activation", "weight")
    }

    fixed = {
        (index, part)
        for index, layer in enumerate(space.layers)
        for part in ("activation", "weight")
        if layer.name in space.pinned and getattr(space.pinned[layer.name], part) is not None
    }

    def tied_with(layer: int, part: str) -> set[tuple[int, str]]:
        names = {space.layers[layer].name}
        for group in space.ties:
            names |= set(group) if names & set(group) else set()
        parts = ("activation", "weight") if space.tie_weight_activation else (part,)
        return {(index, p) for index, member in enumerate(space.layers) if member.name in names for p in parts} - fixed

    def total() -> int:
        return sum(
            layer.macs * bits[index, "weight"] * bits[index, "activation"] for index, layer in enumerate(space.layers)
        )

    while total() > limit:
        met: set[tuple[int, str]] = set()
        for layer in reversed(range(len(space.layers))):
            for part in ("activation", "weight"):
                if (layer, part) in fixed | met or total() <= limit:
                    continue
                tied = tied_with(layer, part)
                met |= tied
                lower = [choice for choice in space.choices if choice < bits[layer, part]]
                bits.update(dict.fromkeys(tied, lower[-1]) if lower else {})
    count = range(len(space.layers))
    return Policy.from_bits([bits[i, "weight"] for i in count], [bits[i, "activation"] for i in count])


@given(spaces(), st.data())
def test_the_wall_lowers_bits_in_the_documented_order(space: SearchSpace, data: st.DataObject) -> None:
    policy = _draw_policy(space, data)
    limit = data.draw(st.integers(bops(space, cheapest(space)), naive_bops(space, policy)))
    lowered = enforce_budget(space, policy, _budget(limit))
    assert belongs(space, lowered)
    assert naive_bops(space, lowered) <= limit
    for before, after in zip(policy.precisions, lowered.precisions, strict=True):
        assert after.weight <= before.weight
        assert after.activation <= before.activation
    assert lowered == _walk(space, policy, limit)


def test_the_wall_walks_from_the_last_layer_taking_the_activation_first() -> None:
    space = SearchSpace(_layers(1, 1, 1), (2, 4, 8), pins={})
    start = space.uniform(8)
    bits = [8, 8, 8, 8, 8, 8]
    for slot in (5, 2, 4, 1, 3, 0):  # flat numbers: weights 0..2, activations 3..5
        limit = bops(space, Policy.from_bits(bits[:3], bits[3:])) - 1
        bits[slot] = 4
        assert enforce_budget(space, start, _budget(limit)) == Policy.from_bits(bits[:3], bits[3:])
    limit = bops(space, space.uniform(4)) - 1
    assert enforce_budget(space, start, _budget(limit)) == Policy.from_bits([4, 4, 4], [4, 4, 2])


@given(spaces(), st.data())
def test_the_wall_leaves_feasible_policies_alone(space: SearchSpace, data: st.DataObject) -> None:
    policy = _draw_policy(space, data)
    assert enforce_budget(space, policy, _budget(naive_bops(space, policy))) is policy


@given(spaces())
def test_the_wall_refuses_a_limit_that_nothing_meets(space: SearchSpace) -> None:
    least = bops(space, cheapest(space))
    with pytest.raises(BitcertError, match=f"at most {least - 1} BOPs; the cheapest has {least}"):
        enforce_budget(space, space.uniform(space.choices[-1]), _budget(least - 1))
    with pytest.raises(BitcertError, match=f"the cheapest has {least}"):
        random_feasible(space, _budget(least - 1), np.random.default_rng(0))


@pytest.mark.parametrize(
    "policy",
    [
        Policy.from_bits([2, 8, 2, 8], [2, 8, 2, 8]),  # the tie of layer1 and layer2 is broken
        Policy.from_bits([8, 8, 8, 8], [8, 8, 8, 8]),  # layer0 is not at its pin
        Policy.from_bits([2, 7, 7, 8], [2, 7, 7, 8]),  # 7 is not a choice
        Policy.from_bits([2, 8], [2, 8]),
    ],
)
def test_the_wall_refuses_a_policy_from_elsewhere(policy: Policy) -> None:
    space = SearchSpace(_layers(5, 6, 7, 8), (2, 8), {"layer0": Precision(2, 2)}, (("layer1", "layer2"),))
    with pytest.raises(BitcertError, match="does not belong to the space"):
        enforce_budget(space, policy, _budget(bops(space, cheapest(space))))


# Random policies within the budget


@given(spaces(), st.data())
def test_random_policies_are_feasible_and_follow_the_generator(space: SearchSpace, data: st.DataObject) -> None:
    least, most = (naive_bops(space, space.uniform(space.choices[end])) for end in (0, -1))
    limit = data.draw(st.sampled_from([least, most]) | st.integers(least, most))
    seed = data.draw(st.integers(0, 2**32))
    drawn, again = (
        [random_feasible(space, _budget(limit), np.random.default_rng(seed + i)) for i in range(5)] for _ in "ab"
    )
    assert drawn == again
    for policy in drawn:
        assert belongs(space, policy)
        assert naive_bops(space, policy) <= limit
    if limit == least:
        assert set(drawn) == {cheapest(space)}


SMALL = {
    "free": SearchSpace(_layers(3, 5), (2, 3, 5, 8), pins={}),
    "pinned": SearchSpace(_layers(3, 7, 9, 2), (2, 4, 8)),
    "tied layers": SearchSpace(_layers(5, 3, 8), (2, 3, 6), pins={}, ties=(("layer0", "layer2"),)),
    "tied weight and activation": SearchSpace(_layers(4, 7, 5), (2, 3, 4, 8), pins={}, tie_weight_activation=True),
    "everything tied": SearchSpace(
        _layers(2, 5, 3, 7), (2, 3, 5, 8), pins={}, ties=(("layer3", "layer1"),), tie_weight_activation=True
    ),
}


def _counts(space: SearchSpace, limit: int, seed: int, **options: int) -> list[int]:
    """How often each feasible policy is drawn, 20 draws for each on average."""
    counts = {policy: 0 for policy in all_policies(space) if naive_bops(space, policy) <= limit}
    rng = np.random.default_rng(seed)
    for _ in range(20 * len(counts)):
        counts[random_feasible(space, _budget(limit), rng, **options)] += 1
    return list(counts.values())


@pytest.mark.parametrize("share", [0.1, 0.5])
@pytest.mark.parametrize("space", SMALL.values(), ids=SMALL)
def test_random_policies_are_close_to_uniform_among_the_feasible(space: SearchSpace, share: float) -> None:
    least, most = (naive_bops(space, space.uniform(space.choices[end])) for end in (0, -1))
    counts = _counts(space, least + int(share * (most - least)), seed=1)
    assert len(counts) > 4
    assert stats.chisquare(counts).pvalue > FALSE_ALARM


def test_the_test_of_uniformity_notices_a_sampler_that_has_not_settled() -> None:
    space = SMALL["free"]
    limit = naive_bops(space, space.uniform(3))
    assert stats.chisquare(_counts(space, limit, seed=1)).pvalue > FALSE_ALARM
    assert stats.chisquare(_counts(space, limit, seed=1, sweeps=1)).pvalue < FALSE_ALARM


# Any cost


@dataclass(frozen=True)
class Slowest(Cost):
    """A layer is as slow as the slower of its two parts, in steps of 4 bits: flat in many places."""

    name: ClassVar[str] = "slowest"
    unit: ClassVar[str] = "ticks"

    def of_layer(self, layer: Layer, precision: Precision) -> int:
        return layer.parameters * -(-max(precision) // 4)


@given(spaces(), st.data())
@pytest.mark.parametrize("cost", [ModelSize(), Slowest()], ids=["bytes", "slowest"])
def test_the_wall_and_the_sampler_hold_for_any_cost(cost: Cost, space: SearchSpace, data: st.DataObject) -> None:
    policy = _draw_policy(space, data)
    least, most = cost.total(space, cheapest(space)), cost.total(space, space.uniform(space.choices[-1]))
    budget = Budget((Limit(data.draw(st.integers(least, most)), "", cost),))
    lowered = enforce_budget(space, policy, budget)
    drawn = random_feasible(space, budget, np.random.default_rng(data.draw(st.integers(0, 100))))
    for found in (lowered, drawn):
        assert belongs(space, found)
        assert sum(map(cost.of_layer, space.layers, found.precisions)) + cost.constant(space) <= budget.limits[0].most
    assert all(
        a <= b
        for low, high in zip(lowered.precisions, policy.precisions, strict=True)
        for a, b in zip(low, high, strict=True)
    )
    if budget.allows(space, policy):
        assert lowered is policy


def test_the_wall_leaves_activations_alone_where_only_weights_cost() -> None:
    space = SearchSpace(_layers(10, 20, 30), pins={})
    lowered = enforce_budget(space, space.uniform(8), Budget((Limit(30 * 5, "", ModelSize()),)))
    assert lowered.activations == (8, 8, 8)
    assert sum(lowered.weights) == 15


@pytest.mark.parametrize("cost", [ModelSize(), Slowest()], ids=["bytes", "slowest"])
@pytest.mark.parametrize("space", SMALL.values(), ids=SMALL)
def test_random_policies_are_close_to_uniform_under_any_cost(space: SearchSpace, cost: Cost) -> None:
    least, most = cost.total(space, cheapest(space)), cost.total(space, space.uniform(space.choices[-1]))
    budget = Budget((Limit((least + most) // 2, "", cost),))
    counts = {policy: 0 for policy in all_policies(space) if budget.allows(space, policy)}
    rng = np.random.default_rng(1)
    for _ in range(20 * len(counts)):
        counts[random_feasible(space, budget, rng)] += 1
    assert len(counts) > 1
    assert stats.chisquare(list(counts.values())).pvalue > FALSE_ALARM
