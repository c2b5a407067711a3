"""Estimates for ordering policies: no certificates, at a fraction of their cost.

All policies see the same images and the same noise (common random numbers), so shared errors cancel in their differences.
The choice of images dominates the error of an average certified radius: a few dozen noise samples per image are enough,
and more images help more than more samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import special
from torch import nn

from suite.certify.bounds import check_positive
from suite.certify.certifier import Certifier, Measurement, Setup, Task
from suite.certify.sampling import Sampler, label_counts


@dataclass(frozen=True, slots=True)
class Ranking(Certifier):
    """Estimates that order policies, without guarantee."""

    estimates: ClassVar[bool] = True
    selects: ClassVar[bool] = False

    def measure(self, network: nn.Module, task: Task, setup: Setup) -> Measurement:
        """Estimate from ``task.n`` samples of each image."""
        found = estimate(task.sampler(network), task.labels, n=task.n)
        passes = len(task.labels) * task.n
        return Measurement(found.acr, found.certified_accuracy(task.radii), passes, alpha=1.0)


@dataclass(frozen=True, slots=True, eq=False)
class Estimates:
    """Estimates of a classifier's certificates in the limit of infinitely many samples; not bounds.

    Attributes:
        successes: Samples in which the label was predicted, shape ``(images,)``.
        trials: Samples of each image.
        sigma: Standard deviation of the noise.
    """

    successes: NDArray[np.int64]
    trials: int
    sigma: float

    @property
    def probability(self) -> NDArray[np.float64]:
        """Estimated probability of the label under noise: the Jeffreys prior's mean, never 0 or 1."""
        return np.asarray((self.successes + 0.5) / (self.trials + 1.0), dtype=np.float64)

    @property
    def scores(self) -> NDArray[np.float64]:
        """Estimated certified radius of the label, 0 where it is not the likeliest, shape ``(images,)``."""
        return np.asarray(self.sigma * np.maximum(special.ndtri(self.probability), 0.0))

    @property
    def acr(self) -> float:
        """Estimated average certified radius."""
        return float(self.scores.mean())

    def certified_accuracy(self, radii: Sequence[float]) -> dict[float, float]:
        """Estimated share of images certified at each radius: its mean posterior probability under the Jeffreys prior.

        A count near a radius' threshold adds a fraction, so that policies a few samples apart differ.
        """
        a, b = self.successes + 0.5, self.trials - self.successes + 0.5
        thresholds = {float(radius): special.ndtr(radius / self.sigma) for radius in radii}
        return {radius: float(special.betaincc(a, b, q).mean()) for radius, q in thresholds.items()}


def estimate(sampler: Sampler, labels: NDArray[np.integer], *, n: int) -> Estimates:
    """Estimate from ``n`` samples per image (those for ``"count"``); use the same images and seed for all policies."""
    check_positive(n=n)
    return Estimates(label_counts(sampler, labels, "count", 0, n), n, sampler.sigma)
