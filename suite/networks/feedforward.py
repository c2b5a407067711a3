"""Feed-forward networks for certificates without noise: layers with ReLU between them, nothing normalized."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
from torch import nn


class UnitClamp(nn.Module):
    """Clamps images to [0, 1].

    A network that computes with integers clamps noisy images to its levels; with this one in front, a float network does the same.
    """

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Clamp; same shape."""
        return images.clamp(0.0, 1.0)


def mlp_digits(classes: int) -> nn.Module:
    """Four hidden layers of 32, 128, 64 and 32 units, for grayscale images of 8 x 8 pixels.

    The first layer is narrow because it is pinned at 8 bits: policies decide over 86 % of the multiplications.
    """
    sizes = (64, 32, 128, 64, 32)
    hidden = [part for before, after in pairwise(sizes) for part in (nn.Linear(before, after), nn.ReLU())]
    return nn.Sequential(UnitClamp(), nn.Flatten(), *hidden, nn.Linear(sizes[-1], classes))


def convnet_mnist(classes: int) -> nn.Module:
    """Three convolutions (8 channels, 5 x 5, stride 2; 16, 3 x 3; 32, 3 x 3, stride 2) and 64 units, for images of 28 x 28."""
    first, second, third = nn.Conv2d(1, 8, 5, stride=2), nn.Conv2d(8, 16, 3), nn.Conv2d(16, 32, 3, stride=2)
    convolutions = (first, nn.ReLU(), second, nn.ReLU(), third, nn.ReLU())
    return nn.Sequential(
        UnitClamp(), *convolutions, nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, classes)
    )


FEEDFORWARD: Mapping[str, Callable[[int], nn.Module]] = {"mlp-digits": mlp_digits, "convnet-mnist": convnet_mnist}
"""By name; each makes a network from the number of classes."""
