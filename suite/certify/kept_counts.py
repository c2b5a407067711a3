"""Counts of finished images, kept while the others are counted, so that an interrupted certification resumes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from suite.kept import KeptPart

_ROWS = 2_000  # forward passes of a part, at least


class KeptCounts:
    """What a network has counted so far, by what was asked for.

    Images are counted in parts that hold a whole number of batches, so that batches are those of an uninterrupted count:
    sums in floating point depend on what else is in a batch.

    Args:
        part: Where it is kept; its identity holds everything that counts depend on but purpose, samples and images' positions.
        batch: Rows per batch.
        skipped: Called with the forward passes that were made in earlier calls, once they are asked for again.
    """

    def __init__(self, part: KeptPart, batch: int, skipped: Callable[[int], None] | None = None) -> None:
        self._part, self._batch, self._skipped, stored = part, batch, skipped, part.read()
        self._counts: dict[str, Tensor] = {} if stored is None else dict(stored.groups["counts"])

    def counts(
        self,
        purpose: str,
        start: int,
        stop: int,
        rows: NDArray[np.int64],
        count: Callable[[NDArray[np.int64]], NDArray[np.int64]],
    ) -> NDArray[np.int64]:
        """Counts for :meth:`.Sampler.counts`: those that are kept, and the others.

        Args:
            purpose: What the samples are for.
            start: The first of them.
            stop: The first that is none of them.
            rows: Positions of the images.
            count: Counts the images at some of the positions.
        """
        samples, size = stop - start, images_per_part(stop - start, self._batch)
        key = f"{purpose} {start} {stop} {hashlib.sha256(rows.tobytes()).hexdigest()}"
        found = [self._counts[key]] if key in self._counts else []
        done = sum(map(len, found))
        if done and self._skipped is not None:
            self._skipped(done * samples)
        for first in range(done, len(rows), size):
            found.append(torch.from_numpy(count(rows[first : first + size])))
            self._part.keep(lambda: ({"counts": {**self._counts, key: torch.cat(found)}}, {}))
        self._counts[key] = torch.cat(found)
        return self._counts[key].numpy()


def images_per_part(samples: int, batch: int) -> int:
    """The fewest images that fill a whole number of batches and take at least 2,000 passes, ``samples`` each."""
    whole = batch // math.gcd(batch, samples)
    return whole * -(-_ROWS // (whole * samples))
