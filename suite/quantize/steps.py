"""Step sizes of uniform quantizers by least squares, and the integer grids they scale."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_CANDIDATES = 48
_REFINEMENTS = 8


class Grid(NamedTuple):
    """The integers a quantized number may take: ``low`` to ``high``, multiplied by a step."""

    low: int
    high: int


def weight_grid(bits: int) -> Grid:
    """Symmetric grid of ``2^bits - 1`` levels: -(2^(bits-1) - 1) .. 2^(bits-1) - 1; ternary at 2 bits (SQWA, section 3)."""
    high = 2 ** (bits - 1) - 1
    return Grid(-high, high)


def activation_grid(bits: int, signed: bool) -> Grid:
    """All ``2^bits`` levels: 0 .. 2^bits - 1 unsigned, -2^(bits-1) .. 2^(bits-1) - 1 signed."""
    return Grid(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else Grid(0, 2**bits - 1)


def quantize(values: Tensor, step: Tensor | float, grid: Grid) -> Tensor:
    """Round ``values / step`` half to even, clip to the grid, multiply by ``step`` again; same shape as ``values``."""
    return torch.div(values, step).round_().clamp_(grid.low, grid.high).mul_(step)


def fit_steps(rows: Tensor, grid: Grid) -> Tensor:
    """Steps that minimize the squared quantization error of each row.

    The error as a function of the step has many local minima: the best of a geometric range of steps, from 1/20 of the
    step that just covers the largest value up to 1.1 times it, is refined by alternating between the two closed forms
    (levels for a step; step ``<v, q> / <q, q>`` for levels), which never increases the error.

    Args:
        rows: Values, shape ``(rows, values)``, finite.
        grid: Levels.

    Returns:
        Positive steps, shape ``(rows,)``; 1 for a row of zeros.

    References:
        Shin, Boo, Sung, arXiv 2002.00343, equation 2; Lloyd, IEEE Trans. Inf. Theory 28 (1982).
    """
    covering = rows.abs().amax(dim=1) / max(grid.high, -grid.low)
    covering = torch.where(covering > 0, covering, torch.ones_like(covering))
    best = covering.clone()
    least = torch.full_like(covering, torch.inf)

    def keep_if_better(steps: Tensor) -> Tensor:
        nonlocal best, least
        levels = torch.div(rows, steps[:, None]).round_().clamp_(grid.low, grid.high)
        error = (rows - levels * steps[:, None]).square_().sum(dim=1)
        better = error < least
        best, least = torch.where(better, steps, best), torch.where(better, error, least)
        return levels

    for factor in torch.logspace(-1.301, 0.0414, _CANDIDATES).tolist():
        keep_if_better(covering * factor)
    for _ in range(_REFINEMENTS):
        levels = keep_if_better(best)
        norm = levels.square().sum(dim=1)
        keep_if_better(torch.where(norm > 0, (rows * levels).sum(dim=1) / norm.clamp(min=1), best).abs())
    return best
