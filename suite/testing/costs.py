"""What every cost has to pass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest

from suite.contract.cost import Budget, Cost, Limit, cheapest, enforce_budget, random_feasible, repair
from suite.contract.per_mac import MAX_BITS, MIN_BITS
from suite.contract.space import LAYER_KINDS, Layer, Pin, Precision, SearchSpace
from suite.testing.toys import SPACES, assert_feasible, problem_on

DRAWS = 20


def random_spaces() -> Iterator[SearchSpace]:
    """Spaces with random layers, choices, pins and ties, and those of ``suite.testing.toys``."""
    yield from SPACES.values()
    rng = np.random.default_rng(0)
    for _ in range(DRAWS):
        count = int(rng.integers(1, 7))
        layers = tuple(
            Layer(
                f"layer{index}",
                LAYER_KINDS[int(rng.integers(len(LAYER_KINDS)))],
                macs=int(rng.integers(1, 10**6)),
                parameters=int(rng.integers(1, 10**6)),
                biases=int(rng.integers(0, 65)),
                in_channels=int(rng.integers(1, 65)),
                out_channels=int(rng.integers(1, 65)),
                input_size=(8, 8),
            )
            for index in range(count)
        )
        choices = tuple(sorted(map(int, rng.choice(range(2, 9), size=int(rng.integers(1, 8)), replace=False))))
        pins = {"layer0": Pin(8, None if rng.random() < 0.5 else 8)} if rng.random() < 0.5 else {}
        free = [layer.name for layer in layers if layer.name not in pins]
        ties = (tuple(free[-2:]),) if len(free) > 1 and rng.random() < 0.5 else ()
        yield SearchSpace(layers, choices, pins, ties, bool(rng.random() < 0.3))


class CostConformance(ABC):
    """Exact, monotone and additive, so that the wall, the repair, the sampler and the integer program hold it to the last unit."""

    @abstractmethod
    def make(self) -> Cost:
        """Build the cost under test."""

    def test_it_is_a_value_with_a_name_and_a_unit(self) -> None:
        cost = self.make()
        assert cost == self.make()
        assert hash(cost) == hash(self.make()), "costs are frozen dataclasses: tables are kept by cost"
        assert cost.name
        assert cost.unit
        assert type(cost.per_unit) is int
        assert cost.per_unit >= 1

    def test_layers_cost_whole_numbers_that_never_fall_with_more_bits(self) -> None:
        cost = self.make()
        for layer in {layer for space in random_spaces() for layer in space.layers}:
            prices = {
                bits: cost.of_layer(layer, Precision(*bits))
                for bits in product(range(MIN_BITS, MAX_BITS + 1), repeat=2)
            }
            for (weight, activation), price in prices.items():
                assert type(price) is int
                assert price >= 0
                assert price >= prices.get((weight - 1, activation), 0), f"{layer} gets cheaper with more weight bits"
                assert price >= prices.get((weight, activation - 1), 0), f"{layer} gets cheaper with more input bits"

    def test_a_policy_costs_the_sum_of_its_layers_and_the_constant(self) -> None:
        cost, rng = self.make(), np.random.default_rng(1)
        for space in random_spaces():
            policy = space.random(rng)
            layers = [cost.of_layer(*pair) for pair in zip(space.layers, policy.precisions, strict=True)]
            assert cost.total(space, policy) == sum(layers) + cost.constant(space)
            assert type(cost.constant(space)) is int
            assert cost.total(space, cheapest(space)) <= cost.total(space, policy)

    @pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
    def test_the_wall_the_repair_and_the_sampler_stay_within_a_budget(self, share: float) -> None:
        cost, rng = self.make(), np.random.default_rng(2)
        for space in random_spaces():
            problem = problem_on(space, 10**30)
            least, most = (cost.total(space, space.uniform(space.choices[end])) for end in (0, -1))
            problem.budget = Budget((Limit(least + int(share * (most - least)), "", cost),))
            for _ in range(3):
                policy = space.random(rng)
                for lowered in (
                    enforce_budget(space, policy, problem.budget),
                    repair(space, policy, problem.budget, rng),
                ):
                    assert_feasible(problem, lowered)
                    assert lowered == policy or not problem.is_feasible(policy)
                assert_feasible(problem, random_feasible(space, problem.budget, rng))
