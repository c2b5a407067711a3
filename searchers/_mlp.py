"""A perceptron with two hidden layers, its gradients written out, and Adam: what the agent learns with.

The networks are so small that an automatic differentiation spends more time on its graph than on the arithmetic.
"""

from __future__ import annotations

import copy
import itertools
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]


class Tape(NamedTuple):
    """What a forward pass leaves for the backward pass: inputs and both hidden layers, one row a sample."""

    inputs: Array
    first: Array
    second: Array


class Perceptron:
    """Two hidden layers of rectified linear units and one linear output.

    Args:
        inputs: Numbers that go in.
        hidden: Width of the hidden layers.
        rng: Draws weights and biases uniformly within ``1 / sqrt(inputs of the layer)``, as torch does.
        dtype: Of all numbers.

    Attributes:
        parameters: All weights and biases, one vector: what an optimizer changes in place.
    """

    def __init__(
        self, inputs: int, hidden: int, rng: np.random.Generator, dtype: type[np.floating] = np.float32
    ) -> None:
        self._shapes = list(itertools.pairwise((inputs, hidden, hidden, 1)))
        bound = np.concatenate([np.full((rows + 1) * columns, 1 / np.sqrt(rows)) for rows, columns in self._shapes])
        self.parameters: Array = (rng.uniform(-1, 1, len(bound)) * bound).astype(dtype)
        self._bind()

    def _bind(self) -> None:
        """Make the layers views of the parameters, so that whatever changes these in place changes the network."""
        self._layers = self._split(self.parameters)
        self._scratch: Array = np.empty_like(self.parameters)

    def copy(self) -> Perceptron:
        """Another network with the same parameters."""
        twin = copy.copy(self)
        twin.parameters = self.parameters.copy()
        twin._bind()
        return twin

    def forward(self, inputs: Array) -> tuple[Array, Tape]:
        """Outputs, shape ``(samples, 1)``, for inputs ``(samples, inputs)``, and the tape for the gradients."""
        (weight1, bias1), (weight2, bias2), (weight3, bias3) = self._layers
        first = inputs @ weight1
        first += bias1
        np.maximum(first, 0, out=first)
        second = first @ weight2
        second += bias2
        np.maximum(second, 0, out=second)
        output: Array = second @ weight3 + bias3
        return output, Tape(inputs, first, second)

    def parameter_gradient(self, tape: Tape, outward: Array) -> Array:
        """Gradient by ``parameters``, given the gradient by the outputs, shape ``(samples, 1)``.

        The next call of any method overwrites it.
        """
        second, first = self._hidden_gradients(tape, outward)
        layers = zip(self._split(self._scratch), tape, (first, second, outward), strict=True)
        for (weight, bias), entering, leaving in layers:
            np.matmul(entering.T, leaving, out=weight)
            leaving.sum(axis=0, out=bias)
        return self._scratch

    def input_gradient(self, tape: Tape, outward: Array) -> Array:
        """Gradient by the inputs, shape ``(samples, inputs)``, given the gradient by the outputs."""
        _, first = self._hidden_gradients(tape, outward)
        gradient: Array = first @ self._layers[0][0].T
        return gradient

    def follow(self, leader: Perceptron, share: float) -> None:
        """Move the parameters a share of the way to another network's of the same size."""
        way = np.subtract(leader.parameters, self.parameters, out=self._scratch)
        way *= share
        self.parameters += way

    def _hidden_gradients(self, tape: Tape, outward: Array) -> tuple[Array, Array]:
        """Gradients by the second and the first hidden layer before their rectification."""
        second = outward @ self._layers[2][0].T
        second *= tape.second > 0
        first = second @ self._layers[1][0].T
        first *= tape.first > 0
        return second, first

    def _split(self, vector: Array) -> list[tuple[Array, Array]]:
        """Views of a vector as the weights and biases of the layers."""
        layers, start = [], 0
        for rows, columns in self._shapes:
            weights = vector[start : start + rows * columns].reshape(rows, columns)
            start += rows * columns
            layers.append((weights, vector[start : start + columns]))
            start += columns
        return layers


class Adam:
    """Adaptive moment estimation for one vector of parameters (Kingma and Ba, ICLR 2015).

    Attributes:
        moments: Running means of the gradient and of its square, shape ``(2, parameters)``.
        steps: Steps taken.
    """

    def __init__(self, parameters: Array, rate: float) -> None:
        self._rate = rate
        self.moments = np.zeros((2, len(parameters)), dtype=parameters.dtype)
        self.steps = 0
        self._scratch = np.empty_like(parameters)

    def descend(self, parameters: Array, gradient: Array) -> None:
        """Take a step against the gradient, in place."""
        first, second, tiny = 0.9, 0.999, 1e-8
        self.steps += 1
        mean, square = self.moments
        step = self._scratch  # large temporary arrays cost more than the arithmetic on them
        mean *= first
        mean += np.multiply(gradient, 1 - first, out=step)
        square *= second
        np.multiply(gradient, gradient, out=step)
        step *= 1 - second
        square += step
        np.sqrt(square, out=step)
        step /= math.sqrt(1 - second**self.steps)
        step += tiny
        np.divide(mean, step, out=step)
        step *= self._rate / (1 - first**self.steps)
        parameters -= step
