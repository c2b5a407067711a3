"""Branch and bound with integer splits: complete without any solver, fast only for few pixels or small radii.

A box of images is dropped if interval bounds exclude all targets, answered if the image in its middle is a counterexample, and
otherwise cut in two at the pixel with the largest width times influence. ``[l, u]`` becomes ``[l, m]`` and ``[m + 1, u]``: the
halves share no image, so boxes shrink to single images, whose bounds are exact, and the search ends. After Lechner et al.,
Quantization-aware Interval Bound Propagation (arXiv 2211.16187), whose released search splits reals.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from numpy.typing import NDArray

from suite.certify.interval import excluded, margins_between
from suite.certify.linf.query import Answer, Limit, Query

_BOXES = 256
"""Boxes bounded in one pass."""

BOXES_PER_WORK = 10_000
"""Boxes that are one unit of work."""


def solve_by_branching(query: Query, limit: Limit, workers: int) -> Answer:
    """Answer a query by branch and bound, on one thread."""
    ends, left = time.monotonic() + limit.seconds, limit.work * BOXES_PER_WORK
    influence = _influence(query)
    lows, highs = query.low[None], query.high[None]
    while len(lows):
        if time.monotonic() > ends or left < 1:
            return Answer.unknown()
        taken = int(min(_BOXES, left, len(lows)))
        left -= taken
        low, high, lows, highs = lows[-taken:], highs[-taken:], lows[:-taken], highs[:-taken]
        labels = np.full(len(low), query.label)
        undecided = ~excluded(margins_between(query.network, low, high, labels), labels).all(axis=1)
        low, high = low[undecided], high[undecided]
        middle = (low + high) // 2
        wrong = query.network.predict(middle) != query.label
        if wrong.any():
            return Answer(middle[int(wrong.argmax())], complete=True)
        widest = np.argmax((high - low) * influence, axis=1)
        boxes = np.arange(len(low))
        first_high, second_low = high.copy(), low.copy()
        first_high[boxes, widest] = middle[boxes, widest]
        second_low[boxes, widest] = middle[boxes, widest] + 1
        lows, highs = np.concatenate([lows, low, second_low]), np.concatenate([highs, first_high, high])
    return Answer(None, complete=True)


def _influence(query: Query) -> NDArray[np.float64]:
    """How much the outputs may change with each pixel: through absolute weights; at least a little, so that all get split."""
    with torch.enable_grad():
        images = torch.zeros(1, *query.network.image_shape, dtype=torch.float64, requires_grad=True)
        values: torch.Tensor = images
        for step in query.network.steps:
            values = step.multiply(step.weight.double().abs(), values) * 2.0**-step.shift
        (gradient,) = torch.autograd.grad(values.sum(), images)
    return np.asarray(gradient.flatten().numpy()) + 2.0**-40
