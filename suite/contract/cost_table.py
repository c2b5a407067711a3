"""Costs of a space by variable and choice, so that policies are priced without visiting their layers."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
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
        fixed: What every policy costs: the layers without a choice and the constant.
        partners: Of each variable, the one that sets the other part of its layers; itself where it sets both parts, or where the
            other part is pinned.
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
    partners, curves = [], []
    for variable, slots in enumerate(space.flat_variables):
        layers = sorted({slot % count for slot in slots})
        weight = slots[0] < count
        partner = space.deciders(slots[0] % count)[weight]

        def price(own: int, other: int, layers: list[int] = layers, weight: bool = weight) -> int:
            precision = Precision(own, other) if weight else Precision(other, own)
            return sum(cost.of_layer(space.layers[layer], space.fill(layer, precision)) for layer in layers)

        others = [None if partner == variable else bits for bits in choices]
        curves.append(tuple(tuple(price(own, other or own) for own in choices) for other in others))
        partners.append(partner)
    last_met = [max((slot % count, slot) for slot in slots) for slots in space.flat_variables]
    walk = sorted(range(len(last_met)), key=last_met.__getitem__, reverse=True)
    return CostTable(cost.constant(space) + pinned_cost(space, cost), tuple(partners), tuple(curves), tuple(walk))


def pinned_cost(space: SearchSpace, cost: Rule) -> int:
    """What the layers of a space cost whose weights and inputs are both pinned."""
    lowest, free = Precision(space.choices[0], space.choices[0]), set(space.free_layers)
    return sum(cost.of_layer(layer, space.fill(n, lowest)) for n, layer in enumerate(space.layers) if n not in free)


def uniform_operations(space: SearchSpace, rule: Rule, weight: Fraction, activation: Fraction) -> Fraction:
    """What a space costs with the same bits everywhere but for its pins; between integers a MAC costs the product of its bits."""
    total = Fraction(0)
    for layer, description in enumerate(space.layers):
        pin = space.pin(layer)
        bits = Fraction(pin.weight or weight), Fraction(pin.activation or activation)
        if bits[0].denominator == bits[1].denominator == 1:
            total += rule.of_layer(description, Precision(int(bits[0]), int(bits[1])))
        else:
            total += description.macs * bits[0] * bits[1]
    return total
