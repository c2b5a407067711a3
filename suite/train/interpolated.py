"""Layers that compute between bit widths, as FracBits does: quantized values interpolated from those of two choices."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from suite.quantize.switchable import SwitchableLayer


class Mixture(NamedTuple):
    """Two bit widths and the share of the second one, a scalar; a layer without a choice has a share of None."""

    lower: int
    upper: int
    share: Tensor | None = None


class InterpolatedLayer(nn.Module):
    """A switchable layer whose quantized weights and quantized inputs are mixtures of two bit widths.

    ``(1 - share) Q(lower) + share Q(upper)`` for each part: with a share of 0 this is the quantizer at ``lower``, bit for bit, and
    it still has a derivative by the share.

    Attributes:
        weight_mixture, input_mixture: Set before every pass.
    """

    def __init__(self, layer: SwitchableLayer) -> None:
        super().__init__()
        self.layer = layer
        (self.weight_mixture, self.input_mixture) = (Mixture(bits[-1], bits[-1]) for bits in layer.bits)

    def forward(self, inputs: Tensor) -> Tensor:
        """Apply the layer; shapes as for the float layer."""
        lower, upper, share = self.weight_mixture
        weight = self.layer.quantized_weight(lower)
        if share is not None:
            weight = (1 - share) * weight + share * self.layer.quantized_weight(upper)
        lower, upper, share = self.input_mixture
        values = self.layer.quantized_inputs(inputs, lower)
        if share is not None:
            values = (1 - share) * values + share * self.layer.quantized_inputs(inputs, upper)
        return self.layer.compute(values, weight)
