"""Read data and checkpoint, calibrate the network, and lay it all out on a workbench."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from suite.certify import NoiseStream
from suite.contract.problem import Meter
from suite.contract.space import FLOAT_BITS, Policy, SearchSpace
from suite.data import ImageDataset, load_dataset
from suite.errors import BitcertError
from suite.networks import build_network, load_checkpoint, network_sha256, shipped_checkpoint
from suite.problems.definition import Definition
from suite.problems.setup import calibration_split
from suite.quantize import QuantizedNetwork, calibrate
from suite.seeds import derive_seed
from suite.train.finetune import FinetuneSettings
from suite.workbench import Workbench, labelled_batches, torch_threads


class DataWarning(UserWarning):
    """The images may not be what the network takes them for."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where data and checkpoint come from.

    Attributes:
        data: Folder with the images; the environment variable BITCERT_DATA if None.
        download: Whether missing images may be downloaded.
        checkpoint: Pretrained checkpoint; the included one if None.
    """

    data: str | Path | None = None
    download: bool = False
    checkpoint: Path | None = None


def load_workbench(
    definition: Definition,
    sources: Sources,
    *,
    space: SearchSpace,
    sigma: float,
    radii: tuple[float, ...],
    seed: int,
    finetuning: FinetuneSettings,
    recalibrate: bool,
    device: torch.device,
    meter: Meter,
) -> Workbench:
    """Read and calibrate everything that evaluations need; arguments as for :class:`Workbench`.

    Raises:
        BitcertError: If the images, the checkpoint or the network do not fit the definition.

    Warns:
        DataWarning: If the images have fewer classes than the network has outputs.
    """
    dataset = _read_images(definition, sources)
    network = build_network(definition.network, definition.classes, definition.shape[0])
    trained = sources.checkpoint or shipped_checkpoint(definition.trained_as or definition.name, sigma)
    load_checkpoint(network, trained)
    network = network.to(device).eval().requires_grad_(False)
    split = calibration_split(dataset, definition.calibration_images)
    stream = NoiseStream(derive_seed(seed, "calibration"), "calibration")
    with torch_threads(definition.threads):
        batches = [
            inputs
            for inputs, _ in labelled_batches(split, stream, 1, sigma=sigma, batch=definition.batch, device=device)
        ]
        calibration = calibrate(network, [layer.name for layer in space.layers], batches)
    if recalibrate and not any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        raise BitcertError(f"{definition.name} has no batch norms to recalibrate; leave recalibration out")
    executed = QuantizedNetwork(network, space.layers, calibration, fold=not recalibrate)
    identity = network_sha256(network)
    if definition.based_on:
        with torch_threads(definition.threads):
            identity = _check_execution(network, executed, batches[0], identity)
    return Workbench(
        network=network,
        network_sha256=identity,
        dataset=dataset,
        calibration=calibration,
        calibration_batches=batches,
        executed=executed,
        space=space,
        sigma=sigma,
        radii=radii,
        seed=seed,
        batch=definition.batch,
        threads=definition.threads,
        device=device,
        finetuning=finetuning,
        recalibrate=recalibrate,
        exam=definition.exam,
        meter=meter,
    )


def _read_images(definition: Definition, sources: Sources) -> ImageDataset:
    dataset = load_dataset(definition.dataset, sources.data, download=sources.download, size=definition.shape[-1])
    if dataset.shape != definition.shape or dataset.classes > definition.classes:
        raise BitcertError(
            f"{definition.name} takes images of shape {definition.shape} in at most {definition.classes} classes; "
            f"the data have shape {dataset.shape} and {dataset.classes} classes"
        )
    if dataset.classes < definition.classes:
        warnings.warn(
            f"the network has {definition.classes} outputs and the images are of {dataset.classes} classes, which stand "
            f"for the outputs 0 to {dataset.classes - 1}, folders in alphabetical order; labels are wrong if that is not so",
            DataWarning,
            stacklevel=2,
        )
    return dataset


@torch.no_grad()
def _check_execution(network: nn.Module, quantized: QuantizedNetwork, images: Tensor, weights_sha256: str) -> str:
    """Check that with nothing quantized a user's network computes the same layer by layer as in one piece.

    Returns:
        A hash of its weights and of what it computes: its code may change while its weights stay.

    Raises:
        BitcertError: If it is not.
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
    digest = hashlib.sha256(weights_sha256.encode())
    digest.update(expected.cpu().numpy().tobytes())
    return digest.hexdigest()


def usable_device(device: str | torch.device) -> torch.device:
    """The device, if torch can use it; raises BitcertError if not."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        reason = str(error).splitlines()[0].split(". ")[0].rstrip(".")
        raise BitcertError(
            f"device {str(device)!r} cannot be used here ({reason}); give cpu, cuda or cuda:1"
        ) from error
    return torch.device(device)
