"""Checks of files: images, what comes with bitcert, and where runs go."""

from __future__ import annotations

import os
import shutil
import tempfile
from functools import partial
from pathlib import Path

from suite.errors import BitcertError
from suite.run.machine import assigned_cores, available_memory, core_limit
from suite.studies.doctor.checks import Check, MissingError

_GIB = 2**30
_LEAST_DISK, _LEAST_MEMORY = 1, 2
"""GiB below which a search of a small network is likely to fail."""

_FOUND_BY = {
    "mnist": ("MNIST/raw",),
    "cifar10": ("cifar10.npz", "cifar-10-batches-py"),
    "imagenet": ("train", "val"),
}
"""What a data folder holds, one of them, if it has the dataset."""


def file_checks(data: str | None, runs: Path) -> list[Check]:
    """Checks of a data folder (that of the environment if None), of what comes with bitcert, and of where runs go."""
    fetch = "point to its folder with --data or BITCERT_DATA; --download fetches MNIST and CIFAR-10"
    remedies = {"digits": "pip install --force-reinstall scikit-learn"}
    return [
        *(
            Check(f"images {name}", partial(check_images, name, data), remedies.get(name, fetch), name == "digits")
            for name in ("digits", *_FOUND_BY)
        ),
        Check("included networks", check_networks, "install bitcert again", required=True),
        Check("included tables", check_tables, "install bitcert again", required=True),
        Check("folder of runs", partial(check_runs, runs), "choose another one with --directory", required=True),
        Check("disk", partial(check_disk, runs), "free some, or choose another disk with --directory", required=True),
        Check("cores", check_cores),
        Check("memory", check_memory, "close other programs, or raise the limit of the container", required=True),
    ]


def check_images(name: str, data: str | None) -> str:
    """Read a dataset."""
    from suite.data import load_dataset
    from suite.data.datasets import FOLDER_VARIABLE

    given = data or os.environ.get(FOLDER_VARIABLE)
    if name in _FOUND_BY:
        if not given:
            raise MissingError(f"no data folder: {FOLDER_VARIABLE} is not set")
        folder = Path(given).expanduser()
        if not any((folder / part).exists() for part in _FOUND_BY[name]):
            raise MissingError(f"there is no {' or '.join(_FOUND_BY[name])} in {folder}")
    dataset = load_dataset(name, given)
    return f"{sum(map(len, dataset.splits.values()))} images of shape {dataset.shape} in {dataset.classes} classes"


def check_networks() -> str:
    """Compare the networks that come with bitcert with their records."""
    from suite import networks

    files = sorted(Path(networks.__file__).parent.glob("*/*.safetensors"))
    for file in files:
        networks.check_checkpoint(file)
    return _count(files, "networks")


def check_tables() -> str:
    """Compare the tables that come with bitcert with their records."""
    from suite import tables

    files = sorted(Path(tables.__file__).parent.glob("*/*.parquet"))
    for file in files:
        tables.check_table(file)
    return _count(files, "tables")


def _count(files: list[Path], what: str) -> str:
    if not files:
        raise MissingError(f"no {what} came with this bitcert")
    return f"{len(files)} {what} as recorded, {sum(file.stat().st_size for file in files) / 2**20:.0f} MiB"


def check_runs(folder: Path) -> str:
    """Write a file where runs go, or where their folder will be made, and remove it."""
    with tempfile.NamedTemporaryFile(dir=_existing(folder), prefix=".doctor") as file:
        file.write(b"bitcert")
        file.flush()
        os.fsync(file.fileno())
    return f"{folder.resolve()} can be written to"


def check_disk(folder: Path) -> str:
    """Space where runs go."""
    free = shutil.disk_usage(_existing(folder)).free / _GIB
    if free < _LEAST_DISK:
        raise BitcertError(f"{free:.1f} GiB free, less than {_LEAST_DISK}")
    return f"{free:.1f} GiB free where runs go"


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(place for place in (folder.resolve(), *folder.resolve().parents) if place.exists())


def check_cores() -> str:
    """Processors of the machine, and how many of them may be used."""
    limit = core_limit()
    told = "no limit of a container" if limit == float("inf") else f"a container's limit of {limit:g}"
    return f"{assigned_cores()} of {os.cpu_count()}, {told}"


def check_memory() -> str:
    """Memory that is available."""
    free = available_memory() / _GIB
    if free < _LEAST_MEMORY:
        raise BitcertError(f"{free:.1f} GiB available, less than {_LEAST_MEMORY}")
    return f"{free:.1f} GiB available"
