"""A fixed-point network, executed exactly.

A layer is ``acc = W x + B`` over integers, then ``clamp(floor((acc + 2^(s-1)) / 2^s), low, high)``; the last one may give ``acc``
itself. Sums are computed in floating point, where they are exact: in 32 bits if no accumulator can reach 2^24, which is
proven for each filter when the network is built, else in 64 bits, where 2^52 is the limit.

**No ties.** Libraries disagree on how to round a number half way between two integers. With ``rounding="odd"``, biases are odd
multiples of half a unit of the accumulator: then no sum is half way, rounding half up, half to even and half away from zero
agree, and whoever executes the network gets the same integers. ``"half-up"`` is for networks that others published.

The prediction is the first class with the largest output.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from suite.errors import BitcertError
from suite.quantize.fixed_point.layer import FixedPointLayer, Rounding
from suite.quantize.integer.operations import EXACT_IN_FLOAT32, accumulator_bounds

EXACT_IN_FLOAT64 = 2**52
"""Sums up to here, and differences of two of them, are exact in 64-bit floating point."""

_MOST_LEVELS = 65_535  # 16-bit images; levels stay far apart as 32-bit floats in [0, 1]

Integers = NDArray[np.int64]


class Step(nn.Module):
    """A layer with everything known that it is executed with.

    Args:
        layer: The layer.
        inputs: Shape of its inputs, without the batch; flattened for a linear layer.
        largest: Largest magnitude of an input.
        fraction: Inputs are worth ``2^-fraction``.
        rounding: See :mod:`.network`.
        dtype: Of the sums; None for the smallest that is exact.

    Attributes:
        shape: Of its outputs.
        low: Least output; None for accumulators.
        high: Largest output; None for accumulators.
        shift: Bits that rounding drops.
        fraction: Outputs are worth ``2^-fraction``.
        largest: Largest magnitude of an output.

    Raises:
        BitcertError: If shapes do not fit, or a filter's accumulator may be inexact.
    """

    def __init__(
        self,
        layer: FixedPointLayer,
        inputs: tuple[int, ...],
        *,
        largest: int,
        fraction: int,
        rounding: Rounding,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        lowered = layer.lower(fraction, rounding)
        self.layer, self.shift = layer, lowered.shift
        self.shape = _output_shape(layer, inputs)
        weight, offset = torch.from_numpy(lowered.weight), torch.from_numpy(lowered.offset)
        bounds = accumulator_bounds(weight, offset, largest)
        limit = EXACT_IN_FLOAT32 if dtype == torch.float32 else EXACT_IN_FLOAT64
        worst = int(bounds.argmax())
        most = float(bounds[worst])
        if most >= limit:
            raise BitcertError(
                f"layer {layer.name!r}: the accumulator of filter {worst} may reach {most:.0f}, and sums are exact only below "
                f"2^{limit.bit_length() - 1}; give it fewer bits or fewer inputs"
            )
        self.exact = dtype or (torch.float32 if most < EXACT_IN_FLOAT32 else torch.float64)
        self.register_buffer("weight", weight.to(self.exact))
        self.register_buffer("offset", offset.to(self.exact))
        self.weight: Tensor
        self.offset: Tensor
        output = layer.output
        self.low = None if output is None else output.low
        self.high = None if output is None else output.high
        self.fraction = lowered.unit if output is None else output.fraction
        self.largest = int(most) if output is None else max(-output.low, output.high)

    def multiply(self, weight: Tensor, codes: Tensor) -> Tensor:
        """Sums of products, without the offset; codes have a batch in front, and its shape or are flattened."""
        codes = codes.to(weight.dtype)
        if not self.layer.is_convolution:
            return codes.flatten(1) @ weight.T
        return nn.functional.conv2d(codes, weight, None, self.layer.stride, self.layer.padding)

    def accumulate(self, codes: Tensor) -> Tensor:
        """The accumulators, half of what is rounded added."""
        return self.shifted(self.multiply(self.weight, codes))

    def shifted(self, sums: Tensor) -> Tensor:
        """Sums with the offset added, one for each filter."""
        return sums + (self.offset[:, None, None] if self.layer.is_convolution else self.offset)

    def rounded(self, accumulated: Tensor) -> Tensor:
        """Accumulators, half added, to integers before they are clamped."""
        return accumulated if self.low is None else (accumulated * 2.0**-self.shift).floor()

    def clamped(self, rounded: Tensor) -> Tensor:
        """Integers to outputs."""
        return rounded if self.low is None else rounded.clamp(self.low, self.high)

    def forward(self, codes: Tensor) -> Tensor:
        """Inputs to outputs, both integers in floating point."""
        return self.clamped(self.rounded(self.accumulate(codes)))


class FixedPointNetwork(nn.Module):
    """Layers one after the other, from integer images to integer outputs; a linear layer flattens its inputs.

    Args:
        layers: The layers; the last is linear, and only it may give accumulators.
        image_shape: Channels, height and width.
        levels: Images are integers from 0 to ``levels``: 255 for bytes.
        input_fraction: Images are worth ``2^-input_fraction`` per level.
        rounding: ``"odd"`` or ``"half-up"``, see :mod:`.network`.
        dtype: Of all sums, refused where it is inexact; None for the smallest exact one of each layer.

    Raises:
        BitcertError: If layers do not fit together, or a sum may be inexact; the layer and the filter are named.
    """

    def __init__(
        self,
        layers: Sequence[FixedPointLayer],
        image_shape: tuple[int, int, int],
        *,
        levels: int = 255,
        input_fraction: int = 8,
        rounding: Rounding = "odd",
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not layers or layers[-1].is_convolution:
            raise BitcertError("a fixed-point network ends with a linear layer, which gives one output per class")
        if min(image_shape) < 1 or not 1 <= levels <= _MOST_LEVELS:
            raise BitcertError(
                f"images need a positive shape and 1 to {_MOST_LEVELS} levels, got {image_shape} and {levels}"
            )
        self.image_shape, self.levels = image_shape, levels
        self.input_fraction, self.rounding = input_fraction, rounding
        shape: tuple[int, ...] = image_shape
        steps: list[Step] = []
        largest, fraction = levels, input_fraction
        for layer in layers:
            if layer.output is None and layer is not layers[-1]:
                raise BitcertError(f"layer {layer.name!r}: only the last layer may leave its output out")
            step = Step(layer, shape, largest=largest, fraction=fraction, rounding=rounding, dtype=dtype)
            steps.append(step)
            shape, largest, fraction = step.shape, step.largest, step.fraction
        self._steps = nn.ModuleList(steps)
        self.steps: tuple[Step, ...] = tuple(steps)
        self.classes = self.steps[-1].shape[0]
        self.eval().requires_grad_(False)

    @property
    def layers(self) -> tuple[FixedPointLayer, ...]:
        """The layers as given."""
        return tuple(step.layer for step in self.steps)

    def forward(self, images: Tensor) -> Tensor:
        """Images in [0, 1], rounded to levels and clamped, shape ``(batch, C, H, W)``, to outputs, ``(batch, classes)``."""
        codes = (images * self.levels + 0.5).floor().clamp(0, self.levels)
        for step in self.steps:
            codes = step(codes)
        return codes

    def outputs(self, codes: NDArray[np.integer[Any]]) -> Integers:
        """Integer images, shape ``(images, C, H, W)`` or flattened, to outputs, int64, shape ``(images, classes)``.

        Raises:
            BitcertError: If a code is outside of 0..levels.
        """
        if codes.size and (codes.min() < 0 or codes.max() > self.levels):
            raise BitcertError(f"images are integers in 0..{self.levels}, found {codes.min()}..{codes.max()}")
        values = self.as_images(codes)
        for step in self.steps:
            values = step(values)
        return np.asarray(values.numpy(), dtype=np.int64)

    def predict(self, codes: NDArray[np.integer[Any]]) -> Integers:
        """Classes of integer images, int64, shape ``(images,)``: the first with the largest output."""
        return np.asarray(self.outputs(codes).argmax(axis=1), dtype=np.int64)

    def as_images(self, codes: NDArray[np.integer[Any]]) -> Tensor:
        """Integer images, flattened or not, as a tensor that the first step takes."""
        return torch.from_numpy(np.ascontiguousarray(codes, dtype=np.float32)).reshape(-1, *self.image_shape)


def _output_shape(layer: FixedPointLayer, inputs: tuple[int, ...]) -> tuple[int, ...]:
    if not layer.is_convolution:
        if layer.weight.shape[1] != math.prod(inputs):
            raise BitcertError(
                f"layer {layer.name!r}: it takes {layer.weight.shape[1]} inputs, but there are {math.prod(inputs)}"
            )
        return (layer.weight.shape[0],)
    outputs, channels, *kernel = layer.weight.shape
    if len(inputs) != 3 or channels != inputs[0]:
        raise BitcertError(f"layer {layer.name!r}: it takes {channels} channels of images, but its inputs are {inputs}")
    size = [
        (given + 2 * padding - wide) // stride + 1
        for given, padding, wide, stride in zip(inputs[1:], layer.padding, kernel, layer.stride, strict=True)
    ]
    if min(size) < 1:
        raise BitcertError(f"layer {layer.name!r}: its kernel {tuple(kernel)} is larger than its inputs {inputs}")
    return (outputs, *size)
