"""The certification methods by name: how a search measures a classifier, and how an exam certifies one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from suite.certify import (
    BaseRecord,
    Certificates,
    Sampler,
    SetCertificate,
    SetScores,
    bound_counts,
    certify_fixed,
    certify_incremental,
    certify_irs,
    certify_sequential,
    certify_set,
    estimate,
    pick_classes,
)
from suite.errors import BitcertError

BASE_FACTOR = 10
"""Samples of a base of incremental certificates, relative to those of the classifiers certified with its help."""


def _unavailable() -> NoReturn:
    raise BitcertError("this certification method needs the search's set-up and cannot be used here")


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """What a method may draw on; the last three only in a search.

    Attributes:
        labels: True classes, shape ``(images,)``.
        radii: Radii at which certified accuracy is reported, ascending.
        n0: Noise samples that choose a class.
        n: Noise samples that enter a bound or an estimate; the most of them for methods that choose.
        alpha: Failure probability of each certificate, or of all bounds on the set together.
        float_base: Reads or makes the float network's record.
        bases: Reads or makes the records that incremental certificates may use.
        scores: The scores of aggregate bounds.
    """

    labels: NDArray[np.int64]
    radii: tuple[float, ...]
    n0: int
    n: int
    alpha: float
    float_base: Callable[[], BaseRecord] = _unavailable
    bases: Callable[[], Sequence[BaseRecord]] = _unavailable
    scores: Callable[[], SetScores] = _unavailable


@dataclass(frozen=True, slots=True, eq=False)
class Measurement:
    """What a method found.

    Attributes:
        acr: Average certified radius.
        certified_accuracy: Radius -> share of images.
        forward_passes: Noisy images pushed through the network.
        alpha: Failure probability: of each certificate, of the bounds together, or 1 for estimates.
        certificates: One row an image, for the methods that certify single images.
        set_certificate: Bounds on the set, where an exam has both.
    """

    acr: float
    certified_accuracy: Mapping[float, float]
    forward_passes: int
    alpha: float
    certificates: Certificates | None = None
    set_certificate: SetCertificate | None = None


Method = Callable[[Sampler, Setting], Measurement]


def _fixed(sampler: Sampler, setting: Setting) -> Measurement:
    return _averages(certify_fixed(sampler, n0=setting.n0, n=setting.n, alpha=setting.alpha), setting)


def _irs(sampler: Sampler, setting: Setting) -> Measurement:
    return _averages(certify_irs(sampler, setting.float_base(), n=setting.n, alpha=setting.alpha), setting)


def _incremental(sampler: Sampler, setting: Setting) -> Measurement:
    found = certify_incremental(sampler, setting.bases(), n0=setting.n0, n=setting.n, alpha=setting.alpha)
    return _averages(found, setting)


def _sequential(sampler: Sampler, setting: Setting) -> Measurement:
    found = certify_sequential(sampler, radii=setting.radii, n0=setting.n0, n=setting.n, alpha=setting.alpha)
    return _averages(found, setting)


def _aggregate(sampler: Sampler, setting: Setting) -> Measurement:
    found = certify_set(sampler, setting.labels, setting.scores())
    passes = len(sampler) * found.forward_passes
    return Measurement(found.acr, found.certified_accuracy, passes, found.alpha)


def _fixed_and_aggregate(sampler: Sampler, setting: Setting) -> Measurement:
    """Both from the same samples: those for ``"count"`` are drawn once."""
    chosen = sampler.counts("select", 0, setting.n0).argmax(axis=1)
    counts = sampler.counts("count", 0, setting.n)
    certificates = bound_counts(
        chosen, pick_classes(counts, chosen), sigma=sampler.sigma, n0=setting.n0, n=setting.n, alpha=setting.alpha
    )
    bounds = setting.scores().bound(pick_classes(counts, setting.labels))
    return replace(_averages(certificates, setting), set_certificate=bounds)


def _ranking(sampler: Sampler, setting: Setting) -> Measurement:
    found = estimate(sampler, setting.labels, n=setting.n)
    return Measurement(found.acr, found.certified_accuracy(setting.radii), len(sampler) * setting.n, alpha=1.0)


def _averages(certificates: Certificates, setting: Setting) -> Measurement:
    return Measurement(
        acr=certificates.acr(setting.labels),
        certified_accuracy=certificates.certified_accuracy(setting.labels, setting.radii),
        forward_passes=int(certificates.forward_passes.sum()),
        alpha=setting.alpha,
        certificates=certificates,
    )


METHODS: dict[str, Method] = {
    "ranking": _ranking,
    "fixed": _fixed,
    "irs": _irs,
    "incremental": _incremental,
    "sequential": _sequential,
    "aggregate": _aggregate,
}

EXAMS: dict[str, Method] = {
    "fixed": _fixed,
    "sequential": _sequential,
    "aggregate": _fixed_and_aggregate,
}
"""How exams certify: image by image always, since differences between classifiers are measured there."""

ESTIMATES = ("ranking",)
"""Methods that promise nothing: their scores order policies, and finalists are measured again."""


def select_samples(noise: int) -> int:
    """Noise samples that choose the class (n0) when ``noise`` samples count it: a tenth, at least 8 and at most 100."""
    return min(100, max(8, noise // 10))
