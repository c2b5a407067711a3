"""MNIST and CIFAR-10: datasets with an official test set, read from their standard files."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from suite.data.images import ImageDataset, PixelArray, assemble, shuffled
from suite.errors import BitcertError

_HELD_OUT = 5_000
_CLASSES = 10
_LEVELS = 255

Bytes = NDArray[np.uint8]


def load_mnist(folder: Path, download: bool = False) -> ImageDataset:
    """Load MNIST from the files of ``torchvision.datasets.MNIST(folder)``; splits as in :func:`split_official`.

    Raises:
        BitcertError: If the files are missing or damaged, or the download fails.
    """
    from torchvision.datasets import MNIST

    try:
        parts = [MNIST(str(folder), train=train, download=download) for train in (True, False)]
    except (RuntimeError, OSError, ValueError, AssertionError) as error:
        raise _missing("MNIST", f"{folder / 'MNIST' / 'raw'}/*-ubyte", error) from error
    images = [part.data.numpy()[:, None] for part in parts]
    return split_official("mnist", images[0], parts[0].targets.numpy(), images[1], parts[1].targets.numpy())


def load_cifar10(folder: Path, download: bool = False) -> ImageDataset:
    """Load CIFAR-10 from ``cifar10.npz`` or, failing that, from the official Python batches; splits as in :func:`split_official`.

    The archive holds ``x_train``, ``y_train``, ``x_test`` and ``y_test``, uint8, images as (image, height, width,
    channel). The official batches are pickles: torchvision verifies the published checksum of each before
    reading it, and nothing else is unpickled.

    Raises:
        BitcertError: If the files are missing or damaged, or the download fails.
    """
    archive = folder / "cifar10.npz"
    if archive.is_file():
        x_train, y_train, x_test, y_test = _read_archive(archive)
    else:
        from torchvision.datasets import CIFAR10

        try:
            parts = [CIFAR10(str(folder), train=train, download=download) for train in (True, False)]
        except (RuntimeError, OSError, ValueError) as error:
            looked_for = f"{archive} or {folder / CIFAR10.base_folder} with the official checksums"
            raise _missing("CIFAR-10", looked_for, error) from error
        (x_train, y_train), (x_test, y_test) = ((part.data, np.array(part.targets)) for part in parts)
    return split_official("cifar10", x_train.transpose(0, 3, 1, 2), y_train, x_test.transpose(0, 3, 1, 2), y_test)


def split_official(
    name: str, x_train: Bytes, y_train: NDArray[np.integer], x_test: Bytes, y_test: NDArray[np.integer]
) -> ImageDataset:
    """Split a dataset that has a test set, which becomes the exam split; the last training images are held out.

    The last 5,000 training images are held out, or the last tenth if that is less: a fifth of them for calibration, the rest
    for the search. Ids number the training images first, then the test images.

    Images are uint8, shape ``(images, channels, height, width)``; labels are 0..9, shape ``(images,)``.

    Raises:
        BitcertError: If there are too few images, or a label is not a class.
    """
    count = len(x_train)
    held_out = min(_HELD_OUT, count // 10)
    ids = np.arange(count + len(x_test))
    keys = [f"{name}/{image}" for image in ids]
    kept = count - held_out
    tail = shuffled(ids[kept:count], keys[kept:count])
    pixels = np.concatenate([x_train, x_test])
    return assemble(
        name=name,
        shape=(pixels.shape[1], pixels.shape[2], pixels.shape[3]),
        classes=_CLASSES,
        labels=np.concatenate([y_train, y_test]).astype(np.int64),
        source=PixelArray(pixels, white=_LEVELS),
        members={
            "train": ids[:kept],
            "calibration": tail[: held_out // 5],
            "search": tail[held_out // 5 :],
            "exam": shuffled(ids[count:], keys[count:]),
        },
        content=[pixels.tobytes()],
        levels=_LEVELS,
    )


def _read_archive(archive: Path) -> tuple[Bytes, Bytes, Bytes, Bytes]:
    try:
        with archive.open("rb") as file, np.load(file, allow_pickle=False) as content:
            x_train, y_train, x_test, y_test = (content[key] for key in ("x_train", "y_train", "x_test", "y_test"))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise BitcertError(
            f"cannot read {archive} ({error}); it must hold uint8 arrays x_train, y_train, x_test and y_test"
        ) from error
    for images, labels in ((x_train, y_train), (x_test, y_test)):
        if images.dtype != np.uint8 or images.shape[1:] != (32, 32, 3) or labels.size != len(images):
            raise BitcertError(
                f"{archive}: expected uint8 images of shape (n, 32, 32, 3) with n labels, "
                f"found {images.dtype} {images.shape} with {labels.size} labels"
            )
    return x_train, y_train.ravel(), x_test, y_test.ravel()


def _missing(name: str, looked_for: str, error: Exception) -> BitcertError:
    reason = (str(error).splitlines() or [type(error).__name__])[0].split("You can use")[0].strip().rstrip(".")
    return BitcertError(
        f"{name} is missing or damaged ({reason}): looked for {looked_for}; "
        "point to its folder with --data FOLDER or BITCERT_DATA, or add --download"
    )
