"""From a dataset's name to a checkpoint on disk: the recipes behind `bitcert train` and the shipped checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from suite.data import ImageDataset, ImageSplit
from suite.errors import BitcertError
from suite.networks import build_network, finished_record, save_checkpoint
from suite.train.base import CPU, Report, TrainSettings, train_base
from suite.train.interval import certified_share


@dataclass(frozen=True, slots=True)
class Recipe:
    """A network for a dataset, and how it is trained."""

    network: str
    settings: TrainSettings


RECIPES: Mapping[str, Recipe] = {
    "digits": Recipe("resnet8", TrainSettings(epochs=150, weight_decay=2e-3)),
    "mnist": Recipe("resnet8", TrainSettings(epochs=6, threads=2)),
    "cifar10": Recipe("resnet20", TrainSettings(epochs=60, rate=0.2, flip=True, shift=4, channels_last=True)),
}


_NETWORKS: Mapping[tuple[str, str], TrainSettings] = {
    ("digits", "mlp-digits"): TrainSettings(epochs=240, batch=64, rate=0.05, weight_decay=2e-3, interval_radius=1 / 16),
    ("digits", "spiking-digits"): TrainSettings(epochs=100, batch=64, weight_decay=1e-3),
    ("mnist", "convnet-mnist"): TrainSettings(epochs=10, rate=0.05, interval_radius=0.1),
    ("digits", "spiking-digits-traces"): TrainSettings(epochs=100, batch=64, weight_decay=1e-3),
    ("mnist", "spiking-mnist"): TrainSettings(epochs=10),
    ("digits", "rnn-digits-permuted"): TrainSettings(epochs=150, batch=64),
    ("digits", "hadamard-digits-permuted"): TrainSettings(epochs=150, batch=64, rate=0.2),
    ("mnist", "rnn-mnist-rows"): TrainSettings(epochs=8),
}
"""Trainings of networks that are trained otherwise than a dataset's default network, by dataset and network."""


def augmentation_of(dataset: str) -> tuple[bool, int]:
    """Whether a dataset's recipe mirrors training images, and by how many pixels it shifts them; without a recipe neither."""
    settings = RECIPES[dataset].settings if dataset in RECIPES else TrainSettings(epochs=1)
    return settings.flip, settings.shift


def recipe_for(dataset: str, network: str | None = None) -> Recipe:
    """How a network, by default the dataset's own, is trained.

    A network without a recipe of its own is trained as the dataset's default network is.

    Args:
        dataset: Name of the dataset.
        network: Name of the network; the dataset's default network if None.

    Raises:
        BitcertError: For ImageNet, whose published checkpoints are loaded instead.
    """
    if dataset not in RECIPES:
        raise BitcertError(
            f"networks for {dataset} are not trained here, but for {', '.join(RECIPES)}; give a trained one with --checkpoint FILE"
        )
    recipe = RECIPES[dataset]
    chosen = network or recipe.network
    return Recipe(chosen, _NETWORKS.get((dataset, chosen), recipe.settings))


def make_checkpoint(
    dataset: ImageDataset,
    recipe: Recipe,
    path: Path,
    *,
    sigma: float,
    seed: int,
    device: torch.device = CPU,
    command: str | None = None,
    progress: Report | None = None,
) -> dict[str, Any]:
    """Train a network on a dataset and save it with its record; rerun an interrupted call to resume it.

    Nothing is trained if ``path`` holds the result already. The state between epochs is kept beside ``path``, with the ending
    ``.resume``, until the checkpoint is safe.

    Args:
        dataset: The dataset; the exam split is not touched.
        recipe: Network and settings.
        path: Where the checkpoint goes, ending in ``.safetensors``.
        sigma: Standard deviation of the noise, in the units of the images.
        seed: Seed of the training.
        device: Where it is trained.
        command: The command that reproduces the checkpoint, for the record.
        progress: Called after each epoch, see :func:`train_base`.

    Returns:
        The record of :func:`train_base`, with the dataset and its hash, the network's name, the accuracy on search images
        without noise, the share of them on which interval bounds prove the label if it was trained with such bounds, and the
        command if given.

    Raises:
        BitcertError: If training fails, or ``path`` or the state beside it belongs to another training.
    """
    source = {"dataset": dataset.name, "data_sha256": dataset.sha256, "network": recipe.network}
    training = {"settings": asdict(recipe.settings), "sigma": sigma, "seed": seed}
    if (finished := finished_record(path, source | training)) is not None:
        return finished
    network = build_network(recipe.network, dataset.classes, dataset.shape[0])
    resume = path.with_suffix(".resume")
    record = source | train_base(
        network,
        dataset.splits["train"],
        sigma=sigma,
        settings=recipe.settings,
        seed=seed,
        device=device,
        resume=resume,
        progress=progress,
    )
    record["search_accuracy"] = accuracy(network, dataset.splits["search"])
    if recipe.settings.interval_radius:
        record["search_proven"] = certified_share(network, dataset.splits["search"], recipe.settings.interval_radius)
    if command is not None:
        record["command"] = command
    save_checkpoint(network, path, record)
    resume.unlink(missing_ok=True)
    return record


def accuracy(network: nn.Module, split: ImageSplit, batch: int = 500) -> float:
    """Accuracy of a network in evaluation mode on a split, without noise."""
    hits = 0
    device = next(network.parameters()).device
    with torch.no_grad():
        for start in range(0, len(split), batch):
            predicted = network(split.images(start, start + batch).to(device)).argmax(dim=1).cpu()
            hits += int((predicted == torch.from_numpy(split.labels[start : start + batch])).sum())
    return hits / len(split)
