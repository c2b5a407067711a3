"""What trainings of quantized networks share: parameter groups for Adam, and batches of noisy images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from suite.data import ImageSplit
from suite.quantize.steps import LEAST_STEP


def size_of(scale: Tensor) -> float:
    """What the learning rate of a quantizer step or clipping level is relative to: Adam's updates are about the rate."""
    return max(float(scale.detach().abs().mean()), LEAST_STEP)


def parameter_groups(
    network: nn.Module, scales: Sequence[nn.Parameter], rate: float, scale_rate: float | None = None
) -> list[dict[str, Any]]:
    """Groups for Adam, of everything that is not frozen: each scale at a rate relative to its size, all else at one rate.

    Args:
        network: What is trained.
        scales: Its quantizer steps, thresholds and clipping levels.
        rate: Learning rate of everything else.
        scale_rate: Of the scales, relative to their size; ``rate`` if None.
    """
    share, known = rate if scale_rate is None else scale_rate, {id(scale) for scale in scales}
    others = [one for one in network.parameters() if one.requires_grad and id(one) not in known]
    groups: list[dict[str, Any]] = [{"params": others, "lr": rate}] if others else []
    return groups + [{"params": [scale], "lr": share * size_of(scale)} for scale in scales if scale.requires_grad]


class NoisyBatches:
    """Batches of images with one noise sample each, reshuffled once what is left is less than a batch.

    Args:
        split: Training images.
        batch: Images per batch; all of them if there are fewer.
        sigma: Standard deviation of the noise.
        generator: Randomness of order and noise.
    """

    def __init__(self, split: ImageSplit, batch: int, sigma: float, generator: torch.Generator) -> None:
        self._split, self._batch, self._sigma, self._generator = split, batch, sigma, generator
        self._order = torch.empty(0, dtype=torch.int64)

    def draw(self) -> tuple[Tensor, Tensor, Tensor]:
        """The next batch: indices into the split, images as they are, and with noise; on the CPU."""
        if len(self._order) < min(self._batch, len(self._split)):
            self._order = torch.randperm(len(self._split), generator=self._generator)
        chosen, self._order = self._order[: self._batch], self._order[self._batch :]
        images = self._split.subset(chosen.numpy()).images()
        return chosen, images, images + self._sigma * torch.randn(images.shape, generator=self._generator)
