"""MNIST and CIFAR-10 from small generated files in their real formats."""

import hashlib
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets

from suite.data import load_dataset
from suite.data.official import split_official
from suite.errors import BitcertError

_RNG = np.random.default_rng(0)
_TRAIN = _RNG.integers(0, 256, (100, 32, 32, 3), dtype=np.uint8)
_TEST = _RNG.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
_Y_TRAIN = np.arange(100, dtype=np.uint8) % 10
_Y_TEST = np.arange(20, dtype=np.uint8)[::-1] % 10


def _write_archive(folder: Path) -> None:
    np.savez(folder / "cifar10.npz", x_train=_TRAIN, y_train=_Y_TRAIN[:, None], x_test=_TEST, y_test=_Y_TEST)


def _write_batches(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the two parts as official batches and let torchvision take their checksums for the published ones."""
    base = folder / "cifar-10-batches-py"
    base.mkdir()
    sums = {}
    for name, images, labels in (("data_batch_1", _TRAIN, _Y_TRAIN), ("test_batch", _TEST, _Y_TEST)):
        rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        (base / name).write_bytes(pickle.dumps({"data": rows, "labels": labels.tolist()}))
    (base / "batches.meta").write_bytes(pickle.dumps({"label_names": list("0123456789")}))
    for path in base.iterdir():
        sums[path.name] = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    cifar = torchvision.datasets.CIFAR10
    monkeypatch.setattr(cifar, "train_list", [["data_batch_1", sums["data_batch_1"]]])
    monkeypatch.setattr(cifar, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(cifar, "meta", {"filename": "batches.meta", "key": "label_names", "md5": sums["batches.meta"]})


def _write_mnist(folder: Path) -> None:
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, images, labels in (("train", _TRAIN[:, :28, :28, 0], _Y_TRAIN), ("t10k", _TEST[:, :28, :28, 0], _Y_TEST)):
        header = struct.pack(">IIII", 0x803, len(images), 28, 28)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, len(labels)) + labels.tobytes())


def test_an_archive_gives_its_images_and_labels(tmp_path: Path) -> None:
    _write_archive(tmp_path)
    dataset = load_dataset("cifar10", tmp_path)
    assert {name: len(split) for name, split in dataset.splits.items()} == {
        "train": 90,
        "calibration": 2,
        "search": 8,
        "exam": 20,
    }
    for name, images, labels, offset in (
        ("train", _TRAIN, _Y_TRAIN, 0),
        ("search", _TRAIN, _Y_TRAIN, 0),
        ("exam", _TEST, _Y_TEST, 100),
    ):
        split = dataset.splits[name]
        expected = images[split.ids - offset].transpose(0, 3, 1, 2) / np.float32(255)
        np.testing.assert_allclose(split.images().numpy(), expected, rtol=1e-6)
        np.testing.assert_array_equal(split.labels, labels[split.ids - offset])


def test_official_batches_equal_the_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "npz").mkdir()
    _write_archive(tmp_path / "npz")
    _write_batches(tmp_path, monkeypatch)
    assert load_dataset("cifar10", tmp_path).sha256 == load_dataset("cifar10", tmp_path / "npz").sha256


def test_mnist_files_are_read(tmp_path: Path) -> None:
    _write_mnist(tmp_path)
    dataset = load_dataset("mnist", tmp_path)
    exam = dataset.splits["exam"]
    assert dataset.shape == (1, 28, 28)
    np.testing.assert_array_equal(np.sort(exam.ids), np.arange(100, 120))
    np.testing.assert_array_equal((exam.images() * 255).round().numpy()[:, 0], _TEST[exam.ids - 100, :28, :28, 0])
    np.testing.assert_array_equal(exam.labels, _Y_TEST[exam.ids - 100])


def test_the_last_five_thousand_training_images_are_held_out() -> None:
    images = np.zeros((60_000, 1, 1, 1), dtype=np.uint8)
    labels = np.arange(60_000) % 10
    splits = split_official("mnist", images, labels, images[:10_000], labels[:10_000]).splits
    assert {name: len(split) for name, split in splits.items()} == {
        "train": 55_000,
        "calibration": 1_000,
        "search": 4_000,
        "exam": 10_000,
    }
    held_out = np.concatenate([splits["calibration"].ids, splits["search"].ids])
    np.testing.assert_array_equal(np.sort(held_out), np.arange(55_000, 60_000))
    np.testing.assert_array_equal(np.sort(splits["exam"].ids), np.arange(60_000, 70_000))


def test_the_folder_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write_archive(tmp_path)
    monkeypatch.setenv("BITCERT_DATA", str(tmp_path))
    assert load_dataset("cifar10").sha256 == load_dataset("cifar10", tmp_path).sha256


class _Trap:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_a_batch_with_another_checksum_is_never_unpickled(tmp_path: Path) -> None:
    base = tmp_path / "cifar-10-batches-py"
    base.mkdir()
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"]:
        (base / name).write_bytes(pickle.dumps(_Trap(tmp_path / "sprung")))
    with pytest.raises(BitcertError, match="official checksums"):
        load_dataset("cifar10", tmp_path)
    assert not (tmp_path / "sprung").exists()


def test_objects_in_an_archive_are_never_unpickled(tmp_path: Path) -> None:
    trap = np.array([_Trap(tmp_path / "sprung")], dtype=object)
    np.savez(tmp_path / "cifar10.npz", x_train=trap, y_train=trap, x_test=trap, y_test=trap)
    with pytest.raises(BitcertError, match=r"cannot read \S+cifar10\.npz"):
        load_dataset("cifar10", tmp_path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"\x93NUMPY"])
def test_a_damaged_archive_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "cifar10.npz").write_bytes(content)
    with pytest.raises(BitcertError, match=r"cannot read \S+cifar10\.npz"):
        load_dataset("cifar10", tmp_path)


def test_a_truncated_archive_is_named(tmp_path: Path) -> None:
    _write_archive(tmp_path)
    path = tmp_path / "cifar10.npz"
    content = bytearray(path.read_bytes())
    content[1000:2000] = bytes(1000)
    path.write_bytes(bytes(content))
    with pytest.raises(BitcertError, match=r"cannot read \S+cifar10\.npz"):
        load_dataset("cifar10", tmp_path)


def test_arrays_of_another_shape_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "cifar10.npz", x_train=_TRAIN[:, :28], y_train=_Y_TRAIN, x_test=_TEST, y_test=_Y_TEST)
    with pytest.raises(BitcertError, match=r"found uint8 \(100, 28, 32, 3\) with 100 labels"):
        load_dataset("cifar10", tmp_path)


def test_truncated_mnist_files_are_an_error(tmp_path: Path) -> None:
    _write_mnist(tmp_path)
    path = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(BitcertError, match="MNIST is missing or damaged"):
        load_dataset("mnist", tmp_path)


@pytest.mark.parametrize(("name", "looked_for"), [("mnist", "MNIST/raw"), ("cifar10", r"cifar10\.npz")])
def test_absent_data_say_where_they_were_looked_for(tmp_path: Path, name: str, looked_for: str) -> None:
    with pytest.raises(BitcertError, match=rf"looked for .*{looked_for}.*--data FOLDER.*BITCERT_DATA.*--download"):
        load_dataset(name, tmp_path)


@pytest.mark.parametrize("name", ["mnist", "cifar10", "imagenet"])
def test_no_folder_at_all_says_how_to_give_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BITCERT_DATA", raising=False)
    with pytest.raises(BitcertError, match=f"{name} needs a data folder: .*--data FOLDER or BITCERT_DATA") as caught:
        load_dataset(name)
    assert ("--download" in str(caught.value)) == (name != "imagenet")


def test_an_unknown_dataset_lists_the_known_ones() -> None:
    with pytest.raises(BitcertError, match="unknown dataset 'cifar'; known: cifar10"):
        load_dataset("cifar")


@pytest.mark.skipif(not os.environ.get("BITCERT_DATA"), reason="needs real data in BITCERT_DATA")
@pytest.mark.parametrize(("name", "training"), [("mnist", 55_000), ("cifar10", 45_000)])
def test_real_data_load(name: str, training: int) -> None:
    dataset = load_dataset(name)
    assert len(dataset.splits["train"]) == training
    assert len(dataset.splits["search"]) == 4_000
    assert set(np.unique(dataset.splits["search"].labels)) == set(range(10))
