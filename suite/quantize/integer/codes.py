"""Codes: the integers that stand for real numbers in an integer network, and their scales."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

SIGNIFICANT_BITS = 12
"""Of every scale, so that a code of 8 bits times a scale, and one scale times another, are exact in 32-bit floating point."""


class Coding(NamedTuple):
    """Integers ``low`` to ``high``, each of which stands for itself times ``scale``.

    ``scale`` has at most 12 significant bits.
    """

    scale: float
    low: int
    high: int

    def clipped(self, low: float, high: float) -> Coding:
        """The same scale with codes between those of two real numbers; either may be infinite."""
        lowest = self.low if low == -math.inf else max(self.low, round(low / self.scale))
        highest = self.high if high == math.inf else min(self.high, round(high / self.scale))
        return Coding(self.scale, lowest, highest)


def short(scale: float) -> float:
    """The nearest number with 12 significant bits."""
    mantissa, exponent = math.frexp(scale)
    return math.ldexp(round(math.ldexp(mantissa, SIGNIFICANT_BITS)), exponent - SIGNIFICANT_BITS)


def short_tensor(scales: Tensor) -> Tensor:
    """:func:`short` for positive scales, in 32-bit floating point."""
    mantissas, exponents = torch.frexp(scales.double())
    rounded = torch.ldexp(mantissas, torch.tensor(SIGNIFICANT_BITS)).round()
    return torch.ldexp(rounded, exponents - SIGNIFICANT_BITS).float()


def coding_for(low: float, high: float, *, power_of_two: bool) -> Coding:
    """The finest 8-bit coding that covers ``low`` to ``high``; unsigned if nothing is negative.

    With ``power_of_two``, the scale is a power of two: sums of such codes are exact before they are rounded.
    """
    lowest, highest = (-128, 127) if low < 0 else (0, 255)
    scale = max(high / highest, low / lowest if lowest else 0.0, 2.0**-100)
    if power_of_two:
        mantissa, exponent = math.frexp(scale)
        return Coding(math.ldexp(1.0, exponent - (mantissa == 0.5)), lowest, highest)
    rounded = short(scale)
    return Coding(rounded if rounded >= scale else short(scale * (1 + 2.0 ** (1 - SIGNIFICANT_BITS))), lowest, highest)
