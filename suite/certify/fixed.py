"""Cohen's certificate with a fixed number of noise samples: the reference for every other method."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from suite.certify.bounds import (
    CertificationWarning,
    check_alpha,
    check_positive,
    clopper_pearson_lower,
    largest_radius,
)
from suite.certify.certificates import Certificates
from suite.certify.certifier import ExamCertifier, Measurement, Setup, Task
from suite.certify.exact import bound_exactly, check_arithmetic, remaining_alpha
from suite.certify.sampling import NoisyClassifier, NoisyImages, Progress, Sampler, pick_classes
from suite.errors import BitcertError


@dataclass(frozen=True, slots=True)
class Fixed(ExamCertifier):
    """Cohen's certificate: the same number of noise samples for every image."""

    limited_by_samples: ClassVar[bool] = True
    exact: ClassVar[bool] = True

    def measure(self, network: nn.Module, task: Task, setup: Setup) -> Measurement:
        """Certify image by image and average."""
        found = _certify(task.sampler(network), n0=task.n0, n=task.n, alpha=task.alpha)
        return Measurement.average(found, task)


def certify(
    network: nn.Module,
    images: Tensor | NDArray[np.floating],
    labels: ArrayLike,
    *,
    sigma: float,
    n0: int = 100,
    n: int = 10_000,
    alpha: float = 1e-3,
    seed: int = 0,
    ids: ArrayLike | None = None,
    batch: int = 250,
    progress: Progress | None = None,
    arithmetic: str = "float",
    levels: int = 255,
) -> Certificates:
    """Certify the smoothed classifier ``x -> argmax_c P(network(x + sigma * noise) = c)`` on images.

    For each image, ``n0`` noise samples choose the class, ``n`` fresh ones count it, and the one-sided Clopper-Pearson
    bound of its probability at confidence ``1 - alpha`` gives the radius; a bound of at most 1/2 abstains. With
    probability at least ``1 - alpha`` for each image, the smoothed classifier's prediction is the returned one
    everywhere within the returned radius. The noise is a pure function of ``(seed, image id, sample index)``.

    Args:
        network: Images to logits, normalization inside; put it in evaluation mode first.
        images: Shape ``(images, C, H, W)``, float in [0, 1]; a tensor on the network's device, or an array.
        labels: True classes, shape ``(images,)``; only checked for shape: no label enters a certificate.
        sigma: Standard deviation of the noise, in the units of the images.
        n0: Samples that choose the class.
        n: Samples that enter the bound.
        alpha: Probability of a wrong certificate, for each image.
        seed: Root seed of the noise, non-negative.
        ids: Ids that key the noise, non-negative and distinct, shape ``(images,)``; positions by default.
        batch: Rows per batch; bounds the memory.
        progress: Called with the forward passes since the last call.
        arithmetic: ``"float"``, or ``"exact"``: integer noise and proven bounds, for integer networks, so that no rounding comes
            between the theorem and the program; see :mod:`suite.certify.exact`.
        levels: With ``"exact"``, what pixels are integers divided by: 255 for bytes.

    Returns:
        One row per image; ``prediction`` is -1 where it abstains.

    Raises:
        BitcertError: On n0, n or batch below 1, sigma <= 0, alpha outside (0, 1), negative seeds or ids, repeated ids,
            shapes that disagree, or logits that are not finite. In exact arithmetic also on a network that is not a function of
            each image alone, images between two levels, or an alpha that the sampler uses up.

    Warns:
        CertificationWarning: If even ``n`` agreeing samples certify no radius above 0.

    References:
        Cohen, Rosenfeld, Kolter, Certified Adversarial Robustness via Randomized Smoothing, ICML 2019, algorithm CERTIFY.
    """
    check_arithmetic(arithmetic)
    grid = levels if arithmetic == "exact" else None
    noisy = NoisyImages(images, sigma=sigma, seed=seed, ids=ids, batch=batch, levels=grid)
    if np.shape(labels) != (len(noisy),):
        raise BitcertError(f"{len(noisy)} images need as many labels, got {np.shape(labels)}")
    return _certify(NoisyClassifier(network, noisy, progress), n0=n0, n=n, alpha=alpha)


def _certify(classifier: NoisyClassifier, *, n0: int, n: int, alpha: float) -> Certificates:
    """:func:`certify_fixed` in the arithmetic of the images."""
    rounded = classifier.noisy.rounded
    if rounded is None:
        return certify_fixed(classifier, n0=n0, n=n, alpha=alpha)
    _check_samples(n0, n, alpha, classifier.sigma)
    left = remaining_alpha(alpha, n, classifier.noisy.pixels[0].numel(), rounded.total_variation)
    chosen, successes = _count(classifier, n0, n)
    return bound_exactly(chosen, successes, sigma=classifier.sigma, n0=n0, n=n, alpha=left)


def certify_fixed(sampler: Sampler, *, n0: int, n: int, alpha: float) -> Certificates:
    """:func:`certify` for any sampler: samples for ``"select"`` choose the class, those for ``"count"`` bound it."""
    _check_samples(n0, n, alpha, sampler.sigma)
    chosen, successes = _count(sampler, n0, n)
    return bound_counts(chosen, successes, sigma=sampler.sigma, n0=n0, n=n, alpha=alpha)


def _check_samples(n0: int, n: int, alpha: float, sigma: float) -> None:
    check_alpha(alpha)
    check_positive(n0=n0, n=n)
    if largest_radius(n, alpha, sigma) == 0:
        warnings.warn(
            f"n = {n} cannot certify anything at alpha = {alpha:g}: even {n} agreeing samples give a probability of at most 1/2",
            CertificationWarning,
            stacklevel=4,
        )


def _count(sampler: Sampler, n0: int, n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The class of each image that ``n0`` samples choose, and how often ``n`` others give it."""
    chosen = sampler.counts("select", 0, n0).argmax(axis=1)
    return chosen, pick_classes(sampler.counts("count", 0, n), chosen)


def bound_counts(
    chosen: NDArray[np.int64], successes: NDArray[np.int64], *, sigma: float, n0: int, n: int, alpha: float
) -> Certificates:
    """Turn chosen classes and their counts among ``n`` fresh samples, shape ``(images,)`` each, into certificates."""
    p_lower = clopper_pearson_lower(successes, n, alpha)
    return Certificates.from_bounds(chosen, p_lower, np.full(len(chosen), n0 + n, dtype=np.int64), sigma=sigma)
