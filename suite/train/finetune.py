"""Quantization-aware finetuning of one policy, under the problem's noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from suite.contract.trial import GRADIENT_PASSES
from suite.data import ImageSplit
from suite.errors import BitcertError
from suite.quantize.trainable import SCHEMES, Scheme, TrainableNetwork
from suite.train.loss import Loss, TrainingBatch, cross_entropy
from suite.train.optimizer import NoisyBatches, parameter_groups

PASSES_PER_IMAGE = GRADIENT_PASSES  # forward passes charged per image and finetuning step


@dataclass(frozen=True, slots=True)
class FinetuneSettings:
    """How a quantized network is finetuned.

    Attributes:
        batch: Images per step.
        learning_rate: Adam's initial rate; it falls to zero along a half cosine. For learned steps and clipping levels it is
            relative to their size, as Adam's updates are about the rate whatever the gradient.
        clip_decay: L2 penalty on PACT's clipping levels.
        quantizer: ``"lsq"``, ``"fixed"``, ``"pact"``, ``"dorefa"`` or ``"fatnn"``.
    """

    batch: int = 64
    learning_rate: float = 1e-3
    clip_decay: float = 2e-4
    quantizer: Scheme = "lsq"

    def __post_init__(self) -> None:
        if self.batch < 1 or self.learning_rate <= 0 or self.clip_decay < 0:
            raise BitcertError(f"finetuning needs batch >= 1, learning_rate > 0 and clip_decay >= 0, got {self}")
        if self.quantizer not in SCHEMES:
            raise BitcertError(f"unknown quantizer {self.quantizer!r}; known: {', '.join(SCHEMES)}")

    def forward_passes(self, steps: int, passes_per_image: int = PASSES_PER_IMAGE) -> int:
        """Forward passes charged for ``steps`` steps."""
        return passes_per_image * self.batch * steps


def finetune(
    network: TrainableNetwork,
    split: ImageSplit,
    *,
    steps: int,
    sigma: float,
    settings: FinetuneSettings,
    seed: int,
    progress: Callable[[int], None] | None = None,
    loss: Loss = cross_entropy,
) -> None:
    """Train the network in place on noisy training images.

    Images are reshuffled each epoch; Gaussian noise is added in [0, 1] before normalization. Order, noise and the network's
    own randomness (dropout) depend on ``seed`` alone. The network is left in evaluation mode.

    Args:
        network: Quantized network with float masters.
        split: Training images.
        steps: Optimizer steps.
        sigma: Standard deviation of the noise.
        settings: Batch size, rate, penalty.
        seed: Seed of order and noise.
        progress: Called with the number of finished steps.
        loss: What is minimized.

    Raises:
        BitcertError: If the loss stops being finite.
    """
    device = next(network.parameters()).device
    clips = network.clips()
    optimizer = torch.optim.Adam(parameter_groups(network, network.scales(), settings.learning_rate), fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    labels = torch.tensor(split.labels)
    batches = NoisyBatches(split, settings.batch, sigma, torch.Generator().manual_seed(seed))
    network.train()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for step in range(steps):
            chosen, images, noisy = batches.draw()
            batch = TrainingBatch(step, seed, sigma, chosen, images, noisy.to(device), labels[chosen].to(device))
            total = loss(network, batch)
            if clips:
                total = total + settings.clip_decay * torch.stack([clip.square() for clip in clips]).sum()
            if not torch.isfinite(total):
                raise BitcertError(
                    f"finetuning diverged at step {step + 1} of {steps}; lower the learning rate ({settings.learning_rate})"
                )
            optimizer.zero_grad(set_to_none=True)
            total.backward()
            optimizer.step()
            schedule.step()
            if progress is not None:
                progress(step + 1)
    network.eval()
