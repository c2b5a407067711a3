"""Input normalization, a part of every network: noise is added before it, in the units of the images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from suite.errors import BitcertError


class Normalization(nn.Module):
    """``(image - mean) / std`` per channel.

    Networks hold it as ``normalization`` and apply it first in ``forward``, so that their other modules keep the names used
    by published checkpoints.

    Args:
        mean: One number per channel, in the units of images in [0, 1].
        std: Standard deviations, likewise; positive.

    Raises:
        BitcertError: If the lengths differ or a standard deviation is not positive.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or min(std, default=0.0) <= 0:
            raise BitcertError(
                f"mean and std need one number per channel, std positive; got {list(mean)} and {list(std)}"
            )
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).reshape(-1, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalize images in [0, 1], shape ``(images, channels, height, width)``."""
        return (images - self.mean) / self.std
