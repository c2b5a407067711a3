"""Datasets by name, and where to look for their files."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from suite.data.digits import load_digits
from suite.data.folders import IMAGENET_SIZE, load_image_folder
from suite.data.images import ImageDataset
from suite.data.official import load_cifar10, load_mnist
from suite.errors import BitcertError, unknown_name

FOLDER_VARIABLE = "BITCERT_DATA"

_DOWNLOADABLE: Mapping[str, Callable[[Path, bool], ImageDataset]] = {"mnist": load_mnist, "cifar10": load_cifar10}
_FOLDERS = ("imagenet", "folder")
DATASETS = ("digits", *_DOWNLOADABLE, *_FOLDERS)


def load_dataset(
    name: str, folder: str | Path | None = None, download: bool = False, size: int = IMAGENET_SIZE
) -> ImageDataset:
    """Load a dataset with its splits.

    Args:
        name: ``"digits"`` (included in the package), ``"mnist"``, ``"cifar10"``, or ``"imagenet"`` and ``"folder"``: any folder
            with ``train/CLASS/*`` and ``val/CLASS/*``.
        folder: Folder with its files; the environment variable ``BITCERT_DATA`` by default.
        download: Whether to download missing files of MNIST and CIFAR-10 into the folder.
        size: Side of the squares that images in a folder are resized and cropped to, in pixels.

    Raises:
        BitcertError: If the name is unknown, or the data are missing or damaged.
    """
    if name not in DATASETS:
        raise unknown_name("dataset", name, DATASETS)
    if name == "digits":
        return load_digits()
    chosen = folder or os.environ.get(FOLDER_VARIABLE)
    if not chosen:
        fetch = ", and add --download to fetch it there" if name in _DOWNLOADABLE else ""
        raise BitcertError(f"{name} needs a data folder: point to it with --data FOLDER or {FOLDER_VARIABLE}{fetch}")
    path = Path(chosen).expanduser().resolve()  # workers run in another folder
    if name in _DOWNLOADABLE:
        return _DOWNLOADABLE[name](path, download)
    if download:
        raise BitcertError(f"bitcert cannot download {name}; put it at {path} as train/CLASS/* and val/CLASS/*")
    return load_image_folder(path, name, size)
