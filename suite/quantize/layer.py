"""The quantized layer: a Conv2d or Linear with rounded inputs and weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from suite.quantize.folding import scale_and_shift
from suite.quantize.steps import Grid


class QuantizedLayer(nn.Module):
    """A Conv2d or Linear that rounds its inputs to a grid; its weights are already quantized.

    Inputs become integers ``clip(round(x / step), low, high)``. Their step, and the scale of a folded batch norm, are
    multiplied into the stored weight, so they cost nothing at run time.

    Args:
        layer: The float layer; it is not changed.

    Attributes:
        overwrites: Whether the integers overwrite the inputs; only where nothing else reads them.
    """

    def __init__(self, layer: nn.Conv2d | nn.Linear) -> None:
        super().__init__()
        self._layer = [layer]  # in a list: the float layer is no submodule, its weights are not this network's state
        self.register_buffer("weight", torch.empty(0, device=layer.weight.device))
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach())
        self.weight: Tensor
        self.bias: Tensor | None
        self.overwrites = False
        self._channels_last: bool | None = None
        self._scale: Tensor | None = None
        self.step = 1.0
        self.grid: Grid | None = None

    @property
    def folded(self) -> bool:
        """Whether a batch norm is folded in."""
        return self._scale is not None

    @property
    def is_convolution(self) -> bool:
        """Whether it is a Conv2d rather than a Linear."""
        return isinstance(self._layer[0], nn.Conv2d)

    @property
    def channels_last(self) -> bool | None:
        """Memory layout of a convolution: channels-last (its weights decide), contiguous, or None to follow its inputs."""
        return self._channels_last

    @channels_last.setter
    def channels_last(self, wanted: bool) -> None:
        self._channels_last = wanted
        if self.weight.numel():
            self.weight = self._arranged(self.weight)

    @torch.no_grad()
    def fold(self, norm: nn.BatchNorm2d) -> None:
        """Fold in the batch norm that follows, in evaluation mode; call before :meth:`load`."""
        self._scale, shift = scale_and_shift(norm)
        self.bias = shift if self.bias is None else self.bias * self._scale + shift

    def load(self, weight: Tensor, step: float, grid: Grid | None) -> None:
        """Load quantized weights (in units of the float weights), and the step and grid of the inputs.

        Without a grid, inputs are not quantized; pass a step of 1.
        """
        scaled = weight * step
        if self._scale is not None:
            scaled *= self._scale.reshape(-1, 1, 1, 1)
        self.weight = self._arranged(scaled)
        self.step, self.grid = step, grid

    def forward(self, inputs: Tensor) -> Tensor:
        """Apply the layer; shapes as for the float layer."""
        levels = inputs
        if self.grid is not None:
            levels = inputs.div_(self.step) if self.overwrites else inputs.div(self.step)
            levels.round_().clamp_(self.grid.low, self.grid.high)
        if self._channels_last is False:
            levels = levels.contiguous()
        return apply_layer(self._layer[0], levels, self.weight, self.bias)

    def _arranged(self, weight: Tensor) -> Tensor:
        if self._channels_last is None:
            return weight
        # A copy, because with one channel or 1x1 kernels both arrangements are the same and the strides alone tell them.
        memory_format = torch.channels_last if self._channels_last else torch.contiguous_format
        return torch.empty_like(weight, memory_format=memory_format).copy_(weight)


def apply_layer(layer: nn.Conv2d | nn.Linear, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Apply a layer's operation (stride, padding, dilation and groups included) with other weights."""
    if isinstance(layer, nn.Conv2d):
        convolved: Tensor = layer._conv_forward(inputs, weight, bias)
        return convolved
    return nn.functional.linear(inputs, weight, bias)
