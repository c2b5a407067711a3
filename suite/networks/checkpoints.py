"""Checkpoints: the weights of a network in a file, with a record of how they were made beside it."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from suite.errors import BitcertError
from suite.files import read_sealed, write_bytes, write_sealed

_SHIPPED = Path(__file__).parent / "checkpoints"
_HASH = "network_sha256"
_PICKLES = (".pt", ".pth", ".tar")
_HOLDERS = ("state_dict", "model", "net")
_WRAPPERS = ("module.", "_orig_mod.", "model.", "network.", "1.")
_OPTIONAL = ("num_batches_tracked", "normalization.mean", "normalization.std")

State = dict[str, torch.Tensor]


def save_checkpoint(network: nn.Module, path: Path, record: Mapping[str, Any]) -> None:
    """Write the network's state to ``path`` and the record, with the network's hash, to the same name with ``.json``.

    The record goes first: a crash in between leaves one that the weights do not match, which loading finds out.

    Args:
        network: Any network.
        path: A name that ends in ``.safetensors``.
        record: How the network was made, JSON-ready.

    Raises:
        BitcertError: If the name has another ending.
    """
    if path.suffix != ".safetensors":
        raise BitcertError(f"checkpoints are written as .safetensors, not as {path.name}")
    state = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in network.state_dict().items()}
    write_sealed(path.with_suffix(".json"), {**record, _HASH: _state_sha256(state)}, indent=2)
    write_bytes(path, save(state))


def finished_record(path: Path, expected: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record of what a training has written to ``path`` before; None if there is nothing.

    Args:
        path: The checkpoint.
        expected: What the record of this training says.

    Raises:
        BitcertError: If another training wrote it.
    """
    if not path.exists():
        return None
    record = read_sealed(path.with_suffix(".json"), "the record of a checkpoint")
    wanted = json.loads(json.dumps(expected))
    differing = [name for name, value in wanted.items() if record.get(name) != value]
    if differing:
        raise BitcertError(
            f"{path} exists and is another training's (other {', '.join(differing)}); choose another --out, or remove it"
        )
    return record


def load_checkpoint(network: nn.Module, path: Path) -> dict[str, Any]:
    """Read a network's state from a file; the network changes only if everything fits.

    Reads ``.safetensors``, and ``.pt``, ``.pth`` or ``.tar`` as PyTorch writes them, but never runs code from a file.
    A ``{"state_dict": ...}`` (or model, net) around the state is taken off, as are the prefixes that wrappers leave on
    all names (``module.``). Normalization and batch counters may be missing, as they are in published files: then the
    network keeps its own.

    Returns:
        The record from the ``.json`` beside it; empty if there is none.

    Raises:
        BitcertError: If a file is missing or damaged, holds code, does not fit the network or its record, or holds a
            weight that is not finite.
    """
    if not path.is_file():
        raise BitcertError(f"there is no checkpoint at {path}")
    expected: State = network.state_dict()
    state = _unwrapped(_read(path), expected)
    _check_fit(path, state, expected)
    beside = path.with_suffix(".json")
    record = read_sealed(beside, "a checkpoint's record") if beside.is_file() else {}
    state = {name: state.get(name, own).to(own.dtype) for name, own in expected.items()}
    for name, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise BitcertError(f"checkpoint {path}: {name} holds values that are not finite; train at a lower rate")
    if record.get(_HASH, found := _state_sha256(state)) != found:
        raise BitcertError(
            f"checkpoint {path} is not the one its record describes (hash {found[:12]}, recorded "
            f"{str(record[_HASH])[:12]}); restore it, or remove {beside.name} to use it without a record"
        )
    network.load_state_dict(state)
    return record


def shipped_checkpoints(dataset: str, sigma: float) -> list[Path]:
    """Paths of the checkpoints that come with the package for a dataset and a noise level, one per training seed.

    Raises:
        BitcertError: If there is none; the noise levels that have some are listed.
    """
    first = _SHIPPED / f"{dataset}-sigma{sigma:g}.safetensors"
    if not first.is_file():
        sigmas = ", ".join(f"{found:g}" for found in shipped_sigmas(dataset)) or "none"
        raise BitcertError(
            f"no trained {dataset} at sigma {sigma:g} comes with bitcert (sigmas that do: {sigmas}); give one with --checkpoint "
            f"FILE; `bitcert train {dataset} --sigma {sigma:g}` makes one, except for ImageNet"
        )
    return [first, *sorted(_SHIPPED.glob(f"{dataset}-sigma{sigma:g}-seed*.safetensors"))]


def check_checkpoint(path: Path) -> None:
    """Check a checkpoint against the record beside it, without a network; raises BitcertError if it differs."""
    if _state_sha256(_read(path)) != checkpoint_sha256(path):
        raise BitcertError(f"checkpoint {path} is not the one its record describes; restore it")


def checkpoint_sha256(path: Path) -> str:
    """The hash of a checkpoint's network, as its record says; see :func:`network_sha256`."""
    return str(read_sealed(path.with_suffix(".json"), "a checkpoint's record")[_HASH])


def shipped_sigmas(dataset: str) -> list[float]:
    """Noise levels at which a trained network comes with the package."""
    stems = [file.stem.removeprefix(f"{dataset}-sigma") for file in _SHIPPED.glob(f"{dataset}-sigma*.safetensors")]
    return sorted(float(stem) for stem in stems if "-seed" not in stem)


def network_sha256(network: nn.Module) -> str:
    """SHA-256 of the names, dtypes, shapes and bytes of a network's state, in the order of names."""
    return _state_sha256(network.state_dict())


def _state_sha256(state: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _read(path: Path) -> State:
    if path.suffix not in (".safetensors", *_PICKLES):
        raise BitcertError(f"checkpoint {path.name} is of no known kind; give .safetensors, {', '.join(_PICKLES)}")
    try:
        content: object = torch.load(path, "cpu", weights_only=True) if path.suffix in _PICKLES else load_file(path)
    except Exception as error:  # parsers fail on damaged files in every possible way
        if isinstance(error, pickle.UnpicklingError) and (named := re.search(r"GLOBAL ([\w.]+)", str(error))):
            raise BitcertError(
                f"checkpoint {path} is refused: it holds the Python object {named[1]}, which could run code, and only "
                "tensors are read; save its state dict alone"
            ) from error
        reason = str(error).splitlines()[0] if isinstance(error, SafetensorError | OSError) else type(error).__name__
        raise BitcertError(
            f"checkpoint {path} is damaged or not a checkpoint ({reason}); make or fetch it again"
        ) from error
    for holder in _HOLDERS:
        if isinstance(content, Mapping) and isinstance(content.get(holder), Mapping):
            content = content[holder]
    if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise BitcertError(f"checkpoint {path} holds no state dict: names with tensors, or these under 'state_dict'")
    return {str(name): tensor for name, tensor in content.items()}


def _unwrapped(state: State, expected: State) -> State:
    while state and not state.keys() & expected.keys():
        first = next(iter(state))
        prefix = next((wrapper for wrapper in _WRAPPERS if first.startswith(wrapper)), None)
        if prefix is None or not all(name.startswith(prefix) for name in state):
            break
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _check_fit(path: Path, state: State, expected: State) -> None:
    missing = [name for name in expected if name not in state and not name.endswith(_OPTIONAL)]
    unexpected = [name for name in state if name not in expected]
    shapes = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(own.shape)}"
        for name, own in expected.items()
        if name in state and state[name].shape != own.shape
    ]
    faults = (("lacks", missing), ("has unknown", unexpected), ("has other shapes:", shapes))
    told = [
        f"{what} {', '.join(names[:3])}" + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        for what, names in faults
        if names
    ]
    if told:
        raise BitcertError(f"checkpoint {path} does not fit the network: it {'; it '.join(told)}")
