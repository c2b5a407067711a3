"""Policies that no search method chose: spread over weight and input bits, all just below the budget."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from suite.contract.cost import cheapest
from suite.contract.problem import Problem
from suite.contract.space import Policy, Precision
from suite.errors import BitcertError
from suite.seeds import derive_seed

WIDTH = 0.5
"""Bits that a stratum spans."""

Stratum = tuple[float, float]
"""The least mean bits of the free weights and of the free inputs; the highest stratum includes the most bits."""

_WALKERS = 32  # sent to a stratum at a time; if none finds a new policy, the stratum is exhausted
_STEPS = 25  # of a walk, for each variable of the space


def design_policies(problem: Problem, count: int, *, within: float = 0.01, seed: int = 0) -> dict[Policy, Stratum]:
    """Draw different policies that cost no more than the budget and at most ``within`` of it less; so one of several limits.

    Strata are the cells of a grid over the mean bits of free weights and of free inputs. They take turns: all in
    which enough policies are found give equally many, to within one.

    Args:
        problem: Its space, and its budget on whatever cost.
        count: How many policies.
        within: Width of the band below the budget, as a share of the budget.
        seed: Seed of the draws.

    Returns:
        The policies with their strata.

    Raises:
        BitcertError: If the arguments are out of range, or there are too few such policies.
    """
    if count < 1 or not 0 <= within < 1:
        raise BitcertError(f"a design needs at least one policy and a band of 0 up to 1, got {count} and {within}")
    band, rng = Band(problem, within), np.random.default_rng(derive_seed(seed, "design"))
    waiting: dict[Stratum, deque[Policy]] = {stratum: deque() for stratum in band.strata}
    met: set[Policy] = set()

    def send_walkers(strata: Sequence[Stratum]) -> None:
        for policy, stratum in band.walk([stratum for stratum in strata for _ in range(_WALKERS)], rng):
            if policy not in met:
                met.add(policy)
                waiting[stratum].append(policy)

    send_walkers(band.strata)
    order = rng.permutation(len(band.strata))
    turns = deque(stratum for stratum in map(band.strata.__getitem__, order) if waiting[stratum])
    drawn: dict[Policy, Stratum] = {}
    while turns and len(drawn) < count:
        stratum = turns.popleft()
        if not waiting[stratum]:
            send_walkers([stratum])
        if waiting[stratum]:
            drawn[waiting[stratum].popleft()] = stratum
            turns.append(stratum)
    if len(drawn) < count:
        raise BitcertError(
            f"{count} policies asked for, but only {len(drawn)} different ones were found within {100 * within:g} % of the "
            f"budget {problem.budget.text}; ask for fewer, or for a wider band"
        )
    return drawn


class Band:
    """The policies just below the budget, and random walks to them.

    Attributes:
        strata: All cells of the grid, empty ones included.
    """

    def __init__(self, problem: Problem, within: float) -> None:
        space, limits = problem.space, problem.budget.limits
        free = space.free_layers
        precisions = [Precision(weight, activation) for weight in space.choices for activation in space.choices]
        costs = [
            [[limit.cost.of_layer(space.layers[n], space.fill(n, precision)) for precision in precisions] for n in free]
            for limit in limits
        ]
        self._space = space
        self._most = np.array([limit.most for limit in limits], dtype=np.int64)
        self._least = np.array([math.ceil((1 - within) * limit.most) for limit in limits], dtype=np.int64)
        self._parts = list(zip(*map(space.deciders, free), strict=True)) or [(), ()]
        self._free = space.free[:, list(free)]
        self._costs = np.array(costs, dtype=np.int64).reshape(len(limits), len(free), len(precisions))
        low, high = space.choices[0], space.choices[-1]
        edges = np.arange(low, max(high, low + WIDTH), WIDTH).tolist()
        self.strata: list[Stratum] = [(weight, activation) for weight in edges for activation in edges]
        least = np.array([limit.cost.total(space, cheapest(space)) for limit in limits], dtype=np.int64)
        self._fixed = least - self._costs[:, :, :1].sum(axis=(1, 2))

    def walk(self, strata: Sequence[Stratum], rng: np.random.Generator) -> list[tuple[Policy, Stratum]]:
        """Send a walker to each stratum given, and return the policies of those that came into it and into the band.

        From a random policy, one or two variables at a time are redrawn, and what is no farther away is accepted. Inside, these
        are the steps of a Markov chain whose stationary distribution is the uniform one.
        """
        choices, variables, targets = len(self._space.choices), len(self._space.variables), np.array(strata)
        vectors = rng.integers(choices, size=(len(strata), variables))
        distances, walkers = self._distances(vectors, targets), np.arange(len(strata))
        for _ in range(_STEPS * variables):
            moved = vectors.copy()
            for redraws in (np.ones(len(strata), dtype=bool), rng.random(len(strata)) < 0.5):
                chosen = walkers[redraws], rng.integers(variables, size=len(strata))[redraws]
                moved[chosen] = rng.integers(choices, size=len(strata))[redraws]
            found = self._distances(moved, targets)
            nearer = found <= distances
            vectors[nearer], distances[nearer] = moved[nearer], found[nearer]
        arrived = np.flatnonzero(distances == 0)
        return [(self._space.decode(vectors[walker]), strata[walker]) for walker in arrived.tolist()]

    def _distances(self, vectors: NDArray[np.int64], strata: NDArray[np.float64]) -> NDArray[np.float64]:
        """From band and stratum together, the former as a share of the budget, the latter in mean bits; 0 inside."""
        choices, layers = np.array(self._space.choices), self._costs.shape[1]
        weights, inputs = (vectors[:, list(part)] for part in self._parts)
        costs = self._fixed + self._costs[:, np.arange(layers), weights * len(choices) + inputs].sum(axis=2).T
        above, below = ((costs - self._most) / self._most).max(axis=1), ((self._least - costs) / self._most).min(axis=1)
        distances: NDArray[np.float64] = np.maximum(np.maximum(above, below), 0.0)
        for indices, edge, free in zip((weights, inputs), strata.T, self._free, strict=True):
            total, highest, count = choices[indices[:, free]].sum(axis=1), edge + WIDTH >= choices[-1], free.sum()
            least, most = np.ceil(count * edge), np.ceil(count * (edge + WIDTH)) - ~highest
            distances += np.maximum(np.maximum(least - total, total - most), 0) / max(1, count)
        return distances
