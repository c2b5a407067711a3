"""FATNN's ternary quantizers, two learned thresholds each (Chen, Zhuang and Shen, ICCV 2021, arXiv 2008.05101).

The three levels stay equidistant, so that the fast inner product of ternary numbers applies; only where numbers change from one
level to the next is learned.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from suite.quantize.steps import LEAST_STEP, Grid


class TernaryWeights(nn.Module):
    """Ternary weights with two learned thresholds for each output channel.

    Weights are normalized by the mean and standard deviation of their channel, ``u = (w - mean) / (std + 1e-5)``, and
    become ``t = round(clamp(a0 u, -1, 0)) + round(clamp(a1 u, 0, 1))``: the thresholds are ``-.5 / a0`` and ``.5 / a1``. The
    gradient passes the rounding and ends at the clamps. Levels are multiplied by ``<w, t> / <t, t>``, so that a trained
    network starts close to where it was; FATNN leaves the scale to batch norm.

    Args:
        weight: Weights, shape ``(channels, ...)``.
        steps: Least-squares steps of the ternary grid, from which the thresholds start: at half a step from the mean. FATNN
            trains from scratch and starts at a constant.
    """

    def __init__(self, weight: Tensor, steps: Tensor) -> None:
        super().__init__()
        self._dimensions = tuple(range(1, weight.dim()))
        start = self._deviation(weight) / steps
        self.slopes = nn.Parameter(torch.stack([start, start]).detach().clone())

    def forward(self, weight: Tensor) -> Tensor:
        """Quantize; same shape."""
        soft, levels = self._ternary(weight)
        return (levels + (soft - soft.detach())) * self._scale(weight, levels)

    @torch.no_grad()
    def step_of(self, weight: Tensor) -> Tensor:
        """What the levels are multiplied by, shape ``(channels, 1, ...)``."""
        return self._scale(weight, self._ternary(weight)[1])

    def _ternary(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        below, above = self.slopes.clamp(min=LEAST_STEP)
        normalized = (weight - weight.mean(self._dimensions, keepdim=True)) / self._deviation(weight)
        lower, upper = (below * normalized).clamp(-1, 0), (above * normalized).clamp(0, 1)
        return lower + upper, (lower.round() + upper.round()).detach()

    @torch.no_grad()
    def _scale(self, weight: Tensor, levels: Tensor) -> Tensor:
        along, size = ((levels * other).sum(self._dimensions, keepdim=True) for other in (weight, levels))
        return (along / size.clamp(min=1)).clamp(min=LEAST_STEP)

    def _deviation(self, weight: Tensor) -> Tensor:
        deviation: Tensor = weight.std(self._dimensions, correction=0, keepdim=True)
        return deviation + 1e-5


class TernaryInputs(nn.Module):
    """Ternary inputs with two learned thresholds and a learned step.

    Inputs after ReLU become ``t = round(clamp(a0 x, 0, 1)) + round(clamp(a1 (x - 1 / a0), 0, 1))`` in 0, 1, 2: the thresholds
    are ``.5 / a0`` and ``1 / a0 + .5 / a1``. Signed inputs become -1, 0, 1 as weights do. The gradient passes the rounding
    and ends at the clamps. Levels are multiplied by the step, which FATNN leaves to batch norm.

    Args:
        step: Step of the ternary grid to start from, where the thresholds are those of rounding.
        grid: 0, 1, 2 or -1, 0, 1.
    """

    def __init__(self, step: float, grid: Grid) -> None:
        super().__init__()
        self.slopes = nn.Parameter(torch.tensor([1 / step, 1 / step]))
        self.step = nn.Parameter(torch.tensor(step))
        self._signed = grid.low < 0

    def forward(self, values: Tensor) -> Tensor:
        """Quantize; same shape."""
        first, second = self.slopes.clamp(min=LEAST_STEP)
        if self._signed:
            soft = (first * values).clamp(-1, 0) + (second * values).clamp(0, 1)
        else:
            soft = (first * values).clamp(0, 1) + (second * (values - 1 / first)).clamp(0, 1)
        step = self.positive_step()
        levels = self.grid.nearest(torch.div(values, step).detach())
        quantized: Tensor = (levels + (soft - soft.detach())) * step
        return quantized

    def positive_step(self) -> Tensor:
        """The step."""
        return self.step.clamp(min=LEAST_STEP)

    @property
    def grid(self) -> Grid:
        """The levels, with the thresholds between them in units of the step."""
        first, second = self.slopes.detach().double().clamp(min=LEAST_STEP).tolist()
        step = float(self.positive_step().detach())
        if self._signed:
            return Grid(-1, 1, thresholds=(-0.5 / (first * step), 0.5 / (second * step)))
        return Grid(0, 2, thresholds=(0.5 / (first * step), (1 / first + 0.5 / second) / step))
