"""What a fully sampled classifier predicted, sample by sample: the base that incremental certificates build on."""

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
from safetensors import SafetensorError
from safetensors.numpy import load, save

from suite.certify.bounds import CertificationWarning, check_positive
from suite.certify.sampling import Sampler
from suite.files import write_bytes

CACHE_VARIABLE = "BITCERT_CACHE"


@dataclass(frozen=True, slots=True, eq=False)
class BaseRecord:
    """Predictions of a base classifier under noise that other classifiers can be given again.

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
    """Base records in a folder, each under the hash of everything it depends on: another network is another file.

    Args:
        folder: Where they are; by default the environment variable BITCERT_CACHE, or ``bitcert`` in the user's cache.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or _default_folder()

    def path(self, key: Mapping[str, Any]) -> Path:
        """Where the record of a key is, or would be."""
        return self.folder / f"base-{hashlib.sha256(_text(key).encode()).hexdigest()[:32]}.safetensors"

    def get(self, key: Mapping[str, Any], make: Callable[[], BaseRecord]) -> BaseRecord:
        """Read the record of a key, or make it and write it down.

        Args:
            key: JSON-ready; everything the predictions depend on: network, data, images, sigma, seed, numbers of samples.
            make: Samples the base.

        Warns:
            CertificationWarning: If a file is there but damaged, or not what its name says; it is made anew.
        """
        path = self.path(key)
        try:
            return _read(path.read_bytes(), key)
        except FileNotFoundError:
            pass
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            warnings.warn(f"{path} is damaged and is made anew: {error}", CertificationWarning, stacklevel=2)
        record = make()
        tensors = {"select": record.select, "count": record.count}
        metadata = {"key": _text(key), "sha256": _digest(record)}
        write_bytes(path, save(tensors, metadata=metadata))
        return record


def _read(content: bytes, key: Mapping[str, Any]) -> BaseRecord:
    length = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + length])["__metadata__"]
    if metadata["key"] != _text(key):
        raise ValueError("it belongs to another key")
    tensors = load(content)
    record = BaseRecord(tensors["select"], tensors["count"])
    for predictions in (record.select, record.count):
        if predictions.dtype != np.int16 or predictions.ndim != 2 or len(predictions) != len(record.select):
            raise ValueError(f"predictions of type {predictions.dtype} and shape {predictions.shape}")
    if metadata["sha256"] != _digest(record):
        raise ValueError("its content has changed")
    return record


def _digest(record: BaseRecord) -> str:
    return hashlib.sha256(record.select.tobytes() + record.count.tobytes()).hexdigest()


def _text(key: Mapping[str, Any]) -> str:
    return json.dumps(key, sort_keys=True)


def _default_folder() -> Path:
    given = os.environ.get(CACHE_VARIABLE)
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bitcert"
