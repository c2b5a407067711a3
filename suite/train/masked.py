"""Weights with a one-way variational mask: sparse variational dropout that prunes while it trains."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from suite.errors import BitcertError
from suite.networks.orthogonal import ConstrainedLinear
from suite.quantize.trainable import TrainableNetwork
from suite.seeds import derive_seed
from suite.train.loss import TrainingBatch, cross_entropy

K1, K2, K3 = 0.63576, 1.87320, 1.48695  # of the divergence's approximation, Molchanov et al., equation 14


@dataclass(frozen=True, slots=True)
class MaskSettings:
    """How weights are masked.

    Attributes:
        threshold: A weight is pruned once its ``log alpha`` reaches this; alpha is the ratio of its noise's variance to its square.
        weight: Factor of the divergence; 1 is the variational bound, in which the divergence counts once for all training images.
        log_variance: Initial ``log sigma^2`` of all weights, relative to the mean square of the layer's weights.
        speed: How many times faster ``log sigma^2`` is trained than weights.

    Raises:
        BitcertError: If an option is out of range.
    """

    threshold: float = 3.0
    weight: float = 1e-3
    log_variance: float = -5.0
    speed: float = 30.0

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.threshold, self.weight, self.log_variance, self.speed))):
            raise BitcertError(f"options of a mask must be finite, got {self}")
        if self.weight < 0 or self.speed <= 0:
            raise BitcertError(f"a mask needs weight >= 0 and speed > 0, got {self.weight} and {self.speed}")


class MaskedWeights(nn.Module):
    """Weights ``theta * m``, in training mode ``(theta + sigma epsilon) * m``; a weight once pruned stays pruned.

    Attributes:
        mask: What is left, shape of the weights.
        offset: Trained: ``log sigma^2`` is the start plus ``speed`` times this.
    """

    def __init__(self, weight: Tensor, settings: MaskSettings) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros_like(weight))
        self.register_buffer("mask", torch.ones_like(weight, dtype=torch.bool))
        self.mask: Tensor
        self._settings = settings
        self._start = settings.log_variance + math.log(max(float(weight.detach().square().mean()), 1e-30))
        self._generator = torch.Generator()

    def seed(self, seed: int) -> None:
        """Seed the noise of the coming pass."""
        self._generator.manual_seed(seed)

    def forward(self, weight: Tensor) -> Tensor:
        """The weights to compute with; same shape."""
        if self.training:
            noise = torch.randn(weight.shape, generator=self._generator).to(weight.device)
            weight = weight + (self._log_variance() / 2).exp() * noise
        return weight * self.mask

    def log_alpha(self, weight: Tensor) -> Tensor:
        """``log(sigma^2 / theta^2)``; same shape."""
        return self._log_variance() - weight.square().clamp(min=1e-30).log()

    def divergence(self, weight: Tensor) -> Tensor:
        """Divergence of the weights that are left from the log-uniform prior, a sum (:func:`log_uniform_divergence`)."""
        return (log_uniform_divergence(self.log_alpha(weight)) * self.mask).sum()

    @torch.no_grad()
    def prune(self, weight: Tensor) -> None:
        """Take out the weights whose noise drowns them."""
        self.mask &= self.log_alpha(weight) < self._settings.threshold

    def _log_variance(self) -> Tensor:
        return self._start + self._settings.speed * self.offset


def log_uniform_divergence(log_alpha: Tensor) -> Tensor:
    """KL of a Gaussian ``N(theta, alpha theta^2)`` from the log-uniform prior, approximated; same shape, 0 for large alpha.

    References:
        Molchanov, Ashukha and Vetrov, Variational dropout sparsifies deep neural networks, ICML 2017, equation 14.
    """
    return K1 - K1 * torch.sigmoid(K2 + K3 * log_alpha) + 0.5 * nn.functional.softplus(-log_alpha)


class VariationalLoss:
    """Cross-entropy under the weights' noise plus their divergence; the mask is updated in every step.

    Args:
        settings: How weights are masked.
        images: Training images in total.
    """

    def __init__(self, settings: MaskSettings, images: int) -> None:
        self._settings, self._images = settings, images

    def __call__(self, network: TrainableNetwork, batch: TrainingBatch) -> Tensor:
        """The loss of one step."""
        divergences = []
        for name, masked in masks_of(network).items():
            weight = network.layers()[name].weight
            masked.prune(weight)
            masked.seed(derive_seed(batch.seed, "mask", batch.step, name))
            divergences.append(masked.divergence(weight))
        factor = self._settings.weight / self._images
        return cross_entropy(network, batch) + factor * torch.stack(divergences).sum()


def masks_of(network: TrainableNetwork) -> dict[str, MaskedWeights]:
    """The masked weights by layer."""
    found = {name: layer.quantize_weights for name, layer in network.layers().items()}
    return {name: module for name, module in found.items() if isinstance(module, MaskedWeights)}


def mask_weights(network: TrainableNetwork, settings: MaskSettings) -> None:
    """Give every layer of a network whose weights are trained and not quantized a mask, in place; leaks are constants.

    Raises:
        BitcertError: If a layer constrains its weights: the masked ones would not be in its set.
    """
    for name, layer in network.layers().items():
        if isinstance(layer.float_layer, ConstrainedLinear):
            raise BitcertError(f"the weights of layer {name!r} are constrained, so none can be pruned; take swa")
        if isinstance(layer.weight, nn.Parameter):
            layer.quantize_weights = MaskedWeights(layer.weight, settings)


@torch.no_grad()
def remove_masks(network: TrainableNetwork) -> dict[str, Tensor]:
    """Set the pruned weights to 0 and take the masks off, in place; returns them by layer."""
    masks = {name: module.mask for name, module in masks_of(network).items()}
    for name, mask in masks.items():
        layer = network.layers()[name]
        layer.weight.mul_(mask)
        layer.quantize_weights = nn.Identity()
    return masks


@torch.no_grad()
def keep_pruned(network: TrainableNetwork, masks: dict[str, Tensor]) -> None:
    """Keep pruned weights of a quantized network at 0 in all further training: they get no gradient.

    Raises:
        BitcertError: If a layer's weights have no level 0.
    """
    for name, mask in masks.items():
        layer = network.layers()[name]
        layer.weight.mul_(mask)
        if bool(layer.quantize_weights(layer.weight)[~mask].any()):
            raise BitcertError(
                f"the quantized weights of layer {name!r} have no level 0, so pruned ones cannot stay 0; take swa, or a "
                "quantizer and bit width with a level 0, such as lsq from 2 bits on"
            )
        layer.weight.register_hook(lambda gradient, mask=mask: gradient * mask)
