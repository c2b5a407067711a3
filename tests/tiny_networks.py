"""Tiny fixed-point networks whose inputs can all be enumerated, and an execution of them in fractions, written independently."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import product

import numpy as np
from numpy.typing import NDArray

from suite.quantize.fixed_point import FixedPointLayer, FixedPointNetwork, Output

Integers = NDArray[np.int64]
LEVELS = 15


def tiny() -> FixedPointNetwork:
    """Two inputs 0..15, three hidden units ``clamp(floor((z + 2) / 4), 0, 15)``, three classes; nothing is random."""
    hidden = FixedPointLayer(
        "hidden", np.array([[2, 2], [3, -4], [-1, -1]]), np.array([2, -2, 5]), 4, 2, 2, Output(4, 0), (1, 1)
    )
    last = FixedPointLayer("last", np.array([[1, -3, 3], [0, -2, 0], [-2, -3, -1]]), np.zeros(3, np.int64), 4, 0, 0)
    return FixedPointNetwork([hidden, last], (1, 1, 2), levels=15, input_fraction=0, rounding="half-up")


def random_network(seed: int, *, clamped: bool = False, odd: bool = True) -> FixedPointNetwork:
    """Two or three inputs, two hidden layers of 4 to 6 bits, three classes; ``clamped``: outputs of 2 to 3 bits, often tied.

    Every third network has multipliers.
    """
    rng = np.random.default_rng(seed)
    bits, inputs = int(rng.integers(4, 7)), int(rng.integers(2, 4))
    sizes, layers, fraction = [inputs, 4, 3, 3], [], 4
    for place, (wide, narrow) in enumerate(zip(sizes[1:], sizes, strict=False)):
        last = place == 2
        form = Output(int(rng.integers(2, 4)), 0, True) if last else Output(bits, bits - 2)
        output = form if clamped or not last else None
        weight = rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (wide, narrow))
        accumulated = fraction + bits - 1
        bias = rng.integers(-(2 ** (accumulated - 1)), 2 ** (accumulated - 1), wide)
        if odd and output is not None:
            bias = 2 * bias + 1
        bias_fraction = accumulated + (odd and output is not None)
        times = 2 * np.random.default_rng([seed, place]).integers(0, 4, wide) + 1 if seed % 3 == 0 else None
        layer = FixedPointLayer(f"layer{place}", weight, bias, bits, bits - 1, bias_fraction, output)
        layers.append(layer if times is None else replace(layer, multiplier=times, multiplier_fraction=2))
        fraction = accumulated if output is None else output.fraction
    return FixedPointNetwork(
        layers, (1, 1, inputs), levels=LEVELS, input_fraction=4, rounding="odd" if odd else "half-up"
    )


def round_half_up(value: Fraction) -> int:
    return math.floor(value + Fraction(1, 2))


def execute(
    network: FixedPointNetwork, image: Integers, rounding: Callable[[Fraction], int] = round_half_up
) -> list[Fraction]:
    """Outputs of one image through linear layers as real numbers, from what the layers state."""
    values = [Fraction(int(code)) * Fraction(2) ** -network.input_fraction for code in image.ravel()]
    for layer in network.layers:
        sums = []
        multiplier = np.ones_like(layer.bias) if layer.multiplier is None else layer.multiplier
        for row, bias, times in zip(layer.weight.tolist(), layer.bias.tolist(), multiplier.tolist(), strict=True):
            total = Fraction(bias) * Fraction(2) ** -layer.bias_fraction
            total += sum((weight * value for weight, value in zip(row, values, strict=True)), Fraction(0)) * Fraction(
                2
            ) ** (-layer.weight_fraction)
            sums.append(total * times * Fraction(2) ** -layer.multiplier_fraction)
        form = layer.output
        if form is not None:
            step = Fraction(2) ** -form.fraction
            sums = [step * min(max(rounding(total / step), form.low), form.high) for total in sums]
        values = sums
    return values


def box(image: Integers, radius: int, levels: int = LEVELS) -> Integers:
    """All images within a radius of one, int64, shape ``(images, inputs)``."""
    ranges = [range(max(0, code - radius), min(levels, code + radius) + 1) for code in image.ravel().tolist()]
    return np.array(list(product(*ranges)), dtype=np.int64)
