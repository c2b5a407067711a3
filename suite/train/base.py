"""Base training: a float network learns images under Gaussian noise, as smoothing will add it."""

from __future__ import annotations

import hashlib
import math
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from suite.data import ImageSplit
from suite.errors import BitcertError
from suite.networks import initialize, network_sha256
from suite.store import Store

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
    """

    epochs: int
    batch: int = 128
    rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    flip: bool = False
    shift: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch", 2), ("shift", 0), ("threads", 1)):
            if getattr(self, name) < least:
                raise BitcertError(f"training setting {name} must be at least {least}, got {getattr(self, name)}")
        if not 0 < self.rate < math.inf:
            raise BitcertError(f"training setting rate must be a positive number, got {self.rate}")


def train_base(
    network: nn.Module,
    split: ImageSplit,
    *,
    sigma: float,
    settings: TrainSettings,
    seed: int,
    resume: Path | None = None,
    progress: Report | None = None,
) -> dict[str, Any]:
    """Train a network in place, from weights drawn from the seed, on images with Gaussian noise.

    Noise is added to images in [0, 1], before the network's own normalization (Cohen et al., ICML 2019). Cross-entropy,
    stochastic gradient descent with Nesterov momentum, one-cycle rate. On a CPU the result is a function of the
    arguments, bit for bit, whether or not training was interrupted; the network is left in evaluation mode.

    Args:
        network: The network; its weights are reinitialized.
        split: Training images.
        sigma: Standard deviation of the noise, in the units of the images; 0 trains without noise.
        settings: Epochs, rate and augmentation.
        seed: Seed of weights, order, noise and augmentation, which are drawn independently.
        resume: File that keeps the state after each epoch; training resumes from it. The caller removes it once the
            network is saved.
        progress: Called after each epoch with its number from 1, the number of epochs, and the mean loss and the
            accuracy over the epoch's noisy images.

    Returns:
        A JSON-ready record: settings, seed, sigma, number of images, last loss and accuracy, versions, and the
        network's hash.

    Raises:
        BitcertError: If sigma or seed is out of range, the loss stops being finite, or ``resume`` holds another training.
    """
    if not 0 <= sigma < math.inf:
        raise BitcertError(f"sigma must be a number >= 0, got {sigma}")
    if seed < 0:
        raise BitcertError(f"seed must not be negative, got {seed}")
    initialize(network, seed)
    record = {"settings": asdict(settings), "seed": seed, "sigma": sigma, "images": len(split)}
    images = hashlib.sha256(split.ids.tobytes() + split.labels.tobytes()).hexdigest()
    identity = record | {"start_sha256": network_sha256(network), "split_sha256": images}
    optimizer = torch.optim.SGD(
        network.parameters(), settings.rate, settings.momentum, weight_decay=settings.weight_decay, nesterov=True
    )
    store = None if resume is None else Store(resume, "training", identity)
    done = _Progress() if store is None else _read_progress(store, network, optimizer)
    network.train()
    with torch_threads(settings.threads):
        for epoch in range(done.epochs, settings.epochs):
            loss, accuracy = _train_epoch(network, optimizer, split, sigma, settings, seed, epoch)
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
    momenta = {
        name: optimizer.state[parameter].get("momentum_buffer") for name, parameter in network.named_parameters()
    }
    kept = {name: momentum for name, momentum in momenta.items() if momentum is not None}
    store.write({"network": network.state_dict(), "momentum": kept}, asdict(progress))


def _read_progress(store: Store, network: nn.Module, optimizer: torch.optim.Optimizer) -> _Progress:
    """Load the stored state, if there is one, into network and optimizer."""
    if not store.path.exists():
        return _Progress()
    stored = store.read()
    network.load_state_dict(stored.groups["network"])
    momenta = stored.groups.get("momentum", {})
    for name, parameter in network.named_parameters():
        if name in momenta:
            optimizer.state[parameter]["momentum_buffer"] = momenta[name].to(parameter.device)
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
    split: ImageSplit,
    sigma: float,
    settings: TrainSettings,
    seed: int,
    epoch: int,
) -> tuple[float, float]:
    """Run one epoch; return the mean loss and the accuracy on its noisy images."""
    device = next(network.parameters()).device
    order, noise, augmentation, own = (
        torch.Generator().manual_seed(_stream_seed(seed, epoch, stream)) for stream in _Stream
    )
    batch = min(settings.batch, len(split))
    steps = len(split) // batch
    shuffled = torch.randperm(len(split), generator=order).numpy()
    losses, hits = 0.0, 0
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.set_state(own.get_state())
        for step in range(steps):
            chosen = split.subset(shuffled[step * batch : (step + 1) * batch])
            images = augment(chosen.images(), settings.flip, settings.shift, augmentation)
            images = (images + sigma * torch.randn(images.shape, generator=noise)).to(device)
            labels = torch.from_numpy(chosen.labels).to(device)
            for group in optimizer.param_groups:
                group["lr"] = one_cycle(epoch * steps + step, settings.epochs * steps, settings.rate)
            logits = network(images)
            loss = functional.cross_entropy(logits, labels)
            if not math.isfinite(loss.item()):
                raise BitcertError(
                    f"the training loss became {loss.item()} in epoch {epoch + 1}; "
                    f"train at a lower rate than {settings.rate}"
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses += loss.item()
            hits += int((logits.argmax(dim=1) == labels).sum())
    return losses / steps, hits / (steps * batch)


def one_cycle(step: int, steps: int, highest: float) -> float:
    """Learning rate of a step: cosine warm-up from 1/25 of the peak over 30 % of the steps, then cosine decay to zero.

    Smith and Topin 2019, with the defaults of ``torch.optim.lr_scheduler.OneCycleLR``.
    """
    summit = 0.3 * steps - 1
    lowest, last = highest / 25, highest / 25e4
    if step <= summit:
        return highest + (lowest - highest) * (1 + math.cos(math.pi * step / summit)) / 2
    return last + (highest - last) * (1 + math.cos(math.pi * (step - summit) / (steps - 1 - summit))) / 2


def augment(images: torch.Tensor, flip: bool, shift: int, generator: torch.Generator) -> torch.Tensor:
    """Flip half of the images of shape ``(images, C, H, W)`` and shift each by up to ``shift`` pixels, padded with zeros."""
    count, _, height, width = images.shape
    if flip:
        mirrored = torch.rand(count, generator=generator) < 0.5
        images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
    if not shift:
        return images
    padded = functional.pad(images, (shift, shift, shift, shift))
    offsets = torch.randint(0, 2 * shift + 1, (2, count, 1), generator=generator)
    rows, columns = offsets[0] + torch.arange(height), offsets[1] + torch.arange(width)
    everyone = torch.arange(count)[:, None, None]
    return padded.permute(0, 2, 3, 1)[everyone, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Run a block with a fixed number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _stream_seed(seed: int, epoch: int, stream: int) -> int:
    """Seed of one stream in one epoch; the included checkpoints are reproducible as long as it stays as it is."""
    return int(np.random.SeedSequence([seed, epoch, stream]).generate_state(1, np.uint64)[0] >> np.uint64(1))
