"""The digits: sizes, disjointness by content, and agreement with the source."""

import hashlib

import numpy as np
import torch
from sklearn.datasets import load_digits as load_bunch

from suite.data import load_dataset


def test_sizes_and_shape() -> None:
    dataset = load_dataset("digits")
    assert {name: len(split) for name, split in dataset.splits.items()} == {
        "train": 997,
        "calibration": 100,
        "search": 300,
        "exam": 400,
    }
    assert (dataset.shape, dataset.classes) == ((1, 8, 8), 10)


def test_no_image_content_is_in_two_places() -> None:
    splits = load_dataset("digits").splits
    contents = [
        hashlib.sha256(image.numpy().tobytes()).digest() for split in splits.values() for image in split.images()
    ]
    assert len(contents) == len(set(contents)) == 1797


def test_images_and_labels_are_those_of_the_source() -> None:
    bunch = load_bunch()
    for split in load_dataset("digits").splits.values():
        np.testing.assert_array_equal(split.images().numpy()[:, 0] * 16, bunch.images[split.ids])
        np.testing.assert_array_equal(split.labels, bunch.target[split.ids])


def test_images_lie_in_zero_to_one_as_float32() -> None:
    images = load_dataset("digits").splits["train"].images()
    assert images.dtype == torch.float32
    assert (images.min().item(), images.max().item()) == (0.0, 1.0)


def test_the_first_search_images_hold_every_class() -> None:
    # chance that a fair sample of 100 misses one of ten classes: about 10 * 0.9^100 = 3e-4
    assert set(load_dataset("digits").splits["search"].labels[:100]) == set(range(10))


def test_loading_twice_gives_the_same_dataset() -> None:
    first, second = load_dataset("digits"), load_dataset("digits")
    assert first.sha256 == second.sha256
    np.testing.assert_array_equal(first.splits["exam"].ids, second.splits["exam"].ids)


def test_the_splits_never_change() -> None:
    # recorded when the shipped checkpoints were trained: another split would let them see exam images
    assert load_dataset("digits").sha256 == "be302ecc64a47f66099082e064992e540773f214c001fd5aee58b8453626060b"
