"""Levels of states: what the potentials of spiking neurons are rounded to between steps.

States are rounded to multiples of a step, as other inputs of layers are, or to one of the two sets of levels of SQUAT, which span
a range of potentials: equidistant ones, and ones that lie closer the nearer they are to the threshold (SQUAT: Stateful
quantization-aware training in recurrent spiking neural networks, arXiv 2404.19668; levels as in snntorch 1.0).
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np

from suite.errors import BitcertError
from suite.quantize.steps import Grid

StateLevels = Literal["integers", "uniform", "centred"]
STATE_LEVELS: tuple[StateLevels, ...] = get_args(StateLevels)

TAIL = 1e-3
"""Share of the potentials seen in calibration that lies below the range, and share that lies above."""

_HEADROOM = 1.1  # the range ends above the threshold by at least a tenth of it
_BASES = (0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 0.925)
_BASE_OF_MORE_BITS = 0.95


def uniform_levels(bits: int, low: float, high: float) -> tuple[float, ...]:
    """``2^bits`` equidistant levels from ``low`` to ``high``."""
    return tuple(np.linspace(low, high, 2**bits).tolist())


def centred_levels(bits: int, low: float, high: float, threshold: float) -> tuple[float, ...]:
    """``2^bits`` levels from ``low`` to ``high``, ascending, whose gaps shrink geometrically towards the threshold on both sides.

    The share of levels below the threshold is that of the range, but at least one level is below and one above, without which
    neurons would fire always or never. The threshold itself is none.

    Raises:
        BitcertError: If the threshold is not inside the range.
    """
    if not low < threshold < high:
        raise BitcertError(f"the threshold {threshold:g} is outside the range of the states, {low:g} to {high:g}")
    base = _BASES[bits - 1] if bits <= len(_BASES) else _BASE_OF_MORE_BITS
    below = min(max(1, math.floor(2**bits * (threshold - low) / (high - low))), 2**bits - 1)
    above = 2**bits - below

    def towards(start: float, count: int) -> list[float]:
        steps = np.arange(count)
        return (start + (threshold - start) * (1 - base**steps) / (1 - base**count)).tolist() if count else []

    return (*towards(low, below), *reversed(towards(high, above)))


def state_range(low: float, high: float, threshold: float) -> tuple[float, float]:
    """The range of levels for potentials seen between ``low`` and ``high``: around the threshold in any case."""
    return min(low, 0.0), max(high, _HEADROOM * threshold)


def state_grid(bits: int, levels: StateLevels, low: float, high: float, threshold: float) -> Grid:
    """The levels of a state in its own units, for a step of 1."""
    chosen = uniform_levels(bits, low, high) if levels == "uniform" else centred_levels(bits, low, high, threshold)
    return Grid(math.floor(low), math.ceil(high), levels=chosen)
