"""The state of a training between two epochs, in one file: what it takes to go on as if never stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from suite.errors import BitcertError
from suite.files import write_bytes

_NETWORK, _MOMENTUM = "network.", "momentum."
_BUFFER = "momentum_buffer"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a training has come.

    Attributes:
        epochs: Finished epochs.
        loss: Mean loss over the last epoch's noisy images.
        accuracy: Accuracy over them.
    """

    epochs: int = 0
    loss: float = float("nan")
    accuracy: float = float("nan")


def write_progress(
    path: Path, identity: Mapping[str, Any], network: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress
) -> None:
    """Replace the state in a file by the present one, in one step.

    Args:
        path: The file; replaced if it exists.
        identity: What tells this training from others, JSON-ready.
        network: The network being trained.
        optimizer: Its SGD optimizer.
        progress: How far it has come.
    """
    tensors = {_NETWORK + name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}
    for name, parameter in network.named_parameters():
        if optimizer.state[parameter].get(_BUFFER) is not None:
            tensors[_MOMENTUM + name] = optimizer.state[parameter][_BUFFER].detach().cpu().clone()
    metadata = {"identity": _as_json(identity), "progress": json.dumps(asdict(progress))}
    write_bytes(path, save(tensors, metadata))


def read_progress(
    path: Path, identity: Mapping[str, Any], network: nn.Module, optimizer: torch.optim.Optimizer
) -> Progress:
    """Bring network and optimizer to the state in a file; without a file, leave them and return no progress.

    Raises:
        BitcertError: If the file is damaged or belongs to another training.
    """
    if not path.exists():
        return Progress()
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
        progress = Progress(**json.loads(metadata["progress"]))
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise BitcertError(f"training state {path} is damaged ({error}); remove it to start over") from error
    if metadata["identity"] != _as_json(identity):
        raise BitcertError(
            f"training state {path} belongs to another training ({metadata['identity']}); "
            "remove it, or train with the same network, images and settings"
        )
    network.load_state_dict(
        {name.removeprefix(_NETWORK): tensor for name, tensor in tensors.items() if name.startswith(_NETWORK)}
    )
    for name, parameter in network.named_parameters():
        if _MOMENTUM + name in tensors:
            optimizer.state[parameter][_BUFFER] = tensors[_MOMENTUM + name].to(parameter.device)
    return progress


def _as_json(identity: Mapping[str, Any]) -> str:
    return json.dumps(identity, sort_keys=True)
