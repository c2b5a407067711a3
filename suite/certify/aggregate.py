"""A lower confidence bound on a whole set's average certified radius, from few noise samples per image.

Per-image certificates each pay for their own confidence. A leaderboard needs one number about the set, and the noise of
many images averages out. Let image ``i`` be predicted as its label with probability ``p_i`` under noise, ``K_i`` of
``n`` samples agree with the label, and let ``gain(p)`` be what the image is worth: ``sigma * max(0, Phi^-1(p))`` for the ACR,
``1 if p >= Phi(r / sigma) else 0`` for the certified accuracy at ``r``.

**Bound.** Let ``phi`` be a score and ``rate > 0`` such that

    B(p) = E exp(rate * phi(K)) <= exp(rate * gain(p)) = h(p)   for K ~ Binomial(n, p), for all p in [0, 1].      (1)

Then ``exp(rate * sum_i (phi(K_i) - gain(p_i)))`` has mean at most 1, since the images' noise is independent, and by
Markov's inequality, with probability at least ``1 - alpha``,

    mean_i gain(p_i) >= mean_i phi(K_i) - ln(1 / alpha) / (rate * images).                                        (2)

No image has to be classified first, none is left out, and nothing is assumed about ``p_i``.

**Between grid points.** ``phi`` never decreases in k, so ``B`` never decreases in p; nor does ``h``. On a grid
``0 = p_0 < ... < p_J = 1``, ``B(p_{j+1}) <= h(p_j)`` for all j therefore implies (1): for p in ``[p_j, p_{j+1})`` is
``B(p) <= B(p_{j+1}) <= h(p_j) <= h(p)``, and ``B(1) <= h(p_{J-1}) <= h(1)``. A step of ``gain`` is a grid point, so the
inequality holds up to its very edge. This is checked on a fine grid, and ``phi`` is lowered by any excess.

**Score.** (1) is linear in ``g(k) = exp(rate * phi(k))``, and the expected bound is ``E log g(K) / rate``: among all
non-negative, non-decreasing ``g`` with (1), the best one for images like those of the calibration split maximizes a concave
function over a polytope. It is the growth-rate optimal e-variable of the composite hypothesis, found here by a barrier
method. The expected bound also selects ``rate``. Tuning uses the calibration split only; (2) holds whatever it finds.

References:
    Grünwald, de Heide, Koolen, Safe testing, J. R. Stat. Soc. B 86 (2024), for growth-rate optimality; Larsson, Ramdas,
    Ruf, The numeraire e-variable, Ann. Statist. (2025); Boyd and Vandenberghe, Convex Optimization, section 11.3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, optimize, special
from threadpoolctl import threadpool_limits
from torch import nn

from suite.certify.bounds import check_alpha, check_positive
from suite.certify.certificates import SetCertificate
from suite.certify.certifier import ExamCertifier, Measurement, Setup, Task
from suite.certify.fixed import bound_counts
from suite.certify.sampling import Sampler, label_counts, pick_classes
from suite.certify.set_scores import Score, SetScores
from suite.contract.objective import check_radii
from suite.contract.problem import check_sigma
from suite.errors import BitcertError

_LEVELS = 120  # most distinct values of a score
_COARSE, _FINE = 160, 16_000  # grid points of the optimization, and of the proof
_LARGEST_Z = 8.0  # where Phi is 1 to double precision
_ROUNDING = 1e-9  # relative error of B allowed for
_LOG_RATES = float(np.log(0.05)), float(np.log(20.0))  # searched for the best rate, in units of 1 / scale of the gain
_SPREAD = 0.02  # share of the calibration counts spread evenly, so that no count is impossible


@dataclass(frozen=True, slots=True)
class Aggregate(ExamCertifier):
    """Lower bounds on the set's ACR and certified accuracies, from few samples of each image.

    Held-out certification also certifies each image as :class:`~suite.certify.fixed.Fixed` does, for differences between
    classifiers, and bounds the set from the same samples.
    """

    uses_scores: ClassVar[bool] = True
    selects: ClassVar[bool] = False

    def measure(self, network: nn.Module, task: Task, setup: Setup) -> Measurement:
        """Bound the set; no single image is certified."""
        found = certify_set(task.sampler(network), task.labels, setup.scores(len(task.labels), task.n, task.alpha))
        return Measurement(
            found.acr, found.certified_accuracy, len(task.labels) * found.forward_passes, alpha=found.alpha
        )

    def examine(self, network: nn.Module, task: Task, setup: Setup) -> Measurement:
        """Certify every image and bound the set; samples for ``"count"`` are drawn once."""
        sampler = task.sampler(network)
        chosen = sampler.counts("select", 0, task.n0).argmax(axis=1)
        counts = sampler.counts("count", 0, task.n)
        certificates = bound_counts(
            chosen, pick_classes(counts, chosen), sigma=sampler.sigma, n0=task.n0, n=task.n, alpha=task.alpha
        )
        scores = setup.scores(len(task.labels), task.n, task.alpha)
        bounds = scores.bound(pick_classes(counts, task.labels))
        return replace(Measurement.average(certificates, task), set_certificate=bounds)


def certify_set(sampler: Sampler, labels: NDArray[np.integer], scores: SetScores) -> SetCertificate:
    """Bound a set's ACR and certified accuracies from ``scores.n`` samples per image (those for ``"count"``).

    Args:
        sampler: The classifier under noise.
        labels: True classes, shape ``(images,)``.
        scores: From :func:`design_scores`; they must not depend on these images.

    Raises:
        BitcertError: If scores and sampler differ in sigma.
    """
    if scores.sigma != sampler.sigma:
        raise BitcertError(f"scores for sigma = {scores.sigma:g} say nothing about noise of sigma = {sampler.sigma:g}")
    return scores.bound(label_counts(sampler, labels, "count", 0, scores.n))


def design_scores(
    probabilities: NDArray[np.float64],
    *,
    n: int,
    images: int,
    sigma: float,
    radii: Sequence[float] = (),
    alpha: float = 1e-3,
) -> SetScores:
    """Design the best scores for images like those of a calibration set.

    Args:
        probabilities: Estimated label probabilities under noise, shape ``(calibration images,)``.
        n: Noise samples per image.
        images: Size of the set that will be bounded.
        sigma: Standard deviation of the noise.
        radii: Radii of the certified accuracies.
        alpha: Probability that one of the bounds is wrong.

    Raises:
        BitcertError: On arguments out of range.
    """
    check_alpha(alpha)
    check_sigma(sigma)
    check_positive(n=n, images=images)
    likely = np.asarray(probabilities, dtype=np.float64)
    if likely.ndim != 1 or not len(likely) or not np.all((likely >= 0) & (likely <= 1)):
        raise BitcertError("scores are designed from a list of probabilities within [0, 1]")
    counts = (1 - _SPREAD) * _binomial(n, special.ndtri(likely)).mean(axis=0) + _SPREAD / (n + 1)
    share = alpha / (1 + len(radii))
    radii = check_radii(tuple(radii)) if radii else ()
    return SetScores(
        n=n,
        alpha=alpha,
        sigma=sigma,
        acr=_best_score(counts, images, share, _radius_gain(sigma, n)),
        certified_accuracy={float(r): _best_score(counts, images, share, _step_gain(r / sigma)) for r in radii},
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Gain:
    """What an image is worth, as a function of ``z = Phi^-1(p)``, its scale, and the grids for the optimum and the proof."""

    value: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    scale: float
    coarse: NDArray[np.float64]
    fine: NDArray[np.float64]


def _radius_gain(sigma: float, n: int) -> _Gain:
    """``sigma * max(0, z)``."""
    coarse = np.linspace(0.0, min(_LARGEST_Z, special.ndtri(1 - 0.05 / n)), _COARSE)
    return _Gain(lambda z: sigma * np.maximum(z, 0.0), sigma, coarse, np.linspace(0.0, _LARGEST_Z, _FINE))


def _step_gain(edge: float) -> _Gain:
    """1 where ``z >= edge``, else 0; both values are reached at the upper ends of two intervals."""
    return _Gain(lambda z: (z >= edge).astype(np.float64), 1.0, np.array([edge]), np.array([edge]))


def _best_score(counts: NDArray[np.float64], images: int, alpha: float, gain: _Gain) -> Score:
    """The score with the best expected bound for label counts of this distribution, shape ``(n + 1,)``."""
    n = len(counts) - 1
    starts = _level_starts(n)
    mass = np.add.reduceat(counts, starts)
    # The optimum sees B <= h at the coarse grid's points, with the gain just before each, and at p = 1.
    survival = np.cumsum(_binomial(n, gain.coarse)[:, ::-1], axis=1)[:, ::-1][:, starts]
    survival = np.vstack([survival, np.ones(len(starts))])
    before = np.concatenate([gain.value(np.nextafter(gain.coarse, -np.inf)), gain.value(np.array([_LARGEST_Z]))])
    tolerance = min(1e-3, -0.01 * np.log(alpha) / images)  # a hundredth of what the confidence costs
    tried: list[tuple[float, Score]] = []

    def loss(log_rate: float) -> float:
        rate = float(np.exp(log_rate)) / gain.scale
        growth = np.repeat(_grow(mass, survival / np.exp(rate * before)[:, None], tolerance), np.diff([*starts, n + 1]))
        score = Score(_lowered(np.log(growth), rate, gain) / rate, rate)
        expected = float(counts @ score.values + np.log(alpha) / (rate * images))
        tried.append((-expected, score))
        return -expected

    with threadpool_limits(1):  # sums, and so the score, must not depend on the number of threads
        optimize.minimize_scalar(loss, bounds=_LOG_RATES, method="bounded", options={"xatol": 0.1})
    return min(tried, key=lambda pair: pair[0])[1]


def _grow(mass: NDArray[np.float64], survival: NDArray[np.float64], tolerance: float) -> NDArray[np.float64]:
    """Maximize ``sum_l mass_l * log g_l`` over ``g = cumsum(rises)``, ``rises >= 0``, ``survival @ rises <= 1``.

    Newton's method on a logarithmic barrier whose weight falls until the optimality gap is below ``tolerance``.
    """
    levels = len(mass)
    rises = np.full(levels, 0.3 / levels)
    rises[0] = 0.5
    rises *= 0.9 / (survival @ rises).max()
    later = np.maximum.outer(np.arange(levels), np.arange(levels))

    def value(at: NDArray[np.float64], weight: float) -> float:
        barrier = np.log(at).sum() + np.log(1 - survival @ at).sum()
        return float(mass @ np.log(np.cumsum(at)) + weight * barrier)

    weight = 0.1
    while weight * (levels + len(survival)) > tolerance:
        for _ in range(50):
            growth, slack = np.cumsum(rises), 1 - survival @ rises
            gradient = np.cumsum((mass / growth)[::-1])[::-1] + weight * (1 / rises - survival.T @ (1 / slack))
            curvature = np.cumsum((mass / growth**2)[::-1])[::-1][later]
            curvature += weight * (survival.T / slack**2) @ survival
            curvature[np.diag_indices(levels)] += weight / rises**2
            scale = 1 / np.sqrt(np.diag(curvature))
            scaled = curvature * np.outer(scale, scale) + 1e-13 * np.eye(levels)
            step = scale * linalg.cho_solve(linalg.cho_factor(scaled), scale * gradient)
            ratios = np.concatenate([-step / rises, survival @ step / slack])
            length = min(1.0, 0.95 / max(ratios.max(), 1e-300))
            here = value(rises, weight)
            while value(rises + length * step, weight) < here and length > 1e-8:
                length /= 2
            rises = rises + length * step
            if gradient @ step < 0.1 * weight:
                break
        weight *= 0.15
    return np.cumsum(rises)


def _lowered(log_growth: NDArray[np.float64], rate: float, gain: _Gain) -> NDArray[np.float64]:
    """``log g`` shifted so that ``B(p_{j+1}) <= h(p_j)`` on the fine grid, with room for rounding."""
    grid = gain.fine
    worst = float(log_growth[-1]) - rate * float(gain.value(grid[-1:])[0])  # B(1) = g(n)
    for start in range(0, len(grid), 1000):
        part = grid[start : start + 1000]
        before = np.concatenate([[grid[start - 1]] if start else [-np.inf], part[:-1]])
        worst = max(worst, float((_log_mean(log_growth, part) - rate * gain.value(before)).max()))
    return log_growth - worst - _ROUNDING


def _log_mean(log_growth: NDArray[np.float64], z: NDArray[np.float64]) -> NDArray[np.float64]:
    """``log B`` at ``p = Phi(z)``."""
    top = log_growth.max()
    return np.asarray(np.log(_binomial(len(log_growth) - 1, z) @ np.exp(log_growth - top)) + top)


def _binomial(n: int, z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities of 0..n successes where one has probability ``Phi(z)``, shape ``(len(z), n + 1)``."""
    k = np.arange(n + 1)
    bounded = np.clip(z, -_LARGEST_Z, _LARGEST_Z)[:, None]
    ways = special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1)
    log_probability = ways + k * special.log_ndtr(bounded) + (n - k) * special.log_ndtr(-bounded)
    return np.asarray(np.exp(log_probability))


def _level_starts(n: int) -> NDArray[np.int64]:
    """The counts at which a score may rise: all, or a selection that is dense at both ends."""
    if n < _LEVELS:
        return np.arange(n + 1)
    return np.unique(np.rint(n * np.sin(np.linspace(0, np.pi / 2, _LEVELS)) ** 2).astype(np.int64))
