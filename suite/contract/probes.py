"""What a searcher may learn of a problem's network besides evaluations: losses, derivatives and learned steps, metered."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suite.contract.bit_settings import BitSettings
from suite.contract.space import Part, Policy, Precision, SearchSpace
from suite.errors import BitcertError


@dataclass(frozen=True, slots=True)
class ProbeSettings:
    """The images and noise of a probe.

    Attributes:
        images: Training images, drawn without replacement.
        noise: Noise samples of each image at the problem's sigma; 0 for clean images.
        seed: Seed of the choice of images and of their noise.
    """

    images: int = 128
    noise: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("images", 1), ("noise", 0), ("seed", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise BitcertError(f"{name} of a probe must be an integer >= {least}, got {value!r}")

    @property
    def rows(self) -> int:
        """Inputs of the network: every image once, or once for each noise sample."""
        return self.images * max(1, self.noise)


@dataclass(frozen=True, slots=True)
class Quality:
    """How well a network does on the images of a probe.

    Attributes:
        loss: Mean cross-entropy over images and noise.
        radius: Mean over images of a smooth stand-in for the certified radius, in the units of the images:
            ``sigma * max(0, Phi^-1(p))``, with p the mean over noise of a soft vote for the label against its strongest
            rival (a logistic function of their logits' difference), at most what an exam can certify. Unlike counts, it
            moves before a prediction flips. Where certificates are without noise: the steps between radii, each times a logistic
            function of the least margin that interval bounds leave there, summed.
    """

    loss: float
    radius: float


def product_passes(space: SearchSpace, vectors: Sequence[Mapping[int, NDArray[np.float32]]]) -> float:
    """Forward passes charged for Hessian-vector products, per row: 6 for a vector over all layers, less for one of late layers.

    A product goes back through the forward and the backward pass of the layers from its vector's first on, which costs
    four times their share of the network's MACs, and twice the share of its own layers for these themselves.
    """
    shares = np.array([layer.macs for layer in space.layers], dtype=float)
    shares /= shares.sum()
    return float(sum(4 * shares[min(vector) :].sum() + 2 * shares[list(vector)].sum() for vector in vectors))


class Derivatives(ABC):
    """First and second derivatives of the loss by the weights, or by the inputs, of the quantizable layers.

    For weights the loss is the mean over all rows. For inputs every row has its own loss and its own Hessian, and
    products never mix rows.

    Attributes:
        shapes: Shape of each layer's derivatives: ``(1, weights)``, or ``(rows, inputs)``.
    """

    shapes: tuple[tuple[int, int], ...]

    @abstractmethod
    def gradient(self) -> list[NDArray[np.float32]]:
        """The gradient by layer, in :attr:`shapes`."""

    @abstractmethod
    def products(self, vectors: Sequence[Mapping[int, NDArray[np.float32]]]) -> list[dict[int, NDArray[np.float32]]]:
        """Multiply the Hessian with vectors, by double backward passes.

        Args:
            vectors: Each by layer, in :attr:`shapes`; layers that are left out are zero.

        Returns:
            For each vector, the layers of the product that the vector has.
        """


class Probes(ABC):
    """Measurements on one set of training images; each charges the problem's meter."""

    @abstractmethod
    def measure(self, policy: Policy) -> Quality:
        """Measure the network quantized to a policy, feasible or not; weights or inputs of 32 bits stay as they are."""

    @abstractmethod
    def perturbations(self, part: Part) -> NDArray[np.float64]:
        """Squared length of what the quantizer changes in weights, or in a row's inputs on average, shape ``(layers, choices)``."""

    @abstractmethod
    def first_order(self, policy: Policy) -> NDArray[np.float64]:
        """First-order terms of the loss at the network quantized to a policy, shape ``(2, layers)``.

        ``sum |dL/dQ(v) * (v - Q(v))|`` over the weights ``v`` of a layer, and the mean over rows of the same sum over its
        inputs, weights first. The loss is the mean over rows; everything is quantized at once, and the gradient is taken
        there. Parts of 32 bits have terms of 0.
        """

    @abstractmethod
    def squared_gradients(self) -> NDArray[np.float64]:
        """Mean squared derivative of every row's own loss, shape ``(2, layers)``: the average diagonal of the empirical Fisher.

        Averaged over rows and over the weights of a layer, or over its inputs; weights come first. Nothing is quantized.
        """

    @abstractmethod
    def output_changes(self, precisions: Sequence[Precision]) -> NDArray[np.float64]:
        """Squared changes of the layers' outputs, weighted by squared gradients, shape ``(layers, len(precisions))``.

        ``sum (dL/dy)^2 * (y_q - y)^2`` over the outputs ``y`` of a layer, averaged over rows. ``L`` is the row's own loss of
        the float network, ``y_q`` the layer at a precision on the float network's inputs.
        """

    @abstractmethod
    def derivatives(self, part: Part) -> Derivatives:
        """Derivatives of the float network's loss."""

    @abstractmethod
    def learned_steps(
        self, epochs: int, images: int | None = None, *, freeze_weights: bool = False
    ) -> NDArray[np.float64]:
        """Quantizer steps learned jointly over all choices on training images, shape ``(2, layers, choices)``.

        Weights come first. One step of the quantizer a layer and choice; the network itself stays as it is.

        Args:
            epochs: Passes over the images.
            images: How many, drawn without replacement; None for all.
            freeze_weights: Whether the steps alone are trained, rather than a copy of the network with them.

        References:
            Tang et al., Mixed-precision neural network quantization via learned layer-wise importance, ECCV 2022.
        """

    @abstractmethod
    def learned_bits(self, settings: BitSettings) -> NDArray[np.float64]:
        """Bit widths learned by gradient descent as real numbers, shape ``(2, layers)``, weights first.

        On mini-batches of noisy training images, of which the settings say how many; the images of the probe are not used. They lie
        between the least and the greatest choice, are equal where the space ties them, and those of pinned layers are the pins.
        Whatever policies they round to may cost more than the budget. The network itself stays as it is.

        Args:
            settings: Which descent, towards which budget, with which steps.

        Raises:
            BitcertError: If the loss stops being finite, or the descent cannot be made on the space.
        """

    def remembered(self, what: str, make: Callable[[Probes], Mapping[str, NDArray[Any]]]) -> Mapping[str, NDArray[Any]]:
        """What a method makes of these probes where that is small and they are not: traces from Hessian products.

        A record of probes keeps it in their place, so it has to be a function of the probes, of ``what`` and of nothing else.

        Args:
            what: Names it, with all options.
            make: Computes it, as named arrays.
        """
        return make(self)
