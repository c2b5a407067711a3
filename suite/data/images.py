"""Images with labels and fixed splits: the common form of all datasets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from suite.errors import BitcertError

if TYPE_CHECKING:
    import torch

SPLITS = ("train", "calibration", "search", "exam")


class ImageSource(Protocol):
    """Source of a dataset's pixels; images are addressed by id."""

    def read(self, ids: NDArray[np.int64]) -> torch.Tensor:
        """Images as float32 in [0, 1], shape ``(len(ids), channels, height, width)``."""


@dataclass(frozen=True, slots=True, eq=False)
class PixelArray:
    """A source that holds its pixels in memory as bytes.

    Attributes:
        pixels: One image per id, uint8, shape ``(images, channels, height, width)``.
        white: The byte value of 1.0.
    """

    pixels: NDArray[np.uint8]
    white: int

    def read(self, ids: NDArray[np.int64]) -> torch.Tensor:
        """Images as float32 in [0, 1], shape ``(len(ids), channels, height, width)``."""
        import torch

        return torch.from_numpy(self.pixels[ids]).to(torch.float32).div_(self.white)


@dataclass(frozen=True, slots=True, eq=False)
class ImageSplit:
    """A subset of a dataset, in a fixed order.

    Attributes:
        ids: Global ids of the images, unique over all splits of the dataset, int64, shape ``(images,)``. Noise is
            keyed by them.
        labels: Classes, int64, shape ``(images,)``.
        source: Where the pixels come from.
    """

    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    source: ImageSource

    def __len__(self) -> int:
        return len(self.ids)

    def images(self, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Read the images at positions ``start:stop`` of the split, with slice semantics.

        Returns:
            float32 in [0, 1], shape ``(stop - start, channels, height, width)``.
        """
        return self.source.read(self.ids[start:stop])

    def subset(self, positions: Sequence[int] | NDArray[np.integer]) -> ImageSplit:
        """The images at these positions of the split, in this order."""
        chosen = np.asarray(positions, dtype=np.int64)
        return replace(self, ids=self.ids[chosen], labels=self.labels[chosen])


@dataclass(frozen=True, slots=True, eq=False)
class ImageDataset:
    """A dataset with four disjoint splits.

    Attributes:
        name: Registered name.
        shape: Channels, height and width of an image.
        classes: Number of classes.
        splits: ``"train"``, ``"calibration"`` (quantizer ranges), ``"search"`` (what searches measure on) and
            ``"exam"`` (held-out certification). All but ``"train"`` are in a fixed shuffled order, so that the first k images
            of each are an unbiased sample of it.
        sha256: Hash of images, labels and splits.
        levels: Pixels are integers divided by it, correctly rounded to float32; None if they are on no such grid.
    """

    name: str
    shape: tuple[int, int, int]
    classes: int
    splits: Mapping[str, ImageSplit]
    sha256: str
    levels: int | None = None


def assemble(
    name: str,
    shape: tuple[int, int, int],
    classes: int,
    labels: NDArray[np.int64],
    source: ImageSource,
    members: Mapping[str, NDArray[np.int64]],
    content: Iterable[bytes],
    levels: int | None = None,
) -> ImageDataset:
    """Build a dataset from images numbered from 0 and the ids of each split.

    Args:
        name: Registered name.
        shape: Channels, height and width of an image.
        classes: Number of classes.
        labels: Class of every image, indexed by id, shape ``(images,)``.
        source: Where the pixels come from.
        members: Split name -> ids, in the split's order.
        content: Bytes that identify the images, for the hash.
        levels: As for :class:`ImageDataset`.

    Raises:
        BitcertError: If an id is in two splits, a split is empty, or a label is not a class.
    """
    everyone = np.concatenate([members[split] for split in SPLITS])
    if len(np.unique(everyone)) != len(everyone):
        raise BitcertError(f"{name}: an image is in more than one split")
    for split in SPLITS:
        if not len(members[split]):
            raise BitcertError(f"{name} has too few images: {len(labels)} leave none for the {split} split")
    if labels.min() < 0 or labels.max() >= classes:
        raise BitcertError(f"{name}: labels must lie in 0..{classes - 1}, found {labels.min()}..{labels.max()}")
    digest = hashlib.sha256(f"{name} {shape} {classes}\n".encode())
    for piece in content:
        digest.update(piece)
    digest.update(labels.astype("<i8").tobytes())
    for split in SPLITS:
        digest.update(f"{split} {len(members[split])}\n".encode() + members[split].astype("<i8").tobytes())
    splits = {split: ImageSplit(members[split], labels[members[split]], source) for split in SPLITS}
    return ImageDataset(name, shape, classes, splits, digest.hexdigest(), levels)


def shuffled(ids: NDArray[np.int64], keys: Sequence[str]) -> NDArray[np.int64]:
    """Order ids by the SHA-256 of their keys: a shuffle that depends on no library version and no other image.

    Args:
        ids: Ids to order, shape ``(images,)``.
        keys: A distinct name for each id.
    """
    ranks = [hashlib.sha256(key.encode()).digest() for key in keys]
    return ids[sorted(range(len(ids)), key=ranks.__getitem__)]
