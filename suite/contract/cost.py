"""What a policy costs: bit operations (BOPs), model bytes, budgets, and the wall that keeps policies within them."""

from __future__ import annotations

import bisect
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from suite.contract.space import FLOAT_BITS, Policy, SearchSpace
from suite.errors import BitcertError


def bops(space: SearchSpace, policy: Policy) -> int:
    """Sum over layers of MACs x weight bits x activation bits for one image, exact."""
    return sum(
        layer.macs * precision.weight * precision.activation
        for layer, precision in zip(space.layers, policy.precisions, strict=True)
    )


def float_bops(space: SearchSpace) -> int:
    """BOPs of the network at 32 x 32 bits."""
    return sum(layer.macs for layer in space.layers) * FLOAT_BITS * FLOAT_BITS


def model_bytes(space: SearchSpace, policy: Policy) -> int:
    """Bytes of all weights at their bits, packed and rounded up once, plus 4 bytes for each bias."""
    weight_bits = sum(
        layer.parameters * precision.weight for layer, precision in zip(space.layers, policy.precisions, strict=True)
    )
    return -(-weight_bits // 8) + 4 * sum(layer.biases for layer in space.layers)


def cheapest(space: SearchSpace) -> Policy:
    """The policy with the fewest BOPs: every variable at its lowest choice."""
    return space.uniform(space.choices[0])


@dataclass(frozen=True, slots=True)
class Budget:
    """The limit on BOPs.

    Attributes:
        limit: Most BOPs a feasible policy may have, an integer.
        text: The budget as it was asked for, such as ``"w3a3"``.
    """

    limit: int
    text: str


def parse_budget(text: str | int, space: SearchSpace) -> Budget:
    """Read a budget: ``w4a4`` (the uniform policy with the same pins), ``1/64`` (of FP32) or an integer (BOPs).

    Bits between the integers are allowed in the first form: ``w2.5a2.5`` is the budget at which every free layer
    spends 2.5 x 2.5 bits per MAC. Limits are rounded down to an integer.

    Raises:
        BitcertError: If the text is none of these, or the limit is below the cheapest policy.
    """
    asked = str(text).strip()
    if uniform := re.fullmatch(r"w(\d+(?:\.\d+)?)a(\d+(?:\.\d+)?)", asked):
        weight, activation = Fraction(uniform[1]), Fraction(uniform[2])
        free = sum(layer.macs for layer in space.layers if layer.name not in space.pinned)
        pinned = sum(layer.macs * space.pinned[layer.name].weight * space.pinned[layer.name].activation
                     for layer in space.layers if layer.name in space.pinned)  # fmt: skip
        limit = int(free * weight * activation + pinned)
    elif share := re.fullmatch(r"(\d+)/([1-9]\d*)", asked):
        limit = int(float_bops(space) * Fraction(int(share[1]), int(share[2])))
    elif re.fullmatch(r"\d+", asked):
        limit = int(asked)
    else:
        raise BitcertError(
            f"budget {asked!r} is not understood; give w4a4, a fraction of FP32 such as 1/64, or BOPs as an integer"
        )
    least, lowest = bops(space, cheapest(space)), space.choices[0]
    if limit < least:
        raise BitcertError(
            f"budget {asked} ({limit:.4g} BOPs) is below the cheapest policy ({least:.4g} BOPs at {lowest}/{lowest} bits); "
            f"raise the budget to at least {least} or allow fewer bits"
        )
    return Budget(limit, asked)


def enforce_budget(space: SearchSpace, policy: Policy, limit: int) -> Policy:
    """Lower a policy until it is within ``limit``: the budget wall that every searcher shares.

    Walks the layers from last to first; on the way each variable gives up one step of ``choices``, the activation
    before the weight (a tied variable once, where its last layer is met). Stops as soon as the budget holds, and
    repeats the walk until it does (HAQ, Wang et al. 2019, section 3.4). Bits are never raised; a feasible policy is
    returned as it is.

    Raises:
        BitcertError: If the policy does not belong to the space, or even the cheapest one exceeds ``limit``.
    """
    if policy not in space:
        raise BitcertError(f"the policy does not belong to the space: {policy.to_json()}")
    total = bops(space, policy)
    if total <= limit:
        return policy
    least = bops(space, cheapest(space))
    if least > limit:
        raise BitcertError(f"no policy of this space has at most {limit} BOPs; the cheapest has {least}")
    layers = len(space.layers)
    bits = [*policy.weights, *policy.activations]
    last_met_first = sorted(
        space.variable_costs, key=lambda cost: max((n % layers, n) for n in cost.slots), reverse=True
    )
    while True:
        for slots, partners, quadratic in last_met_first:
            linear = _linear(partners, bits)
            before = bits[slots[0]]
            position = space.choices.index(before)
            if position == 0:
                continue
            after = space.choices[position - 1]
            total -= (before - after) * (quadratic * (before + after) + linear)
            for slot in slots:
                bits[slot] = after
            if total <= limit:
                return Policy.from_bits(bits[:layers], bits[layers:])


def random_feasible(space: SearchSpace, limit: int, rng: np.random.Generator, sweeps: int = 8) -> Policy:
    """Draw a policy within ``limit``, close to uniformly among all of them, in a fixed number of steps.

    A Gibbs sampler: starting from the cheapest policy, each sweep visits the variables in order and redraws each
    uniformly among the choices that the budget leaves, the others held. The feasible policies are closed under lowering
    bits, hence connected through the cheapest one, and the uniform distribution on them is the sampler's only stationary
    one. No draw is ever rejected, however tight the budget.

    Args:
        space: The space to draw from.
        limit: Most BOPs.
        rng: Source of randomness.
        sweeps: Passes over all variables.

    Raises:
        BitcertError: If even the cheapest policy exceeds ``limit``.
    """
    layers, choices = len(space.layers), space.choices
    start = enforce_budget(space, cheapest(space), limit)
    bits = [*start.weights, *start.activations]
    room = limit - bops(space, start)
    for uniforms in rng.random((sweeps, len(space.variables))).tolist():
        for uniform, (slots, partners, quadratic) in zip(uniforms, space.variable_costs, strict=True):
            linear = _linear(partners, bits)
            before = bits[slots[0]]
            room += (quadratic * before + linear) * before
            root = math.isqrt(linear * linear + 4 * quadratic * room)
            most = (root - linear) // (2 * quadratic) if quadratic else room // linear
            after = choices[int(uniform * bisect.bisect_right(choices, most))]
            room -= (quadratic * after + linear) * after
            for slot in slots:
                bits[slot] = after
    return Policy.from_bits(bits[:layers], bits[layers:])


def _linear(partners: Iterable[tuple[int, int]], bits: Sequence[int]) -> int:
    """BOPs that a variable adds per bit, the bits of its partners held (see ``VariableCost``)."""
    linear = 0
    for macs, partner in partners:
        linear += macs * bits[partner]
    return linear
