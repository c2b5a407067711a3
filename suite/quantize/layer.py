"""The quantized layer: a Conv2d or Linear with rounded inputs and weights, and the batch norm folded into it."""

from __future__ import annotations

import copy
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from suite.networks.spiking import Leak
from suite.quantize.folding import scale_and_shift
from suite.quantize.steps import Grid

Quantizable = nn.Conv2d | nn.Linear | Leak
"""Modules that can be quantized."""


class Integers(NamedTuple):
    """A quantized layer's weights as integers.

    Attributes:
        weight: Integers in 32-bit floating point, shaped as the layer's weight.
        scale: What one unit of a channel stands for, a folded batch norm included; not negative, shape ``(channels,)``.
        bias: The bias that is executed, shape ``(channels,)``.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor


class QuantizedLayer(nn.Module):
    """A Conv2d or Linear that rounds its inputs to a grid; its weights are already quantized.

    Inputs become integers ``clip(round(x / step), low, high)``. Their step, and the scale of a folded batch norm, are
    multiplied into the stored weight, so they cost nothing at run time.

    Args:
        layer: The float layer; it is not changed.
        bias: In place of the float layer's, shape ``(channels,)``.

    Attributes:
        overwrites: Whether the integers overwrite the inputs; only where nothing else reads them.
    """

    def __init__(self, layer: Quantizable, bias: Tensor | None = None) -> None:
        super().__init__()
        own = layer.bias if bias is None else bias
        self._layer = [layer]  # in a list: the float layer is no submodule, its weights are not this network's state
        self.register_buffer("weight", torch.empty(0, device=layer.weight.device))
        self.register_buffer("bias", None if own is None else own.detach())
        self.weight: Tensor
        self.bias: Tensor | None
        self.overwrites = False
        self._channels_last: bool | None = None
        self._own_bias = self.bias
        self._unscaled = self.weight
        self._norms: list[nn.BatchNorm2d] = []  # in a list: it is not called
        self._correction: Tensor | None = None
        self._observer: _Observer | None = None
        self._weight_step: Tensor | None = None
        self.step = 1.0
        self.grid: Grid | None = None

    @property
    def folded(self) -> bool:
        """Whether a batch norm is folded in."""
        return bool(self._norms)

    @property
    def float_layer(self) -> Quantizable:
        """The float layer, for its stride, padding, dilation and groups."""
        return self._layer[0]

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
            self._unscaled = self._arranged(self._unscaled)
            self._fuse()

    @torch.no_grad()
    def fold(self, norm: nn.BatchNorm2d) -> None:
        """Fold in the batch norm that follows, in evaluation mode; the layer keeps a copy of it."""
        self._norms = [copy.deepcopy(norm).requires_grad_(False)]
        self._fuse()

    @torch.no_grad()
    def set_norm(self, scale: Tensor, shift: Tensor) -> None:
        """Give the folded batch norm another scale and shift, shape ``(channels,)``; :meth:`load` applies them."""
        for norm in self._norms:
            norm.weight.copy_(scale)
            norm.bias.copy_(shift)

    def load(self, weight: Tensor, step: float, grid: Grid | None, weight_step: Tensor | None) -> None:
        """Load quantized weights (in units of the float weights) with their step, and the step and grid of the inputs.

        The weights' step broadcasts with them. Without one, or without a grid, weights or inputs are not quantized; pass a
        step of 1 for such inputs.
        """
        self._unscaled = self._arranged(weight * step)
        self._weight_step = weight_step
        self.step, self.grid = step, grid
        self._fuse()

    def forward(self, inputs: Tensor) -> Tensor:
        """Apply the layer; shapes as for the float layer."""
        levels = inputs
        if self.grid is not None:
            levels = inputs.div_(self.step) if self.overwrites else inputs.div(self.step)
            self.grid.nearest_(levels)
        if self._channels_last is False:
            levels = levels.contiguous()
        if self._observer is not None:
            return self._observer.see(apply_layer(self._layer[0], levels, self._unscaled, self._own_bias))
        return apply_layer(self._layer[0], levels, self.weight, self.bias)

    @torch.no_grad()
    def integers(self) -> Integers | None:
        """The weights as integers, or None if weights or inputs are not quantized."""
        if self._weight_step is None or self.grid is None:
            return None
        channels = len(self._unscaled)
        weight = (self._unscaled / (self.step * self._weight_step)).round().contiguous()
        scale = self._weight_step.flatten().expand(channels)
        for norm in self._norms:
            scale = scale * scale_and_shift(norm)[0]
        weight = weight * torch.where(scale < 0, -1.0, 1.0).reshape(-1, *[1] * (weight.dim() - 1))
        bias = torch.zeros(channels, device=weight.device) if self.bias is None else self.bias
        return Integers(weight, scale.abs(), bias)

    @torch.no_grad()
    def restore(self, integers: Integers, step: float, grid: Grid | None) -> None:
        """Take over what :meth:`integers` gave of another layer, and the step and grid of its inputs.

        Scale and bias include a batch norm that was folded in, so that none is left.
        """
        self._norms, self._correction, self._own_bias = [], None, integers.bias
        dead = integers.scale == 0
        scale = torch.where(dead, 1.0, integers.scale).reshape(-1, *[1] * (integers.weight.dim() - 1))
        self.load(integers.weight * torch.where(dead.reshape(scale.shape), 0.0, scale), step, grid, scale)

    def observe(self, *, recalibrate: bool, output_mean: Tensor | None) -> bool:
        """Measure the layer's own statistics in the following passes, until :meth:`settle`.

        Args:
            recalibrate: Whether a folded batch norm is recalibrated.
            output_mean: Mean output of the float layer, shape ``(channels,)``, to be restored where no batch norm is
                recalibrated; None to restore nothing.

        Returns:
            Whether there is anything to measure.
        """
        if recalibrate and self._norms:
            self._observer = _NormObserver(self._norms[0])
        elif output_mean is not None:
            self._observer = _MeanObserver(output_mean, self._norms)
        return self._observer is not None

    @torch.no_grad()
    def settle(self) -> int:
        """Take over the statistics measured since :meth:`observe`; returns how often the layer was called."""
        if self._observer is None:
            return 0
        calls = self._observer.calls
        self._correction = self._observer.correction()
        self._observer = None
        self._fuse()
        return calls

    def _fuse(self) -> None:
        """Combine weights, bias, correction and batch norm into the weight and bias that are executed."""
        self.weight, self.bias = self._unscaled, self._own_bias
        if self._correction is not None:
            self.bias = self._correction if self.bias is None else self.bias + self._correction
        for norm in self._norms:
            scale, shift = scale_and_shift(norm)
            self.bias = shift if self.bias is None else self.bias * scale + shift
            if self.weight.numel():
                self.weight = self._arranged(self.weight * scale.reshape(-1, 1, 1, 1))

    def _arranged(self, weight: Tensor) -> Tensor:
        if self._channels_last is None:
            return weight
        # A copy, because with one channel or 1x1 kernels both arrangements are the same and the strides alone tell them.
        memory_format = torch.channels_last if self._channels_last else torch.contiguous_format
        return torch.empty_like(weight, memory_format=memory_format).copy_(weight)


def apply_layer(layer: Quantizable, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Apply a layer's operation (stride, padding, dilation and groups included) with other weights."""
    if isinstance(layer, Leak):
        return inputs * weight[:, 0]
    if isinstance(layer, nn.Conv2d):
        convolved: Tensor = layer._conv_forward(inputs, weight, bias)
        return convolved
    return nn.functional.linear(inputs, weight, bias)


class _Observer(Protocol):
    """What measures the outputs of a layer, before batch norm, and corrects them at once.

    Attributes:
        calls: Of the layer so far.
    """

    calls: int

    def see(self, outputs: Tensor) -> Tensor:
        """Measure a batch and return the outputs as they will be."""

    def correction(self) -> Tensor | None:
        """What is to be added to the layer's bias, shape ``(channels,)``; None for nothing."""


class _NormObserver:
    """Gives a batch norm the statistics of what it sees, averaged over batches."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        self._norm, self.calls = norm, 0

    def see(self, outputs: Tensor) -> Tensor:
        self.calls += 1
        norm = self._norm
        return nn.functional.batch_norm(
            outputs, norm.running_mean, norm.running_var, norm.weight, norm.bias, True, 1 / self.calls, norm.eps
        )

    def correction(self) -> None:
        return None


class _MeanObserver:
    """Restores a layer's mean output; its batch norm, if any, stays as it is."""

    def __init__(self, wanted: Tensor, norms: list[nn.BatchNorm2d]) -> None:
        self._wanted, self._norms = wanted, norms
        self._total, self.calls = torch.zeros_like(wanted), 0

    def see(self, outputs: Tensor) -> Tensor:
        shape = [-1, 1, 1] if outputs.dim() == 4 else [-1]
        missing = self._wanted - channel_means(outputs)
        self._total += missing
        self.calls += 1
        corrected = outputs + missing.reshape(shape)
        for norm in self._norms:
            scale, shift = scale_and_shift(norm)
            corrected = corrected * scale.reshape(shape) + shift.reshape(shape)
        return corrected

    def correction(self) -> Tensor:
        return self._total / self.calls


def channel_means(outputs: Tensor) -> Tensor:
    """Mean of each channel of a convolution's outputs ``(N, C, H, W)`` or of a linear layer's ``(..., C)``."""
    return outputs.mean(dim=(0, 2, 3)) if outputs.dim() == 4 else outputs.flatten(0, -2).mean(dim=0)
