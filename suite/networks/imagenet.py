"""torchvision's ResNet-18, ResNet-50 and MobileNetV2 with normalization inside; module names are torchvision's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torchvision.models.mobilenetv2 import MobileNetV2
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from suite.networks.normalization import Normalization

_RESNETS = {"resnet18": (BasicBlock, [2, 2, 2, 2]), "resnet50": (Bottleneck, [3, 4, 6, 3])}
"""Kind of block (bottlenecks have their stride in the 3x3, 'v1.5'), and blocks per stage."""


class _Normalized(nn.Module):
    """Mixin: the network takes images in [0, 1], shape ``(images, 3, height, width)``."""

    normalization: Normalization

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = super().forward(self.normalization(images))
        return logits


class _ResNet(_Normalized, ResNet):  # type: ignore[misc]  # torchvision is untyped
    pass


class _MobileNet(_Normalized, MobileNetV2):  # type: ignore[misc]  # torchvision is untyped
    pass


def build_imagenet(name: str, classes: int, mean: Sequence[float], std: Sequence[float]) -> nn.Module:
    """Build torchvision's network of a name; without dropout, so that training uses no hidden randomness."""
    if name in _RESNETS:
        block, blocks = _RESNETS[name]
        network: nn.Module = _ResNet(block, blocks, num_classes=classes)
    else:
        network = _MobileNet(num_classes=classes, dropout=0.0)
    network.normalization = Normalization(mean, std)
    return network
