"""Quantization-aware finetuning of one policy, under the problem's noise."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from suite.contract.trial import GRADIENT_PASSES
from suite.data import ImageSplit
from suite.errors import BitcertError
from suite.kept import KeptState
from suite.networks import network_sha256
from suite.quantize.trainable import SCHEMES, Scheme, TrainableNetwork
from suite.store import Stored
from suite.train.loss import Loss, RememberingLoss, TrainingBatch, cross_entropy
from suite.train.optimizer import NoisyBatches, load_optimizer_state, optimizer_state, parameter_groups

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
    state: KeptState | None = None,
    part: str = "finetuning",
) -> None:
    """Train the network in place on noisy training images.

    Images are reshuffled each epoch; Gaussian noise is added in [0, 1] before normalization. Order, noise and the network's
    own randomness (dropout) depend on ``seed`` alone. The network is left in evaluation mode. Interrupted and called again with
    the same arguments and ``state``, it ends with the same bits.

    Args:
        network: Quantized network with float masters.
        split: Training images.
        steps: Optimizer steps.
        sigma: Standard deviation of the noise.
        settings: Batch size, rate, penalty.
        seed: Seed of order and noise.
        progress: Called with the number of finished steps, those of earlier calls included.
        loss: What is minimized.
        state: Where the training is kept; None to keep nothing.
        part: What it is called there.

    Raises:
        BitcertError: If the loss stops being finite, or ``state`` holds another training.
    """
    kept = None
    if state is not None:
        identity = {
            "steps": steps,
            "sigma": sigma,
            "finetuning": asdict(settings),
            "seed": seed,
            "images": hashlib.sha256(split.ids.tobytes() + split.labels.tobytes()).hexdigest(),
            "start": network_sha256(network),
        }
        kept = state.part(part, "post-step", lambda: identity)
    device = next(network.parameters()).device
    clips = network.clips()
    optimizer = torch.optim.Adam(parameter_groups(network, network.scales(), settings.learning_rate), fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    labels = torch.tensor(split.labels)
    batches = NoisyBatches(split, settings.batch, sigma, torch.Generator().manual_seed(seed))
    training = _Training(network, optimizer, schedule, batches, loss)
    network.train()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        stored = None if kept is None else kept.read()
        done = 0 if stored is None else training.load(stored)
        if done and progress is not None:
            progress(done)
        for step in range(done, steps):
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
            if kept is not None:
                over = step + 1 == steps
                kept.keep(partial(training.content, step + 1, over=over), finished=over)
            if progress is not None:
                progress(step + 1)
    network.eval()


@dataclass(frozen=True, slots=True, eq=False)
class _Training:
    """What changes from step to step; torch's own generators, which it also keeps, are those of the block it is used in."""

    network: TrainableNetwork
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    batches: NoisyBatches
    loss: object

    def content(self, done: int, *, over: bool) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """What is kept after ``done`` steps; less if the training is over."""
        groups = {"network": dict(self.network.state_dict())}
        if isinstance(self.loss, RememberingLoss):
            groups["loss"] = self.loss.state()
        if over:
            return groups, {"done": done}
        random = {"cpu": torch.get_rng_state()}
        if self._device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(self._device)
        groups |= optimizer_state(self.network, self.optimizer) | {"random": random, "batches": self.batches.state()}
        rates = [group["lr"] for group in self.optimizer.param_groups]
        return groups, {"done": done, "rates": rates, "schedule": self.schedule.state_dict()}

    def load(self, stored: Stored) -> int:
        """Take over what was kept; returns the finished steps."""
        groups, record = stored.groups, stored.record
        self.network.load_state_dict(groups["network"])
        if isinstance(self.loss, RememberingLoss):
            self.loss.load_state(groups.get("loss", {}))
        if "schedule" in record:
            load_optimizer_state(self.network, self.optimizer, groups)
            for group, rate in zip(self.optimizer.param_groups, record["rates"], strict=True):
                group["lr"] = rate
            self.schedule.load_state_dict(record["schedule"])
            self.batches.load_state(groups["batches"])
            torch.set_rng_state(groups["random"]["cpu"])
            if "cuda" in groups["random"]:
                torch.cuda.set_rng_state(groups["random"]["cuda"], self._device)
        return int(record["done"])

    @property
    def _device(self) -> torch.device:
        return next(self.network.parameters()).device
