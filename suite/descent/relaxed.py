"""Spaces with real bit widths: which numbers are learned, and what they cost by interpolation."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from suite.contract.cost import Cost
from suite.contract.cost_table import pinned_cost
from suite.contract.space import Precision, SearchSpace


def cells(
    choices: NDArray[np.float64], bits: NDArray[np.float64], *, below: bool = False
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The index of the choice below each number, and the number's share of the way to the next one.

    A number that equals a choice belongs to the cell that starts there, with a share of 0, or with ``below`` to the one that
    ends there, with a share of 1. The greatest choice ends the last cell, the least starts the first.
    """
    found = np.searchsorted(choices, bits, side="left" if below else "right") - 1
    lower = np.clip(found, 0, max(0, len(choices) - 2))
    gap = choices[np.minimum(lower + 1, len(choices) - 1)] - choices[lower]
    return lower, np.where(gap > 0, (bits - choices[lower]) / np.where(gap > 0, gap, 1.0), 0.0)


class RelaxedSpace:
    """Real bit widths for the variables of a space.

    Args:
        space: The policies.
        shared: Whether all weights share one number and all inputs another (one for both where the space ties them), rather
            than each variable having its own.

    Attributes:
        members: Number that each variable takes its bits from, shape ``(variables,)``.
        numbers: How many there are.
        choices: The choices as numbers.
    """

    def __init__(self, space: SearchSpace, *, shared: bool) -> None:
        self.space = space
        parts = [slots[0].part for slots in space.variables]
        kinds = list(dict.fromkeys(parts))
        found = [kinds.index(part) for part in parts] if shared else list(range(len(parts)))
        self.members = np.array(found, dtype=np.int64)
        self.numbers = int(self.members.max(initial=-1)) + 1
        self.choices = np.array(space.choices, dtype=float)

    def cells(self, bits: NDArray[np.float64], *, below: bool = False) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The cell of each number; see :func:`cells`."""
        return cells(self.choices, bits, below=below)

    def floor(self, bits: NDArray[np.float64]) -> NDArray[np.int64]:
        """Index of the greatest choice that is at most each number."""
        return np.clip(np.searchsorted(self.choices, bits, side="right") - 1, 0, len(self.choices) - 1)

    def ceil(self, bits: NDArray[np.float64]) -> NDArray[np.int64]:
        """Index of the least choice that is at least each number."""
        return np.clip(np.searchsorted(self.choices, bits, side="left"), 0, len(self.choices) - 1)

    def nearest(self, bits: NDArray[np.float64]) -> NDArray[np.int64]:
        """Index of the choice nearest to each number; of two, the lower."""
        return np.asarray(np.abs(bits[:, None] - self.choices).argmin(axis=1), dtype=np.int64)

    def gather(self, slopes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Derivatives by the numbers from derivatives by the variables."""
        return np.bincount(self.members, slopes, minlength=self.numbers).astype(np.float64)

    def real_bits(self, bits: NDArray[np.float64]) -> NDArray[np.float64]:
        """The numbers by part and layer, shape ``(2, layers)``, weights first; pinned ones are the bits of their pins."""
        flat = np.array(self.space.uniform(self.space.choices[0]).flat, dtype=float)
        for variable, slots in enumerate(self.space.flat_variables):
            flat[list(slots)] = bits[self.members[variable]]
        return flat.reshape(2, -1)


class InterpolatedCost:
    """What real bit widths cost: bilinear in the weights' and inputs' bits of each layer between choices, exact at choices.

    For BOPs this is ``MACs x weight bits x input bits`` also in between.

    Args:
        relaxed: The numbers.
        cost: The rule.
        unit: What costs are measured in, such as a limit.
        pins: Whether the pinned layers and what every policy costs are counted.
    """

    def __init__(self, relaxed: RelaxedSpace, cost: Cost, unit: float, *, pins: bool = True) -> None:
        space, self._relaxed = relaxed.space, relaxed
        choices, free = space.choices, space.free_layers
        numbers = np.array([relaxed.members[list(space.deciders(layer))] for layer in free], dtype=np.int64)
        self._weights, self._inputs = numbers.reshape(-1, 2).T
        tables = [
            [cost.of_layer(space.layers[n], space.fill(n, Precision(w, a))) for w, a in product(choices, choices)]
            for n in free
        ]
        self._tables = np.array(tables, dtype=float).reshape(len(free), len(choices), len(choices)) / unit
        fixed = cost.constant(space) + pinned_cost(space, cost)
        self._fixed = fixed / unit if pins else 0.0

    def value(self, bits: NDArray[np.float64]) -> float:
        """The cost, in units."""
        corners, (w, _), (a, _) = self._corners(bits, below=False)
        lower, upper = corners[0] * (1 - a) + corners[1] * a, corners[2] * (1 - a) + corners[3] * a
        return float((lower * (1 - w) + upper * w).sum()) + self._fixed

    def slopes(self, bits: NDArray[np.float64], *, below: bool = False) -> NDArray[np.float64]:
        """Its derivative by the numbers; ``below`` decides at choices, see :meth:`RelaxedSpace.cells`."""
        corners, (w, weight_gap), (a, input_gap) = self._corners(bits, below=below)
        by_weight = ((corners[2] - corners[0]) * (1 - a) + (corners[3] - corners[1]) * a) / weight_gap
        by_input = ((corners[1] - corners[0]) * (1 - w) + (corners[3] - corners[2]) * w) / input_gap
        count = self._relaxed.numbers
        found = np.bincount(self._weights, by_weight, minlength=count)
        return np.asarray(found + np.bincount(self._inputs, by_input, minlength=count))

    def _corners(
        self, bits: NDArray[np.float64], *, below: bool
    ) -> tuple[
        list[NDArray[np.float64]],
        tuple[NDArray[np.float64], NDArray[np.float64]],
        tuple[NDArray[np.float64], NDArray[np.float64]],
    ]:
        """Costs at the corners of each layer's cell (the inputs' bits change first), with shares and gaps of both parts."""
        lower, share = self._relaxed.cells(bits, below=below)
        last = len(self._relaxed.choices) - 1
        gap = self._relaxed.choices[np.minimum(lower + 1, last)] - self._relaxed.choices[lower]
        gap = np.where(gap > 0, gap, 1.0)
        rows = np.arange(len(self._tables))
        w, a = lower[self._weights], lower[self._inputs]
        corners = [
            self._tables[rows, np.minimum(w + up, last), np.minimum(a + right, last)]
            for up in (0, 1)
            for right in (0, 1)
        ]
        return corners, (share[self._weights], gap[self._weights]), (share[self._inputs], gap[self._inputs])
