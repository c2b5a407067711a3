"""From a network to metrics: the one function that search evaluations and exams share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from suite.certify import Measurement, NoisyImages, Reproducible, Setup, Task
from suite.certify.sampling import predict
from suite.contract.clock import Clock
from suite.contract.trial import Metrics
from suite.protocols.protocol import Prepared
from suite.quantize.fixed_point import FixedPointLayer, FixedPointNetwork


def measure(
    prepared: Prepared,
    certify: Callable[[nn.Module, Task, Setup], Measurement],
    task: Task,
    setup: Setup,
    *,
    bops: int,
    method: str,
    clock: Clock,
    started: float,
) -> tuple[Metrics, Measurement]:
    """Measure a network: clean accuracy, and what a certifier finds.

    Args:
        prepared: The network as deployed, and what its preparation cost.
        certify: ``measure`` of a certifier, or ``examine`` of an exam certifier.
        task: Images, labels and samples.
        setup: What the certifier may ask for.
        bops: BOPs of the policy.
        method: The certifier with its options, as requested.
        clock: Tells the time.
        started: When the preparation of the network began.

    Returns:
        The metrics, and the certifier's own result with certificates of single images.
    """
    network, noisy = prepared.network, task.noisy
    predicted = predict(network, noisy.pixels, batch=noisy.batch).cpu().numpy()
    found = certify(network, task, setup)
    metrics = Metrics(
        clean_accuracy=float((predicted == task.labels).mean()),
        acr=found.acr,
        certified_accuracy=found.certified_accuracy,
        bops=bops,
        forward_passes=len(noisy) + found.forward_passes + prepared.forward_passes,
        seconds=clock.now() - started,
        alpha=found.alpha,
        method=method,
        values=found.values,
        norm=found.norm,
    )
    return metrics, found


def measure_constant(
    certify: Callable[[nn.Module, Task, Setup], Measurement], task: Task, setup: Setup, *, method: str, clock: Clock
) -> Metrics:
    """Measure the best classifier that gives one answer for all images: what a network has to beat to mean anything.

    Such a classifier does not look at its images, so it is certified on images of one pixel, in the same way and with as many
    samples as the task has.

    Args:
        certify: As for :func:`measure`, and so are the other arguments.
        task: Images, labels and samples.
        setup: What the certifier may ask for.
        method: The certifier with its options.
        clock: Tells the time.
    """
    noisy = task.noisy
    pixels = torch.zeros(len(noisy), 1, 1, 1, device=noisy.pixels.device)
    levels = None if noisy.rounded is None else noisy.rounded.levels
    blind = NoisyImages(pixels, sigma=noisy.sigma, seed=noisy.seed, ids=noisy.ids, batch=_ROWS, levels=levels)
    network = _OneAnswer(np.bincount(task.labels)).to(pixels.device)
    metrics, _ = measure(
        Prepared(network),
        certify,
        replace(task, noisy=blind, progress=None, kept=None),
        setup,
        bops=0,
        method=method,
        clock=clock,
        started=clock.now(),
    )
    return metrics


_ROWS = 10_000  # of one pixel each


class _OneAnswer(Reproducible):
    """Always answers the class that most images have."""

    def __init__(self, counts: ArrayLike) -> None:
        super().__init__()
        self.register_buffer("logits", torch.as_tensor(counts, dtype=torch.float32)[None])
        self.logits: Tensor

    @property
    def fixed_point(self) -> FixedPointNetwork:
        """The same classifier for images of one pixel."""
        counts = self.logits[0].numpy().astype(np.int64)
        layer = FixedPointLayer("constant", np.zeros((len(counts), 1), dtype=np.int64), counts, 1, 0, 0)
        return FixedPointNetwork([layer], (1, 1, 1), input_fraction=0)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits.expand(len(images), -1)
