"""What a network is finetuned on: the batch of one step, and the loss of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from suite.quantize.trainable import TrainableNetwork
from suite.seeds import derive_seed


@dataclass(frozen=True, slots=True, eq=False)
class TrainingBatch:
    """The images of one optimizer step.

    Attributes:
        step: Number of the step, from 0.
        seed: Seed of the training.
        sigma: Standard deviation of the training noise.
        chosen: Indices of the images in the training split, shape ``(batch,)``, on the CPU.
        images: Without noise, in [0, 1], shape ``(batch, C, H, W)``, on the CPU.
        inputs: The same images with one noise sample each, on the network's device.
        labels: Shape ``(batch,)``, on the network's device.
    """

    step: int
    seed: int
    sigma: float
    chosen: Tensor
    images: Tensor
    inputs: Tensor
    labels: Tensor

    def generator(self, purpose: str) -> torch.Generator:
        """Randomness of a loss's own, a function of seed, step and purpose; that of order and noise stays untouched."""
        return torch.Generator().manual_seed(derive_seed(self.seed, purpose, self.step))

    def noisy(self, purpose: str, samples: int, rows: Tensor | None = None) -> Tensor:
        """Further noise samples of the images, or of some rows, sample by sample: shape ``(samples * rows, C, H, W)``."""
        images = (self.images if rows is None else self.images[rows]).repeat(samples, 1, 1, 1)
        noise = torch.randn(images.shape, generator=self.generator(purpose))
        return (images + self.sigma * noise).to(self.inputs.device)


Loss = Callable[[TrainableNetwork, TrainingBatch], Tensor]
"""A scalar to minimize, computed from a network in training mode, which it leaves so."""


@runtime_checkable
class RememberingLoss(Protocol):
    """A loss that depends on earlier steps, which a resumed training has not seen."""

    def state(self) -> dict[str, Tensor]:
        """What it remembers."""

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Remember it again."""


def cross_entropy(network: TrainableNetwork, batch: TrainingBatch) -> Tensor:
    """Mean cross-entropy of one noise sample per image."""
    return nn.functional.cross_entropy(network(batch.inputs), batch.labels)


@contextmanager
def as_teacher(network: nn.Module) -> Iterator[None]:
    """Within the block a network is in evaluation mode, and no gradients are recorded; its modes come back after it."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True
