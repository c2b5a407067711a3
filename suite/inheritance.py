"""What policies inherit from a supernet: its file, and the workbench that starts from it in place of the float network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from suite.computing import torch_threads
from suite.errors import BitcertError
from suite.files import read_sealed
from suite.networks import finished_record, load_checkpoint, network_sha256, save_checkpoint
from suite.quantize import QuantizedNetwork
from suite.quantize.switchable import SwitchableNetwork
from suite.train.recipe import augmentation_of
from suite.train.supernet import SupernetSettings, train_supernet
from suite.workbench import Workbench

_SHIPPED = Path(__file__).parent / "networks" / "supernets"
_MADE_FROM = "float_sha256"
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "shared": {"private_weights": False, "norms": "shared"},
    "switchable": {"private_weights": False, "norms": "pairs"},
    "private": {"private_weights": True, "norms": "pairs"},
}
"""Names for what the bit widths of a supernet share: weights and batch norms, weights alone, or nothing."""


def make_supernet(
    bench: Workbench,
    path: Path,
    settings: SupernetSettings,
    *,
    seed: int,
    command: str,
    progress: Callable[[int, float], None] | None = None,
) -> dict[str, Any]:
    """Train a supernet of a problem's network and save it with its record; rerun an interrupted call to resume it.

    Nothing is trained if ``path`` holds the result already.

    Args:
        bench: Network, calibration, images, noise and space.
        path: Where it goes, ending in ``.safetensors``; the state of the training is kept beside it, with the ending ``.resume``.
        settings: How it is trained.
        seed: Of the training.
        command: The command that reproduces it, for the record.
        progress: See :func:`suite.train.supernet.train_supernet`.

    Returns:
        The record.

    Raises:
        BitcertError: If training diverges, or ``path`` or the state beside it belongs to another training.
    """
    made_from = {_MADE_FROM: bench.network_sha256, "dataset": bench.dataset.name, "data_sha256": bench.dataset.sha256}
    training = {"settings": asdict(settings), "sigma": bench.sigma, "seed": seed, "choices": bench.space.choices}
    if (finished := finished_record(path, made_from | training | _formats(bench))) is not None:
        return finished
    network, resume = _switchable(bench, settings), path.with_suffix(".resume")
    with torch_threads(bench.threads):
        record = made_from | train_supernet(
            network,
            bench.space,
            bench.dataset.splits["train"],
            sigma=bench.sigma,
            settings=settings,
            augmentation=augmentation_of(bench.dataset.name),
            seed=seed,
            resume=resume,
            progress=progress,
        )
    record |= _formats(bench) | {"command": command}
    save_checkpoint(network, path, record)
    resume.unlink(missing_ok=True)
    return record | {"network_sha256": network_sha256(network)}


def inherited(bench: Workbench, file: str = "", variant: str = "shared") -> Workbench:
    """The workbench whose policies inherit the weights and quantizer steps of a supernet; read once per workbench.

    Args:
        bench: Of the float network from which the supernet was made.
        file: The supernet; empty for one that comes with bitcert.
        variant: Which of those: a name in :data:`VARIANTS`.

    Raises:
        BitcertError: If there is none for this network, noise and these bit widths, or the file is damaged.
    """
    key = file, variant
    if key not in bench.inherited:
        bench.inherited[key] = _load(bench, Path(file) if file else _find(bench, variant))
    return bench.inherited[key]


def _load(bench: Workbench, path: Path) -> Workbench:
    record = _record(path)
    if difference := _difference(bench, record):
        raise BitcertError(
            f"the supernet {path} does not fit this problem: {difference}; train one by `bitcert supernet`"
        )
    settings = SupernetSettings(**record["settings"])
    space = replace(bench.space, choices=tuple(record["choices"]))
    switchable = _switchable(replace(bench, space=space), settings)
    load_checkpoint(switchable, path)
    network, calibration = switchable.inherited(bench.network, bench.calibration)
    origin = {
        "supernet_sha256": network_sha256(switchable),
        "supernet_passes": record["forward_passes"],
        "supernet_seed": record["seed"],
        "supernet_settings": record["settings"],
    }
    return replace(
        bench,
        network=network,
        calibration=calibration,
        executed=QuantizedNetwork(network, bench.space.layers, calibration),
        origin=origin,
        inherited={},
    )


def _find(bench: Workbench, variant: str) -> Path:
    """A supernet that comes with bitcert for the network, noise and bit widths of a workbench."""
    if variant not in VARIANTS:
        raise BitcertError(f"unknown variant {variant!r} of a supernet; known: {', '.join(VARIANTS)}")
    for path in sorted(_SHIPPED.glob("*.safetensors")):
        record = _record(path)
        wanted = VARIANTS[variant]
        if not _difference(bench, record) and wanted.items() <= record["settings"].items():
            return path
    raise BitcertError(
        f"no {variant} supernet comes with bitcert for this network ({bench.network_sha256[:12]}) at sigma {bench.sigma:g} with "
        f"{', '.join(map(str, bench.space.choices))} bits; train one by `bitcert supernet` and give it with "
        "supernet:file=FILE"
    )


def _switchable(bench: Workbench, settings: SupernetSettings) -> SwitchableNetwork:
    space = bench.space
    return SwitchableNetwork(
        bench.network, space.layers, space.choices, bench.calibration, pinned=space.pinned, sharing=settings.sharing
    )


def _record(path: Path) -> dict[str, Any]:
    beside = path.with_suffix(".json")
    if not path.is_file() or not beside.is_file():
        raise BitcertError(f"there is no supernet at {path}, or its record {beside.name} is missing")
    record = read_sealed(beside, "a supernet's record")
    if _MADE_FROM not in record or "choices" not in record:
        raise BitcertError(f"{path} is not a supernet; make one by `bitcert supernet`")
    return record


def _difference(bench: Workbench, record: Mapping[str, Any]) -> str:
    """What a workbench has that a supernet was not trained for, in words; empty if it fits."""
    return next(_differences(bench, record), "")


def _differences(bench: Workbench, record: Mapping[str, Any]) -> Iterator[str]:
    if record[_MADE_FROM] != bench.network_sha256:
        yield f"it was made from another float network ({record[_MADE_FROM][:12]}, not {bench.network_sha256[:12]})"
    if record["sigma"] != bench.sigma:
        yield f"it was trained at sigma {record['sigma']:g}, not {bench.sigma:g}"
    missing = sorted(set(bench.space.choices) - set(record["choices"]))
    if missing:
        yield f"it has no weights of {', '.join(map(str, missing))} bits"
    if record["pins"] != {name: list(pin) for name, pin in bench.space.pinned.items()}:
        yield "other layers are pinned"
    if any(record[name] != value for name, value in _formats(bench).items()):
        yield "its formats of 2 bits have other levels"


def _formats(bench: Workbench) -> dict[str, bool]:
    calibration = bench.calibration
    return {"ternary_inputs": calibration.ternary_inputs, "four_level_weights": calibration.four_level_weights}
