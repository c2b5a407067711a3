"""The digits included in scikit-learn: 1,797 grayscale images of 8 x 8 pixels, available offline."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from suite.data.images import ImageDataset, PixelArray, assemble, shuffled

_LEVELS = 16
_EXAM, _SEARCH, _CALIBRATION = 400, 300, 100


def load_digits() -> ImageDataset:
    """Load the digits: 400 exam, 300 search, 100 calibration and 997 training images, disjoint, without duplicates.

    Pixels are 0..16 sixteenths. The images are the test part of the UCI handwritten digits (Alpaydin, Kaynak 1998), in a
    fixed shuffled order.
    """
    read = _read()
    pixels, labels, order = read[0].copy(), read[1].copy(), read[2].copy()
    bounds = np.cumsum([_EXAM, _SEARCH, _CALIBRATION])
    exam, search, calibration, train = np.split(order, bounds)
    return assemble(
        name="digits",
        shape=(1, 8, 8),
        classes=10,
        labels=labels,
        source=PixelArray(pixels, white=_LEVELS),
        members={"train": np.sort(train), "calibration": calibration, "search": search, "exam": exam},
        content=[pixels.tobytes()],
        levels=_LEVELS,
    )


@cache
def _read() -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """Pixels, labels and the shuffled order of all images; scikit-learn reads them from text, which takes longest."""
    from sklearn.datasets import load_digits as load_bunch

    bunch = load_bunch()
    pixels = bunch.images.astype(np.uint8)[:, None]
    order = shuffled(np.arange(len(pixels)), [f"digits/{position}" for position in range(len(pixels))])
    return pixels, bunch.target.astype(np.int64), order
