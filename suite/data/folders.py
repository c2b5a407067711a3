"""ImageNet-style folders: one folder of image files per class, decoded on demand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from suite.data.images import ImageDataset, assemble, shuffled
from suite.errors import BitcertError

if TYPE_CHECKING:
    import torch

_CALIBRATION, _SEARCH = 1_000, 5_000
IMAGENET_SIZE = 224
_LEVELS = 255  # images are bytes until they are divided by it
_MARGIN = 256 / 224


@dataclass(frozen=True, slots=True, eq=False)
class ImageFiles:
    """A source that decodes image files to RGB squares.

    An image of exactly that size is used unchanged. Otherwise its shorter side is resized to 8/7 of the square's and the center
    is cropped, as is usual for ImageNet (256 and 224 pixels).

    Attributes:
        paths: The file of each id.
        size: Side of the squares in pixels.
    """

    paths: Sequence[Path]
    size: int = IMAGENET_SIZE

    def read(self, ids: NDArray[np.int64]) -> torch.Tensor:
        """Images as float32 in [0, 1], shape ``(len(ids), 3, size, size)``.

        Raises:
            BitcertError: If a file cannot be decoded.
        """
        import torch

        if not len(ids):
            return torch.empty(0, 3, self.size, self.size)
        return torch.stack([_decode(self.paths[image], self.size) for image in ids])


def load_image_folder(folder: Path, name: str = "imagenet", size: int = IMAGENET_SIZE) -> ImageDataset:
    """Load ``train/CLASS/*`` and ``val/CLASS/*`` below a folder; classes are numbered in the alphabetical order of folders.

    The exam split is ``val``. ``train`` is ranked by the SHA-256 of the relative path: the first 1,000 images (at most an
    eighth of all) are for calibration, the next 5,000 (at most a quarter) for the search. The dataset's hash covers relative
    paths, file sizes and classes, not pixels.

    Raises:
        BitcertError: If the folders are missing or empty, or their classes differ.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

    files: dict[str, list[tuple[str, int]]] = {}
    classes: dict[str, list[str]] = {}
    for part in ("train", "val"):
        try:
            classes[part], index = find_classes(folder / part)
            files[part] = make_dataset(str(folder / part), index, extensions=IMG_EXTENSIONS)
        except OSError as error:
            raise BitcertError(
                f"no image folder at {folder / part} ({str(error).splitlines()[0]}); expected train/CLASS/* and "
                f"val/CLASS/* below {folder}; point to it with --data FOLDER or BITCERT_DATA"
            ) from error
    if classes["train"] != classes["val"]:
        differing = sorted(set(classes["train"]) ^ set(classes["val"]))
        raise BitcertError(
            f"{folder}: train and val must have the same classes; only one of them has {', '.join(differing[:5])}"
        )

    paths = [Path(path) for part in ("train", "val") for path, _ in files[part]]
    keys = [path.relative_to(folder).as_posix() for path in paths]
    training = len(files["train"])
    ranked = shuffled(np.arange(training), keys[:training])
    bounds = np.cumsum([min(_CALIBRATION, training // 8), min(_SEARCH, training // 4)])
    calibration, search, train = np.split(ranked, bounds)
    return assemble(
        name=name,
        shape=(3, size, size),
        classes=len(classes["train"]),
        labels=np.array([label for part in ("train", "val") for _, label in files[part]], dtype=np.int64),
        source=ImageFiles(paths, size),
        members={
            "train": np.sort(train),
            "calibration": calibration,
            "search": search,
            "exam": shuffled(np.arange(training, len(paths)), keys[training:]),
        },
        content=(f"{key} {path.stat().st_size}\n".encode() for key, path in zip(keys, paths, strict=True)),
        levels=_LEVELS,
    )


def _decode(path: Path, size: int) -> torch.Tensor:
    from PIL import Image
    from torchvision.transforms import functional

    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except OSError as error:
        raise BitcertError(f"cannot decode image {path} ({error}); replace or remove it") from error
    if image.size != (size, size):
        image = functional.center_crop(functional.resize(image, round(size * _MARGIN)), size)
    decoded: torch.Tensor = functional.to_tensor(image)
    return decoded
