"""The operations of an integer network, executed by torch.

Between operations every value is a tensor of codes (:mod:`.codes`), stored as 32-bit floats that hold integers. An operation is
exact integer arithmetic, then one multiplication or division in 32-bit floating point, rounding half to even, and
clipping. Nothing depends on the order of a sum, so every program that follows these rules gets the same integers.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from suite.errors import BitcertError
from suite.quantize.integer.codes import Coding

_ARITHMETIC: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Div": torch.div,
}
EXACT_IN_FLOAT32 = 2**24
"""Integers up to here are exact in 32-bit floating point."""
_EXACT_IN_INT32 = 2**31


def accumulator_bounds(weight: Tensor, bias: Tensor, largest: int) -> Tensor:
    """Largest magnitude that the accumulator of each filter can have, float64, shape ``(filters,)``.

    Args:
        weight: Integers, filters first.
        bias: Integers, shape ``(filters,)``.
        largest: Largest magnitude of an input.
    """
    return weight.double().abs().flatten(1).sum(dim=1) * largest + bias.double().abs()


class Operation(nn.Module):
    """One operation; ``coding`` is that of its result, None where the result is real numbers."""

    coding: Coding | None

    @abstractmethod
    def compute(self, *inputs: Tensor) -> Tensor:
        """The result's codes; the inputs stay as they are."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """Call :meth:`compute`."""
        return self.compute(*inputs)


def _rounded(values: Tensor, coding: Coding) -> Tensor:
    return values.round_().clamp_(coding.low, coding.high)


class Real(Operation):
    """Arithmetic of real numbers with a constant, element by element, before the first codes.

    Args:
        name: ``"Add"``, ``"Sub"``, ``"Mul"`` or ``"Div"``.
        constant: The second operand.
    """

    coding = None

    def __init__(self, name: str, constant: Tensor) -> None:
        super().__init__()
        self.name = name
        self.register_buffer("constant", constant.clone())
        self.constant: Tensor

    def compute(self, *inputs: Tensor) -> Tensor:
        """As described."""
        return _ARITHMETIC[self.name](inputs[0], self.constant)


class Encode(Operation):
    """Real numbers to codes: ``clip(round(x / scale))``."""

    coding: Coding

    def __init__(self, coding: Coding) -> None:
        super().__init__()
        self.coding = coding
        self.register_buffer("scale", torch.tensor(coding.scale))
        self.scale: Tensor

    def compute(self, *inputs: Tensor) -> Tensor:
        """As described."""
        return _rounded(inputs[0] / self.scale, self.coding)


class Recode(Operation):
    """Codes to codes of another scale: ``clip(round(code * given / wanted))``; the product is exact."""

    coding: Coding

    def __init__(self, given: Coding, coding: Coding) -> None:
        super().__init__()
        self.given, self.coding = given, coding
        self.register_buffer("scales", torch.tensor([given.scale, coding.scale]))
        self.scales: Tensor

    def compute(self, *inputs: Tensor) -> Tensor:
        """As described."""
        return _rounded((inputs[0] * self.scales[0]).div_(self.scales[1]), self.coding)


class Decode(Operation):
    """Codes to the real numbers that they stand for, exactly."""

    coding = None

    def __init__(self, given: Coding) -> None:
        super().__init__()
        self.given = given
        self.register_buffer("scale", torch.tensor(given.scale))
        self.scale: Tensor

    def compute(self, *inputs: Tensor) -> Tensor:
        """As described."""
        return inputs[0] * self.scale


def exact_dtype(bound: int, device: torch.device) -> torch.dtype:
    """In what sums of integers of at most this magnitude are exact.

    On a CPU they are exact in any order. A GPU may compute convolutions of 32 bits in TF32 or by Winograd's transform, which are
    not; so it takes 64 bits, in which the error of any algorithm is far below half, and the sum is rounded.
    """
    return torch.float32 if bound < EXACT_IN_FLOAT32 and device.type == "cpu" else torch.float64


class Accumulate(Operation):
    """A convolution or linear layer: an integer sum ``acc`` of products and a bias, then ``clip(round(acc * multiplier))``.

    The multiplier of a channel is ``input scale * weight scale / output scale``; without an output coding the result is real,
    ``acc * (input scale * weight scale)``.

    Args:
        layer: The float layer, for stride, padding, dilation and groups.
        weight: Integers, shaped as the layer's weight.
        weight_scale: Of each channel, positive, at most 12 significant bits, shape ``(channels,)``.
        bias: Integers in units of input scale times weight scale, shape ``(channels,)``.
        given: Coding of the inputs.
        coding: Coding of the outputs; None for real numbers.
        name: For errors.

    Raises:
        BitcertError: If an accumulator may not fit 32 bits.
    """

    def __init__(
        self,
        layer: nn.Conv2d | nn.Linear,
        weight: Tensor,
        weight_scale: Tensor,
        bias: Tensor,
        *,
        given: Coding,
        coding: Coding | None,
        name: str,
    ) -> None:
        super().__init__()
        self._layer, self.given, self.coding, self.name = [layer], given, coding, name
        largest = max(-given.low, given.high)
        bound = int(accumulator_bounds(weight, bias, largest).max())
        if bound >= _EXACT_IN_INT32:
            raise BitcertError(f"layer {name!r} may add up to {bound}, which does not fit 32 bits; give it fewer bits")
        self.accumulator_bound = bound
        exact = exact_dtype(bound, weight.device)
        shape = (1, -1, 1, 1) if isinstance(layer, nn.Conv2d) else (-1,)
        product = torch.tensor(given.scale) * weight_scale.float().cpu()
        multiplier = product if coding is None else product / torch.tensor(coding.scale)
        self.weight_scale = weight_scale
        arranged = torch.channels_last if weight.dim() == 4 else torch.contiguous_format  # sums are exact in any order
        kernel = weight.to(exact, memory_format=arranged)
        for key, value in {"weight": kernel, "bias": bias.to(exact), "multiplier": multiplier.reshape(shape)}.items():
            self.register_buffer(key, value.to(weight.device))
        self.weight: Tensor
        self.bias: Tensor
        self.multiplier: Tensor

    @property
    def layer(self) -> nn.Conv2d | nn.Linear:
        """The float layer."""
        return self._layer[0]

    def compute(self, *inputs: Tensor) -> Tensor:
        """As described."""
        codes = inputs[0].to(self.weight.dtype)
        layer = self.layer
        if isinstance(layer, nn.Conv2d):
            accumulated: Tensor = layer._conv_forward(codes, self.weight, self.bias)
        else:
            accumulated = nn.functional.linear(codes, self.weight, self.bias)
        if accumulated.device.type != "cpu":
            accumulated = accumulated.round()
        return self.finish(accumulated)

    def finish(self, accumulated: Tensor) -> Tensor:
        """From sums to results, a monotone function of each sum; sums of 32 bits are overwritten."""
        scaled = accumulated.float().mul_(self.multiplier)
        return scaled if self.coding is None else _rounded(scaled, self.coding)


class Add(Operation):
    """A sum: both inputs have scales that are powers of two, so it is exact before it is rounded to the coding."""

    coding: Coding

    def __init__(self, given: tuple[Coding, Coding], coding: Coding) -> None:
        super().__init__()
        self.given, self.coding = given, coding
        self.register_buffer("scales", torch.tensor([*(one.scale for one in given), coding.scale]))
        self.scales: Tensor

    def compute(self, *inputs: Tensor) -> Tensor:
        """As described."""
        left, right, wanted = self.scales
        return _rounded((inputs[0] * left).add_(inputs[1] * right).div_(wanted), self.coding)


class Multiply(Operation):
    """A product of codes, broadcast: ``clip(round(a * b * multiplier))``."""

    coding: Coding

    def __init__(self, given: tuple[Coding, Coding], coding: Coding) -> None:
        super().__init__()
        self.given, self.coding = given, coding
        product = torch.tensor(given[0].scale) * torch.tensor(given[1].scale)
        self.register_buffer("multiplier", product / torch.tensor(coding.scale))
        self.multiplier: Tensor

    def compute(self, *inputs: Tensor) -> Tensor:
        """As described."""
        return _rounded((inputs[0] * inputs[1]).mul_(self.multiplier), self.coding)


class Pool(Operation):
    """The mean over some axes, of codes whose sum is exact: ``clip(round(sum * multiplier))``.

    Args:
        given: Coding of the inputs.
        coding: Coding of the outputs; None for real numbers, the network's logits.
        size: Values per mean.
        axes: What the mean is taken over.
        keep: Whether these axes stay, with one value.
    """

    def __init__(self, given: Coding, coding: Coding | None, size: int, axes: tuple[int, ...], *, keep: bool) -> None:
        super().__init__()
        if size * max(-given.low, given.high) >= EXACT_IN_FLOAT32:
            raise BitcertError(f"a mean over {size} values may add up to more than 24 bits hold; use smaller images")
        self.given, self.coding, self.axes, self.keep = given, coding, axes, keep
        self.register_buffer(
            "multiplier", torch.tensor(given.scale) / torch.tensor(size * (1.0 if coding is None else coding.scale))
        )
        self.multiplier: Tensor

    def compute(self, *inputs: Tensor) -> Tensor:
        """As described."""
        scaled = inputs[0].sum(dim=self.axes, keepdim=self.keep).mul_(self.multiplier)
        return scaled if self.coding is None else _rounded(scaled, self.coding)


class LookUp(Operation):
    """Any function of one number, by a table with an entry for each code."""

    coding: Coding

    def __init__(self, function: Callable[[Tensor], Tensor], given: Coding, coding: Coding) -> None:
        super().__init__()
        self.given, self.coding = given, coding
        codes = torch.arange(given.low, given.high + 1, dtype=torch.float64)
        values = function((codes * given.scale).float()).double()
        self.register_buffer("table", _rounded(values / coding.scale, coding).float())
        self.table: Tensor

    def compute(self, *inputs: Tensor) -> Tensor:
        """As described."""
        return self.table[(inputs[0] - self.given.low).long()]


class Clip(Operation):
    """Codes limited to those of another coding of the same scale."""

    coding: Coding

    def __init__(self, coding: Coding) -> None:
        super().__init__()
        self.coding = coding

    def compute(self, *inputs: Tensor) -> Tensor:
        """As described."""
        return inputs[0].clamp(self.coding.low, self.coding.high)


class Rearrange(Operation):
    """Codes moved, not changed: slices, padding with the code 0, maxima over windows, other shapes.

    Args:
        function: Of the codes' tensor.
        coding: That of inputs and outputs.
        kind: What an export calls it.
        arguments: What an export needs to know.
    """

    def __init__(
        self, function: Callable[..., Tensor], coding: Coding | None, kind: str, arguments: dict[str, Any]
    ) -> None:
        super().__init__()
        self.function, self.coding, self.kind, self.arguments = function, coding, kind, arguments

    def compute(self, *inputs: Tensor) -> Tensor:
        """As described."""
        return self.function(*inputs)
