"""Recurrent networks for grayscale images read as sequences: plain layers, called once for each time step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from suite.networks.normalization import Normalization
from suite.networks.orthogonal import HadamardLinear, OrthogonalLinear, constrained_once

_PERMUTATION_SEED = 92916


class Read(nn.Module):
    """Takes the pixels of one step, shape ``(images, pixels of the step)``, from all of an image."""

    def __init__(self, index: Tensor) -> None:
        super().__init__()
        self.register_buffer("index", index.clone(), persistent=False)
        self.index: Tensor

    def forward(self, pixels: Tensor) -> Tensor:
        """Select."""
        return pixels[:, self.index]


class RecurrentNetwork(nn.Module):
    """``h_t = relu(U x_t + b + W h_(t-1))``, and the logits ``V h_T + c`` of the last state.

    Every image starts at ``h_0 = 0``, to which W is applied as to any other state: U and W are called T times, V once.
    The input precision of W is the precision of the state.

    Args:
        classes: Logits.
        mean, std: Of the pixels, see :class:`.Normalization`.
        steps: Steps that an image is divided into, by pixels in the order of rows.
        inputs: Pixels of a step.
        recurrent: The layer of W; its size is that of the state.
        order: Pixels in the order in which they are read; that of rows if None.
    """

    def __init__(
        self,
        classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        steps: int,
        inputs: int,
        recurrent: nn.Linear,
        order: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.normalization = Normalization(mean, std)
        self.input = nn.Linear(inputs, recurrent.out_features)
        self.recurrent = recurrent
        self.activation = nn.ReLU()
        self.readout = nn.Linear(recurrent.in_features, classes)
        self.register_buffer("order", torch.tensor(range(steps * inputs) if order is None else order))
        self.order: Tensor
        self.reads = nn.ModuleList(map(Read, self.order.reshape(steps, -1)))

    def forward(self, images: Tensor) -> Tensor:
        """Grayscale images in [0, 1], shape ``(batch, 1, H, W)``, to logits, shape ``(batch, classes)``."""
        pixels, state = self.normalization(images).flatten(1), None
        with constrained_once():
            for read in self.reads:
                driven = self.input(read(pixels))
                state = self.activation(driven + self.recurrent(torch.zeros_like(driven) if state is None else state))
        logits: Tensor = self.readout(state)
        return logits


def permutation(pixels: int) -> list[int]:
    """The order in which pixels are read where they are permuted: the same for all images, networks and seeds.

    ``RandomState`` draws the same numbers in every version of numpy.
    """
    order: list[int] = np.random.RandomState(_PERMUTATION_SEED).permutation(pixels).tolist()
    return order


def rnn_digits_permuted(classes: int, mean: Sequence[float], std: Sequence[float]) -> nn.Module:
    """The 64 pixels of an 8 x 8 image, permuted, one by one; an orthogonal recurrent matrix of 64 x 64."""
    recurrent = OrthogonalLinear(64)
    return RecurrentNetwork(classes, mean, std, steps=64, inputs=1, recurrent=recurrent, order=permutation(64))


def hadamard_digits_permuted(classes: int, mean: Sequence[float], std: Sequence[float]) -> nn.Module:
    """As :func:`rnn_digits_permuted`, with a Walsh-Hadamard matrix of 128 trained signs: exact at any bits."""
    recurrent = HadamardLinear(128)
    return RecurrentNetwork(classes, mean, std, steps=64, inputs=1, recurrent=recurrent, order=permutation(64))


def rnn_mnist_rows(classes: int, mean: Sequence[float], std: Sequence[float]) -> nn.Module:
    """The 28 rows of a 28 x 28 image, one by one; an orthogonal recurrent matrix of 96 x 96."""
    return RecurrentNetwork(classes, mean, std, steps=28, inputs=28, recurrent=OrthogonalLinear(96))


RECURRENT: Mapping[str, Callable[[int, Sequence[float], Sequence[float]], nn.Module]] = {
    "rnn-digits-permuted": rnn_digits_permuted,
    "hadamard-digits-permuted": hadamard_digits_permuted,
    "rnn-mnist-rows": rnn_mnist_rows,
}
"""By name; each makes a network for grayscale images from the number of classes, means and standard deviations."""
