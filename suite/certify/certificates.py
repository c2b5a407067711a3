"""Results of certification: one row per image with the averages that leaderboards show, or bounds on a whole set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from suite.certify.bounds import certified_radius

ABSTAIN = -1


@dataclass(frozen=True, slots=True, eq=False)
class Certificates:
    """Certified predictions of a classifier, smoothed or, in the L-infinity norm, as it is; all arrays have shape ``(images,)``.

    Attributes:
        prediction: Predicted class; -1 where the method abstains.
        radius: Certified radius, in the units of the images; 0 where it abstains.
        p_lower: Lower confidence bound of the predicted class's probability under noise; 1 without noise.
        forward_passes: Images pushed through the network for this row.
    """

    prediction: NDArray[np.int64]
    radius: NDArray[np.float64]
    p_lower: NDArray[np.float64]
    forward_passes: NDArray[np.int64]

    @classmethod
    def from_bounds(
        cls,
        chosen: NDArray[np.int64],
        p_lower: NDArray[np.float64],
        forward_passes: NDArray[np.int64],
        *,
        sigma: float,
    ) -> Certificates:
        """Certificates of chosen classes whose probabilities are at least ``p_lower``; a bound of at most 1/2 abstains."""
        return cls(
            prediction=np.where(p_lower > 0.5, chosen, ABSTAIN),
            radius=certified_radius(p_lower, sigma),
            p_lower=p_lower,
            forward_passes=forward_passes,
        )

    def scores(self, labels: NDArray[np.integer]) -> NDArray[np.float64]:
        """Radius where the prediction equals the label, else 0, shape ``(images,)``; their mean is the ACR."""
        return np.where(self.prediction == labels, self.radius, 0.0)

    def acr(self, labels: NDArray[np.integer]) -> float:
        """Average certified radius (Zhai et al., ICLR 2020, section 5.1)."""
        return float(self.scores(labels).mean())

    def certified_accuracy(self, labels: NDArray[np.integer], radii: Sequence[float]) -> dict[float, float]:
        """Share of images predicted right with a certified radius >= r, for each r."""
        correct = self.prediction == labels
        return {float(radius): float((correct & (self.radius >= radius)).mean()) for radius in radii}


@dataclass(frozen=True, slots=True, eq=False)
class SetCertificate:
    """Lower bounds that hold together with probability at least ``1 - alpha``.

    Attributes:
        acr: Of the set's average certified radius.
        certified_accuracy: Radius -> of the share of images predicted right with a true radius of at least it.
        alpha: Probability that one of them is wrong.
        forward_passes: Noise samples of each image.
    """

    acr: float
    certified_accuracy: Mapping[float, float]
    alpha: float
    forward_passes: int
