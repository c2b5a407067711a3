"""Load data and checkpoint, calibrate the network, and make the workbench."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from suite.certify import NoiseStream
from suite.certify.sampling import noisy_batches
from suite.contract.problem import Meter
from suite.contract.space import FLOAT_BITS, Policy, SearchSpace
from suite.data import ImageDataset, load_dataset
from suite.errors import BitcertError
from suite.networks import build_network, load_checkpoint, network_sha256, shipped_checkpoint
from suite.problems.definition import Definition
from suite.problems.setup import calibration_split
from suite.quantize import QuantizedNetwork, calibrate
from suite.seeds import derive_seed
from suite.train.base import torch_threads
from suite.train.finetune import FinetuneSettings
from suite.workbench import Workbench


class DataWarning(UserWarning):
    """The images' classes may not be the network's."""


def load_workbench(
    definition: Definition,
    *,
    data: str | Path | None,
    download: bool,
    checkpoint: Path | None,
    space: SearchSpace,
    sigma: float,
    radii: tuple[float, ...],
    seed: int,
    finetuning: FinetuneSettings,
    recalibrate: bool,
    device: torch.device,
    meter: Meter,
) -> Workbench:
    """Load and calibrate everything that evaluations need.

    Arguments are those of :func:`suite.problems.load_problem` and :class:`Workbench`.

    Raises:
        BitcertError: If the images, the checkpoint or the network do not fit the definition.

    Warns:
        DataWarning: If the images have fewer classes than the network has outputs.
    """
    dataset = load_dataset(definition.dataset, data, download=download, size=definition.shape[-1])
    _check_images(definition, dataset)
    network = build_network(definition.network, definition.classes, definition.shape[0])
    load_checkpoint(network, checkpoint or shipped_checkpoint(definition.trained_as or definition.name, sigma))
    network = network.to(device).eval().requires_grad_(False)
    split = calibration_split(dataset, definition.calibration_images)
    stream = NoiseStream(derive_seed(seed, "calibration"), "calibration")
    with torch_threads(definition.threads):
        images = split.images().to(device)
        noisy = noisy_batches(images, split.ids, sigma=sigma, stop=1, stream=stream, batch=definition.batch)
        batches = [chunk.inputs.clone() for chunk in noisy]
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


def _check_images(definition: Definition, dataset: ImageDataset) -> None:
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


@torch.no_grad()
def _check_execution(network: nn.Module, quantized: QuantizedNetwork, images: Tensor, weights_sha256: str) -> str:
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
