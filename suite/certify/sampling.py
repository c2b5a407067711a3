"""Counting predictions under noise: the inner loop of every certificate."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from suite.certify.noise import BLOCK, NoiseStream
from suite.errors import BitcertError

Progress = Callable[[int], None]
"""Called with the number of forward passes made since the last call."""


@dataclass(frozen=True, slots=True)
class NoisyBatch:
    """Images with noise added, ready for the network.

    Attributes:
        inputs: Shape ``(rows, C, H, W)``, float32.
        rows: Position of each row's image among the images, shape ``(rows,)``, int64.
    """

    inputs: Tensor
    rows: Tensor


def noisy_batches(
    images: Tensor, ids: NDArray[np.int64], *, sigma: float, samples: int, stream: NoiseStream, batch: int
) -> Iterator[NoisyBatch]:
    """Yield ``samples`` noisy copies of every image, image by image, in batches of a fixed size (the last may be smaller).

    Args:
        images: Shape ``(images, C, H, W)``, float32 in [0, 1]; the batches are made on its device.
        ids: Ids that key the noise, shape ``(images,)``.
        sigma: Standard deviation of the noise.
        samples: Noise samples an image.
        stream: Where the noise comes from.
        batch: Rows a batch.
    """
    shape = tuple(images.shape[1:])
    drawn: list[NDArray[np.float32]] = []
    rows: list[NDArray[np.int64]] = []
    held = 0

    def emit(size: int) -> NoisyBatch:
        nonlocal drawn, rows, held
        noise, row = np.concatenate(drawn), np.concatenate(rows)
        drawn, rows, held = [noise[size:]], [row[size:]], held - size
        positions = torch.from_numpy(row[:size]).to(images.device)
        inputs = torch.from_numpy(noise[:size]).to(images.device).mul_(sigma).add_(images[positions])
        return NoisyBatch(inputs, positions)

    for position, start in itertools.product(range(len(images)), range(0, samples, BLOCK)):
        wanted = min(BLOCK, samples - start)
        drawn.append(stream.block(int(ids[position]), start // BLOCK, shape)[:wanted])
        rows.append(np.full(wanted, position, dtype=np.int64))
        held += wanted
        while held >= batch:
            yield emit(batch)
    if held:
        yield emit(held)


@torch.inference_mode()
def predict(network: nn.Module, images: Tensor, *, batch: int) -> Tensor:
    """Predicted classes without noise, shape ``(images,)``; raises BitcertError on logits that are not finite."""
    predictions = []
    finite = torch.ones((), dtype=torch.bool, device=images.device)
    for chunk in torch.split(images, batch):
        logits = network(chunk)
        finite &= torch.isfinite(logits).all()
        predictions.append(logits.argmax(dim=1))
    _check_finite(finite)
    return torch.cat(predictions)


@torch.inference_mode()
def count_classes(
    network: nn.Module, batches: Iterator[NoisyBatch], images: int, progress: Progress | None = None
) -> Tensor:
    """Count how often each class is predicted for each image.

    Counts stay on the network's device and nothing waits for it between batches.

    Args:
        network: Inputs to logits.
        batches: What to run.
        images: Number of images the rows refer to.
        progress: Told the rows of each batch.

    Returns:
        Counts, shape ``(images, classes)``, int64.

    Raises:
        BitcertError: If a logit is not finite.
    """
    counts: Tensor | None = None
    finite: Tensor | None = None
    for chunk in batches:
        logits = network(chunk.inputs)
        if counts is None or finite is None:
            counts = torch.zeros(images, logits.shape[1], dtype=torch.int64, device=logits.device)
            finite = torch.ones((), dtype=torch.bool, device=logits.device)
        finite &= torch.isfinite(logits).all()
        cells = chunk.rows * counts.shape[1] + logits.argmax(dim=1)
        counts.view(-1).scatter_add_(0, cells, torch.ones_like(cells))
        if progress is not None:
            progress(len(chunk.rows))
    if counts is None or finite is None:
        raise BitcertError("there is nothing to certify: no images or no noise samples")
    _check_finite(finite)
    return counts


def _check_finite(finite: Tensor) -> None:
    if not bool(finite):
        raise BitcertError("the network's logits are not finite; check its weights and the quantizer steps")
