"""The state of a training between two epochs, in one file: what it takes to go on as if never stopped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from suite.store import Store

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
    momenta = {name: optimizer.state[parameter].get(_BUFFER) for name, parameter in network.named_parameters()}
    kept = {name: momentum for name, momentum in momenta.items() if momentum is not None}
    _store(path, identity).write({"network": network.state_dict(), "momentum": kept}, asdict(progress))


def read_progress(
    path: Path, identity: Mapping[str, Any], network: nn.Module, optimizer: torch.optim.Optimizer
) -> Progress:
    """Bring network and optimizer to the state in a file; without a file, leave them and return no progress.

    Raises:
        BitcertError: If the file is damaged or belongs to another training.
    """
    if not path.exists():
        return Progress()
    stored = _store(path, identity).read()
    network.load_state_dict(stored.groups["network"])
    momenta = stored.groups.get("momentum", {})
    for name, parameter in network.named_parameters():
        if name in momenta:
            optimizer.state[parameter][_BUFFER] = momenta[name].to(parameter.device)
    return Progress(**stored.record)


def _store(path: Path, identity: Mapping[str, Any]) -> Store:
    return Store(path, "training", identity)
