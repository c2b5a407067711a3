"""torchvision's ResNet-18, ResNet-50 and MobileNetV2 with normalization inside; module names are torchvision's.

The MobileNetV2 of half the width is for images of 32x32: of its five strides of 2, the first two are 1, so that 4x4 values per
channel reach the average pooling. Its last convolution keeps 1,280 channels, as networks narrower than the full width do
(Sandler et al., CVPR 2018, section 4).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torchvision.models.mobilenetv2 import MobileNetV2
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from suite.networks.normalization import Normalization

_RESNETS = {"resnet18": (BasicBlock, [2, 2, 2, 2]), "resnet50": (Bottleneck, [3, 4, 6, 3])}
"""Kind of block (bottlenecks have their stride in the 3x3, 'v1.5'), and blocks per stage."""

_SMALL_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, channels at full width, blocks and stride of every stage: table 2, but for the stride of the second."""


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


def build_from_torchvision(name: str, classes: int, mean: Sequence[float], std: Sequence[float]) -> nn.Module:
    """Build torchvision's network of a name; without dropout, so that training uses no hidden randomness."""
    if name in _RESNETS:
        block, blocks = _RESNETS[name]
        network: nn.Module = _ResNet(block, blocks, num_classes=classes)
    elif name == "mobilenet_v2-half":
        network = _MobileNet(classes, 0.5, [list(stage) for stage in _SMALL_STAGES], dropout=0.0)
        first = network.get_submodule("features.0.0")
        assert isinstance(first, nn.Conv2d)
        first.stride = (1, 1)
    else:
        network = _MobileNet(num_classes=classes, dropout=0.0)
    network.normalization = Normalization(mean, std)
    return network
