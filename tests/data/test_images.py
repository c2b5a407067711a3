"""Splits and datasets in general."""

import subprocess
import sys
from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from suite.data.images import ImageDataset, PixelArray, assemble, shuffled
from suite.errors import BitcertError


def _tiny(
    members: Mapping[str, list[int]] | None = None,
    labels: list[int] | None = None,
    pixels: NDArray[np.uint8] | None = None,
) -> ImageDataset:
    chosen = members or {"train": [0, 1], "calibration": [2], "search": [3], "exam": [5, 4]}
    bytes_ = np.arange(6 * 4, dtype=np.uint8).reshape(6, 1, 2, 2) if pixels is None else pixels
    return assemble(
        "tiny",
        (1, 2, 2),
        3,
        np.array(labels or [0, 1, 2, 0, 1, 2]),
        PixelArray(bytes_, white=255),
        {name: np.array(ids, dtype=np.int64) for name, ids in chosen.items()},
        [bytes_.tobytes()],
    )


def test_images_follow_the_ids_of_the_split() -> None:
    exam = _tiny().splits["exam"]
    expected = np.arange(24, dtype=np.float32).reshape(6, 1, 2, 2)[[5, 4]] / np.float32(255)
    np.testing.assert_array_equal(exam.images().numpy(), expected)
    np.testing.assert_array_equal(exam.images(1, 9).numpy(), expected[1:])
    np.testing.assert_array_equal(exam.labels, [2, 1])


def test_a_subset_keeps_ids_labels_and_images_together() -> None:
    split = _tiny().splits["exam"]
    reverse = split.subset([1, 0])
    np.testing.assert_array_equal(reverse.ids, [4, 5])
    np.testing.assert_array_equal(reverse.labels, [1, 2])
    np.testing.assert_array_equal(reverse.images(0, 1).numpy(), split.images(1, 2).numpy())


def test_an_image_in_two_splits_is_refused() -> None:
    with pytest.raises(BitcertError, match="more than one split"):
        _tiny({"train": [0, 1], "calibration": [2], "search": [3], "exam": [1, 4]})


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(BitcertError, match="none for the calibration split"):
        _tiny({"train": [0, 1], "calibration": [], "search": [3], "exam": [4]})


def test_a_label_that_is_no_class_is_refused() -> None:
    with pytest.raises(BitcertError, match=r"labels must lie in 0\.\.2"):
        _tiny(labels=[0, 1, 2, 3, 1, 2])


def test_the_hash_covers_pixels_labels_and_membership() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(6, 1, 2, 2)
    changed = pixels.copy()
    changed[5, 0, 1, 1] += 1
    hashes = [
        _tiny().sha256,
        _tiny(pixels=changed).sha256,
        _tiny(labels=[0, 1, 2, 0, 1, 1]).sha256,
        _tiny({"train": [0, 2], "calibration": [1], "search": [3], "exam": [5, 4]}).sha256,
        _tiny({"train": [0, 1], "calibration": [2], "search": [3], "exam": [4, 5]}).sha256,
    ]
    assert len(set(hashes)) == 5
    assert _tiny(pixels=pixels).sha256 == hashes[0]


def test_shuffling_depends_on_keys_alone() -> None:
    ids, keys = np.arange(50), [f"key {number}" for number in range(50)]
    order = shuffled(ids, keys)
    assert sorted(order) == list(range(50)) != list(order)
    remaining = shuffled(ids[:20], keys[:20])
    np.testing.assert_array_equal(remaining, order[order < 20])


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, suite.data; sys.exit(int('torch' in sys.modules or 'sklearn' in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
