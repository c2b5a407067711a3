"""Gaussian noise drawn on the device where a network runs, so that none has to be copied there."""

from __future__ import annotations

import torch
from torch import Tensor

from suite.certify.noise import BLOCK, NoiseStream


class DeviceNoise:
    """Standard normal noise addressed like that of a :class:`NoiseStream`, from the device's own generator.

    The values are others than those on a CPU, and are equal on devices of one model. A block is drawn whole from its own seed, a
    hash of the stream's seed and purpose, the image and the block, so that neither the batch size nor the order changes the noise.

    Args:
        stream: Whose addresses are used.
        device: Where noise is drawn.
    """

    def __init__(self, stream: NoiseStream, device: torch.device) -> None:
        self._stream, self._generator = stream, torch.Generator(device)

    def block(self, image_id: int, block: int, shape: tuple[int, ...], samples: int = BLOCK) -> Tensor:
        """Draw the first samples of a block of the image with a non-negative id, shape ``(samples, *shape)``."""
        self._generator.manual_seed(self._stream.block_seed(image_id, block))
        drawn = torch.randn((BLOCK, *shape), generator=self._generator, device=self._generator.device)
        return drawn[:samples]
