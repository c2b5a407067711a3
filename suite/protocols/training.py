"""What post-steps that train have in common: their data, and how cycles and a finish make up their steps."""

from __future__ import annotations

from collections.abc import Callable

import torch

from suite.certify import NoiseStream
from suite.errors import BitcertError
from suite.problems.workbench import Workbench
from suite.seeds import derive_seed
from suite.train.sqwa import Averaged, SQWASettings, Training

_IMAGES = 1_000
"""Training images, at most, on which batch norms are recalibrated and losses measured."""


def plan_cycles(
    steps: int,
    captures: int,
    finish: float,
    rate: float,
    finish_rate: float,
    averaged: Averaged = "quantized",
    resolve: bool = True,
) -> SQWASettings:
    """Cycles and a finish that make up the steps; what the cycles leave over is added to the finish.

    Args:
        steps: Optimizer steps in total.
        captures: Cycles.
        finish: Share of the steps that the finish takes, within (0, 1).
        rate: Learning rate at the start of each cycle.
        finish_rate: The same of the finish.
        averaged: What is averaged.
        resolve: Whether the average is quantized with new steps.

    Raises:
        BitcertError: If the numbers are out of range, or the steps too few.
    """
    if not 0 < finish < 1:
        raise BitcertError(f"finish is a share of the steps between 0 and 1, got {finish}")
    if captures < 1:
        raise BitcertError(f"a post-step needs captures >= 1, got {captures}")
    if steps <= captures:
        raise BitcertError(f"{steps} steps are too few for {captures} cycles and a finish")
    cycle = min(max(1, round(steps * (1 - finish)) // captures), (steps - 1) // captures)
    return SQWASettings(
        captures=captures,
        cycle_steps=cycle,
        rate=rate,
        finish_steps=steps - captures * cycle,
        finish_rate=finish_rate,
        averaged=averaged,
        resolve=resolve,
    )


def training_of(
    bench: Workbench, *, noise: bool, seed: int = 0, progress: Callable[[int], None] | None = None
) -> Training:
    """What a post-step trains on; training images with one noise sample each, the same for every policy, measure losses.

    Args:
        bench: Where the images come from.
        noise: Whether training sees the noise of smoothing.
        seed: Seed of order and noise.
        progress: Called with the number of finished optimizer steps.
    """
    train = bench.dataset.splits["train"]
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(bench.seed))[:_IMAGES]
    stream = NoiseStream(derive_seed(bench.seed, "post-step"), "post-step")
    return Training(
        split=train,
        sigma=bench.sigma if noise else 0.0,
        finetuning=bench.finetuning,
        seed=derive_seed(bench.seed, "post-step", seed),
        batches=bench.labelled_batches(train.subset(order.numpy()), stream, samples=1),
        progress=progress,
    )
