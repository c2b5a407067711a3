"""Sequential tests of certification at given radii: each image draws only as many noise samples as its decision takes.

For a radius ``r`` let ``q = Phi(r / sigma)``: the prediction ``c`` is certified at ``r`` if ``p = P(network(x + noise) = c)``
is at least ``q``. Against the hypothesis ``p <= q`` stands the mixture of likelihood ratios

    M_t = integral over u in (q, 1) of (u/q)^k ((1-u)/(1-q))^(t-k) dPi(u),        k successes among t samples,

with Pi the Jeffreys prior Beta(1/2, 1/2) restricted to (q, 1). Every factor has mean ``1 + (p - q)(u - q)/(q(1 - q)) <= 1``
under the hypothesis, so ``M`` is a non-negative supermartingale that starts at 1, and by Ville's inequality it ever
reaches ``1/a`` with probability at most ``a``: one may look after every sample and stop by any rule. What is undecided after
the last sample is tested once more with the Clopper-Pearson bound, which is sharper at a fixed number of samples. The two
tests of a radius share its alpha: 70 % for all looks, 30 % for the last one.

One alpha serves all radii: a radius is certified only if all smaller ones are. If any certified radius is wrong, so is
the smallest wrong one, and one of its own two tests has failed.

References:
    Robbins, Ann. Math. Statist. 41 (1970); Waudby-Smith and Ramdas, J. R. Stat. Soc. B 86 (2024), for betting;
    Marcus, Peritz, Gabriel, Biometrika 63 (1976), for the closed family of nested hypotheses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special
from torch import nn

from suite.certify.bounds import check_alpha, check_positive, clopper_pearson_lower
from suite.certify.certificates import ABSTAIN, Certificates
from suite.certify.certifier import ExamCertifier, Measurement, Setup, Task
from suite.certify.noise import BLOCK
from suite.certify.sampling import Sampler, pick_classes
from suite.contract.objective import check_radii
from suite.errors import BitcertError

_GROWTH = 1.1  # samples at a look, relative to those at the look before
_PRIOR = 0.5
_LAST_SHARE = 0.3  # of alpha, for the look at the last sample


@dataclass(frozen=True, slots=True)
class Sequential(ExamCertifier):
    """Certificates at the problem's radii, with as many samples as each image needs.

    Attributes:
        futility: When a radius is given up; see :func:`certify_sequential`.
    """

    futility: float = 0.4
    limited_by_samples: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_futility(self.futility)

    def measure(self, network: nn.Module, task: Task, setup: Setup) -> Measurement:
        """Certify image by image and average."""
        found = certify_sequential(
            task.sampler(network), radii=task.radii, n0=task.n0, n=task.n, alpha=task.alpha, futility=self.futility
        )
        return Measurement.average(found, task)


def certify_sequential(
    sampler: Sampler,
    *,
    radii: Sequence[float],
    n0: int = 100,
    n: int = 100_000,
    alpha: float = 1e-3,
    futility: float = 0.4,
) -> Certificates:
    """Certify at a list of radii; images decided at every radius draw no more samples.

    Samples for ``"select"`` choose the class, those for ``"count"`` decide. With probability at least ``1 - alpha`` for each
    image, the smoothed classifier's prediction is the returned one everywhere within the returned radius. Radii undecided
    after ``n`` samples are not certified.

    Args:
        sampler: The classifier under noise.
        radii: Ascending radii >= 0, in the units of the images; 0 is always tried.
        n0: Samples that choose the class.
        n: Maximum samples that decide an image.
        alpha: Probability of a wrong certificate, for each image.
        futility: A radius is given up once its predicted probability of being certified by the remaining samples falls
            below ``futility * sqrt(share of samples drawn)``; 0 gives up only what has become impossible. The factor allows
            for early predictions, the least certain and the cheapest to improve. Giving up costs certificates, not their
            validity.

    Returns:
        One row per image; ``radius`` is the largest one certified, ``p_lower`` the bound it implies. A prediction with radius
        0 is certified at the image itself; -1 abstains.

    Raises:
        BitcertError: On arguments out of range.
    """
    check_alpha(alpha)
    check_positive(n0=n0, n=n)
    _check_futility(futility)
    tried = np.array(check_radii(tuple(sorted({0.0, *radii}))))
    thresholds = special.ndtr(tried / sampler.sigma)
    needed = _needed(n, thresholds, alpha)
    chosen = sampler.counts("select", 0, n0).argmax(axis=1)
    successes = np.zeros(len(sampler), dtype=np.int64)
    drawn = np.zeros(len(sampler), dtype=np.int64)
    certified = np.zeros((len(sampler), len(tried)), dtype=bool)
    given_up = certified.copy()
    undecided, looked = np.arange(len(sampler)), 0
    while len(undecided) and looked < n:
        stop = min(n, max(looked + BLOCK, -(-int(looked * _GROWTH) // BLOCK) * BLOCK))
        counts = sampler.counts("count", looked, stop, undecided)
        looked = stop
        successes[undecided] += pick_classes(counts, chosen[undecided])
        drawn[undecided] = looked
        k = successes[undecided][:, None]
        certified[undecided] |= log_evidence(k, looked, thresholds) >= -np.log((1 - _LAST_SHARE) * alpha)
        if looked == n:
            certified[undecided] |= k >= needed
        given_up[undecided] |= _chance(needed - k, k, looked, n) <= futility * np.sqrt(looked / n)
        decided = np.logical_and.accumulate(certified, axis=1) | np.logical_or.accumulate(given_up, axis=1)
        undecided = np.flatnonzero(~decided.all(axis=1))
    reached = np.logical_and.accumulate(certified, axis=1).sum(axis=1)
    largest = np.maximum(reached - 1, 0)
    return Certificates(
        prediction=np.where(reached > 0, chosen, ABSTAIN),
        radius=np.where(reached > 0, tried[largest], 0.0),
        p_lower=np.where(reached > 0, thresholds[largest], 0.0),
        forward_passes=n0 + drawn,
    )


def log_evidence(successes: ArrayLike, trials: ArrayLike, threshold: ArrayLike) -> NDArray[np.float64]:
    """Logarithm of the mixture martingale ``M`` against ``p <= threshold``, in closed form; arguments broadcast.

    Minus infinity for a threshold of 1 in floating point.
    """
    k, t, q = np.broadcast_arrays(*(np.asarray(value, dtype=np.float64) for value in (successes, trials, threshold)))
    prior, possible = _PRIOR, q < 1
    q = np.where(possible, q, 0.5)
    with np.errstate(divide="ignore"):
        mixed = special.betaln(k + prior, t - k + prior) + np.log(special.betaincc(k + prior, t - k + prior, q))
        restricted = special.betaln(prior, prior) + np.log(special.betaincc(prior, prior, q))
    evidence = mixed - restricted - special.xlogy(k, q) - special.xlog1py(t - k, -q)
    return np.where(possible, evidence, -np.inf)


def _check_futility(futility: float) -> None:
    if not 0 <= futility < 1:
        raise BitcertError(f"futility must lie within [0, 1), got {futility}")


def _needed(trials: int, thresholds: NDArray[np.float64], alpha: float) -> NDArray[np.int64]:
    """Fewest successes among all samples that certify at each threshold, by either test; ``trials + 1`` where none do."""
    low, high = np.zeros(len(thresholds), dtype=np.int64), np.full(len(thresholds), trials + 1, dtype=np.int64)
    while np.any(low < high):
        middle = np.minimum((low + high) // 2, trials)
        enough = log_evidence(middle, trials, thresholds) >= -np.log((1 - _LAST_SHARE) * alpha)
        enough |= clopper_pearson_lower(middle, trials, _LAST_SHARE * alpha) > thresholds
        high = np.where(enough, np.minimum(high, middle), high)
        low = np.where(enough, low, np.minimum(middle + 1, high))
    return high


def _chance(missing: NDArray[np.int64], successes: NDArray[np.int64], trials: int, cap: int) -> NDArray[np.float64]:
    """Predictive probability of at least ``missing`` more successes in the samples left: beta-binomial, as a normal."""
    rest = cap - trials
    a, b = successes + _PRIOR, trials - successes + _PRIOR
    mean = rest * a / (a + b)
    variance = rest * a * b * (a + b + rest) / ((a + b) ** 2 * (a + b + 1))
    chance = special.ndtr((mean - missing + 0.5) / np.sqrt(np.maximum(variance, 1e-12)))
    return np.where(missing > rest, 0.0, chance)
