"""Reading exams: scores per image, settings, and whether two exams are comparable."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suite.contract.objective import Objective
from suite.contract.trial import radius_text
from suite.errors import BitcertError
from suite.run.records import Outcome

_SHARED = ("n0", "n", "sigma", "problem_seed", "data_sha256")


def exam_score(outcome: Outcome, objective: Objective) -> float:
    """Measure the objective of a search on the exam."""
    return float(image_scores(outcome, objective).mean()) if objective.per_image else objective.score(outcome.metrics)


def image_scores(outcome: Outcome, objective: Objective) -> NDArray[np.float64]:
    """Split an exam score into the contribution of each image, shape ``(images,)``; their mean is :func:`exam_score`.

    Raises:
        BitcertError: If exams keep the objective as an average only, such as clean accuracy.
    """
    certificates = outcome.certificates
    return objective.image_scores(outcome.labels, certificates.prediction, certificates.radius)


def check_same_exam(first: Outcome, second: Outcome, *, same_network: bool = True) -> None:
    """Check that two exams measured their networks alike, and unless told otherwise that these come from one float network.

    Raises:
        BitcertError: If images, labels, certifier (options included), radii, alpha, n0, n, sigma, noise seed, data or network
            differ. Radii count because ``"sequential"`` certifies at these only: a finer grid finds a larger ACR of the same
            network.
    """
    if not (np.array_equal(first.image_ids, second.image_ids) and np.array_equal(first.labels, second.labels)):
        raise BitcertError("two exams are on different images or labels; examine both on the same images")
    if first.metrics.method != second.metrics.method:
        methods = f"{first.metrics.method} and {second.metrics.method}"
        raise BitcertError(f"two exams certify by different methods: {methods}; repeat one of them")
    tried = [", ".join(map(radius_text, sorted(outcome.metrics.certified))) for outcome in (first, second)]
    if tried[0] != tried[1]:
        raise BitcertError(f"two exams have different radii: {tried[0]} and {tried[1]}; repeat one of them")
    names = (*_SHARED, "network_sha256") if same_network else _SHARED
    pairs = {name: (find(first.provenance, name), find(second.provenance, name)) for name in names}
    for name, (given, expected) in {"alpha": (first.metrics.alpha, second.metrics.alpha), **pairs}.items():
        if given is not None and expected is not None and given != expected:
            raise BitcertError(f"two exams have different {name}: {given} and {expected}; repeat one of them")


def is_stepped(method: str) -> bool:
    """Whether exams by a certifier, options included, try the problem's radii and no others."""
    return method.partition(":")[0] in ("sequential", "verify")


def norm_text(norm: str | None) -> str:
    """A norm as reports write it."""
    return {"l2": "L2", "linf": "L-infinity"}.get(norm or "", str(norm))


def flatten(provenance: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a JSON-ready mapping; ``{"a": {"b": 1}}`` becomes ``{"a.b": 1}``, lists become JSON text."""
    flat: dict[str, Any] = {}
    for key, value in provenance.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.dumps(value) if isinstance(value, (list, tuple)) else value
    return flat


def find(provenance: Mapping[str, Any], name: str) -> Any:
    """Look up the key ``name``, which may hold dots, at whatever depth, the shallowest first; None if there is none."""
    flat = flatten(provenance)
    named = [key for key in flat if key == name or key.endswith(f".{name}")]
    return flat[min(named, key=lambda key: key.count("."))] if named else None
