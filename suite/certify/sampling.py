"""Predictions under noise: the inner loop of every certificate."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from suite.certify.bounds import check_positive
from suite.certify.device_noise import DeviceNoise
from suite.certify.exact import check_reproducible, to_levels
from suite.certify.kept_counts import KeptCounts
from suite.certify.noise import BLOCK, NoiseStream
from suite.certify.rounded_gaussian import RoundedGaussian, rounded_gaussian
from suite.contract.problem import check_sigma
from suite.errors import BitcertError

Progress = Callable[[int], None]  # called with the number of forward passes since the last call


class Sampler(Protocol):
    """A classifier under Gaussian noise: what every certification method draws from.

    Sample ``s`` of image ``i`` for a purpose is one fixed draw of the noise; samples that differ in image, index or purpose
    are independent. Methods rely on nothing else, so they can be tested on classifiers with known probabilities.
    """

    @property
    def sigma(self) -> float:
        """Standard deviation of the noise."""

    def __len__(self) -> int:
        """Number of images."""

    def counts(self, purpose: str, start: int, stop: int, rows: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """How often each class is predicted among samples ``start`` to ``stop - 1``, shape ``(rows, classes)``."""

    def predictions(
        self, purpose: str, start: int, stop: int, rows: NDArray[np.int64] | None = None
    ) -> NDArray[np.int16]:
        """The class predicted at each of these samples, shape ``(rows, stop - start)``."""


@dataclass(frozen=True, slots=True)
class NoisyBatch:
    """Images with noise added, ready for the network.

    Attributes:
        inputs: Shape ``(rows, C, H, W)``, float32.
        rows: Position of each row's image among the images, shape ``(rows,)``, int64.
    """

    inputs: Tensor
    rows: Tensor


class NoisyImages:
    """Images and their noise, drawn once for all networks as far as memory allows.

    Args:
        images: Shape ``(images, C, H, W)``, float in [0, 1]; a tensor on the network's device, or an array.
        sigma: Standard deviation of the noise, in the units of the images.
        seed: Root seed of the noise, non-negative.
        ids: Ids that key the noise, non-negative and distinct, shape ``(images,)``; positions by default.
        batch: Rows per batch.
        memory: Bytes of noisy images to keep, at most.
        levels: For exact arithmetic (:mod:`.exact`): the images are integers divided by it, and so are they under noise; None
            for Gaussian noise in floating point.

    Attributes:
        rounded: The noise of exact arithmetic; None for floating point.

    Raises:
        BitcertError: On shapes that disagree, repeated ids, a batch, seed, sigma or id out of range, or images that are no
            integers divided by ``levels``.
    """

    def __init__(
        self,
        images: Tensor | NDArray[np.floating],
        *,
        sigma: float,
        seed: int = 0,
        ids: ArrayLike | None = None,
        batch: int = 250,
        memory: int = 0,
        levels: int | None = None,
    ) -> None:
        check_sigma(sigma)
        check_positive(batch=batch)
        if seed < 0:
            raise BitcertError(f"seed must not be negative, got {seed}")
        self.pixels = torch.as_tensor(images, dtype=torch.float32)
        self.ids = np.arange(len(self.pixels)) if ids is None else np.asarray(ids, dtype=np.int64)
        if self.pixels.dim() != 4 or len(self.pixels) == 0:
            raise BitcertError(
                f"images must have shape (images, C, H, W) with at least one image, got {tuple(self.pixels.shape)}"
            )
        if self.ids.shape != (len(self.pixels),):
            raise BitcertError(f"{len(self.pixels)} images need as many ids, got {self.ids.shape}")
        if self.ids.min() < 0:
            raise BitcertError(f"ids must not be negative, got {self.ids.min()}")
        if len(np.unique(self.ids)) < len(self.ids):
            raise BitcertError(
                "ids must differ: images of one id would see the same noise, which bounds take to be independent"
            )
        self.sigma = sigma
        self.batch = batch
        self.seed = seed
        self.rounded = None if levels is None else rounded_gaussian(sigma, levels)
        self._centers = self.pixels if levels is None else to_levels(self.pixels, levels)
        self._free = memory
        self._kept: dict[tuple[str, int, int], list[NoisyBatch]] = {}

    def __len__(self) -> int:
        return len(self.pixels)

    def batches(
        self, purpose: str, start: int, stop: int, rows: NDArray[np.int64] | None = None
    ) -> Iterable[NoisyBatch]:
        """Samples ``start`` to ``stop - 1``, image by image, of the images at ``rows`` (default: all; kept if they fit)."""
        key = purpose, start, stop
        if rows is None and key in self._kept:
            return _copies(self._kept[key])
        made = noisy_batches(
            self._centers if rows is None else self._centers[torch.from_numpy(rows).to(self._centers.device)],
            self.ids if rows is None else self.ids[rows],
            sigma=self.sigma,
            start=start,
            stop=stop,
            stream=NoiseStream(self.seed, purpose),
            batch=self.batch,
            rounded=self.rounded,
        )
        size = (stop - start) * self.pixels.numel() * self.pixels.element_size()
        if rows is not None or size > self._free:
            return made
        self._free -= size
        self._kept[key] = list(_copies(made))  # batches are views of larger arrays
        return _copies(self._kept[key])


class NoisyClassifier:
    """The :class:`Sampler` of a network, in evaluation mode and on the images' device, on noisy images.

    Args:
        network: Images to logits.
        noisy: The images.
        progress: Called with the forward passes since the last call, those of earlier calls included.
        kept: Counts of earlier calls, and where those of this one are kept; None to keep nothing.

    Raises:
        BitcertError: If the images have exact noise and the network is not a function of each image alone.
    """

    def __init__(
        self,
        network: nn.Module,
        noisy: NoisyImages,
        progress: Progress | None = None,
        kept: KeptCounts | None = None,
    ) -> None:
        if noisy.rounded is not None:
            check_reproducible(network)
        self._network, self.noisy, self._progress, self._kept = network, noisy, progress, kept

    @property
    def sigma(self) -> float:
        """Standard deviation of the noise."""
        return self.noisy.sigma

    def __len__(self) -> int:
        return len(self.noisy)

    def counts(self, purpose: str, start: int, stop: int, rows: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """How often each class is predicted among samples ``start`` to ``stop - 1``, shape ``(rows, classes)``."""

        def count(rows: NDArray[np.int64] | None) -> NDArray[np.int64]:
            images = len(self) if rows is None else len(rows)
            batches = self.noisy.batches(purpose, start, stop, rows)
            return count_classes(self._network, batches, images, self._progress).cpu().numpy()

        if self._kept is None:
            return count(rows)
        every = np.arange(len(self)) if rows is None else rows
        return self._kept.counts(purpose, start, stop, every, count)

    def predictions(
        self, purpose: str, start: int, stop: int, rows: NDArray[np.int64] | None = None
    ) -> NDArray[np.int16]:
        """The class predicted at each of these samples, shape ``(rows, stop - start)``."""
        batches = self.noisy.batches(purpose, start, stop, rows)
        found = [predicted for _, _, predicted in _run(self._network, batches, self._progress)]
        return torch.cat(found).to(torch.int16).reshape(-1, stop - start).cpu().numpy()


def label_counts(
    sampler: Sampler,
    labels: NDArray[np.integer],
    purpose: str,
    start: int,
    stop: int,
    rows: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """How often the images at positions ``rows`` are predicted right in samples ``start`` to ``stop - 1``.

    Raises:
        BitcertError: If there is not one integer label per image, or a label is not a class.
    """
    known = np.asarray(labels)
    if known.shape != (len(sampler),) or known.dtype.kind not in "iu":
        raise BitcertError(
            f"{len(sampler)} images need as many integer labels, got {known.dtype} of shape {known.shape}"
        )
    counts = sampler.counts(purpose, start, stop, rows)
    classes = known if rows is None else known[rows]
    if classes.min() < 0 or classes.max() >= counts.shape[1]:
        raise BitcertError(f"labels must lie within 0..{counts.shape[1] - 1}, got {classes.min()}..{classes.max()}")
    return pick_classes(counts, classes)


def pick_classes(counts: NDArray[np.int64], classes: NDArray[np.integer]) -> NDArray[np.int64]:
    """The count of one class in each row: shapes ``(rows, classes)`` and ``(rows,)`` to ``(rows,)``."""
    return np.asarray(counts[np.arange(len(counts)), classes])


def noisy_batches(
    images: Tensor,
    ids: NDArray[np.int64],
    *,
    sigma: float,
    stop: int,
    stream: NoiseStream,
    batch: int,
    start: int = 0,
    rounded: RoundedGaussian | None = None,
) -> Iterator[NoisyBatch]:
    """Yield samples ``start`` to ``stop - 1`` of every image, image by image, in batches of a fixed size but for the last.

    Batches are on the images' device, where Gaussian noise is drawn, too: see :class:`.DeviceNoise`. The other arguments are those
    of :class:`NoisyImages`. With ``rounded`` noise the images are integers in float32, their sums with it are exact, and the
    quotients by its levels are rounded correctly.
    """
    shape, device = tuple(images.shape[1:]), images.device
    levels = None if rounded is None else torch.tensor(float(rounded.levels), device=device)
    own = DeviceNoise(stream, device)
    drawn: list[Tensor] = []
    rows: list[Tensor] = []
    held = 0

    def draw(image_id: int, block: int, samples: int) -> Tensor:
        if rounded is not None:
            return torch.from_numpy(rounded.draw(stream, image_id, block, shape)).to(device)
        if device.type != "cpu":
            return own.block(image_id, block, shape, samples)
        return torch.from_numpy(stream.block(image_id, block, shape, samples))

    def emit(size: int) -> NoisyBatch:
        nonlocal drawn, rows, held
        noise, row = torch.cat(drawn), torch.cat(rows)
        drawn, rows, held = [noise[size:]], [row[size:]], held - size
        inputs, positions = noise[:size], row[:size]
        if levels is None:
            inputs.mul_(sigma).add_(images[positions])
        else:
            inputs.add_(images[positions]).div_(levels)
        return NoisyBatch(inputs, positions)

    for position, block in itertools.product(range(len(images)), range(start // BLOCK, -(-stop // BLOCK))):
        first, last = max(start - block * BLOCK, 0), min(stop - block * BLOCK, BLOCK)
        drawn.append(draw(int(ids[position]), block, last)[first:last])
        rows.append(torch.full((last - first,), position, device=device))
        held += last - first
        while held >= batch:
            yield emit(batch)
    if held:
        yield emit(held)


def _copies(batches: Iterable[NoisyBatch]) -> Iterator[NoisyBatch]:
    """Copies of batches, which a network may overwrite."""
    return (NoisyBatch(chunk.inputs.clone(), chunk.rows.clone()) for chunk in batches)


def predict(network: nn.Module, images: Tensor, *, batch: int) -> Tensor:
    """Predicted classes without noise, shape ``(images,)``; raises BitcertError on logits that are not finite."""
    rows = torch.arange(len(images), device=images.device)
    batches = map(NoisyBatch, torch.split(images, batch), torch.split(rows, batch))
    return torch.cat([predicted for _, _, predicted in _run(network, batches)])


def count_classes(
    network: nn.Module, batches: Iterable[NoisyBatch], images: int, progress: Progress | None = None
) -> Tensor:
    """Count how often each class is predicted for each image, shape ``(images, classes)``, on the network's device.

    Raises:
        BitcertError: If there are no batches or a logit is not finite.
    """
    counts: Tensor | None = None
    for chunk, classes, predicted in _run(network, batches, progress):
        if counts is None:
            counts = torch.zeros(images, classes, dtype=torch.int64, device=predicted.device)
        cells = chunk.rows * classes + predicted
        counts.view(-1).scatter_add_(0, cells, torch.ones_like(cells))
    if counts is None:
        raise BitcertError("there is nothing to certify: no images or no noise samples")
    return counts


def _run(
    network: nn.Module, batches: Iterable[NoisyBatch], progress: Progress | None = None
) -> Iterator[tuple[NoisyBatch, int, Tensor]]:
    """Yield each batch with the number of classes and its predictions, without synchronizing with the device."""
    finite: Tensor | None = None
    for chunk in batches:
        with torch.inference_mode():
            logits = network(chunk.inputs)
            predicted = logits.argmax(dim=1)
            all_finite = torch.isfinite(logits).all()
            finite = all_finite if finite is None else finite & all_finite
        if progress is not None:
            progress(len(chunk.rows))
        yield chunk, logits.shape[1], predicted
    if finite is not None and not bool(finite):
        raise BitcertError("the network's logits are not finite; check its weights and the quantizer steps")
