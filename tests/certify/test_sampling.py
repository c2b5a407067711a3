"""Noisy batches and the counting of predictions, against slices and loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from suite.certify import NoiseStream
from suite.certify.sampling import NoisyBatch, count_classes, noisy_batches, predict
from suite.errors import BitcertError

SHAPE = (2, 3, 3)
SIGMA = 0.3


def _images(count: int) -> Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(0))


def _run(images: Tensor, ids: NDArray[np.int64], samples: int, batch: int) -> list[NoisyBatch]:
    stream = NoiseStream(4, "count")
    return list(noisy_batches(images, ids, sigma=SIGMA, stop=samples, stream=stream, batch=batch))


@pytest.mark.parametrize("samples", [1, 31, 32, 33, 70])
@pytest.mark.parametrize("batch", [1, 7, 32, 250])
def test_batches_are_the_images_plus_sigma_times_the_noise_in_order(batch: int, samples: int) -> None:
    images, ids = _images(5), np.array([3, 8, 2**33, 0, 8])
    batches = _run(images, ids, samples, batch)
    total = 5 * samples
    assert [len(chunk.inputs) for chunk in batches] == [batch] * (total // batch) + [total % batch] * (
        total % batch > 0
    )
    inputs, rows = torch.cat([chunk.inputs for chunk in batches]), torch.cat([chunk.rows for chunk in batches])
    assert rows.tolist() == [position for position in range(5) for _ in range(samples)]
    assert inputs.dtype == torch.float32
    noise = np.concatenate([NoiseStream(4, "count").draw(int(image), 0, samples, SHAPE) for image in ids])
    assert np.array_equal(inputs.numpy(), noise * np.float32(SIGMA) + images.numpy()[rows.numpy()])


def test_batches_leave_the_images_as_they_are() -> None:
    images = _images(2)
    before = images.clone()
    _run(images, np.arange(2), 40, 16)
    assert torch.equal(images, before)


class _Threshold(nn.Module):
    """The class of an image is the number of its channels whose sum is positive; exact whatever the batch."""

    def forward(self, images: Tensor) -> Tensor:
        positive = (images[:, :, 0, 0] > 0.5).sum(dim=1)
        return nn.functional.one_hot(positive, 3).float()


def test_classes_are_counted_for_each_image() -> None:
    images, ids = _images(4), np.array([5, 6, 7, 8])
    told: list[int] = []
    counts = count_classes(_Threshold(), iter(_run(images, ids, 40, 7)), 4, told.append)
    assert counts.dtype == torch.int64
    assert sum(told) == 160
    assert told == [7] * 22 + [6]
    expected = np.zeros((4, 3), dtype=np.int64)
    for position in range(4):
        for noise in NoiseStream(4, "count").draw(int(ids[position]), 0, 40, SHAPE):
            pixels = images[position].numpy() + np.float32(SIGMA) * noise
            expected[position, int((pixels[:, 0, 0] > 0.5).sum())] += 1
    assert counts.tolist() == expected.tolist()
    assert (counts > 0).sum() > 6, "the classes differ from sample to sample"


def test_nothing_to_count_is_refused() -> None:
    with pytest.raises(BitcertError, match="nothing to certify"):
        count_classes(_Threshold(), iter(()), 4)


class _Broken(nn.Module):
    """Gives a bad logit for images whose first pixel exceeds 0.9."""

    def __init__(self, bad: float) -> None:
        super().__init__()
        self.bad = bad

    def forward(self, images: Tensor) -> Tensor:
        logits = torch.zeros(len(images), 2)
        logits[images[:, 0, 0, 0] > 0.9, 1] = self.bad
        return logits


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_one_logit_that_is_not_finite_is_an_error(bad: float) -> None:
    images = torch.zeros(9, *SHAPE)
    assert predict(_Broken(bad), images, batch=4).tolist() == [0] * 9
    images[3, 0, 0, 0] = 1
    with pytest.raises(BitcertError, match="logits are not finite"):
        predict(_Broken(bad), images, batch=4)
    with pytest.raises(BitcertError, match="logits are not finite"):
        count_classes(_Broken(bad), iter(_run(images, np.arange(9), 5, 4)), 9)


@pytest.mark.parametrize("batch", [1, 4, 100])
def test_predictions_without_noise_are_those_of_the_network(batch: int) -> None:
    images = _images(11)
    assert torch.equal(predict(_Threshold(), images, batch=batch), _Threshold()(images).argmax(dim=1))
