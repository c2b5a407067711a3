"""NIPQ's noise: quantizers that add noise distributed as their rounding errors, differentiable by the bits."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from suite.contract.space import Layer
from suite.networks.orthogonal import constrained
from suite.quantize import Calibration
from suite.quantize.calibration import quantizable_modules
from suite.quantize.graph import substitute
from suite.quantize.layer import Quantizable, apply_layer

_BINS = 256


def add_noise(values: Tensor, clip: Tensor, bits: Tensor, *, signed: bool) -> Tensor:
    """Values clipped at ``clip`` with noise in place of rounding, differentiable by all three.

    The step is ``clip / (2^(bits - 1) - 1)`` for signed values and ``clip / (2^bits - 1)`` for others. Noise is drawn, in steps,
    from the histogram of the values' own rounding errors, in 256 bins. Values at the clip or beyond it, and those below 0 where
    values are not signed, become what they are clipped to.

    Args:
        values: Any shape.
        clip: Positive scalar.
        bits: Scalar, at least 2.
        signed: Whether values may be negative.

    References:
        Shin et al., NIPQ: Noise proxy-based integrated pseudo-quantization, CVPR 2023, section 4.
    """
    step = clip / (2 ** (bits - 1) - 1 if signed else 2**bits - 1)
    floor = -clip if signed else torch.zeros_like(clip)
    inside = (values < clip) & (values > floor)
    with torch.no_grad():
        scaled = values / step
        counts = torch.histc((scaled.round() - scaled)[inside], bins=_BINS, min=-0.5, max=0.5)
        ends = counts.cumsum(0)
        if ends[-1] > 0:
            drawn = torch.rand_like(values).mul_(ends[-1])
            found = torch.searchsorted(ends, drawn, right=True).clamp_(max=_BINS - 1)
            share = 1 - (ends[found] - drawn) / counts[found].clamp(min=1)
            noise = (found + share.clamp_(0, 1)) / _BINS - 0.5
        else:
            noise = torch.zeros_like(values)
    clipped = torch.minimum(torch.maximum(values, floor), clip)
    return torch.where(inside, values + noise * step, clipped)


class NoisyLayer(nn.Module):
    """A Conv2d or Linear whose weights and inputs are noisy at given bits.

    Attributes:
        bits: Bits of the weights and of the inputs, scalars, set before every pass.
    """

    def __init__(self, module: Quantizable, layer: Layer, calibration: Calibration) -> None:
        super().__init__()
        self._layer = [module]  # in a list: its parameters would have two names
        self.weight, self.bias = module.weight, module.bias
        seen = calibration.inputs[layer.name]
        self._signed = seen.signed
        self.clips = nn.ParameterList(
            _inverse_softplus(values.detach().abs().amax()) for values in (module.weight, seen.values)
        )
        self.bits: tuple[Tensor, Tensor] = torch.tensor(8.0), torch.tensor(8.0)

    def forward(self, inputs: Tensor) -> Tensor:
        """Apply the layer; shapes as for the float layer."""
        weight_clip, input_clip = (nn.functional.softplus(clip) for clip in self.clips)
        weight = add_noise(constrained(self._layer[0], self.weight), weight_clip, self.bits[0], signed=True)
        noisy = add_noise(inputs, input_clip, self.bits[1], signed=self._signed)
        return apply_layer(self._layer[0], noisy, weight, self.bias)


class NoisyNetwork(nn.Module):
    """A copy of a float network whose quantizable layers are noisy.

    Clipping levels, which are learned, start at the largest weight and the largest input seen.

    Args:
        network: Float network; it is not changed.
        layers: Its quantizable layers.
        calibration: Inputs that the layers saw.
    """

    def __init__(self, network: nn.Module, layers: Sequence[Layer], calibration: Calibration) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(True)
        modules = quantizable_modules(self.network, [layer.name for layer in layers])
        self.layers: list[NoisyLayer] = []
        for layer in layers:
            module = modules[layer.name]
            self.layers.append(NoisyLayer(module, layer, calibration).to(module.weight.device))
            substitute(self.network, module, self.layers[-1])

    def forward(self, images: Tensor) -> Tensor:
        """Images to logits."""
        logits: Tensor = self.network(images)
        return logits

    def steps(self) -> list[nn.Parameter]:
        """The learned clipping levels, before their softplus."""
        return [clip for layer in self.layers for clip in layer.clips]


def _inverse_softplus(positive: Tensor) -> nn.Parameter:
    positive = positive.clamp(min=1e-6)
    return nn.Parameter(positive + torch.log(-torch.expm1(-positive)))
