"""Residual networks for small images: ResNet-20/32/56 for CIFAR and the digits network (He et al., CVPR 2016), also wider."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from suite.networks.normalization import Normalization

_WIDTHS = (16, 32, 64)

Shortcut = Literal["padding", "projection"]


class ResidualNetwork(nn.Module):
    """A 3x3 convolution, three stages of residual blocks with 16, 32 and 64 channels, global average pooling, a linear layer.

    Every stage but the first halves height and width in its first block. A wider network has a multiple of the channels in all
    blocks; the first convolution keeps its 16.

    Args:
        blocks: Blocks per stage, two convolutions each; n blocks make a ResNet-(6n + 2).
        classes: Number of classes.
        mean: Normalization, one number per channel of the image.
        std: Standard deviations, likewise.
        shortcut: The shortcut of a block that changes the shape: ``"padding"`` takes every other pixel and pads with zero
            channels (option A), ``"projection"`` is a 1x1 convolution with batch norm (option B).
        width: Channels of all blocks as a multiple of 16, 32 and 64.
    """

    def __init__(
        self,
        blocks: int,
        classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        shortcut: Shortcut = "padding",
        width: int = 1,
    ) -> None:
        super().__init__()
        first, second, third = (width * channels for channels in _WIDTHS)
        self.normalization = Normalization(mean, std)
        self.conv1 = nn.Conv2d(len(mean), _WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(_WIDTHS[0])
        self.relu = nn.ReLU()
        self.layer1 = _stage(blocks, _WIDTHS[0], first, 1, shortcut)
        self.layer2 = _stage(blocks, first, second, 2, shortcut)
        self.layer3 = _stage(blocks, second, third, 2, shortcut)
        self.linear = nn.Linear(third, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits, shape ``(images, classes)``, of images in [0, 1], shape ``(images, channels, height, width)``."""
        features = self.relu(self.bn1(self.conv1(self.normalization(images))))
        features = self.layer3(self.layer2(self.layer1(features)))
        logits: torch.Tensor = self.linear(features.mean(dim=(2, 3)))
        return logits


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, added to the shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module = nn.Identity()
        if in_channels != out_channels and shortcut == "padding":
            self.downsample = PaddingShortcut(out_channels - in_channels, stride)
        elif in_channels != out_channels:
            projection = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(out_channels))
        self.relu2 = nn.ReLU()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Apply the block to features of shape ``(images, in_channels, height, width)``."""
        residual = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(features)))))
        passed: torch.Tensor = self.relu2(residual + self.downsample(features))
        return passed


class PaddingShortcut(nn.Module):
    """Every pixel, or every other one, padded with zero channels on both sides: no weights, no MACs.

    Args:
        channels: Channels to add, half of them on each side.
        stride: Distance of the pixels taken.
    """

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Add the channels and divide height and width by the stride."""
        pixels = features[:, :, :: self.stride, :: self.stride]
        return functional.pad(pixels, (0, 0, 0, 0, self.channels // 2, self.channels - self.channels // 2))


def _stage(blocks: int, in_channels: int, out_channels: int, stride: int, shortcut: Shortcut) -> nn.Sequential:
    widths = pairwise([in_channels] + [out_channels] * blocks)
    strides = [stride] + [1] * (blocks - 1)
    return nn.Sequential(*(ResidualBlock(*c, s, shortcut) for c, s in zip(widths, strides, strict=True)))
