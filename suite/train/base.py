"""Base training: a float network learns images under Gaussian noise, as smoothing will add it."""

from __future__ import annotations

import hashlib
import math
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from suite.computing import torch_threads
from suite.data import ImageSplit
from suite.errors import BitcertError, unknown_name
from suite.networks import initialize, network_sha256
from suite.store import Store
from suite.train.consistency import SAMPLES, consistency_loss
from suite.train.interval_loss import WEIGHT, IntervalPenalty, IntervalSettings
from suite.train.optimizer import load_optimizer_state, optimizer_state

Precision = Literal["float32", "bfloat16"]
"""In what convolutions and linear layers compute: bfloat16 is several times faster where the processor has instructions for it."""

CPU = torch.device("cpu")

Report = Callable[[int, int, float, float], None]


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """How a network is trained.

    Attributes:
        epochs: Passes over the training images.
        batch: Images per step; an incomplete last batch is dropped.
        rate: Peak learning rate of the one-cycle schedule.
        momentum: Nesterov momentum.
        weight_decay: L2 penalty on all parameters.
        flip: Whether half of the images are mirrored.
        shift: Largest shift of an image along each axis, in pixels; padded with zeros.
        threads: CPU threads; floating-point sums depend on them.
        precision: Of convolutions and linear layers while training; weights, their updates and batch norms are float32 in any
            case, and so is the trained network.
        channels_last: Whether images and weights lie in memory with their channels last; sums depend on it.
        consistency: Weight of :func:`.consistency_loss`, for which every image is trained on with two noise samples; 0 trains
            with cross-entropy alone.
        interval_radius: L-infinity radius, in the units of the images, of the boxes in which interval bounds are to prove labels,
            see :class:`.IntervalPenalty`; 0 trains without bounds.
        interval_weight: Weight of the bounds.
    """

    epochs: int
    batch: int = 128
    rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    flip: bool = False
    shift: int = 0
    threads: int = 1
    precision: Precision = "float32"
    channels_last: bool = False
    consistency: float = 0.0
    interval_radius: float = 0.0
    interval_weight: float = WEIGHT

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch", 2), ("shift", 0), ("threads", 1)):
            if getattr(self, name) < least:
                raise BitcertError(f"training setting {name} must be at least {least}, got {getattr(self, name)}")
        if not 0 < self.rate < math.inf:
            raise BitcertError(f"training setting rate must be a positive number, got {self.rate}")
        if not 0 <= self.consistency < math.inf:
            raise BitcertError(f"training setting consistency must be a number >= 0, got {self.consistency}")
        if self.precision not in get_args(Precision):
            raise unknown_name("precision", self.precision, get_args(Precision))
        self.interval  # noqa: B018 (checks the settings)

    @property
    def samples(self) -> int:
        """Noise samples of an image in every epoch."""
        return SAMPLES if self.consistency else 1

    @property
    def interval(self) -> IntervalSettings | None:
        """How interval bounds enter the loss; None if they do not."""
        return IntervalSettings(self.interval_radius, self.interval_weight) if self.interval_radius else None


def train_base(
    network: nn.Module,
    split: ImageSplit,
    *,
    sigma: float,
    settings: TrainSettings,
    seed: int,
    device: torch.device = CPU,
    resume: Path | None = None,
    progress: Report | None = None,
) -> dict[str, Any]:
    """Train a network in place, from weights drawn from the seed, on images with Gaussian noise.

    Noise is added to images in [0, 1], before the network's own normalization (Cohen et al., ICML 2019). Cross-entropy,
    stochastic gradient descent with Nesterov momentum, one-cycle rate. On a CPU the result is a function of the
    arguments, bit for bit, whether or not training was interrupted; on another device noise and augmentation are drawn there,
    from generators of its own with the same seeds. The network is left in evaluation mode.

    Args:
        network: The network, on the CPU; its weights are reinitialized.
        split: Training images.
        sigma: Standard deviation of the noise, in the units of the images; 0 trains without noise.
        settings: Epochs, rate and augmentation.
        seed: Seed of weights, order, noise and augmentation, which are drawn independently.
        device: Where it is trained, and stays.
        resume: File that keeps the state after each epoch; training resumes from it. The caller removes it once the
            network is saved.
        progress: Called after each epoch with its number from 1, the number of epochs, and the mean loss and the
            accuracy over the epoch's noisy images.

    Returns:
        A JSON-ready record: settings, seed, sigma, number of images, last loss and accuracy, versions, and the
        network's hash.

    Raises:
        BitcertError: If sigma or seed is out of range, the loss stops being finite, ``resume`` holds another training, or the
            network has no interval bounds and is to be trained with them.
    """
    if not 0 <= sigma < math.inf:
        raise BitcertError(f"sigma must be a number >= 0, got {sigma}")
    if seed < 0:
        raise BitcertError(f"seed must not be negative, got {seed}")
    initialize(network, seed)
    record = {"settings": asdict(settings), "seed": seed, "sigma": sigma, "images": len(split)}
    images = hashlib.sha256(split.ids.tobytes() + split.labels.tobytes()).hexdigest()
    identity = record | {"start_sha256": network_sha256(network), "split_sha256": images, "device": device.type}
    network.to(device)
    penalty = None if settings.interval is None else IntervalPenalty(network, settings.interval)
    optimizer = torch.optim.SGD(
        network.parameters(), settings.rate, settings.momentum, weight_decay=settings.weight_decay, nesterov=True
    )
    store = None if resume is None else Store(resume, "training", identity)
    done = _Progress() if store is None else _read_progress(store, network, optimizer)
    shown = TrainingImages(split, device)
    network.train()
    if settings.channels_last:
        network.to(memory_format=torch.channels_last)
    with torch_threads(settings.threads):
        for epoch in range(done.epochs, settings.epochs):
            loss, accuracy = _train_epoch(network, optimizer, shown, sigma, settings, seed, epoch, penalty)
            done = _Progress(epoch + 1, loss, accuracy)
            if store is not None:
                _write_progress(store, network, optimizer, done)
            if progress:
                progress(done.epochs, settings.epochs, loss, accuracy)
    network.eval()
    return record | {
        "loss": done.loss,
        "noisy_accuracy": done.accuracy,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "network_sha256": network_sha256(network),
    }


@dataclass(frozen=True, slots=True)
class _Progress:
    """Finished epochs, with mean loss and accuracy over the last epoch's noisy images."""

    epochs: int = 0
    loss: float = math.nan
    accuracy: float = math.nan


def _write_progress(store: Store, network: nn.Module, optimizer: torch.optim.Optimizer, progress: _Progress) -> None:
    """Replace the stored state atomically."""
    momenta = optimizer_state(network, optimizer).get("momentum_buffer", {})
    store.write({"network": network.state_dict(), "momentum": momenta}, asdict(progress))


def _read_progress(store: Store, network: nn.Module, optimizer: torch.optim.Optimizer) -> _Progress:
    """Load the stored state, if there is one, into network and optimizer."""
    if not store.path.exists():
        return _Progress()
    stored = store.read()
    network.load_state_dict(stored.groups["network"])
    load_optimizer_state(network, optimizer, {"momentum_buffer": stored.groups.get("momentum", {})})
    return _Progress(**stored.record)


class _Stream(IntEnum):
    """What random numbers are for; each has its own generator in each epoch."""

    ORDER = 0
    NOISE = 1
    AUGMENTATION = 2
    NETWORK = 3


def _train_epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: TrainingImages,
    sigma: float,
    settings: TrainSettings,
    seed: int,
    epoch: int,
    penalty: IntervalPenalty | None,
) -> tuple[float, float]:
    """Run one epoch; return the mean loss and the accuracy on its noisy images."""
    device, seeds = images.device, {stream: _stream_seed(seed, epoch, stream) for stream in _Stream}
    noise, augmentation = (
        torch.Generator(device).manual_seed(seeds[stream]) for stream in (_Stream.NOISE, _Stream.AUGMENTATION)
    )
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seeds[_Stream.ORDER]))
    batch = min(settings.batch, len(images))
    steps = len(images) // batch
    total = torch.zeros((), dtype=torch.float64, device=device)
    hits = torch.zeros((), dtype=torch.int64, device=device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seeds[_Stream.NETWORK])
        for step in range(steps):
            clean, labels = images.read(order[step * batch : (step + 1) * batch])
            clean = augment(clean, settings.flip, settings.shift, augmentation).repeat(settings.samples, 1, 1, 1)
            inputs = clean + sigma * torch.randn(clean.shape, generator=noise, device=device)
            done, every = epoch * steps + step, settings.epochs * steps
            for group in optimizer.param_groups:
                group["lr"] = one_cycle(done, every, settings.rate)
            loss, right = _loss(network, inputs, labels.repeat(settings.samples), settings)
            if penalty is not None:
                loss = loss + penalty(clean[: len(labels)], labels, done / every)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.detach()
            hits += right
    mean = float(total) / steps
    if not math.isfinite(mean):
        raise BitcertError(
            f"the training loss became {mean} in epoch {epoch + 1}; train at a lower rate than {settings.rate}"
        )
    return mean, int(hits) / (steps * batch * settings.samples)


def _loss(network: nn.Module, inputs: Tensor, labels: Tensor, settings: TrainSettings) -> tuple[Tensor, Tensor]:
    """The loss of a step, a scalar, and how many noisy images are classified rightly."""
    if settings.channels_last:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    with torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=settings.precision == "bfloat16"):
        logits = network(inputs).float()
    loss = functional.cross_entropy(logits, labels)
    if settings.consistency:
        loss = loss + consistency_loss(logits.unflatten(0, (settings.samples, -1)), settings.consistency)
    return loss, (logits.argmax(dim=1) == labels).sum()


class TrainingImages:
    """A split's images and labels by position: read when asked for on a CPU, all of them kept on another device.

    Args:
        split: The images.
        device: Where batches go.
    """

    def __init__(self, split: ImageSplit, device: torch.device) -> None:
        self.device, self._split = device, split
        self._labels = torch.from_numpy(split.labels).to(device)
        self._kept = None if device.type == "cpu" else split.images().to(device)

    def __len__(self) -> int:
        return len(self._split)

    def read(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Images, shape ``(positions, C, H, W)``, and labels at these positions, on the device."""
        if self._kept is None:
            return self._split.subset(positions.numpy()).images(), self._labels[positions]
        positions = positions.to(self.device)
        return self._kept[positions], self._labels[positions]


def one_cycle(step: int, steps: int, highest: float) -> float:
    """Learning rate of a step: cosine warm-up from 1/25 of the peak over 30 % of the steps, then cosine decay to zero.

    Smith and Topin 2019, with the defaults of ``torch.optim.lr_scheduler.OneCycleLR``.
    """
    summit = 0.3 * steps - 1
    lowest, last = highest / 25, highest / 25e4
    if step <= summit:
        return highest + (lowest - highest) * (1 + math.cos(math.pi * step / summit)) / 2
    return last + (highest - last) * (1 + math.cos(math.pi * (step - summit) / (steps - 1 - summit))) / 2


def augment(images: Tensor, flip: bool, shift: int, generator: torch.Generator) -> Tensor:
    """Flip half of the images of shape ``(images, C, H, W)`` and shift each by up to ``shift`` pixels, padded with zeros.

    The generator is on the images' device.
    """
    device = images.device
    count, _, height, width = images.shape
    if flip:
        mirrored = torch.rand(count, generator=generator, device=device) < 0.5
        images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
    if not shift:
        return images
    padded = functional.pad(images, (shift, shift, shift, shift))
    offsets = torch.randint(0, 2 * shift + 1, (2, count, 1), generator=generator, device=device)
    rows, columns = (
        offset + torch.arange(side, device=device) for offset, side in zip(offsets, (height, width), strict=True)
    )
    everyone = torch.arange(count, device=device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[everyone, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def _stream_seed(seed: int, epoch: int, stream: int) -> int:
    """Seed of one stream in one epoch; the included checkpoints are reproducible as long as it stays as it is."""
    return int(np.random.SeedSequence([seed, epoch, stream]).generate_state(1, np.uint64)[0] >> np.uint64(1))
