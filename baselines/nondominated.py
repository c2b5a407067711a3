"""NSGA-II on vectors of small integers, for objectives that cost nothing to compute."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Evaluate = Callable[[NDArray[np.int64]], tuple[NDArray[np.float64], NDArray[np.float64]]]
"""Vectors -> objectives to minimize, shape ``(vectors, objectives)``, and by how much each violates its constraint."""


class NondominatedSort:
    """Fronts of a set of points, and how crowded each point is within its front.

    Points that violate the constraint come after all that do not, in the order of their violation.

    Args:
        objectives: To minimize, shape ``(points, objectives)``.
        violation: Of the constraint, at least 0, shape ``(points,)``; None for none.

    Attributes:
        rank: Number of the front of each point, 0 for points that none dominates.
        crowding: Sum of the sides of the box between its neighbours on the front, infinite at the ends.
    """

    def __init__(self, objectives: NDArray[np.float64], violation: NDArray[np.float64] | None = None) -> None:
        count = len(objectives)
        violation = np.zeros(count) if violation is None else violation
        no_worse = (objectives[:, None] <= objectives[None]).all(axis=2)
        better = no_worse & (objectives[:, None] < objectives[None]).any(axis=2)
        equally_good = violation[:, None] == violation[None]
        dominates = np.where(equally_good, better, violation[:, None] < violation[None])
        self.rank = np.zeros(count, dtype=np.int64)
        self.crowding = np.zeros(count)
        left, number = np.ones(count, dtype=bool), 0
        while left.any():
            front = left & ~dominates[left].any(axis=0)
            self.rank[front] = number
            self.crowding[front] = _crowding(objectives[front])
            left &= ~front
            number += 1

    def best(self, count: int) -> NDArray[np.int64]:
        """The first points by front, then by distance from others."""
        return np.lexsort((-self.crowding, self.rank))[:count]


def evolve(
    start: NDArray[np.int64],
    evaluate: Evaluate,
    *,
    choices: int,
    population: int,
    generations: int,
    crossover_probability: float,
    mutation_probability: float,
    rng: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Run NSGA-II and return the last population with its objectives.

    Parents win tournaments of two. A child takes each variable from either of two parents, at least one from the second, or
    has one parent; some children are drawn at random altogether. No two members are equal.

    Args:
        start: First population, distinct vectors with values below ``choices``; may be smaller than ``population``.
        evaluate: Computes objectives and violations.
        choices: Values of each variable.
        population: Members that survive.
        generations: Populations, of which ``start`` is the first.
        crossover_probability: Share of children that have two parents.
        mutation_probability: Share of children that are drawn at random.
        rng: Source of randomness.

    References:
        Deb, Pratap, Agarwal and Meyarivan, A fast and elitist multiobjective genetic algorithm: NSGA-II, IEEE
        Transactions on Evolutionary Computation 6(2), 2002.
    """
    members = np.asarray(start)
    objectives, violation = evaluate(members)
    for _ in range(generations - 1):
        order = NondominatedSort(objectives, violation)
        place = np.empty(len(members), dtype=np.int64)
        place[order.best(len(members))] = np.arange(len(members))
        entrants = rng.integers(len(members), size=(2, population, 2))
        one, other = np.where(place[entrants[..., 0]] <= place[entrants[..., 1]], entrants[..., 0], entrants[..., 1])
        children = members[one]
        mixed = rng.random(children.shape) < 0.5
        mixed[np.arange(population), rng.integers(children.shape[1], size=population)] = True
        mixed &= (rng.random(population) < crossover_probability)[:, None]
        children = np.where(mixed, members[other], children)
        drawn = rng.integers(choices, size=children.shape)
        children = np.where((rng.random(population) < mutation_probability)[:, None], drawn, children)
        children = _distinct(children, members)
        if not len(children):
            continue
        made, violated = evaluate(children)
        members = np.concatenate([members, children])
        objectives, violation = np.concatenate([objectives, made]), np.concatenate([violation, violated])
        kept = NondominatedSort(objectives, violation).best(population)
        members, objectives, violation = members[kept], objectives[kept], violation[kept]
    return members, objectives


def _distinct(children: NDArray[np.int64], members: NDArray[np.int64]) -> NDArray[np.int64]:
    """The children that are no member, each once."""
    known = {vector.tobytes() for vector in members}
    new = []
    for number, child in enumerate(children):
        if child.tobytes() not in known:
            known.add(child.tobytes())
            new.append(number)
    return children[new]


def _crowding(objectives: NDArray[np.float64]) -> NDArray[np.float64]:
    found = np.zeros(len(objectives))
    for values in objectives.T:
        order = np.argsort(values, kind="stable")
        width = float(values[order[-1]] - values[order[0]]) or 1.0
        found[order[[0, -1]]] = np.inf
        found[order[1:-1]] += (values[order[2:]] - values[order[:-2]]) / width
    return found
