"""Losses predicted for policies as a sum over layers, and the policies that they make best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
from numpy.typing import NDArray

from baselines.program import assign
from suite.contract.cost import Budget, cheapest, enforce_budget
from suite.contract.problem import Problem
from suite.contract.space import PARTS, Part, Policy, Precision, SearchSpace


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """The predicted loss of every layer at every precision; the loss of a policy is the sum.

    Attributes:
        space: The policies.
        weights: Loss by the weights' bits, shape ``(layers, choices)``.
        activations: Loss by the inputs' bits, shape ``(layers, choices)``.
    """

    space: SearchSpace
    weights: NDArray[np.float64]
    activations: NDArray[np.float64]

    def loss(self, policy: Policy) -> float:
        """Predicted loss of a policy of the space; pinned bits, which never differ, are left out."""
        total, column = 0.0, self.space.choices.index
        for layer in self.space.free_layers:
            weight, activation = self.space.free[:, layer]
            bits = policy.precisions[layer]
            total += self.weights[layer, column(bits.weight)] if weight else 0.0
            total += self.activations[layer, column(bits.activation)] if activation else 0.0
        return float(total)


def free_groups(space: SearchSpace) -> tuple[tuple[int, ...], ...]:
    """Positions of the layers that have a choice, tied ones together."""
    tied = {name: group for group in space.ties for name in group}
    position = {space.layers[index].name: index for index in space.free_layers}
    groups = dict.fromkeys(tied.get(name, (name,)) for name in position)
    return tuple(tuple(position[name] for name in group) for group in groups)


def by_sensitivity(space: SearchSpace, part: Part, sensitivity: NDArray[np.float64]) -> list[int]:
    """Positions of the layers in which a part is free, the most sensitive first; of equals in execution order."""
    return sorted(np.flatnonzero(space.free[PARTS.index(part)]).tolist(), key=lambda layer: -sensitivity[layer])


def descends(space: SearchSpace, policy: Policy, orders: Mapping[Part, NDArray[np.float64]]) -> bool:
    """Whether no layer has more bits for a part than a layer more sensitive by this part; pinned ones are left out."""
    bits = {"weight": policy.weights, "activation": policy.activations}
    return all(
        bits[part][before] >= bits[part][after]
        for part, sensitivity in orders.items()
        for before, after in pairwise(by_sensitivity(space, part, sensitivity))
    )


def best_policy(
    problem: Problem,
    prediction: Prediction,
    *,
    tie_bits: bool = False,
    descending: Mapping[Part, NDArray[np.float64]] | None = None,
) -> Policy:
    """The policy of least predicted loss within the budget, by integer programming.

    Args:
        problem: Whose budget holds.
        prediction: What is minimized.
        tie_bits: Whether weights and inputs of a layer get equal bits, also where the space leaves them free.
        descending: Sensitivity of each layer by a part, shape ``(layers,)``: no layer gets more bits for this part than a
            more sensitive one. Each part may have its own order.

    Raises:
        BitcertError: If a predicted loss is not finite; the error names the layer and its bits.
    """
    space, free = problem.space, problem.space.free_layers
    tied = tie_bits or space.tie_weight_activation
    options = [(w, a) for w, a in product(range(len(space.choices)), repeat=2) if w == a or not tied]
    pairs = [Precision(space.choices[w], space.choices[a]) for w, a in options]
    weights, inputs = (
        np.where(free_part[:, None], part_losses, 0.0)
        for free_part, part_losses in zip(space.free, (prediction.weights, prediction.activations), strict=True)
    )
    losses = [[weights[layer, w] + inputs[layer, a] for w, a in options] for layer in free]
    (costs, room), *also = programs(problem, pairs)
    position = {space.layers[layer].name: row for row, layer in enumerate(free)}
    orders = [
        (
            [free.index(layer) for layer in by_sensitivity(space, part, sensitivity)],
            [option[PARTS.index(part)] for option in options],
        )
        for part, sensitivity in (descending or {}).items()
    ]
    found = assign(
        np.array(losses).reshape(len(free), len(pairs)),
        costs,
        room,
        ties=[[position[name] for name in group] for group in space.ties],
        also=also,
        descending=orders,
        layers=[space.layers[layer].name for layer in free],
        choices=[f"w{pair.weight}a{pair.activation}" for pair in pairs],
    )
    precisions = list(cheapest(space).precisions)
    for layer, choice in zip(free, found.choice, strict=True):
        precisions[layer] = space.fill(layer, pairs[choice])
    return Policy(tuple(precisions))


def programs(problem: Problem, pairs: Sequence[Precision]) -> list[tuple[NDArray[np.object_], int]]:
    """Each limit of a budget as :func:`.program.assign` takes it: what free layers cost, and what they may cost in total.

    Costs have shape ``(free layers, pairs)``.
    """
    space, free, lowest = problem.space, problem.space.free_layers, cheapest(problem.space)
    found = []
    for limit in problem.budget.limits:
        price = limit.cost.of_layer
        costs = [[price(space.layers[n], space.fill(n, pair)) for pair in pairs] for n in free]
        fixed = limit.cost.total(space, lowest) - sum(price(space.layers[n], lowest.precisions[n]) for n in free)
        found.append((np.array(costs, dtype=object).reshape(len(free), len(pairs)), limit.most - fixed))
    return found


def greedy_policy(problem: Problem, prediction: Prediction) -> Policy:
    """Lower the variable that saves the most cost for its predicted loss until the budget holds; then raise what still fits.

    Starts from the most bits everywhere. What is raised at the end is always the step of the largest gain per cost.
    """
    policy = problem.space.uniform(problem.space.choices[-1])
    while not problem.is_feasible(policy):
        policy = _best_step(problem, prediction, policy, lower=True) or enforce_budget(
            problem.space, policy, problem.budget
        )
    while (raised := _best_step(problem, prediction, policy, lower=False)) is not None:
        policy = raised
    return policy


def _best_step(problem: Problem, prediction: Prediction, policy: Policy, *, lower: bool) -> Policy | None:
    """The step that loses least per cost saved, or gains most per cost spent within the budget; None if there is none."""
    space, loss = problem.space, prediction.loss(policy)
    # What is within a limit already need not be lowered for it.
    budget = Budget(problem.budget.exceeded(space, policy)) if lower else problem.budget
    spent, steps = budget.spent(space, policy), []
    for order, other in enumerate(space.neighbours(policy)):
        saved = spent - budget.spent(space, other)
        lost = prediction.loss(other) - loss
        if lower and saved > 0:
            steps.append((lost / saved, order, other))
        if not lower and saved <= 0 and lost < 0 and problem.is_feasible(other):
            steps.append((lost / -saved if saved else -math.inf, order, other))
    return min(steps)[2] if steps else None
