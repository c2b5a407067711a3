"""Layers of a fixed-point network, as a file states them: integers, their bits, and where the binary point is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from suite.errors import BitcertError, unknown_name

Rounding = Literal["odd", "half-up"]
ROUNDINGS: tuple[Rounding, ...] = get_args(Rounding)
MOST_BITS = 16
MOST_FRACTION = 64
_LARGEST = 2**53
"""Integers up to here are exact in 64-bit floating point."""


@dataclass(frozen=True, slots=True)
class Output:
    """Form of a layer's outputs: integers of ``bits`` bits, worth ``2^-fraction`` each, clamped to what fits."""

    bits: int
    fraction: int
    signed: bool = False

    @property
    def low(self) -> int:
        """The least output."""
        return -(1 << self.bits - 1) if self.signed else 0

    @property
    def high(self) -> int:
        """The largest output."""
        return (1 << self.bits - self.signed) - 1


@dataclass(frozen=True, slots=True, eq=False)
class FixedPointLayer:
    """A linear layer or a convolution.

    Attributes:
        name: For errors and files.
        weight: Integers worth ``2^-weight_fraction``, int64; shape ``(outputs, inputs)``, or ``(outputs, channels, height,
            width)`` for a convolution.
        bias: Integers worth ``2^-bias_fraction``, int64, shape ``(outputs,)``.
        weight_bits: Bits of the weights, signed.
        weight_fraction: See ``weight``.
        bias_fraction: See ``bias``.
        output: Form of the outputs; None for the accumulators themselves, which only a last layer may give.
        stride: Of a convolution, vertical and horizontal.
        padding: Zeros on both sides of a convolution's inputs, vertical and horizontal.
        multiplier: What the accumulators of each filter are multiplied by, positive integers worth ``2^-multiplier_fraction``,
            int64, shape ``(outputs,)``; None for 1. Where scales are no powers of two, their ratio is such a number (a dyadic one,
            as in Yao et al., HAWQ-V3, ICML 2021).
        multiplier_fraction: See ``multiplier``.

    Raises:
        BitcertError: If shapes do not fit, or a number is outside of what its bits hold.
    """

    name: str
    weight: NDArray[np.int64]
    bias: NDArray[np.int64]
    weight_bits: int
    weight_fraction: int
    bias_fraction: int
    output: Output | None = None
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    multiplier: NDArray[np.int64] | None = None
    multiplier_fraction: int = 0

    def __post_init__(self) -> None:
        weight, bias, bits = self.weight, self.bias, self.weight_bits
        if weight.dtype != np.int64 or bias.dtype != np.int64:
            raise self._error(f"weight and bias must be integers (int64), got {weight.dtype} and {bias.dtype}")
        self._check_multiplier()
        if weight.ndim not in (2, 4) or not weight.size or bias.shape != weight.shape[:1]:
            raise self._error(
                f"a weight has 2 dimensions (linear) or 4 (convolution) and one bias per output, got shapes {weight.shape} and "
                f"{bias.shape}"
            )
        most = MOST_BITS
        if not 1 <= bits <= most or (self.output is not None and not 1 <= self.output.bits <= most):
            raise self._error(f"bits must lie in 1..{most}")
        output = 0 if self.output is None else self.output.fraction
        fractions = (self.weight_fraction, self.bias_fraction, output, self.multiplier_fraction)
        if max(map(abs, fractions)) > MOST_FRACTION:
            raise self._error(f"fractions must lie in -{MOST_FRACTION}..{MOST_FRACTION}, got {fractions}")
        low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        if weight.min() < low or weight.max() > high:
            raise self._error(f"weights of {bits} bits lie in {low}..{high}, found {weight.min()}..{weight.max()}")
        if min(self.stride) < 1 or min(self.padding) < 0:
            raise self._error(f"strides are at least 1 and paddings 0, got {self.stride} and {self.padding}")

    def _check_multiplier(self) -> None:
        given = self.multiplier
        if given is None:
            if self.multiplier_fraction:
                raise self._error("it has a multiplier_fraction and no multiplier")
        elif (
            given.dtype != np.int64 or given.shape != self.bias.shape or not 1 <= given.min() <= given.max() < _LARGEST
        ):
            raise self._error(
                f"a multiplier is one positive integer (int64, below 2^53) per output, shape {self.bias.shape}"
            )

    def _error(self, message: str) -> BitcertError:
        return BitcertError(f"layer {self.name!r}: {message}")

    @property
    def is_convolution(self) -> bool:
        """Whether it is a convolution."""
        return self.weight.ndim == 4

    def lower(self, input_fraction: int, rounding: Rounding) -> Lowered:
        """The layer in one unit, for inputs worth ``2^-input_fraction``.

        Raises:
            BitcertError: If fractions do not fit together, or ``rounding="odd"`` and a bias is not an odd number of half units, or
                a multiplier is even.
        """
        if rounding not in ROUNDINGS:
            raise unknown_name("rounding", rounding, ROUNDINGS)
        fraction = input_fraction + self.weight_fraction
        odd = rounding == "odd" and self.output is not None
        unit = max(fraction, self.bias_fraction)
        if unit > fraction + 1 or (odd and unit != fraction + 1):
            wanted = f"{fraction + 1}" if odd else f"at most {fraction + 1}"
            raise self._error(
                f"the fraction of its bias must be {wanted} (accumulators have {fraction}), got {self.bias_fraction}"
            )
        if odd and not (self.bias % 2).all():
            raise self._error("biases must be odd, so that no sum lies half way between two outputs; round them to odd")
        times = np.ones_like(self.bias) if self.multiplier is None else self.multiplier
        if odd and not (times % 2).all():
            raise self._error("multipliers must be odd, so that no product lies half way between two outputs")
        wide, scale = 2 ** (unit - fraction), 2 ** (unit - self.bias_fraction)
        unit += self.multiplier_fraction
        shift = 0 if self.output is None else unit - self.output.fraction
        if not odd <= shift - odd <= MOST_FRACTION // 2:
            raise self._error(f"the fraction of its outputs must be at most {unit - 2 * odd}, got {unit - shift}")
        biases = np.abs(self.bias.astype(object)) * times * scale
        weights = np.abs(self.weight.astype(object)).max() * times * wide
        if max(int(biases.max()), int(weights.max())) >= _LARGEST:
            raise self._error("a bias or a weight is too large: it does not fit 53 bits")
        half = 2 ** (shift - 1) if shift else 0
        rows = (times * wide).reshape(-1, *[1] * (self.weight.ndim - 1))
        return Lowered(self.weight * rows, self.bias * times * scale + half, shift, unit)


@dataclass(frozen=True, slots=True, eq=False)
class Lowered:
    """A layer as it is executed: ``clamp(floor((weight x + offset) / 2^shift))``.

    Attributes:
        weight: As in the layer, times the multiplier, doubled where biases count in half units.
        offset: Bias and half of what is rounded, shape ``(outputs,)``.
        shift: Bits that rounding drops.
        unit: Accumulators are worth ``2^-unit``.
    """

    weight: NDArray[np.int64]
    offset: NDArray[np.int64]
    shift: int
    unit: int
