"""What a policy costs: bit operations (BOPs), model size, budgets, and what brings policies within them."""

from __future__ import annotations

import bisect
import functools
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np

from suite.contract.per_mac import MAX_BITS, MIN_BITS, PerMac, check_per_mac
from suite.contract.space import FLOAT_BITS, Layer, Policy, Precision, SearchSpace
from suite.errors import BitcertError
from suite.plugins import COSTS

_MOST_TEXT = 100  # characters of a budget

_SIZES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


class Cost(ABC):
    """A rule that gives each layer and precision a cost, as an integer; the cost of a policy is the sum.

    A new cost is a frozen dataclass, whose fields are its options, with :meth:`of_layer`.

    Attributes:
        name: The registered name.
        unit: What costs are shown in.
        per_unit: How many of the integers that :meth:`of_layer` counts make one ``unit``.
    """

    name: ClassVar[str]
    unit: ClassVar[str]
    per_unit: ClassVar[int] = 1

    @abstractmethod
    def of_layer(self, layer: Layer, precision: Precision) -> int:
        """What a layer costs at a precision: an integer >= 0 that never falls when bits are raised."""

    def constant(self, space: SearchSpace) -> int:
        """Cost that every policy of a space has in addition to its layers."""
        return 0

    def total(self, space: SearchSpace, policy: Policy) -> int:
        """Cost of a policy, exact."""
        return sum(map(self.of_layer, space.layers, policy.precisions)) + self.constant(space)

    def units(self, amount: int) -> int:
        """A cost in whole ``unit``, rounded up."""
        return -(-amount // self.per_unit)


@dataclass(frozen=True, slots=True)
class BOPs(Cost):
    """Bit operations for one image: MACs x weight bits x activation bits, or MACs x what a table says.

    Attributes:
        per_mac: Bit operations of one MAC by weight and activation bits, row by row; None for the product. A budget takes
            over the table of its space.
    """

    name: ClassVar[str] = "bops"
    unit: ClassVar[str] = "BOPs"
    per_mac: PerMac | None = None

    def __post_init__(self) -> None:
        if self.per_mac is not None:
            check_per_mac(self.per_mac)

    def of_layer(self, layer: Layer, precision: Precision) -> int:
        """MACs x weight bits x activation bits, or x the table's entry."""
        return layer.macs * self.of_mac(precision)

    def of_mac(self, precision: Precision) -> int:
        """Bit operations of one MAC; bits beyond the table cost their product."""
        weight, activation = precision
        if self.per_mac is None or max(weight, activation) > MAX_BITS:
            return weight * activation
        return self.per_mac[weight - 1][activation - 1]


@dataclass(frozen=True, slots=True)
class ModelSize(Cost):
    """Bytes of all weights at their bits, packed and rounded up once, plus 4 bytes for each bias; counted in bits."""

    name: ClassVar[str] = "bytes"
    unit: ClassVar[str] = "bytes"
    per_unit: ClassVar[int] = 8

    def of_layer(self, layer: Layer, precision: Precision) -> int:
        """Bits of the weights."""
        return layer.parameters * precision.weight

    def constant(self, space: SearchSpace) -> int:
        """Bits of the biases, which stay in floating point."""
        return FLOAT_BITS * sum(layer.biases for layer in space.layers)


def bops(space: SearchSpace, policy: Policy) -> int:
    """Sum over layers of MACs x weight bits x activation bits (or the space's table) for one image, exact."""
    return BOPs(space.per_mac).total(space, policy)


def float_bops(space: SearchSpace) -> int:
    """BOPs of the network at 32 x 32 bits."""
    return sum(layer.macs for layer in space.layers) * FLOAT_BITS * FLOAT_BITS


def cheapest(space: SearchSpace) -> Policy:
    """The cheapest policy under any cost: every variable at its lowest choice."""
    return space.uniform(space.choices[0])


@dataclass(frozen=True, slots=True)
class Budget:
    """The limit on one cost. Several limits at once are not supported yet.

    Attributes:
        limit: Largest cost of a feasible policy, an integer in the units that ``cost`` counts (BOPs, or bits of a model).
        text: The budget as given, such as ``"w3a3"``.
        cost: What is limited.
    """

    limit: int
    text: str
    cost: Cost = BOPs()

    def to_dict(self) -> dict[str, str | int]:
        """For the record of a problem: the text, and the limit as ``budget_bops``, or ``budget_limit`` for another cost."""
        return {"budget": self.text, "budget_bops" if isinstance(self.cost, BOPs) else "budget_limit": self.limit}

    def allows(self, space: SearchSpace, policy: Policy) -> bool:
        """Whether a policy costs no more than the limit."""
        return self.cost.total(space, policy) <= self.limit


def parse_budget(text: str | int, space: SearchSpace) -> Budget:
    """Read a budget on BOPs, on model size, or on any registered cost.

    BOPs: ``w4a4`` (the uniform policy with the same pins), ``1/64`` (of FP32), or an integer. Bits between the integers are
    allowed in the first form: ``w2.5a2.5`` is the budget at which every free layer spends 2.5 x 2.5 operations per MAC, the
    product also where the space has a table, which has no entry between integers: with ternary inputs ``w1.5a1.5`` (2.25
    operations per MAC) is more than ``w2a2`` (2). Model
    size: ``300B``, ``40KB``, ``1.5MB``, in decimal (1 KB is 1000 bytes). Any other cost: ``NAME<=N`` in its unit, where NAME
    is registered or ``my_module:Class``, with options after it. Limits are rounded down to an integer.

    Raises:
        BitcertError: If the text is none of these, or the limit is below the cheapest policy.
    """
    asked = str(text).strip()
    bops_rule = BOPs(space.per_mac)
    cost: Cost = bops_rule
    found = functools.partial(re.fullmatch, string=asked if len(asked) <= _MOST_TEXT else "", flags=re.ASCII)
    if uniform := found(r"w(\d+(?:\.\d+)?)a(\d+(?:\.\d+)?)"):
        weight, activation = Fraction(uniform[1]), Fraction(uniform[2])
        if not all(MIN_BITS <= bits <= MAX_BITS for bits in (weight, activation)):
            raise BitcertError(f"bits of the budget {asked} must lie in {MIN_BITS}..{MAX_BITS}")
        free = sum(layer.macs for layer in space.layers if layer.name not in space.pinned)
        whole = weight.denominator == activation.denominator == 1
        operations = bops_rule.of_mac(Precision(int(weight), int(activation))) if whole else weight * activation
        limit = int(free * operations + _pinned(space, cost))
    elif share := found(r"(\d+)/0*([1-9]\d*)"):
        limit = int(float_bops(space) * Fraction(int(share[1]), int(share[2])))
    elif found(r"\d+"):
        limit = int(asked)
    elif size := found(r"(\d+(?:\.\d+)?)([KMG]?B)"):
        cost = ModelSize()
        limit = int(Fraction(size[1]) * _SIZES[size[2]]) * cost.per_unit
    elif other := found(r"([^<>]+)<=(\d+)"):
        cost = COSTS.make(other[1])
        cost = bops_rule if cost == BOPs() else cost
        limit = int(other[2]) * cost.per_unit
    else:
        raise BitcertError(
            f"budget {asked[:_MOST_TEXT]!r} is not understood; give w4a4, a fraction of FP32 such as 1/64, BOPs as an integer, "
            "a model size such as 40KB, or COST<=N"
        )
    least, lowest = cost.total(space, cheapest(space)), space.choices[0]
    if limit < least:
        raise BitcertError(
            f"budget {asked} ({cost.units(limit):,} {cost.unit}) is below the cheapest policy ({cost.units(least):,} "
            f"{cost.unit} at {lowest}/{lowest} bits); raise the budget to at least {cost.units(least)} or allow fewer bits"
        )
    return Budget(limit, asked, cost)


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
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

    def total(self, vector: Sequence[int]) -> int:
        """Cost of a policy, given as an index into the choices for each variable."""
        # Of a weight and its partner only the first is counted: both curves are the cost of the same layers.
        pairs = enumerate(self.partners)
        return self.fixed + sum(self.curves[v][vector[p]][vector[v]] for v, p in pairs if v <= p)


@functools.lru_cache(maxsize=64)
def _tabulate(space: SearchSpace, cost: Cost) -> _Table:
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
    return _Table(cost.constant(space) + _pinned(space, cost), tuple(partners), tuple(curves), tuple(walk))


def _pinned(space: SearchSpace, cost: Cost) -> int:
    return sum(cost.of_layer(layer, space.pinned[layer.name]) for layer in space.layers if layer.name in space.pinned)


def largest_uniform(space: SearchSpace, budget: Budget) -> Policy | None:
    """The uniform policy within the budget that has the most bits; None if none is."""
    feasible = [policy for bits in space.choices if budget.allows(space, policy := space.uniform(bits))]
    return feasible[-1] if feasible else None


def enforce_budget(space: SearchSpace, policy: Policy, budget: Budget) -> Policy:
    """Lower a policy until it is within the budget: HAQ's budget wall, which is part of its agent's environment.

    Walks the layers from last to first; on the way each variable gives up one step of ``choices``, the activation
    before the weight (a tied variable once, where its last layer is met). Stops as soon as the budget holds, and
    repeats the walk until it does (HAQ, Wang et al. 2019, section 3.4). Variables whose step saves nothing, such as
    activations under a model size, are left alone while others save. Bits are never raised; a feasible policy is returned
    as it is. Many variables change at once: use :func:`repair` where a method means its policies as it proposes them.

    Raises:
        BitcertError: If the policy does not belong to the space, or even the cheapest one exceeds the budget.
    """
    if policy not in space:
        raise BitcertError(f"the policy does not belong to the space: {policy.to_json()}")
    if budget.allows(space, policy):
        return policy
    table, vector = _tabulate(space, budget.cost), space.encode(policy).tolist()
    total, saving = _start(space, table, budget, vector), True
    while True:
        before = total
        for variable in table.walk:
            position, curve = vector[variable], table.curves[variable][vector[table.partners[variable]]]
            saved = curve[position] - curve[position - 1] if position else 0
            if saved or (position and not saving):
                vector[variable] -= 1
                total -= saved
                if total <= budget.limit:
                    return space.decode(vector)
        saving = total < before  # a walk that saved nothing is followed by one in which every variable steps down


def repair(space: SearchSpace, policy: Policy, budget: Budget, rng: np.random.Generator) -> Policy:
    """Lower a policy until it is within the budget, changing few variables: the repair that searchers share.

    Among the variables that can save the excess alone, one is drawn uniformly and lowered as little as suffices. While
    there is none, one is drawn with probability proportional to what it can save, and lowered to the lowest choice (any
    that is above it, where none saves anything by itself). Bits are never raised, variables that save nothing are left
    alone, and a feasible policy is returned as it is. A child that differs from a feasible parent in two variables mostly
    stays so, where :func:`enforce_budget` changes several others.

    Raises:
        BitcertError: If the policy does not belong to the space, or even the cheapest one exceeds the budget.
    """
    table, vector = _tabulate(space, budget.cost), space.encode(policy).tolist()
    total = _start(space, table, budget, vector)
    if total <= budget.limit:
        return policy
    while total > budget.limit:
        excess = total - budget.limit
        curves = [table.curves[variable][vector[partner]] for variable, partner in enumerate(table.partners)]
        savings = [curve[position] - curve[0] for curve, position in zip(curves, vector, strict=True)]
        weights = np.array([saving >= excess for saving in savings], dtype=float)
        if not weights.any():
            weights = np.array(savings if any(savings) else vector, dtype=float)
        variable = int(rng.choice(len(vector), p=weights / weights.sum()))
        curve, position = curves[variable], vector[variable]
        vector[variable] = max(0, bisect.bisect_right(curve, curve[position] - excess) - 1)
        total -= curve[position] - curve[vector[variable]]
    return space.decode(vector)


def random_feasible(space: SearchSpace, budget: Budget, rng: np.random.Generator, sweeps: int = 8) -> Policy:
    """Draw a policy within the budget, close to uniformly among all of them, in a fixed number of steps.

    A Gibbs sampler: starting from the cheapest policy, each sweep visits the variables in order and redraws each
    uniformly among the choices that the budget leaves, the others held. The feasible policies are closed under lowering
    bits, hence connected through the cheapest one, and the uniform distribution on them is the sampler's only stationary
    one. No draw is ever rejected, however tight the budget.

    Args:
        space: The space to draw from.
        budget: What a policy may cost.
        rng: Source of randomness.
        sweeps: Passes over all variables.

    Raises:
        BitcertError: If even the cheapest policy exceeds the budget.
    """
    table, vector = _tabulate(space, budget.cost), [0] * len(space.variables)
    room = budget.limit - _start(space, table, budget, vector)
    variables = list(zip(range(len(vector)), table.partners, table.curves, strict=True))
    for uniforms in rng.random((sweeps, len(vector))).tolist():
        for uniform, (variable, partner, curves) in zip(uniforms, variables, strict=True):
            curve = curves[vector[partner]]
            room += curve[vector[variable]]
            choice = int(uniform * bisect.bisect_right(curve, room))
            room -= curve[choice]
            vector[variable] = choice
    return space.decode(vector)


def _start(space: SearchSpace, table: _Table, budget: Budget, vector: Sequence[int]) -> int:
    """The cost of a policy, once it is known that the cheapest one is within the budget."""
    least = table.total([0] * len(vector))
    if least > budget.limit:
        limit, unit = budget.cost.units(budget.limit), budget.cost.unit
        raise BitcertError(
            f"no policy of this space has at most {limit} {unit}; the cheapest has {budget.cost.units(least)}"
        )
    return table.total(vector)
