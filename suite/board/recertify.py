"""Tests of an entry's certificates against fresh noise: an honest entry fails them with a stated probability, at most.

The entry says that the class c of an image was counted k times among n samples; fresh noise counts it k' times among n'. If both
counts are of the same network, then given their sum, k is hypergeometric whatever the class's probability is. Only images with a
certificate are looked at, those whose count is at least the smallest that certifies: k is hypergeometric from there on, or honest
counts near that limit would look too good. That gives

* an exact test of every image (Fisher's, one-sided), with Bonferroni's correction, which sees a few edited images, and
* an exact test of the sum over all images, whose distribution is the convolution of the images' (the conditional test of Mantel
  and Haenszel), which sees small shifts of many.

Certificates of adaptive methods come without such counts. There, fresh noise bounds each probability from above (Clopper and
Pearson, at the certificates' alpha); a bound below the one that a certificate needs is a violation, and the number of violations of
an honest entry among images chosen beforehand is below a binomial one of probability 2 alpha.

References:
    Fisher, J. R. Stat. Soc. 98 (1935); Mantel and Haenszel, J. Natl. Cancer Inst. 22 (1959).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import signal, stats

from suite.certify import clopper_pearson_upper

_PIECE = 1e-18  # probabilities below it are left out of convolutions; their sum is added to the p-value


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the tests found.

    Attributes:
        p_value: The smallest p-value, times the number of tests.
        reasons: One line for each test that rejects.
    """

    p_value: float
    reasons: tuple[str, ...]


def compare_counts(
    claimed: NDArray[np.int64], n: int, fresh: NDArray[np.int64], samples: int, error_rate: float, least: int = 0
) -> Verdict:
    """Test counts of an entry against fresh ones of the same classes; one-sided, against claims that are too good.

    Args:
        claimed: Successes among ``n`` samples of each image, shape ``(images,)``.
        n: The entry's samples.
        fresh: Successes among ``samples`` fresh ones, same shape.
        samples: Fresh samples.
        error_rate: Probability of rejecting an honest entry, at most.
        least: Smallest count with which an image is among these.
    """
    total, both = claimed + fresh, n + samples
    reached, able = (np.asarray(stats.hypergeom.sf(count - 1, both, total, n)) for count in (claimed, least))
    images = reached / able * len(claimed)
    single, whole = float(images.min()), _sum_at_least(claimed, total, n, both, least)
    level, reasons = error_rate / 2, []
    if single < level:
        worst = int(images.argmin())
        reasons.append(
            f"the certificate number {worst + 1} of those chosen claims {claimed[worst]} of {n} samples, fresh noise gives "
            f"{fresh[worst]} of {samples}: p = {single:.1e}, corrected for {len(claimed)} images"
        )
    if whole < level:
        reasons.append(
            f"all chosen certificates together claim {claimed.sum() / (n * len(claimed)):.4f} of the samples, fresh noise gives "
            f"{fresh.sum() / (samples * len(fresh)):.4f}: p = {whole:.1e}"
        )
    return Verdict(min(1.0, 2 * min(single, whole)), tuple(reasons))


def compare_bounds(
    needed: NDArray[np.float64],
    alpha: float,
    fresh: NDArray[np.int64],
    samples: int,
    error_rate: float,
    chosen: int | None = None,
) -> Verdict:
    """Test probabilities that an entry's certificates need against fresh counts of the same classes.

    Args:
        needed: What each certificate says the probability is at least, shape ``(images,)``.
        alpha: Failure probability of each certificate.
        fresh: Successes among ``samples`` fresh samples, same shape.
        samples: Fresh samples.
        error_rate: Probability of rejecting an honest entry, at most.
        chosen: How many images were chosen, those without a certificate included; as many as there are if None.
    """
    violated = clopper_pearson_upper(fresh, samples, alpha) < needed
    count = int(violated.sum())
    p_value = float(stats.binom.sf(count - 1, chosen or len(needed), min(1.0, 2 * alpha)))
    reasons = []
    if p_value < error_rate:
        reasons.append(
            f"{count} of {len(needed)} chosen certificates need probabilities that fresh noise rules out: p = {p_value:.1e}"
        )
    return Verdict(p_value, tuple(reasons))


def _sum_at_least(claimed: NDArray[np.int64], total: NDArray[np.int64], n: int, both: int, least: int) -> float:
    """Probability that the sum of the images' hypergeometric counts, each at least ``least``, reaches the claimed sum."""
    masses, lowest, left_out = np.ones(1), 0, 0.0
    for successes in total:
        low, high = max(least, successes - (both - n)), min(n, successes)
        mass = stats.hypergeom.pmf(np.arange(low, high + 1), both, successes, n)
        mass /= mass.sum()
        kept = np.flatnonzero(mass > _PIECE)
        left_out += float(mass[: kept[0]].sum() + mass[kept[-1] + 1 :].sum())
        lowest += low + int(kept[0])
        masses = np.maximum(signal.convolve(masses, mass[kept[0] : kept[-1] + 1]), 0.0)
    reached = masses[max(0, int(claimed.sum()) - lowest) :].sum() if claimed.sum() - lowest < len(masses) else 0.0
    return min(1.0, float(reached) + left_out)
