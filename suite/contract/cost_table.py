"""Costs of a space by variable and choice, so that policies are priced without visiting their layers."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from suite.contract.space import Layer, Precision, SearchSpace


class Rule(Protocol):
    """What a table is made from: a :class:`.cost.Cost`."""

    def of_layer(self, layer: Layer, precision: Precision) -> int:
        """What a layer costs at a precision."""

    def constant(self, space: SearchSpace) -> int:
        """What every policy costs in addition to its layers."""


@dataclass(frozen=True, slots=True, eq=False)
class CostTable:
    """Costs of the variables of a space: every cost is a sum over layers, and a layer has two variables at most.

    Attributes:
        fixed: What every policy costs: the pinned layers and the constant.
        partners: Of each variable, the one that sets the other part of its layers; itself where it sets both parts.
        curves: What the layers of a variable cost, by the choice of its partner and its own choice; ascending along the latter.
        walk: The variables from the last layer to the first, the activation before the weight.
    """

    fixed: int
    partners: tuple[int, ...]
    curves: tuple[tuple[tuple[int, ...], ...], ...]
    walk: tuple[int, ...]

    def curve(self, vector: Sequence[int], variable: int) -> tuple[int, ...]:
        """What the layers of a variable cost by its own choice, that of its partner held."""
        return self.curves[variable][vector[self.partners[variable]]]

    def step(self, vector: Sequence[int], variable: int) -> int:
        """What lowering a variable by one choice saves."""
        curve, position = self.curves[variable][vector[self.partners[variable]]], vector[variable]
        return curve[position] - curve[position - 1]

    def all_curves(self, vector: Sequence[int]) -> list[tuple[int, ...]]:
        """The curve of every variable."""
        return [curves[vector[partner]] for curves, partner in zip(self.curves, self.partners, strict=True)]

    def total(self, vector: Sequence[int]) -> int:
        """Cost of a policy, given as an index into the choices for each variable."""
        # Of a weight and its partner only the first is counted: both curves are the cost of the same layers.
        pairs = enumerate(self.partners)
        return self.fixed + sum(self.curves[v][vector[p]][vector[v]] for v, p in pairs if v <= p)


@functools.lru_cache(maxsize=64)
def tabulate(space: SearchSpace, cost: Rule) -> CostTable:
    """The table of a space under a cost; the last few are kept."""
    count, choices = len(space.layers), space.choices
    variable_of = {slot: variable for variable, slots in enumerate(space.flat_variables) for slot in slots}
    partners, curves = [], []
    for variable, slots in enumerate(space.flat_variables):
        layers = [space.layers[index] for index in sorted({slot % count for slot in slots})]
        partner = variable_of[(slots[0] + count) % (2 * count)]

        def price(own: int, other: int, layers: list[Layer] = layers, weight: bool = slots[0] < count) -> int:
            precision = Precision(own, other) if weight else Precision(other, own)
            return sum(cost.of_layer(layer, precision) for layer in layers)

        others = [None if partner == variable else bits for bits in choices]
        curves.append(tuple(tuple(price(own, other or own) for own in choices) for other in others))
        partners.append(partner)
    last_met = [max((slot % count, slot) for slot in slots) for slots in space.flat_variables]
    walk = sorted(range(len(last_met)), key=last_met.__getitem__, reverse=True)
    return CostTable(cost.constant(space) + pinned_cost(space, cost), tuple(partners), tuple(curves), tuple(walk))


def pinned_cost(space: SearchSpace, cost: Rule) -> int:
    """What the pinned layers of a space cost."""
    return sum(cost.of_layer(layer, space.pinned[layer.name]) for layer in space.layers if layer.name in space.pinned)
