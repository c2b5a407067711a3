"""Load images, network and device, and check that they fit the definition."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from suite.contract.space import FLOAT_BITS, Policy, SearchSpace
from suite.data import ImageDataset, load_dataset
from suite.errors import BitcertError
from suite.networks import build_network, load_checkpoint, network_sha256, shipped_checkpoints
from suite.problems.definition import Definition
from suite.quantize import Engine, QuantizedNetwork


class DataWarning(UserWarning):
    """The images' classes may not be the network's."""


_BUSY_PIXELS, _MOST_ROWS = 4_096_000, 16_000


def load_images(definition: Definition, folder: str | Path | None, *, download: bool) -> ImageDataset:
    """Load a definition's images; raises BitcertError if they do not fit it, warns of fewer classes than outputs."""
    dataset = load_dataset(definition.dataset, folder, download=download, size=definition.shape[-1])
    if dataset.shape != definition.shape or dataset.classes > definition.classes:
        raise BitcertError(
            f"{definition.name} takes images of shape {definition.shape} in at most {definition.classes} classes; "
            f"the data have shape {dataset.shape} and {dataset.classes} classes"
        )
    if dataset.classes < definition.classes:
        warnings.warn(
            f"the network has {definition.classes} outputs but the images have {dataset.classes} classes; folders, in "
            f"alphabetical order, are taken as outputs 0 to {dataset.classes - 1}, and labels are wrong if they are not",
            DataWarning,
            stacklevel=2,
        )
    return dataset


def load_network(
    definition: Definition, checkpoint: Path | None, sigma: float, device: torch.device, variant: int = 0
) -> nn.Module:
    """Load a definition's pretrained network, frozen, from a checkpoint, or an included one.

    Of the included ones, which differ in their training seeds, ``variant`` chooses, starting over after the last.
    """
    network = build_network(definition.network, definition.classes, definition.shape[0])
    if checkpoint is None:
        included = shipped_checkpoints(definition.trained_as or definition.name, sigma)
        checkpoint = included[variant % len(included)]
    load_checkpoint(network, checkpoint)
    return network.to(device).eval().requires_grad_(False)


@torch.no_grad()
def check_execution(network: nn.Module, quantized: QuantizedNetwork, images: Tensor) -> str:
    """Check that a user's network, with nothing quantized, gives the same logits layer by layer as in one piece.

    Returns:
        A hash of its weights and its logits: its code may change while its weights stay.

    Raises:
        BitcertError: If the logits differ.
    """
    expected = network(images)
    bits = [FLOAT_BITS] * len(quantized.layers)
    quantized.set_policy(Policy.from_bits(bits, bits))
    found = quantized(images)
    if not torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())):
        raise BitcertError(
            f"layer by layer the network gives other logits than as a whole, up to {float((found - expected).abs().max()):.3g} "
            "off with nothing quantized: something in it, such as a hook, changes what its Conv2d and Linear modules compute"
        )
    digest = hashlib.sha256(network_sha256(network).encode())
    digest.update(expected.cpu().numpy().tobytes())
    return digest.hexdigest()


def check_states(definition: Definition, space: SearchSpace, engine: Engine) -> None:
    """Refuse, before anything runs, an engine that cannot execute the states of a network, by a BitcertError."""
    if engine == "torch" or all(layer.kind != "state" for layer in space.layers):
        return
    if engine == "fixed-point":
        raise BitcertError(f"a fixed-point network has no states, and {definition.name} has; choose another engine")
    if definition.state_levels != "integers":
        raise BitcertError(
            f"the levels of states of {definition.name} are no multiples of a step, so its networks have no integer form; choose "
            "the engine torch, or integer states, as in spiking-digits"
        )


def usable_device(device: str | torch.device) -> torch.device:
    """The device, if torch can use it; raises BitcertError if not."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        reason = str(error).splitlines()[0].split(". ")[0].rstrip(".")
        raise BitcertError(
            f"device {str(device)!r} cannot be used here ({reason}); give cpu, cuda or cuda:1"
        ) from error
    if torch.device(device).type == "cuda":
        full_precision()
    return torch.device(device)


def full_precision() -> None:
    """Let a GPU compute in 32 bits where networks do: convolutions would be in TF32, whose numbers have 11 bits, by default.

    A certificate is about the network as it was executed, and what is deployed later need not have TF32.
    """
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]
    torch.backends.cuda.matmul.fp32_precision = "ieee"


def batch_on(device: torch.device, batch: int, shape: tuple[int, int, int]) -> int:
    """Rows per batch of a problem on a device.

    A GPU needs more to be busy: as many as have 4 million pixels, such as 4,000 of 32 x 32.

    Args:
        device: Where evaluations run.
        batch: Rows on a CPU.
        shape: Channels, height and width of an image.
    """
    return batch if device.type == "cpu" else max(batch, min(_MOST_ROWS, _BUSY_PIXELS // (shape[1] * shape[2])))
