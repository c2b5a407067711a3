"""Spiking networks: leaky integrate-and-fire neurons over a fixed number of time steps.

A neuron holds a potential. At every step the potential is stored and leaks, the neuron fires where what is left exceeds a
threshold, the threshold is subtracted from where it fired, and what arrives is added: with the stored potential ``u``, the leak
``b`` and the threshold ``h``,

    v = b q(u);  s = [v > b h];  u <- v - h s + arriving.

``q`` is the identity in the float network and the quantizer of the state in a quantized one, so that neurons fire by the
potential as it is stored (SQUAT, arXiv 2404.19668). Images arrive as constant currents, so the class is a
function of the image, and noise is added to the image before any step: certificates mean what they mean elsewhere.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from suite.networks.normalization import Normalization


class Leak(nn.Module):
    """The state of a layer of neurons, multiplied by its leak: what they remember from one step to the next.

    It is quantized as layers are: its input activations are the state, its weights the leaks. Leaks are constants, 1 less a power
    of two, so that integers leak by a shift and a subtraction (Schaefer and Joshi, ICONS 2020).

    Args:
        neurons: Neurons, each with a leak of its own.
        shift: The leak is ``1 - 2^-shift``.
        threshold: Potential at which neurons fire, in the units of the state; None for states that nothing is compared with.

    Attributes:
        weight: Leaks, shape ``(neurons, 1)``; no parameter.
        threshold: As given.
    """

    weight: Tensor
    bias = None

    def __init__(self, neurons: int, shift: int = 3, threshold: float | None = 1.0) -> None:
        super().__init__()
        self.leak, self.threshold = 1 - 2.0**-shift, threshold
        self.register_buffer("weight", torch.full((neurons, 1), self.leak))

    def forward(self, state: Tensor) -> Tensor:
        """States, shape ``(images, neurons)``, times their leaks."""
        return state * self.weight[:, 0]


class Spike(nn.Module):
    """1 where a potential exceeds the threshold, 0 elsewhere; same shape.

    The gradient is that of an arctangent, ``1 / (1 + (pi x)^2)`` at ``x`` above the threshold, a surrogate for one that is 0
    almost everywhere (Fang et al., ICCV 2021). Second derivatives are the surrogate's, too.
    """

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, potential: Tensor) -> Tensor:
        """Fire."""
        fired: Tensor = _Fire.apply(potential - self.threshold)
        return fired


class _Fire(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, above: Tensor) -> Tensor:
        context.save_for_backward(above)
        return above.gt(0).to(above.dtype)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        above: Tensor = context.saved_tensors[0]
        return gradient / (1 + (math.pi * above).square())


class Neurons(nn.Module):
    """A layer of neurons whose spikes feed back on itself; it remembers a potential."""

    threshold = 1.0

    def __init__(self, neurons: int) -> None:
        super().__init__()
        self.state = Leak(neurons, threshold=self.threshold)
        self.fire = Spike(self.state.leak * self.threshold)
        self.feedback = nn.Linear(neurons, neurons, bias=False)

    def start(self, arriving: Tensor) -> Any:
        """What is remembered of what arrives first."""
        return arriving

    def forward(self, remembered: Any, arriving: Tensor) -> tuple[Any, Tensor]:
        """One step: the next potential, and which neurons fired, both of shape ``(images, neurons)``."""
        kept = self.state(remembered)
        fired = self.fire(kept)
        return kept + fired * -self.threshold + arriving + self.feedback(fired), fired


class TracedNeurons(Neurons):
    """Neurons with synapses that remember, too: what arrives goes on arriving, fading (Schaefer and Joshi's trace of synapses)."""

    def __init__(self, neurons: int) -> None:
        super().__init__(neurons)
        self.trace = Leak(neurons, shift=1, threshold=None)

    def start(self, arriving: Tensor) -> tuple[Tensor, Tensor]:
        """The potential and the trace."""
        return arriving, arriving

    def forward(self, remembered: Any, arriving: Tensor) -> tuple[Any, Tensor]:
        """One step, as of :class:`Neurons`, of the potential with the trace."""
        potential, trace = remembered
        kept = self.state(potential)
        fired = self.fire(kept)
        trace = self.trace(trace) + arriving + self.feedback(fired)
        return (kept + fired * -self.threshold + trace, trace), fired


class SpikingNetwork(nn.Module):
    """Two layers of neurons and a linear map of the rates at which the second one fires.

    Each layer starts with the potential that first arrives, so the second one fires in a step less than the first.

    Args:
        pixels: Of an image.
        neurons: Of both layers.
        classes: Number of classes.
        steps: Time steps, at least 2.
        mean, std: Normalization of images, see :class:`.Normalization`.
        kind: Class of the neurons.
    """

    def __init__(
        self,
        pixels: int,
        neurons: tuple[int, int],
        classes: int,
        steps: int,
        mean: Sequence[float],
        std: Sequence[float],
        kind: type[Neurons] = Neurons,
    ) -> None:
        super().__init__()
        self.steps = steps
        self.normalization = Normalization(mean, std)
        self.input = nn.Linear(pixels, neurons[0])
        self.first = kind(neurons[0])
        self.between = nn.Linear(*neurons)
        self.second = kind(neurons[1])
        self.output = nn.Linear(neurons[1], classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images in [0, 1], shape ``(images, 1, height, width)``, to logits."""
        current = self.input(self.normalization(images).flatten(1))
        first, fired = self.first(self.first.start(current), current)
        second, spikes = self.second.start(self.between(fired)), []
        for _ in range(self.steps - 1):
            first, fired = self.first(first, current)
            second, fired = self.second(second, self.between(fired))
            spikes.append(fired)
        logits: Tensor = self.output(reduce(operator.add, spikes) / (self.steps - 1))
        return logits


def spiking_digits(classes: int, mean: Sequence[float], std: Sequence[float]) -> nn.Module:
    """Layers of 96 and 64 neurons and ten steps, for grayscale images of 8 x 8 pixels."""
    return SpikingNetwork(64, (96, 64), classes, 10, mean, std)


def spiking_digits_traces(classes: int, mean: Sequence[float], std: Sequence[float]) -> nn.Module:
    """As :func:`spiking_digits`, with traces of synapses: two states for each neuron."""
    return SpikingNetwork(64, (96, 64), classes, 10, mean, std, TracedNeurons)


def spiking_mnist(classes: int, mean: Sequence[float], std: Sequence[float]) -> nn.Module:
    """Layers of 128 and 64 neurons and eight steps, for grayscale images of 28 x 28 pixels."""
    return SpikingNetwork(784, (128, 64), classes, 8, mean, std)


SPIKING: Mapping[str, Callable[[int, Sequence[float], Sequence[float]], nn.Module]] = {
    "spiking-digits": spiking_digits,
    "spiking-digits-traces": spiking_digits_traces,
    "spiking-mnist": spiking_mnist,
}
"""By name; each makes a network from the number of classes and the normalization."""
