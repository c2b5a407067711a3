"""Output Fisher: squared gradients of each layer's outputs times what quantization changes in them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from baselines.planned import ProbedOptions, ProbedSearcher
from baselines.prediction import Prediction, programs
from baselines.program import assign
from suite.contract.cost import cheapest
from suite.contract.problem import Problem
from suite.contract.space import Policy, Precision, SearchSpace


@dataclass(frozen=True, slots=True, eq=False)
class PairPrediction(Prediction):
    """Predicted losses of layers whose weights and inputs act together; those of either part alone are a view of them.

    Attributes:
        weights: Loss by the weights' bits, inputs at the most bits.
        activations: Loss by the inputs' bits, weights at the most bits.
        pairs: Loss by both, shape ``(layers, choices, choices)``, the weights' bits first; infinite where the space has
            no such precision.
    """

    pairs: NDArray[np.float64]

    def loss(self, policy: Policy) -> float:
        """Predicted loss of a policy of the space; pinned layers are left out."""
        choices = self.space.choices

        def column(bits: int, free: bool) -> int:
            return choices.index(bits) if free else 0  # all columns of pinned bits are alike

        return float(
            sum(
                self.pairs[(layer, *map(column, policy.precisions[layer], self.space.free[:, layer]))]
                for layer in self.space.free_layers
            )
        )


class OutputFisher(ProbedSearcher[ProbedOptions]):
    """ModelOpt's gradient search: least sum of squared output gradients times squared output changes within the budget.

    A layer at a precision counts with ``sum (dL/dy)^2 * (y_q - y)^2`` over its outputs: half of it is the loss that a
    diagonal Fisher information by the outputs predicts. The gradient is that of the float network; ``y_q`` is computed with
    quantized weights and inputs, so both are scored together, for every pair of bits. An integer program chooses one pair
    per layer.

    The release offers a few formats per layer, all of them by their effective bits, and squares gradients of the batch's
    loss, which is its mean over rows; here rows have their own loss, and the limit is the problem's budget.

    References:
        TensorRT Model Optimizer, ``auto_quantize`` with gradient scores,
        https://github.com/NVIDIA/TensorRT-Model-Optimizer.
    """

    Options: ClassVar[type] = ProbedOptions

    def _predict(self) -> PairPrediction:
        space = self.problem.space
        count = len(space.choices)
        pairs = np.full((len(space.layers), count, count), np.inf)
        rows, columns = zip(*_options(space), strict=True)
        wanted = [[space.fill(layer, pair) for pair in _precisions(space)] for layer in range(len(space.layers))]
        measured = list(dict.fromkeys(pair for layer in space.free_layers for pair in wanted[layer]))
        changes = self.probes.output_changes(measured)
        for layer in space.free_layers:
            pairs[layer, rows, columns] = changes[layer, [measured.index(pair) for pair in wanted[layer]]]
        if space.tie_weight_activation:
            halves = np.diagonal(pairs, axis1=1, axis2=2) / 2
            return PairPrediction(space, halves, halves, pairs)
        return PairPrediction(space, pairs[:, :, -1], pairs[:, -1, :], pairs)

    def _plan(self, prediction: Prediction) -> Policy:
        assert isinstance(prediction, PairPrediction)
        return best_of_pairs(self.problem, prediction)


def best_of_pairs(problem: Problem, prediction: PairPrediction) -> Policy:
    """The policy of least predicted loss within the budget, by integer programming over pairs of bits.

    Raises:
        BitcertError: If a predicted loss is not finite; the error names the layer and its bits.
    """
    space, free, precisions = problem.space, list(problem.space.free_layers), _precisions(problem.space)
    rows, columns = zip(*_options(space), strict=True)
    lowest, names = cheapest(space), [space.layers[layer].name for layer in free]
    (costs, room), *also = programs(problem, precisions)
    found = assign(
        prediction.pairs[free][:, rows, columns],
        costs,
        room,
        ties=[[names.index(name) for name in group] for group in space.ties],
        also=also,
        layers=names,
        choices=[f"w{weight}a{activation}" for weight, activation in precisions],
    )
    chosen = list(lowest.precisions)
    for layer, choice in zip(free, found.choice, strict=True):
        chosen[layer] = space.fill(layer, precisions[choice])
    return Policy(tuple(chosen))


def _options(space: SearchSpace) -> list[tuple[int, int]]:
    """Positions of the weights' and the inputs' bits among the choices, for every precision a layer may have."""
    every = product(range(len(space.choices)), repeat=2)
    return [
        (weight, activation) for weight, activation in every if weight == activation or not space.tie_weight_activation
    ]


def _precisions(space: SearchSpace) -> list[Precision]:
    return [Precision(space.choices[weight], space.choices[activation]) for weight, activation in _options(space)]
