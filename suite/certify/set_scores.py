"""Scores of label counts whose mean bounds a set's average gain; the theorem is in :mod:`suite.certify.aggregate`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from suite.certify.bounds import check_alpha
from suite.certify.certificates import SetCertificate
from suite.errors import BitcertError


@dataclass(frozen=True, slots=True, eq=False)
class Score:
    """A score of label counts that obeys inequality (1).

    Attributes:
        values: ``phi(k)`` for k = 0..n, non-decreasing, shape ``(n + 1,)``, in the units of the gain.
        rate: The ``rate`` of (1).
    """

    values: NDArray[np.float64]
    rate: float

    def lower_bound(self, successes: NDArray[np.int64], alpha: float) -> float:
        """Bound (2) on the mean gain of a set of images, from their label counts, shape ``(images,)``; at least 0."""
        check_alpha(alpha)
        counts = np.asarray(successes)
        integers = counts.dtype.kind in "iu" and counts.ndim == 1 and len(counts)
        if not integers or counts.min() < 0 or counts.max() >= len(self.values):
            raise BitcertError(f"label counts must be a list of integers within 0..{len(self.values) - 1}")
        return max(0.0, float(self.values[counts].mean() + np.log(alpha) / (self.rate * len(counts))))


@dataclass(frozen=True, slots=True, eq=False)
class SetScores:
    """Scores for the ACR and for the certified accuracy at some radii, all at level ``alpha / (1 + number of radii)``.

    Attributes:
        n: Noise samples per image.
        alpha: Probability that one of the bounds is wrong.
        sigma: Standard deviation of the noise.
        acr: For the ACR.
        certified_accuracy: Radius -> score.
    """

    n: int
    alpha: float
    sigma: float
    acr: Score
    certified_accuracy: Mapping[float, Score]

    def bound(self, successes: NDArray[np.int64]) -> SetCertificate:
        """Bounds from the label counts among ``n`` samples, shape ``(images,)``."""
        share = self.alpha / (1 + len(self.certified_accuracy))
        return SetCertificate(
            acr=self.acr.lower_bound(successes, share),
            certified_accuracy={r: score.lower_bound(successes, share) for r, score in self.certified_accuracy.items()},
            alpha=self.alpha,
            forward_passes=self.n,
        )
