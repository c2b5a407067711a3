"""Several limits at once: all of them hold, against plain sums and enumeration, and one that never binds changes nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from suite.contract.cost import (
    BOPs,
    Budget,
    Cost,
    Limit,
    ModelSize,
    cheapest,
    enforce_budget,
    largest_uniform,
    parse_budget,
    random_feasible,
    repair,
)
from suite.contract.per_mac import TERNARY
from suite.contract.space import Layer, Policy, Precision, SearchSpace
from suite.errors import BitcertError
from suite.problems.separable import SeparableProblem
from suite.testing.toys import problem_on
from tests.strategies import all_policies, belongs, naive_bops, spaces

FALSE_ALARM = 1e-6


@dataclass(frozen=True)
class Slowest(Cost):
    """A layer is as slow as the slower of its parts: lowering one alone saves nothing where both are equal."""

    name: ClassVar[str] = "slowest"
    unit: ClassVar[str] = "ticks"

    def of_layer(self, layer: Layer, precision: Precision) -> int:
        return layer.parameters * max(precision)


RULES: tuple[Cost, ...] = (BOPs(), ModelSize(), Slowest())


def by_hand(rule: Cost, space: SearchSpace, policy: Policy) -> int:
    """What a policy costs, by the definition of each rule."""
    pairs = list(zip(space.layers, policy.precisions, strict=True))
    if isinstance(rule, BOPs):
        return naive_bops(space, policy)
    if isinstance(rule, ModelSize):
        return sum(layer.parameters * bits.weight + 32 * layer.biases for layer, bits in pairs)
    return sum(layer.parameters * max(bits) for layer, bits in pairs)


def within(budget: Budget, space: SearchSpace, policy: Policy) -> bool:
    """Whether a policy keeps every limit."""
    return all(by_hand(limit.cost, space, policy) <= limit.most for limit in budget.limits)


@st.composite
def cases(draw: st.DrawFn, most_layers: int = 6) -> tuple[SearchSpace, Budget, Policy]:
    """A space, two or three limits between its cheapest and its most expensive policy, and a policy."""
    space = draw(spaces(most_layers, most_choices=4 if most_layers < 6 else 7))
    rules = draw(st.permutations(RULES))[: draw(st.integers(2, 3))]
    limits = []
    for rule in rules:
        least, most = (by_hand(rule, space, space.uniform(space.choices[end])) for end in (0, -1))
        limits.append(Limit(draw(st.integers(least, most)), rule.name, rule))
    indices = st.integers(0, len(space.choices) - 1)
    vector = draw(st.lists(indices, min_size=len(space.variables), max_size=len(space.variables)))
    return space, Budget(tuple(limits)), space.decode(vector)


@given(cases(), st.integers(0, 100))
def test_wall_repair_and_sampler_keep_all_limits(case: tuple[SearchSpace, Budget, Policy], seed: int) -> None:
    space, budget, policy = case
    lowered = [enforce_budget(space, policy, budget), repair(space, policy, budget, np.random.default_rng(seed))]
    for found in (*lowered, random_feasible(space, budget, np.random.default_rng(seed))):
        assert belongs(space, found)
        assert within(budget, space, found)
    assert all((space.encode(found) <= space.encode(policy)).all() for found in lowered)
    assert budget.allows(space, policy) == within(budget, space, policy)
    if within(budget, space, policy):
        assert lowered[0] is policy
        assert lowered[1] is policy


@given(cases())
def test_the_order_of_limits_means_nothing_to_the_wall(case: tuple[SearchSpace, Budget, Policy]) -> None:
    space, budget, policy = case
    assert enforce_budget(space, policy, budget) == enforce_budget(space, policy, Budget(budget.limits[::-1]))


@given(cases(), st.integers(0, 100))
def test_a_limit_that_never_binds_changes_nothing(case: tuple[SearchSpace, Budget, Policy], seed: int) -> None:
    space, budget, policy = case
    for bound, free in (budget.limits[:2], budget.limits[1::-1]):
        alone = Budget((bound,))
        top = by_hand(free.cost, space, space.uniform(space.choices[-1]))
        for both in (Budget((bound, replace(free, most=top))), Budget((replace(free, most=top), bound))):
            assert enforce_budget(space, policy, both) == enforce_budget(space, policy, alone)
            one, other = np.random.default_rng(seed), np.random.default_rng(seed)
            assert repair(space, policy, both, one) == repair(space, policy, alone, other)
            assert random_feasible(space, both, one) == random_feasible(space, alone, other)
            assert one.random() == other.random(), "nothing else was drawn"


@given(cases(most_layers=2))
@settings(max_examples=40)
def test_limits_that_can_be_met_one_by_one_can_be_met_together(case: tuple[SearchSpace, Budget, Policy]) -> None:
    """And what enumeration finds of the uniform policies is what the largest of them is chosen from."""
    space, budget, _ = case
    every = all_policies(space)
    assert all(any(within(Budget((limit,)), space, policy) for policy in every) for limit in budget.limits)
    assert within(budget, space, cheapest(space))
    uniform = [space.uniform(bits) for bits in space.choices if within(budget, space, space.uniform(bits))]
    assert largest_uniform(space, budget) == uniform[-1]


def test_no_policy_is_within_a_budget_whose_cheapest_exceeds_one_part() -> None:
    space = SearchSpace(tuple(Layer(f"layer{n}", "conv", 10 + n, 5) for n in range(3)), pins={})
    least = by_hand(ModelSize(), space, cheapest(space))
    budget = Budget((Limit(10**9, "slack"), Limit(least - 1, "tight", ModelSize())))
    refused, rng = "no policy of this space has at most 4 bytes; the cheapest has 4", np.random.default_rng(0)
    with pytest.raises(BitcertError, match=refused):
        enforce_budget(space, space.uniform(8), budget)
    with pytest.raises(BitcertError, match=refused):
        repair(space, space.uniform(8), budget, rng)
    with pytest.raises(BitcertError, match=refused):
        random_feasible(space, budget, rng)


SMALL = {
    "free": SearchSpace((Layer("a", "conv", 3, 50, 1), Layer("b", "conv", 50, 3, 2)), (2, 3, 5, 8), pins={}),
    "tied": SearchSpace(
        tuple(Layer(f"layer{n}", "conv", macs, 40 // macs) for n, macs in enumerate((5, 3, 8))),
        (2, 3, 6),
        pins={},
        ties=(("layer0", "layer2"),),
    ),
}


@pytest.mark.parametrize("share", [0.3, 0.6])
@pytest.mark.parametrize("space", SMALL.values(), ids=SMALL)
def test_random_policies_are_close_to_uniform_within_two_limits(space: SearchSpace, share: float) -> None:
    limits = []
    for rule in (BOPs(), ModelSize()):
        least, most = (by_hand(rule, space, space.uniform(space.choices[end])) for end in (0, -1))
        limits.append(Limit(least + int(share * (most - least)), "", rule))
    budget, rng = Budget(tuple(limits)), np.random.default_rng(1)
    counts = {policy: 0 for policy in all_policies(space) if within(budget, space, policy)}
    fewer = [sum(within(Budget((limit,)), space, policy) for policy in all_policies(space)) for limit in limits]
    assert 4 < len(counts) < min(fewer), "each limit excludes what the other one does not"
    for _ in range(20 * len(counts)):
        counts[random_feasible(space, budget, rng)] += 1
    assert stats.chisquare(list(counts.values())).pvalue > FALSE_ALARM


def test_the_wall_takes_nothing_that_only_saves_on_a_limit_already_kept() -> None:
    space = SearchSpace(tuple(Layer(f"layer{n}", "conv", 10, 10) for n in range(3)), pins={})
    budget = Budget((Limit(by_hand(BOPs(), space, space.uniform(8)), "slack"), Limit(10 * 15, "size", ModelSize())))
    lowered = enforce_budget(space, space.uniform(8), budget)
    assert lowered.activations == (8, 8, 8)
    assert sum(lowered.weights) == 15


def test_the_repair_prefers_one_variable_that_pays_for_all_limits() -> None:
    """One step too much of both costs: a weight can save both, an activation only one of them."""
    space = SearchSpace(tuple(Layer(f"layer{n}", "conv", 10, 10) for n in range(4)), pins={})
    top, rng = space.uniform(4), np.random.default_rng(0)
    budget = Budget(
        (Limit(by_hand(BOPs(), space, top) - 1, "bops"), Limit(by_hand(ModelSize(), space, top) - 1, "", ModelSize()))
    )
    counts = np.zeros(8)
    for _ in range(400):
        (changed,) = np.flatnonzero(space.encode(top) != space.encode(repair(space, top, budget, rng)))
        counts[changed] += 1
    weights = [number for number, slots in enumerate(space.variables) if slots[0].part == "weight"]
    assert counts.sum() == counts[weights].sum()
    assert stats.chisquare(counts[weights]).pvalue > FALSE_ALARM


def test_the_repair_lowers_a_variable_no_further_than_the_limits_it_saves_on_need() -> None:
    """An activation saves no bytes: whatever the weights have to give up for them, it keeps what the BOPs allow."""
    space = SearchSpace((Layer("only", "conv", 100, 100),), pins={})
    budget = Budget((Limit(100 * 8 * 7, "bops"), Limit(100 * 4, "size", ModelSize())))
    found = {repair(space, space.uniform(8), budget, np.random.default_rng(seed)) for seed in range(20)}
    assert found == {Policy.from_bits([4], [8])}, "the weight pays for both"
    budget = Budget((Limit(100 * 2 * 7, "bops"), Limit(100 * 2, "size", ModelSize())))
    found = {repair(space, space.uniform(8), budget, np.random.default_rng(seed)) for seed in range(20)}
    assert {policy.activations[0] for policy in found} <= {2, 7}
    assert all(within(budget, space, policy) for policy in found)


# Texts and records


@pytest.mark.parametrize("text", ["w4a4+1KB", " w4a4 + 1KB ", "1KB+w4a4", "1/64+bytes<=1000", "100000+bytes<=1000"])
def test_a_budget_of_several_parts_is_read_part_by_part(text: str) -> None:
    space = SearchSpace(tuple(Layer(f"layer{n}", "conv", 1000 + n, 300, 5) for n in range(4)), pins={})
    budget = parse_budget(text, space)
    parts = [part.strip() for part in text.split("+")]
    assert budget.text == "+".join(parts)
    assert budget.limits == tuple(parse_budget(part, space).limits[0] for part in parts)
    record = budget.to_dict()
    assert list(record) == ["budget", "budget_limits"]
    assert record["budget_limits"]["bytes"] == 1000
    assert record["budget_limits"]["bops"] == next(limit.most for limit in budget.limits if limit.cost == BOPs())
    assert list(record["budget_limits"]) == [limit.cost.name for limit in budget.limits]


def test_a_budget_of_one_part_is_recorded_as_one_limit() -> None:
    space = SearchSpace(tuple(Layer(f"layer{n}", "conv", 1000 + n, 300, 5) for n in range(4)), pins={})
    assert parse_budget("70000", space).to_dict() == {"budget": "70000", "budget_bops": 70_000}
    assert parse_budget("1KB", space).to_dict() == {"budget": "1KB", "budget_limit": 8000}


def test_bops_of_a_part_are_counted_by_the_table_of_the_space() -> None:
    layers = tuple(Layer(f"layer{n}", "conv", 1000, 300) for n in range(2))
    space = SearchSpace(layers, (1, 2, 3), pins={}, per_mac=TERNARY)
    size, operations = parse_budget("bytes<=200+bops<=100000", space).limits
    assert (size.cost, operations.cost) == (ModelSize(), BOPs(TERNARY))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("w4a4+w3a3", "budget w4a4+w3a3 limits bops twice, by w4a4 and by w3a3; keep one of them"),
        ("w4a4+1KB+bytes<=900", "limits bytes twice, by 1KB and by bytes<=900"),
        ("1/64+bops<=70000", "limits bops twice"),
        ("w4a4+", "budget '' is not understood"),
        ("+", "budget '' is not understood"),
        ("w4a4++1KB", "budget '' is not understood"),
        ("w4a4+40KBB", "budget '40KBB' is not understood"),
        ("w4a4+1B", r"budget 1B \(1 bytes\) is below the cheapest policy"),
        ("12+1KB", r"budget 12 \(12 BOPs\) is below the cheapest policy"),
        ("w4a4+" * 100, "is not understood"),
    ],
)
def test_mistakes_in_a_part_name_the_part(text: str, message: str) -> None:
    space = SearchSpace(tuple(Layer(f"layer{n}", "conv", 1000 + n, 300, 5) for n in range(4)), pins={})
    with pytest.raises(BitcertError, match=message.replace("+", r"\+") if "twice" in message else message) as error:
        parse_budget(text, space)
    assert "\n" not in str(error.value)


def test_a_budget_without_a_limit_is_refused() -> None:
    with pytest.raises(BitcertError, match="at least one limit"):
        Budget(())


# One number for the costs


@given(cases())
def test_what_is_spent_is_the_cost_or_the_sum_of_shares(case: tuple[SearchSpace, Budget, Policy]) -> None:
    space, budget, policy = case
    for limit in budget.limits:
        assert Budget((limit,)).spent(space, policy) == by_hand(limit.cost, space, policy)
    first, *others = ((by_hand(limit.cost, space, policy), max(1, limit.most)) for limit in budget.limits)
    shares = sum((Fraction(cost, most) for cost, most in [first, *others]), Fraction(0))
    assert budget.spent(space, policy) == shares * first[1]


def test_a_policy_over_several_limits_is_refused_with_each_of_them() -> None:
    problem = problem_on(SMALL["free"], "w3a3+bytes<=40")
    assert [limit.text for limit in problem.budget.exceeded(problem.space, problem.space.uniform(8))] == [
        "w3a3",
        "bytes<=40",
    ]
    with pytest.raises(
        BitcertError, match=r"costs 3392 BOPs, over the budget of 477, and 65 bytes, over the budget of 40$"
    ):
        problem.check_feasible(problem.space.uniform(8))
    heavy = Policy.from_bits([5, 2], [2, 2])
    with pytest.raises(BitcertError, match=r"the policy costs 44 bytes, over the budget of 40$"):
        problem.check_feasible(heavy)


def test_metrics_record_the_costs_that_several_limits_or_the_objective_name() -> None:
    def recorded(budget: str, objective: str) -> dict[str, int]:
        problem = SeparableProblem(layers=4, budget=budget, objective=objective)
        return problem.costs(problem.space.uniform(2))

    problem = SeparableProblem(layers=4)
    size = {"bytes": -(-by_hand(ModelSize(), problem.space, problem.space.uniform(2)) // 8)}
    assert recorded("w4a4", "acr") == recorded("9KB", "acr") == recorded("w4a4", "acr+bops") == {}
    assert recorded("w4a4", "acr+bytes") == recorded("w4a4+9KB", "acr") == recorded("9KB", "acr+bytes+bops") == size


def test_the_limit_on_bops_is_there_alone_or_among_others() -> None:
    problem = SeparableProblem(budget="w3a3")
    assert problem.budget.limit == problem.bops(problem.space.uniform(3))
    assert parse_budget("40KB+w3a3", problem.space).limit == problem.budget.limit
    with pytest.raises(BitcertError, match="40KB does not limit BOPs"):
        _ = parse_budget("40KB", problem.space).limit
