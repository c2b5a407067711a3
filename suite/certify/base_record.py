"""Predictions of a fully sampled classifier, sample by sample: the base that incremental certificates build on."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suite.certify.bounds import CertificationWarning, check_positive
from suite.certify.sampling import Sampler
from suite.errors import BitcertError
from suite.store import Store


@dataclass(frozen=True, slots=True, eq=False)
class BaseRecord:
    """Predictions of a base classifier on noise that other classifiers can replay.

    Attributes:
        select: Predictions on the samples for ``"select"``, shape ``(images, n0)``, int16.
        count: Predictions on the samples for ``"count"``, shape ``(images, n)``, int16.
    """

    select: NDArray[np.int16]
    count: NDArray[np.int16]

    @property
    def chosen(self) -> NDArray[np.int64]:
        """The base's own predicted class: the most frequent one among ``select``, shape ``(images,)``."""
        return most_frequent(self.select)


def record_base(sampler: Sampler, *, n0: int, n: int) -> BaseRecord:
    """Sample a base classifier: ``n0`` samples for ``"select"`` and ``n`` for ``"count"`` of every image."""
    check_positive(n0=n0, n=n)
    return BaseRecord(sampler.predictions("select", 0, n0), sampler.predictions("count", 0, n))


def most_frequent(predictions: NDArray[np.integer]) -> NDArray[np.int64]:
    """The most frequent class in each row, the lowest among equals; shape ``(rows, samples)`` to ``(rows,)``."""
    rows = len(predictions)
    classes = int(predictions.max()) + 1
    cells = np.arange(rows)[:, None] * classes + predictions
    counts = np.bincount(cells.ravel(), minlength=rows * classes).reshape(rows, classes)
    return np.asarray(counts.argmax(axis=1))


class BaseStore:
    """Base records in a folder, each named by a hash of everything it depends on: another network, another file.

    Args:
        folder: By default the environment variable BITCERT_CACHE, or ``bitcert`` in the user's cache.
    """

    def __init__(self, folder: Path | None = None) -> None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self.folder = folder or Path(os.environ.get("BITCERT_CACHE") or cache / "bitcert")

    def path(self, key: Mapping[str, Any]) -> Path:
        """File of a key's record, whether or not it exists."""
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
        return self.folder / f"base-{name}.safetensors"

    def get(self, key: Mapping[str, Any], make: Callable[[], BaseRecord]) -> BaseRecord:
        """Read the record of a key, or make it and store it.

        Args:
            key: JSON-ready; everything the predictions depend on: network, data, images, sigma, seed, sample counts.
            make: Samples the base.

        Warns:
            CertificationWarning: If a file is damaged, or not what its name says; the base is sampled again.
        """
        store = Store(self.path(key), "base classifier", key, "numpy", remedy="it is sampled again")
        if store.path.exists():
            try:
                return _checked(store.read().groups.get("base", {}))
            except BitcertError as error:
                warnings.warn(str(error), CertificationWarning, stacklevel=2)
        record = make()
        store.write({"base": {"select": record.select, "count": record.count}})
        return record


def _checked(tensors: Mapping[str, NDArray[Any]]) -> BaseRecord:
    found = [(name, str(array.dtype), array.ndim) for name, array in sorted(tensors.items())]
    if found != [("count", "int16", 2), ("select", "int16", 2)] or len(tensors["count"]) != len(tensors["select"]):
        raise BitcertError(f"a stored base is damaged (it holds {found}); it is sampled again")
    return BaseRecord(tensors["select"], tensors["count"])
