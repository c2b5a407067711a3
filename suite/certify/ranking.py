"""Which policy is better? Estimates for ordering policies: no certificates, and a fraction of their cost.

All policies see the same images and the same noise (common random numbers), so that what is common to them cancels in
their differences. The choice of images dominates the error of an average certified radius; a few dozen noise samples an
image are enough, and images buy more than samples.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from suite.certify.bounds import check_positive
from suite.certify.sampling import Sampler, label_counts
from suite.errors import BitcertError


@dataclass(frozen=True, slots=True, eq=False)
class Estimates:
    """What a classifier's certificates would say with endless noise, as few samples suggest it: no bound, no confidence.

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
        """Estimated share of images certified at each radius: the mean posterior probability of it.

        The posterior is that of the Jeffreys prior. A count near a radius' threshold adds a fraction, so that policies a
        few samples apart differ.
        """
        a, b = self.successes + 0.5, self.trials - self.successes + 0.5
        thresholds = {float(radius): special.ndtr(radius / self.sigma) for radius in radii}
        return {radius: float(special.betaincc(a, b, q).mean()) for radius, q in thresholds.items()}


def estimate(sampler: Sampler, labels: NDArray[np.integer], *, n: int) -> Estimates:
    """Estimate from ``n`` samples an image (those for ``"count"``).

    Args:
        sampler: The classifier under noise; the same images and seed for all that are compared.
        labels: True classes, shape ``(images,)``.
        n: Noise samples an image.
    """
    check_positive(n=n)
    return Estimates(label_counts(sampler, labels, "count", 0, n), n, sampler.sigma)


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """A mean difference with its confidence interval.

    Attributes:
        mean: Of the first minus the second.
        low: Lower end of the interval.
        high: Upper end.
    """

    mean: float
    low: float
    high: float


def paired_difference(
    one: NDArray[np.float64], other: NDArray[np.float64], confidence: float = 0.95
) -> PairedDifference:
    """Difference of two classifiers' mean scores on the same images, with Student's interval over the images.

    Args:
        one: Scores, shape ``(images,)``.
        other: Scores of the same images, same shape.
        confidence: Of the two-sided interval, within (0, 1).

    Raises:
        BitcertError: On shapes that differ, fewer than two images, or a confidence out of range.
    """
    if one.ndim != 1 or one.shape != other.shape or len(one) < 2:
        raise BitcertError(
            f"paired scores have one shape, (images,) with at least two images, got {one.shape} and {other.shape}"
        )
    if not 0 < confidence < 1:
        raise BitcertError(f"confidence must lie strictly between 0 and 1, got {confidence}")
    differences = one - other
    mean = float(differences.mean())
    half = float(stats.t.isf((1 - confidence) / 2, len(one) - 1) * stats.sem(differences))
    return PairedDifference(mean, mean - half, mean + half)


@dataclass(frozen=True, slots=True)
class Rung:
    """One round of successive halving.

    Attributes:
        images: Images, the first ones.
        noise: Noise samples of each, the first ones.
    """

    images: int
    noise: int

    def __post_init__(self) -> None:
        check_positive(images=self.images, noise=self.noise)


@dataclass(frozen=True, slots=True, eq=False)
class Halving:
    """What successive halving found.

    Attributes:
        order: All candidates, best first: those of the last rung by its estimates, then those that fell, the later the
            better.
        estimates: The last estimates of each candidate, by candidate.
        forward_passes: All together.
    """

    order: tuple[int, ...]
    estimates: tuple[Estimates, ...]
    forward_passes: int


def successive_halving(
    sampler_of: Callable[[int], Sampler],
    candidates: int,
    labels: NDArray[np.integer],
    rungs: Sequence[Rung],
    *,
    keep: float = 0.5,
    score: Callable[[Estimates], float] = lambda estimates: estimates.acr,
) -> Halving:
    """Order candidates, spending more on those that do well; what a rung has counted, the next one goes on from.

    Args:
        sampler_of: Makes the sampler of a candidate (0, 1, ...), on at least as many images as the last rung.
        candidates: How many there are.
        labels: True classes of the images.
        rungs: Growing in images or noise, or both.
        keep: Share of the candidates that goes on to the next rung, rounded up, within (0, 1].
        score: What is ordered by, larger is better; ties keep the order of the candidates.

    Returns:
        Order, estimates and cost.

    Raises:
        BitcertError: If rungs shrink, there are none, or no candidates.

    References:
        Jamieson and Talwalkar, AISTATS 2016.
    """
    check_positive(candidates=candidates)
    pairs = list(itertools.pairwise(rungs))
    if not rungs or any(later.images < rung.images or later.noise < rung.noise for rung, later in pairs):
        raise BitcertError("successive halving needs rungs that never shrink")
    if not 0 < keep <= 1:
        raise BitcertError(f"the share of candidates to keep must lie within (0, 1], got {keep}")
    counted: list[NDArray[np.int64]] = [np.zeros(0, dtype=np.int64)] * candidates
    estimates: dict[int, Estimates] = {}
    order: list[int] = list(range(candidates))
    alive, passes, before = candidates, 0, 0
    for position, rung in enumerate(rungs):
        if position:
            alive = math.ceil(alive * keep)
        for candidate in order[:alive]:
            sampler, successes = sampler_of(candidate), np.zeros(rung.images, dtype=np.int64)
            old, new = np.arange(len(counted[candidate])), np.arange(len(counted[candidate]), rung.images)
            successes[old] = counted[candidate]
            for rows, start in ((old, before), (new, 0)):
                if len(rows) and rung.noise > start:
                    successes[rows] += label_counts(sampler, labels, "count", start, rung.noise, rows)
                    passes += len(rows) * (rung.noise - start)
            counted[candidate] = successes
            estimates[candidate] = Estimates(successes, rung.noise, sampler.sigma)
        before = rung.noise
        going_on = sorted(order[:alive], key=lambda candidate: (-score(estimates[candidate]), candidate))
        order = going_on + order[alive:]
    return Halving(tuple(order), tuple(estimates[candidate] for candidate in range(candidates)), passes)
