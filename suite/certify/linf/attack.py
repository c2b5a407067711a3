"""A search for counterexamples: fast, and silent about robustness.

From random corners of the ball, pixels move to the corner that raises a target's output over the label's, half of them in each
step; the direction is that through units which are not clamped (rounding counts as the identity). What is reported has been
executed by the integer network.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from suite.certify.linf.query import Integers, Query


def attack(query: Query, *, restarts: int = 40, steps: int = 40, seed: int = 0) -> Integers | None:
    """An image within the radius that gets another class, shape ``(pixels,)``; None if none was found.

    Args:
        query: The question.
        restarts: Starting points, dealt to the targets in turn.
        steps: Moves of each.
        seed: Of starting points and of the pixels that stay.
    """
    if not query.targets or restarts < 1:
        return None
    rng = np.random.default_rng(seed)
    low, high = query.low, query.high
    targets = torch.tensor([query.targets[place % len(query.targets)] for place in range(restarts)])
    points = np.where(rng.integers(0, 2, (restarts, len(low))).astype(bool), high, low)
    for step in range(steps + 1):
        wrong = query.network.predict(points) != query.label
        if wrong.any():
            return np.asarray(points[int(wrong.argmax())], dtype=np.int64)
        if step < steps:
            direction = _direction(query, points, targets)
            moved = rng.integers(0, 2, points.shape).astype(bool)
            points = np.where(moved & (direction > 0), high, np.where(moved & (direction < 0), low, points))
    return None


def _direction(query: Query, points: Integers, targets: Tensor) -> Integers:
    """Sign of the derivative of a target's accumulator less the label's, for every pixel."""
    with torch.enable_grad():
        images = query.network.as_images(points).requires_grad_()
        values: Tensor = images
        *hidden, last = query.network.steps
        for step in hidden:
            scaled = step.accumulate(values) * 2.0**-step.shift
            values = step.clamped(scaled + (scaled.floor() - scaled).detach())
        outputs = last.accumulate(values)
        gained = outputs.gather(1, targets[:, None]).sum() - outputs[:, query.label].sum()
        (gradient,) = torch.autograd.grad(gained, images)
    return np.asarray(gradient.sign().flatten(1).numpy(), dtype=np.int64)
