"""CLADO: losses of pairs of layers quantized together, and the integer quadratic program over them."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from baselines.planned import ProbedOptions, ProbedSearcher
from baselines.prediction import Prediction, free_groups
from baselines.program import COST_SCALE, LOSS_SCALE, MOST_CUTS, _silence
from suite.contract.cost import Cost, cheapest
from suite.contract.problem import Problem
from suite.contract.space import FLOAT_BITS, Policy, Precision, SearchSpace
from suite.errors import BitcertError
from suite.options import check_counts


@dataclass(frozen=True, slots=True)
class CLADOOptions(ProbedOptions):
    """Options of :class:`CLADO`, besides those of :class:`ProbedOptions`.

    Attributes:
        bits: Bit widths offered, of which those among the space's choices are used. The fewest bits of the space are added:
            any budget that can be met is met with them.
        tie_bits: Whether weights and inputs of a layer have equal bits; otherwise every pair of ``bits`` is a choice, which
            squares their number and takes its fourth power of measurements.
        nodes: Nodes after which branch and bound gives up; it warns and reports the gap if no optimum is proven by then.
    """

    bits: tuple[int, ...] = (2, 4, 8)
    tie_bits: bool = True
    nodes: int = 10_000

    def __post_init__(self) -> None:
        ProbedOptions.__post_init__(self)
        check_counts(self, nodes=1)
        if not self.bits or any(type(bits) is not int for bits in self.bits):
            raise BitcertError(f"bits must be a list of integers, such as [2,4,8], got {self.bits!r}")


@dataclass(frozen=True, slots=True, eq=False)
class QuadraticPrediction(Prediction):
    """Loss of a policy as a quadratic form of its choices.

    Attributes:
        weights, activations: Half of what a layer loses alone with both parts at the same bits.
        groups: Positions of the layers that are quantized together: one layer, or tied ones.
        bits: The bits that were measured, ascending.
        choices: The precisions of a group, made of them.
        matrix: Symmetric and positive semidefinite; rows are choices, those of the first group first. The loss is half the
            form of the chosen rows.
    """

    groups: tuple[tuple[int, ...], ...]
    bits: tuple[int, ...]
    choices: tuple[Precision, ...]
    matrix: NDArray[np.float64]

    def loss(self, policy: Policy) -> float:
        """Predicted loss of a policy of the space; where its bits were not measured, the terms are interpolated.

        Linearly in the power of the quantization noise, ``4^-bits``; more bits than any measured count as the most of them.
        """
        shares = np.array([self.shares(policy.precisions[group[0]]) for group in self.groups])
        shares = shares.reshape(len(self.groups), len(self.choices))
        blocks = self.matrix.reshape(*shares.shape, *shares.shape)
        crossed = np.einsum("gc,gchd,hd->gh", shares, blocks, shares)
        alone = shares.ravel() @ np.diag(self.matrix) / 2
        return float(alone + np.triu(crossed, 1).sum())

    def shares(self, precision: Precision) -> NDArray[np.float64]:
        """The mixture of choices that stands for a precision, shape ``(choices,)``: a choice for itself."""
        powers = 4.0 ** -np.array(precision)
        if len(self.choices) == len(self.bits):  # equal bits of weights and inputs
            return noise_shares(float(powers.mean()), self.bits)
        weight, activation = (noise_shares(float(power), self.bits) for power in powers)
        return np.outer(weight, activation).ravel()


class CLADO(ProbedSearcher[CLADOOptions]):
    """CLADO: pairwise losses of layers as an integer quadratic program, solved exactly within the budget.

    The loss is measured with one layer quantized, for every layer and choice, and with two, for every pair: what a pair
    loses beyond its two layers is their interaction. The matrix of interactions, with twice the single losses on its
    diagonal, is projected to the positive semidefinite ones, and half its quadratic form is minimized, one choice per layer.
    L layers and C choices take ``1 + L C + L (L - 1) C^2 / 2`` measurements: 277 for 8 layers and 3 choices, 1,432 for the
    18 free layers of a ResNet-20.

    The released script quantizes weights alone, with inputs of 8 bits, which a budget of fewer than 16 BOPs per MAC rules
    out; here weights and inputs of a layer have equal bits, or any pair with ``tie_bits=false``. With 2, 4 and 8 bits for
    both its authors report that large errors are not captured well: predicted losses can turn out negative before the
    projection. The release solves the program by Gurobi in at most 120 seconds; here it is linearized and solved by HiGHS,
    within a number of nodes rather than seconds, so that equal runs find equal policies. Proposals after the first may hold
    bits that were not measured, for which losses are interpolated.

    References:
        Deng, Sharify, Wang and Orshansky, Mixed-precision quantization for deep vision models with integer quadratic
        programming, DAC 2025 (arXiv 2307.05657).
    """

    Options: ClassVar[type] = CLADOOptions

    def __init__(self, problem: Problem, seed: int, options: CLADOOptions | None = None) -> None:
        super().__init__(problem, seed, options)
        self.moves = "tied" if self._options.tie_bits else "free"

    def _predict(self) -> QuadraticPrediction:
        space = self.problem.space
        bits = tuple(choice for choice in space.choices if choice in {space.choices[0], *self._options.bits})
        tied = self._options.tie_bits or space.tie_weight_activation
        choices = tuple(Precision(w, a) for w, a in itertools.product(bits, repeat=2) if w == a or not tied)
        groups = free_groups(space)
        zeros = np.zeros((len(space.layers), len(space.choices)))
        matrix = project(self._interactions(groups, choices))
        found = QuadraticPrediction(space, zeros, zeros, groups, bits, choices, matrix)
        alone = zeros.copy()
        shares = np.array([found.shares(Precision(choice, choice)) for choice in space.choices])
        for group, losses in zip(groups, np.diag(matrix).reshape(len(groups), len(choices)) / 2, strict=True):
            alone[list(group)] = shares @ losses / (2 * len(group))
        return replace(found, weights=alone, activations=alone)

    def _plan(self, prediction: Prediction) -> Policy:
        assert isinstance(prediction, QuadraticPrediction)
        policy, gap = best_quadratic(self.problem, prediction, self._options.nodes)
        if gap > 0:
            warnings.warn(
                f"the policy of clado may not be the optimum of its program: {self._options.nodes} nodes leave a relative gap "
                f"of {gap:.2g}; raise the option nodes",
                stacklevel=2,
            )
        return policy

    def _interactions(self, groups: tuple[tuple[int, ...], ...], choices: tuple[Precision, ...]) -> NDArray[np.float64]:
        """Measure; twice the single losses on the diagonal, what pairs lose beyond theirs elsewhere."""
        space = self.problem.space
        nothing = [Precision(FLOAT_BITS, FLOAT_BITS)] * len(space.layers)

        def measure(*changes: tuple[int, int]) -> float:
            precisions = list(nothing)
            for group, choice in changes:
                for layer in groups[group]:
                    precisions[layer] = space.fill(layer, choices[choice])
            return self.probes.measure(Policy(tuple(precisions))).loss

        least, rows = measure(), list(np.ndindex(len(groups), len(choices)))
        single = [measure(row) - least for row in rows]
        found = 2 * np.diag(single).reshape(len(rows), len(rows))
        for one, other in itertools.combinations(range(len(rows)), 2):
            if rows[one][0] != rows[other][0]:
                together = measure(rows[one], rows[other]) - least
                found[one, other] = found[other, one] = together - single[one] - single[other]
        return found


def noise_shares(power: float, bits: tuple[int, ...]) -> NDArray[np.float64]:
    """Shares of ascending bit widths whose ``4^-bits`` average to a noise power: of two neighbours, or of an end alone."""
    powers = 4.0 ** -np.array(bits[::-1])
    return np.array([np.interp(power, powers, row) for row in np.eye(len(bits))])[::-1]


def project(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The positive semidefinite matrix nearest to a symmetric one: negative eigenvalues become 0."""
    if not np.isfinite(matrix).all():
        raise BitcertError("a measured loss is not finite; check the network's weights and the quantizer steps")
    values, vectors = np.linalg.eigh(matrix)
    projected: NDArray[np.float64] = (vectors * np.maximum(values, 0)) @ vectors.T
    return (projected + projected.T) / 2


def best_quadratic(problem: Problem, prediction: QuadraticPrediction, nodes: int) -> tuple[Policy, float]:
    """The policy of least predicted loss within the budget, and the solver's relative gap, 0 if the optimum is proven.

    Each product of two choices becomes a variable between 0 and 1 whose sums over either choice are the other one.

    Args:
        problem: Whose budget holds, exactly: costs are summed in integers.
        prediction: What is minimized.
        nodes: Most nodes of branch and bound.

    Raises:
        BitcertError: If no policy was found within the nodes.
    """
    space, lowest = problem.space, cheapest(problem.space)
    groups, count = prediction.groups, len(prediction.choices)
    size = len(groups) * count
    rooms = [limit.most - limit.cost.total(space, lowest) for limit in problem.budget.limits]
    costs = [_extra_costs(space, prediction, limit.cost) for limit in problem.budget.limits]
    pairs = [(one, other) for one, other in itertools.combinations(range(size), 2) if one // count != other // count]
    losses = np.array([*np.diag(prediction.matrix) / 2, *(prediction.matrix[pair] for pair in pairs)])
    widest = float(np.abs(losses).max(initial=0.0)) or 1.0
    constraints = [*_products(size, count, pairs)]
    most = np.ones(len(losses))
    for extra, room in zip(costs, rooms, strict=True):
        if room > 0:
            row = np.zeros((1, len(losses)))
            row[0, :size] = np.minimum(extra, 2 * room).astype(float) * (COST_SCALE / room)
            constraints.append(LinearConstraint(row, -np.inf, COST_SCALE))
        most[:size] *= extra <= room
    for _ in range(MOST_CUTS if size else 0):
        with _silence():
            result = milp(
                losses * (LOSS_SCALE / widest),
                integrality=(np.arange(len(losses)) < size).astype(int),
                bounds=Bounds(0, most),
                constraints=constraints,
                options={"mip_rel_gap": 0.0, "node_limit": nodes},
            )
        if result.x is None:
            raise BitcertError(f"clado found no policy within {nodes} nodes; raise the option nodes ({result.message})")
        taken = result.x[:size] > 0.5
        if all(extra[taken].sum() <= room for extra, room in zip(costs, rooms, strict=True)):
            gap = 0.0 if result.status == 0 else float(result.mip_gap)
            return _policy(space, prediction, taken.reshape(-1, count).argmax(axis=1)), gap
        row = np.zeros((1, len(losses)))
        row[0, :size] = taken
        constraints.append(LinearConstraint(row, -np.inf, len(groups) - 1))
    if size:
        raise BitcertError(
            f"no optimum could be proven: {MOST_CUTS} assignments in a row exceeded the budget by a trifle"
        )
    return lowest, 0.0


def _extra_costs(space: SearchSpace, prediction: QuadraticPrediction, cost: Cost) -> NDArray[np.object_]:
    """What each choice of each group costs beyond the fewest bits, in the order of the rows of the prediction's matrix."""
    lowest = cheapest(space).precisions
    extra = [
        sum(
            cost.of_layer(space.layers[layer], space.fill(layer, choice))
            - cost.of_layer(space.layers[layer], lowest[layer])
            for layer in group
        )
        for group in prediction.groups
        for choice in prediction.choices
    ]
    return np.array(extra, dtype=object)


def _products(size: int, count: int, pairs: list[tuple[int, int]]) -> list[LinearConstraint]:
    """One choice per group; the products of a choice with those of any other group add up to it."""
    width = size + len(pairs)
    chosen = coo_array((np.ones(size), (np.arange(size) // count, np.arange(size))), shape=(size // count, width))
    found = [LinearConstraint(chosen.tocsr(), 1, 1)]
    if not pairs:
        return found
    sums: dict[tuple[int, int], list[int]] = {}
    for number, (one, other) in enumerate(pairs):
        sums.setdefault((one, other // count), []).append(size + number)
        sums.setdefault((other, one // count), []).append(size + number)
    entries = [
        (value, line, column)
        for line, ((choice, _), products) in enumerate(sums.items())
        for value, column in [(-1.0, choice), *((1.0, product) for product in products)]
    ]
    values, lines, columns = zip(*entries, strict=True)
    return [*found, LinearConstraint(coo_array((values, (lines, columns)), shape=(len(sums), width)).tocsr(), 0, 0)]


def _policy(space: SearchSpace, prediction: QuadraticPrediction, choices: NDArray[np.int64]) -> Policy:
    precisions = list(cheapest(space).precisions)
    for group, choice in zip(prediction.groups, choices, strict=True):
        for layer in group:
            precisions[layer] = space.fill(layer, prediction.choices[choice])
    return Policy(tuple(precisions))
