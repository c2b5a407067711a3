"""torchvision's ResNet-18, ResNet-50 and MobileNetV2 with normalization inside; module names are torchvision's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torchvision.models.mobilenetv2 import MobileNetV2
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from suite.networks.normalization import Normalization


class ImageNetResNet(ResNet):  # type: ignore[misc]  # torchvision is untyped
    """torchvision's ResNet for images in [0, 1].

    Args:
        bottleneck: Whether blocks are bottlenecks of three convolutions, with the stride in the 3x3 ('v1.5').
        blocks: Blocks in each of the four stages.
        classes: Number of classes.
        mean: Normalization, one number per channel of the image.
        std: Standard deviations, likewise.
    """

    def __init__(
        self, bottleneck: bool, blocks: Sequence[int], classes: int, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__(Bottleneck if bottleneck else BasicBlock, list(blocks), num_classes=classes)
        self.normalization = Normalization(mean, std)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits, shape ``(images, classes)``, of images in [0, 1], shape ``(images, 3, height, width)``."""
        logits: torch.Tensor = self._forward_impl(self.normalization(images))
        return logits


class ImageNetMobileNet(MobileNetV2):  # type: ignore[misc]  # torchvision is untyped
    """torchvision's MobileNetV2 for images in [0, 1]; without dropout, so that training uses no hidden randomness.

    Args:
        classes: Number of classes.
        mean: Normalization, one number per channel of the image.
        std: Standard deviations, likewise.
    """

    def __init__(self, classes: int, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__(num_classes=classes, dropout=0.0)
        self.normalization = Normalization(mean, std)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits, shape ``(images, classes)``, of images in [0, 1], shape ``(images, 3, height, width)``."""
        logits: torch.Tensor = self._forward_impl(self.normalization(images))
        return logits
