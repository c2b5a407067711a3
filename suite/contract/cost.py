"""What a policy costs: bit operations (BOPs), model size, budgets of one or more limits, and what brings policies within them."""

from __future__ import annotations

import bisect
import functools
import itertools
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np

from suite.contract.cost_table import CostTable, tabulate, uniform_operations
from suite.contract.per_mac import MAX_BITS, MIN_BITS, PerMac, check_per_mac
from suite.contract.space import FLOAT_BITS, Layer, Policy, Precision, SearchSpace
from suite.errors import BitcertError
from suite.plugins import COSTS

_MOST_TEXT = 300  # characters of a limit, which may name a file

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
class Limit:
    """The most that a policy may cost by one rule.

    Attributes:
        most: Largest cost, an integer in the units that ``cost`` counts (BOPs, or bits of a model).
        text: The limit as given, such as ``"w3a3"``.
        cost: What is limited.
    """

    most: int
    text: str
    cost: Cost = BOPs()


@dataclass(frozen=True, slots=True)
class Budget:
    """One or more limits, all of which a policy has to keep.

    Costs never rise when bits are lowered: the cheapest policy keeps all limits together if it keeps each of them, and a
    policy within the budget stays there when bits are lowered.

    Attributes:
        limits: Each on another cost, in the order given.

    Raises:
        BitcertError: If a cost is limited twice, or there is no limit.
    """

    limits: tuple[Limit, ...]

    def __post_init__(self) -> None:
        if not self.limits:
            raise BitcertError("a budget needs at least one limit")
        for limit, other in itertools.combinations(self.limits, 2):
            if limit.cost.name == other.cost.name:
                raise BitcertError(
                    f"budget {self.text} limits {limit.cost.name} twice, by {limit.text} and by {other.text}; keep one of them"
                )

    @property
    def text(self) -> str:
        """The limits as given, joined by ``+``."""
        return "+".join(limit.text for limit in self.limits)

    @property
    def limit(self) -> int:
        """The limit on BOPs; raises BitcertError if they are not limited."""
        found = next((limit.most for limit in self.limits if isinstance(limit.cost, BOPs)), None)
        if found is None:
            raise BitcertError(f"the budget {self.text} does not limit BOPs; its limits are in Budget.limits")
        return found

    def to_dict(self) -> dict[str, Any]:
        """For the record of a problem: the text, and the one limit as ``budget_bops``, or ``budget_limit`` for another cost.

        Several limits are ``budget_limits``, by the names of the costs and in whole units of theirs.
        """
        if len(self.limits) > 1:
            limits = {limit.cost.name: limit.cost.units(limit.most) for limit in self.limits}
            return {"budget": self.text, "budget_limits": limits}
        (limit,) = self.limits
        return {"budget": self.text, "budget_bops" if isinstance(limit.cost, BOPs) else "budget_limit": limit.most}

    def allows(self, space: SearchSpace, policy: Policy) -> bool:
        """Whether a policy costs no more than any limit."""
        return all(limit.cost.total(space, policy) <= limit.most for limit in self.limits)

    def exceeded(self, space: SearchSpace, policy: Policy) -> tuple[Limit, ...]:
        """The limits that a policy does not keep."""
        return tuple(limit for limit in self.limits if limit.cost.total(space, policy) > limit.most)

    def describe_excess(self, space: SearchSpace, policy: Policy) -> str:
        """Say what a policy beyond the budget costs, as part of an error."""

        def excess(cost: Cost, most: int) -> str:
            return f"{cost.units(cost.total(space, policy))} {cost.unit}, over the budget of {cost.units(most)}"

        return f"costs {', and '.join(excess(limit.cost, limit.most) for limit in self.exceeded(space, policy))}"

    def spent(self, space: SearchSpace, policy: Policy) -> Fraction:
        """What a policy costs, as one exact number to compare policies by.

        The cost itself where one is limited. Several are added up in proportion to their limits, as so much of the first.
        """
        unit = max(1, self.limits[0].most)
        return sum(
            (Fraction(limit.cost.total(space, policy) * unit, max(1, limit.most)) for limit in self.limits), Fraction(0)
        )


def take_table(cost: Cost, space: SearchSpace) -> Cost:
    """A cost as it is counted on a space: BOPs by the space's table, others as they are."""
    return BOPs(space.per_mac) if cost == BOPs() else cost


def parse_budget(text: str | int, space: SearchSpace) -> Budget:
    """Read a budget on BOPs, on model size, or on any registered cost, or on several of them, such as ``w4a4+40KB``.

    BOPs: ``w4a4`` (the uniform policy with the same pins), ``1/64`` (of FP32), or an integer. Bits between the integers are
    allowed in the first form: ``w2.5a2.5`` is the budget at which every free layer spends 2.5 x 2.5 operations per MAC, the
    product also where the space has a table, which has no entry between integers: with ternary inputs ``w1.5a1.5`` (2.25
    operations per MAC) is more than ``w2a2`` (2). Model
    size: ``300B``, ``40KB``, ``1.5MB``, in decimal (1 KB is 1000 bytes). Any other cost: ``NAME<=N`` in its unit, where NAME
    is registered or ``my_module:Class``, with options after it. Limits are rounded down to an integer.

    Raises:
        BitcertError: If a part is none of these, a limit is below the cheapest policy, or a cost is limited twice.
    """
    asked = str(text).strip()
    parts = asked.split("+") if len(asked) <= _MOST_TEXT else [asked]
    return Budget(tuple(_parse_limit(part.strip(), space) for part in parts))


def _parse_limit(asked: str, space: SearchSpace) -> Limit:
    bops_rule = BOPs(space.per_mac)
    cost: Cost = bops_rule
    found = functools.partial(re.fullmatch, string=asked if len(asked) <= _MOST_TEXT else "", flags=re.ASCII)
    if uniform := found(r"w(\d+(?:\.\d+)?)a(\d+(?:\.\d+)?)"):
        weight, activation = Fraction(uniform[1]), Fraction(uniform[2])
        if not all(MIN_BITS <= bits <= MAX_BITS for bits in (weight, activation)):
            raise BitcertError(f"bits of the budget {asked} must lie in {MIN_BITS}..{MAX_BITS}")
        limit = int(uniform_operations(space, bops_rule, weight, activation))
    elif share := found(r"(\d+)/0*([1-9]\d*)"):
        limit = int(float_bops(space) * Fraction(int(share[1]), int(share[2])))
    elif found(r"\d+"):
        limit = int(asked)
    elif size := found(r"(\d+(?:\.\d+)?)([KMG]?B)"):
        cost = ModelSize()
        limit = int(Fraction(size[1]) * _SIZES[size[2]]) * cost.per_unit
    elif other := found(r"([^<>]+)<=(\d+)"):
        cost = take_table(COSTS.make(other[1]), space)
        limit = int(other[2]) * cost.per_unit
    else:
        raise BitcertError(
            f"budget {asked[:_MOST_TEXT]!r} is not understood; give w4a4, a fraction of FP32 such as 1/64, BOPs as an integer, "
            "a model size such as 40KB, or COST<=N; several limits are joined by +"
        )
    least, lowest = cost.total(space, cheapest(space)), space.choices[0]
    if limit < least:
        raise BitcertError(
            f"budget {asked} ({cost.units(limit):,} {cost.unit}) is below the cheapest policy ({cost.units(least):,} "
            f"{cost.unit} at {lowest}/{lowest} bits); raise the budget to at least {cost.units(least)} or allow fewer bits"
        )
    if not least and not cost.total(space, space.uniform(space.choices[-1])):
        raise BitcertError(f"budget {asked} limits nothing: every policy costs 0 {cost.unit} here; leave it out")
    return Limit(limit, asked, cost)


def largest_uniform(space: SearchSpace, budget: Budget) -> Policy | None:
    """The uniform policy within the budget that has the most bits; None if none is."""
    feasible = [policy for bits in space.choices if budget.allows(space, policy := space.uniform(bits))]
    return feasible[-1] if feasible else None


def enforce_budget(space: SearchSpace, policy: Policy, budget: Budget) -> Policy:
    """Lower a policy until it is within the budget: HAQ's budget wall, which is part of its agent's environment.

    Walks the layers from last to first; on the way each variable gives up one step of ``choices``, the activation
    before the weight (a tied variable once, where its last layer is met). Stops as soon as the budget holds, and
    repeats the walk until it does (HAQ, Wang et al. 2019, section 3.4). Variables whose step saves nothing of a limit that is
    still exceeded, such as activations under a model size, are left alone while others save. Bits are never raised; a
    feasible policy is returned as it is. Many variables change at once: use :func:`repair` where a method means its policies
    as it proposes them.

    Raises:
        BitcertError: If the policy does not belong to the space, or even the cheapest one exceeds the budget.
    """
    if policy not in space:
        raise BitcertError(f"the policy does not belong to the space: {policy.to_json()}")
    if budget.allows(space, policy):
        return policy
    tables, vector = _tabulate(space, budget), space.encode(policy).tolist()
    excess, saving = _excess(tables, budget, vector), True
    while True:
        before = excess
        for variable in filter(vector.__getitem__, tables[0].walk):
            saved = [table.step(vector, variable) for table in tables]
            if not saving or any(less and over > 0 for less, over in zip(saved, excess, strict=True)):
                vector[variable] -= 1
                excess = [over - less for less, over in zip(saved, excess, strict=True)]
                if max(excess) <= 0:
                    return space.decode(vector)
        saving = excess < before  # a walk that saved nothing is followed by one in which every variable steps down


def repair(space: SearchSpace, policy: Policy, budget: Budget, rng: np.random.Generator) -> Policy:
    """Lower a policy until it is within the budget, changing few variables: the repair that searchers share.

    Among the variables that can save the excess over all limits alone, one is drawn uniformly and lowered as little as
    suffices. While there is none, one is drawn with probability proportional to what it can save, as a share of the excess
    and added up over limits, and lowered as little as suffices for the limits it saves on, or to the lowest choice (any that
    is above it, where none saves anything by itself). Bits are never raised, variables that save nothing are left alone, and
    a feasible policy is returned as it is. A child that differs from a feasible parent in two variables mostly
    stays so, where :func:`enforce_budget` changes several others.

    Raises:
        BitcertError: If the policy does not belong to the space, or even the cheapest one exceeds the budget.
    """
    tables, vector = _tabulate(space, budget), space.encode(policy).tolist()
    excess = _excess(tables, budget, vector)
    if max(excess) <= 0:
        return policy
    while max(excess) > 0:
        over = [(table, more) for table, more in zip(tables, excess, strict=True) if more > 0]
        saved = [
            [min(more, curve[at] - curve[0]) for curve, at in zip(table.all_curves(vector), vector, strict=True)]
            for table, more in over
        ]
        alone = [True] * len(vector)
        for row, (_, more) in zip(saved, over, strict=True):
            alone = [pays and less == more for pays, less in zip(alone, row, strict=True)]
        weights = np.array(alone, dtype=float)
        if not weights.any():
            shares = [
                np.array(row, dtype=float) * (over[0][1] / more) for row, (_, more) in zip(saved, over, strict=True)
            ]
            weights = np.sum(shares, axis=0)
        if not weights.any():
            weights = np.array(vector, dtype=float)
        variable = int(rng.choice(len(vector), p=weights / weights.sum()))
        position, enough = vector[variable], []
        for row, (table, more) in zip(saved, over, strict=True):
            if row[variable]:
                curve = table.curve(vector, variable)
                enough.append(max(0, bisect.bisect_right(curve, curve[position] - more) - 1))
        lowered = min(enough, default=0)
        curves = [table.curve(vector, variable) for table in tables]
        excess = [more - curve[position] + curve[lowered] for more, curve in zip(excess, curves, strict=True)]
        vector[variable] = lowered
    return space.decode(vector)


def random_feasible(space: SearchSpace, budget: Budget, rng: np.random.Generator, sweeps: int = 8) -> Policy:
    """Draw a policy within the budget, close to uniformly among all of them, in a fixed number of steps.

    A Gibbs sampler: starting from the cheapest policy, each sweep visits the variables in order and redraws each
    uniformly among the choices that all limits leave, the others held. The feasible policies are closed under lowering
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
    tables, vector = _tabulate(space, budget), [0] * len(space.variables)
    rooms = [-over for over in _excess(tables, budget, vector)]
    curves_of = [list(enumerate(curves)) for curves in zip(*(table.curves for table in tables), strict=True)]
    variables = list(zip(range(len(vector)), tables[0].partners, curves_of, strict=True))
    for uniforms in rng.random((sweeps, len(vector))).tolist():
        for uniform, (variable, partner, curves) in zip(uniforms, variables, strict=True):
            left, held, other = len(space.choices), vector[variable], vector[partner]
            for number, curve in curves:
                rooms[number] += curve[other][held]
                left = min(left, bisect.bisect_right(curve[other], rooms[number]))
            vector[variable] = choice = int(uniform * left)
            for number, curve in curves:
                rooms[number] -= curve[other][choice]
    return space.decode(vector)


def _tabulate(space: SearchSpace, budget: Budget) -> list[CostTable]:
    return [tabulate(space, limit.cost) for limit in budget.limits]


def _excess(tables: Sequence[CostTable], budget: Budget, vector: Sequence[int]) -> list[int]:
    """By how much a policy exceeds each limit, once it is known that the cheapest one keeps all of them."""
    for table, limit in zip(tables, budget.limits, strict=True):
        least, units = table.total([0] * len(vector)), limit.cost.units
        if least > limit.most:
            raise BitcertError(
                f"no policy of this space has at most {units(limit.most)} {limit.cost.unit}; the cheapest has {units(least)}"
            )
    return [table.total(vector) - limit.most for table, limit in zip(tables, budget.limits, strict=True)]
