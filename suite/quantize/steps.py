"""Step sizes of uniform quantizers by least squares, and the integer grids they scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_COARSE, _FINE, _REFINEMENTS = 24, 64, 3
_CHUNK_ON_CPU, _CHUNK = 2**16, 2**24  # values at once: what a cache holds, what a device has memory for
_TOGETHER = 2**17  # values times steps compared at once on the CPU, to the same bits as one step after another
_SMALL = 2**14  # most values for which that is faster; threads share sums of twice as many

LEAST_STEP = 1e-8
"""Least step of a quantizer that learns."""


class Grid(NamedTuple):
    """The integers a quantized number may take: ``low`` to ``high``, multiplied by a step.

    Attributes:
        low, high: The least and the greatest.
        zero: Whether 0 is one of them; the only grid without it is :data:`BINARY`.
        thresholds: Of a ternary grid, where numbers change from the first to the second level and from there to the third,
            in units of the step; None for halfway.
        levels: The levels, ascending, where they are no integers; None where they are.
    """

    low: int
    high: int
    zero: bool = True
    thresholds: tuple[float, float] | None = None
    levels: tuple[float, ...] | None = None

    @property
    def plain(self) -> bool:
        """Whether the nearest level is a rounded and clipped number."""
        return self.zero and self.thresholds is None and self.levels is None

    def nearest(self, scaled: Tensor) -> Tensor:
        """Levels of numbers in units of the step: rounded half to even and clipped, or by sign, 0 as 1, in a grid without 0.

        With thresholds, a number at one of them gets the level next to 0. Halfway between two levels that are no integers, it gets
        the lower one.
        """
        if self.levels is not None:
            levels = scaled.new_tensor(self.levels)
            return levels[torch.bucketize(scaled, (levels[1:] + levels[:-1]) / 2)]
        if self.thresholds is not None:
            first, second = self.thresholds
            up = scaled.ge(first) if self.low < 0 else scaled.gt(first)
            return up.to(scaled.dtype).add_(scaled.gt(second)).add_(self.low)
        if self.zero:
            return scaled.round().clamp_(self.low, self.high)
        return scaled.ge(0).to(scaled.dtype).mul_(2).sub_(1)

    def nearest_(self, scaled: Tensor) -> Tensor:
        """The same in place."""
        if self.plain:
            return scaled.round_().clamp_(self.low, self.high)
        return scaled.copy_(self.nearest(scaled))


BINARY = Grid(-1, 1, zero=False)
"""-1 and 1."""


def weight_grid(bits: int, *, four_levels: bool = False) -> Grid:
    """Symmetric grid of weights: binary at 1 bit, ternary at 2 bits, ``2^bits - 1`` levels in general (SQWA, section 3).

    Levels are -(2^(bits-1) - 1) .. 2^(bits-1) - 1, and -1 and 1 without 0 at 1 bit.

    Args:
        bits: Bit width.
        four_levels: Whether 2 bits have four levels, -2, -1, 0, 1, rather than three.
    """
    high = 2 ** (bits - 1) - 1
    if bits == 2 and four_levels:
        return Grid(-2, 1)
    return BINARY if bits == 1 else Grid(-high, high)


def activation_grid(bits: int, signed: bool, *, ternary: bool = False) -> Grid:
    """Grid of inputs: all ``2^bits`` levels, 0 .. 2^bits - 1 unsigned, -2^(bits-1) .. 2^(bits-1) - 1 signed.

    At 1 bit 0 and 1 unsigned, -1 and 1 signed. The zeros around a padded image stay zeros, also where 0 is no level.

    Args:
        bits: Bit width.
        signed: Whether inputs may be negative.
        ternary: Whether 2 bits have three levels, 0, 1, 2 unsigned and -1, 0, 1 signed.
    """
    if bits == 2 and ternary:
        return Grid(-1, 1) if signed else Grid(0, 2)
    if bits == 1 and signed:
        return BINARY
    return Grid(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else Grid(0, 2**bits - 1)


def quantize(values: Tensor, step: Tensor | float, grid: Grid) -> Tensor:
    """Divide by ``step``, take the nearest levels of the grid, multiply by ``step`` again; same shape as ``values``."""
    return grid.nearest_(torch.div(values, step)).mul_(step)


def fit_steps(rows: Tensor, grid: Grid) -> Tensor:
    """Steps that minimize the squared quantization error of each row.

    The error as a function of the step has many local minima, the more the more levels there are. A geometric range
    of steps finds the region: from the one that just covers the row down to the one that clips at its mean. Steps
    spaced in proportion to the levels search the region. The best is refined by alternating between the two closed
    forms (levels for a step; step ``<v, q> / <q, q>`` for levels), which never increases the error. For rows of a
    hundred values the error is within 0.1 % of the least; rows of ten values can miss it by far at 6 to 8 bits.

    Binary numbers need no search: the best of ``+-step`` for a row is its mean absolute value, and the error is
    ``sum v^2 - n step^2`` (Rastegari et al., XNOR-Net, ECCV 2016, section 3.1).

    Args:
        rows: Values, shape ``(rows, values)``, finite.
        grid: Levels.

    Returns:
        Positive steps, shape ``(rows,)``; for a row of zeros 1, or :data:`LEAST_STEP` if 0 is no level.

    References:
        Shin, Boo, Sung, arXiv 2002.00343, equation 2; Lloyd, IEEE Trans. Inf. Theory 28 (1982).
    """
    if not grid.zero:
        steps = rows.abs().mean(dim=1)
        return torch.where(steps > 0, steps, LEAST_STEP)
    chunk = max(1, (_CHUNK_ON_CPU if rows.device.type == "cpu" else _CHUNK) // rows.shape[1])
    return torch.cat([_fit_chunk(part, grid) for part in rows.split(chunk)])


def _fit_chunk(rows: Tensor, grid: Grid) -> Tensor:
    covering = rows.amax(dim=1) / grid.high
    if grid.low < 0:
        covering = torch.maximum(covering, rows.amin(dim=1) / grid.low)
    alone = rows.numel() > _SMALL or rows.device.type != "cpu"
    together = 1 if alone else max(1, _TOGETHER // max(1, rows.numel()))
    empty = covering <= 0
    covering = torch.where(empty, 1.0, covering)
    clipping = torch.where(empty, 1.0, rows.abs().mean(dim=1) / max(grid.high, -grid.low))
    ratio = (1.6 * covering / clipping) ** (1 / (_COARSE - 1))
    best = covering
    least = torch.full_like(covering, torch.inf)

    def keep_if_better(steps: Tensor) -> Tensor:
        nonlocal best, least
        levels = grid.nearest_(torch.div(rows, steps[..., None]))
        errors = torch.addcmul(rows, levels, steps[..., None], value=-1).square_().sum(dim=-1)
        if steps.dim() > 1:
            errors, first = torch.where(errors < least, errors, torch.inf).min(dim=0)
            steps = steps.gather(0, first[None])[0]
        better = errors < least
        best, least = torch.where(better, steps, best), torch.where(better, errors, least)
        return levels

    def search(centre: Tensor, powers: Sequence[float]) -> None:
        for start in range(0, len(powers), together):
            steps = [centre * ratio**power for power in powers[start : start + together]]
            keep_if_better(torch.stack(steps) if together > 1 else steps[0])

    keep_if_better(covering)
    search(1.1 * covering, range(0, -_COARSE, -1))
    search(best, torch.linspace(-1.5, 1.5, _FINE + 2 * grid.high).tolist())
    for _ in range(_REFINEMENTS):
        levels = keep_if_better(best)
        norm = levels.square().sum(dim=1)
        keep_if_better(torch.where(norm > 0, (rows * levels).sum(dim=1) / norm.clamp(min=1), best))
    return best
