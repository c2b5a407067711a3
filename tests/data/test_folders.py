"""ImageNet-style folders: a tiny generated one."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from suite.data import ImageDataset, load_dataset
from suite.errors import BitcertError

_WNIDS = ("n01440764", "n02102040", "n03000684")


def _write_folder(folder: Path, each: int = 8) -> None:
    rng = np.random.default_rng(0)
    for part, count in (("train", each), ("val", 3)):
        for wnid in _WNIDS:
            (folder / part / wnid).mkdir(parents=True)
            for number in range(count):
                height, width = rng.integers(230, 320, 2)
                pixels = rng.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).resize((width, height)).save(folder / part / wnid / f"{wnid}_{number}.JPEG")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("imagenet")
    _write_folder(path)
    return path


@pytest.fixture(scope="module")
def dataset(folder: Path) -> ImageDataset:
    return load_dataset("imagenet", folder)


def test_small_folders_have_scaled_splits(dataset: ImageDataset) -> None:
    sizes = {name: len(split) for name, split in dataset.splits.items()}
    assert sizes == {"train": 15, "calibration": 3, "search": 6, "exam": 9}
    assert (dataset.shape, dataset.classes) == ((3, 224, 224), 3)


def test_ids_are_unique_over_all_splits(dataset: ImageDataset) -> None:
    ids = np.concatenate([split.ids for split in dataset.splits.values()])
    assert sorted(ids) == list(range(24 + 9))


def test_images_equal_an_independent_preprocessing(folder: Path, dataset: ImageDataset) -> None:
    files = [path for part in ("train", "val") for path in sorted((folder / part).glob("*/*"))]
    pipeline = v2.Compose([v2.Resize(256), v2.CenterCrop(224), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)])
    for name in ("search", "exam"):
        split = dataset.splits[name]
        images = split.images(1, 3)
        for row, position in enumerate((1, 2)):
            path = files[split.ids[position]]
            torch.testing.assert_close(images[row], pipeline(Image.open(path).convert("RGB")))
            assert _WNIDS[split.labels[position]] == path.parent.name


def test_gray_images_become_three_channels(tmp_path: Path) -> None:
    _write_folder(tmp_path)
    for path in tmp_path.glob("val/*/*"):
        Image.new("L", (300, 240), 51).save(path)
    images = load_dataset("imagenet", tmp_path).splits["exam"].images(0, 1)
    torch.testing.assert_close(images, torch.full((1, 3, 224, 224), 0.2), atol=0.01, rtol=0)


def test_the_choice_of_held_out_images_ignores_other_images(
    folder: Path, dataset: ImageDataset, tmp_path: Path
) -> None:
    _write_folder(tmp_path)
    (tmp_path / "val" / _WNIDS[0] / "extra.png").write_bytes(
        (folder / "val" / _WNIDS[0] / f"{_WNIDS[0]}_0.JPEG").read_bytes()
    )
    larger = load_dataset("imagenet", tmp_path)
    np.testing.assert_array_equal(larger.splits["search"].ids, dataset.splits["search"].ids)
    assert len(larger.splits["exam"]) == 10
    assert larger.sha256 != dataset.sha256


def test_the_hash_does_not_depend_on_where_the_folder_is(dataset: ImageDataset, tmp_path: Path) -> None:
    _write_folder(tmp_path)
    assert load_dataset("imagenet", tmp_path).sha256 == dataset.sha256


def test_files_of_other_kinds_are_ignored(dataset: ImageDataset, tmp_path: Path) -> None:
    _write_folder(tmp_path)
    (tmp_path / "train" / _WNIDS[0] / "notes.txt").write_text("not an image")
    assert load_dataset("imagenet", tmp_path).sha256 == dataset.sha256


def test_an_absent_folder_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(
        BitcertError, match=r"no image folder at .*train.*expected train/CLASS/\* and val/CLASS/\*.*--data"
    ):
        load_dataset("imagenet", tmp_path)


def test_an_empty_class_is_an_error(tmp_path: Path) -> None:
    _write_folder(tmp_path)
    (tmp_path / "train" / "n09999999").mkdir()
    with pytest.raises(BitcertError, match="n09999999"):
        load_dataset("imagenet", tmp_path)


def test_classes_of_train_and_val_must_agree(tmp_path: Path) -> None:
    _write_folder(tmp_path)
    (tmp_path / "val" / _WNIDS[2]).rename(tmp_path / "val" / "n04000000")
    with pytest.raises(BitcertError, match="n03000684, n04000000"):
        load_dataset("imagenet", tmp_path)


def test_too_few_images_are_an_error(tmp_path: Path) -> None:
    _write_folder(tmp_path, each=2)
    with pytest.raises(BitcertError, match="too few images"):
        load_dataset("imagenet", tmp_path)


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    _write_folder(tmp_path)
    for path in tmp_path.glob("val/*/*"):
        path.write_bytes(path.read_bytes()[:100])
    exam = load_dataset("imagenet", tmp_path).splits["exam"]
    with pytest.raises(BitcertError, match=r"cannot decode image \S+\.JPEG"):
        exam.images(0, 1)


def test_imagenet_cannot_be_downloaded(tmp_path: Path) -> None:
    with pytest.raises(BitcertError, match="cannot download"):
        load_dataset("imagenet", tmp_path, download=True)
