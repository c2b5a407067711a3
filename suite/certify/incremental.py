"""Certificates of a changed classifier from what a similar one predicted on the same noise.

A *base* is sampled in full, once. A changed classifier on the same noise rarely differs from it, and few samples bound rare
events tightly. Let ``c`` be a class, ``g`` the base and ``f`` the changed classifier:

    P(f = c) >= P(f = c, g = c) = P(g = c) - P(g = c, f != c).                                                      (1)

Only flips *away from c* count. With a Clopper-Pearson lower bound of ``P(g = c)`` at level ``alpha_base`` and an upper bound
of ``P(g = c, f != c)`` at level ``alpha - alpha_base``, their difference is a lower bound of ``P(f = c)`` at level ``alpha``, by
the union bound; both may use the same samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import special
from torch import nn

from suite.certify.base_record import BaseRecord, most_frequent
from suite.certify.bounds import check_alpha, check_positive, clopper_pearson_lower, clopper_pearson_upper
from suite.certify.certificates import Certificates
from suite.certify.certifier import Certifier, Measurement, Setup, Task
from suite.certify.sampling import Sampler, pick_classes
from suite.errors import BitcertError

_BASE_SHARE = 0.2  # of alpha: the base has many samples, so its bound loses little
_POOL = 30.0  # pilot samples that the mean flip rate over all images is worth
_SHARES = (0.1, 0.25, 0.5, 1.0)  # of the samples, candidates for a replay


@dataclass(frozen=True, slots=True)
class IRS(Certifier):
    """Incremental randomized smoothing as published, with the float network as its base.

    Attributes:
        gamma: Where fresh samples take over; see :func:`certify_irs`.
    """

    gamma: float = 0.99
    selects: ClassVar[bool] = False

    def measure(self, network: nn.Module, task: Task, setup: Setup) -> Measurement:
        """Certify image by image and average."""
        base = setup.float_base(task)
        found = certify_irs(task.sampler(network), base, n=task.n, alpha=task.alpha, gamma=self.gamma)
        return Measurement.average(found, task)


@dataclass(frozen=True, slots=True)
class Incremental(Certifier):
    """Certificates that build on the records of any number of bases where they help."""

    def measure(self, network: nn.Module, task: Task, setup: Setup) -> Measurement:
        """Certify image by image and average."""
        bases = setup.bases(task)
        found = certify_incremental(task.sampler(network), bases, n0=task.n0, n=task.n, alpha=task.alpha)
        return Measurement.average(found, task)


def certify_irs(
    sampler: Sampler,
    base: BaseRecord,
    *,
    n: int,
    alpha: float = 1e-3,
    gamma: float = 0.99,
) -> Certificates:
    """Incremental randomized smoothing, as published.

    The class is the base's. Where the base's bound is below ``gamma``, the changed classifier replays its first ``n``
    samples, and every disagreement counts against the bound, even between other classes. Elsewhere it gets ``n`` fresh
    samples (those for ``"fresh"``). ``alpha`` is split evenly between the base's bound and the disagreement's; fresh samples
    have all of it. An image that the base gets wrong can never score.

    Args:
        sampler: The changed classifier, on the base's images and noise.
        base: What the base predicted.
        n: Samples of the changed classifier, at most the base's.
        alpha: Probability of a wrong certificate, for each image.
        gamma: Where fresh samples take over.

    Raises:
        BitcertError: On arguments out of range, or a base of other images or too few samples.

    References:
        Ugare, Suresh, Banerjee, Singh, Misailovic, Incremental Randomized Smoothing Certification, ICLR 2024, algorithm 3.
    """
    check_alpha(alpha)
    _check_bases(sampler, [base], n0=1, n=n)
    chosen = base.chosen
    agreeing = (base.count == chosen[:, None]).sum(axis=1)
    p_base = clopper_pearson_lower(agreeing, base.count.shape[1], alpha / 2)
    p_lower = np.zeros(len(sampler))
    replayed, fresh = np.flatnonzero(p_base < gamma), np.flatnonzero(p_base >= gamma)
    if len(replayed):
        changed = sampler.predictions("count", 0, n, replayed)
        disagreements = (changed != base.count[replayed, :n]).sum(axis=1)
        p_lower[replayed] = p_base[replayed] - clopper_pearson_upper(disagreements, n, alpha / 2)
    if len(fresh):
        counts = sampler.counts("fresh", 0, n, fresh)
        p_lower[fresh] = clopper_pearson_lower(pick_classes(counts, chosen[fresh]), n, alpha)
    passes = np.full(len(sampler), n)
    return Certificates.from_bounds(chosen, np.maximum(p_lower, 0.0), passes, sigma=sampler.sigma)


def certify_incremental(
    sampler: Sampler,
    bases: Sequence[BaseRecord],
    *,
    n0: int,
    n: int,
    alpha: float = 1e-3,
) -> Certificates:
    """Certify a classifier with the help of fully sampled bases, where they help.

    The samples for ``"select"`` choose the class, as in Cohen's method, and serve as a pilot: every base's predictions on
    them are on record, so they show for each image how often the changed classifier flips away from the class, and which
    base is nearest. From the pilot alone, a plan is made for each image: the fewest replayed samples of the nearest base
    expected to match the bound of ``n`` samples without a base, or else those ``n``. The plan is carried out on the samples
    for ``"count"``, which are independent of it: whatever the plan, its bound fails with probability at most ``alpha``.

    Args:
        sampler: The changed classifier, on the bases' images and noise.
        bases: Records of the bases; without any, this is Cohen's method.
        n0: Samples that choose class and plan, at most a base's.
        n: Maximum samples that enter a bound, at most a base's.
        alpha: Probability of a wrong certificate, for each image.

    Returns:
        One row per image; forward passes of the changed classifier only.

    Raises:
        BitcertError: On arguments out of range, or a base of other images or too few samples.
    """
    check_alpha(alpha)
    _check_bases(sampler, bases, n0=n0, n=n)
    pilot = sampler.predictions("select", 0, n0)
    chosen = most_frequent(pilot)
    base_of, samples = _plan(pilot, chosen, bases, n, alpha)
    p_lower = np.zeros(len(sampler))
    for number, size in sorted(set(zip(base_of.tolist(), samples.tolist(), strict=True))):
        rows = np.flatnonzero((base_of == number) & (samples == size))
        agreeing = sampler.predictions("count", 0, size, rows) == chosen[rows, None]
        if number < 0:
            p_lower[rows] = clopper_pearson_lower(agreeing.sum(axis=1), size, alpha)
            continue
        base = bases[number].count[rows] == chosen[rows, None]
        flips = (base[:, :size] & ~agreeing).sum(axis=1)
        at_least = clopper_pearson_lower(base.sum(axis=1), base.shape[1], _BASE_SHARE * alpha)
        p_lower[rows] = at_least - clopper_pearson_upper(flips, size, (1 - _BASE_SHARE) * alpha)
    return Certificates.from_bounds(chosen, np.maximum(p_lower, 0.0), n0 + samples, sigma=sampler.sigma)


def _plan(
    pilot: NDArray[np.int16], chosen: NDArray[np.int64], bases: Sequence[BaseRecord], n: int, alpha: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The base of each image (-1: none) and its number of samples, from the pilot alone; shape ``(images,)`` each."""
    n0 = pilot.shape[1]
    agreeing = pilot == chosen[:, None]
    base_of = np.full(len(pilot), -1)
    samples = np.full(len(pilot), n)
    promised = np.zeros(len(pilot))
    for number, base in enumerate(bases):
        base_agrees = base.select[:, :n0] == chosen[:, None]
        away, towards = _rare_share(base_agrees & ~agreeing), _rare_share(~base_agrees & agreeing)
        base_share = _share(base.select == chosen[:, None])
        fresh = _promised_lower(np.clip(base_share - away + towards, 0, 1), n, alpha)
        at_least = _promised_lower(base_share, base.count.shape[1], _BASE_SHARE * alpha)
        for share in _SHARES:
            size = max(1, round(share * n))
            bound = at_least - _promised_upper(away, size, (1 - _BASE_SHARE) * alpha)
            better = (bound >= fresh) & ((size < samples) | ((size == samples) & (bound > promised)))
            base_of[better], samples[better], promised[better] = number, size, bound[better]
    return base_of, samples


def _share(events: NDArray[np.bool_], weight: float = 1.0, typical: float = 0.5) -> NDArray[np.float64]:
    """Frequency of an event for each image, shrunk towards ``typical`` as if by ``weight`` more samples."""
    return np.asarray((events.sum(axis=1) + weight * typical) / (events.shape[1] + weight))


def _rare_share(events: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Frequency of a rare event, shrunk towards its mean over all images, as pilots are short."""
    return _share(events, _POOL, float(_share(events.reshape(1, -1))[0]))


def _promised_lower(rate: NDArray[np.float64], n: int, alpha: float) -> NDArray[np.float64]:
    return np.asarray(special.betaincinv(rate * n, n - rate * n + 1.0, alpha), dtype=np.float64)


def _promised_upper(rate: NDArray[np.float64], n: int, alpha: float) -> NDArray[np.float64]:
    return np.asarray(special.betainccinv(rate * n + 1.0, n - rate * n, alpha), dtype=np.float64)


def _check_bases(sampler: Sampler, bases: Sequence[BaseRecord], *, n0: int, n: int) -> None:
    check_positive(n=n, n0=n0)
    for base in bases:
        if len(base.count) != len(sampler):
            raise BitcertError(f"a base of {len(base.count)} images cannot serve {len(sampler)} images")
        for name, wanted, there in (("n", n, base.count.shape[1]), ("n0", n0, base.select.shape[1])):
            if wanted > there:
                raise BitcertError(f"{name} = {wanted} samples asked for, but the base has {there}; sample it further")
