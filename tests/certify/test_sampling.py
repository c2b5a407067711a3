"""Noisy batches and the counting of predictions, against slices and loops."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from suite.certify import NoiseStream, NoisyClassifier, NoisyImages, certify_fixed
from suite.certify.sampling import NoisyBatch, count_classes, noisy_batches, predict
from suite.errors import BitcertError
from tests.certify.simulators import as_samplers, coins

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


# Classifiers under noise

IDS = np.array([5, 6, 2**33, 0, 8])
SLICES = [(0, 1), (0, 32), (0, 70), (7, 31), (31, 33), (32, 64), (33, 100), (64, 65), (5, 200)]


def _noisy(batch: int = 250, memory: int = 0, seed: int = 4) -> NoisyImages:
    return NoisyImages(_images(5), sigma=SIGMA, seed=seed, ids=IDS, batch=batch, memory=memory)


def _expected(purpose: str, start: int, stop: int, rows: list[int]) -> NDArray[np.int64]:
    """Predictions on slices of the stream, one sample at a time."""
    found = []
    for row in rows:
        noise = NoiseStream(4, purpose).draw(int(IDS[row]), start, stop, SHAPE)
        pixels = _images(5)[row].numpy() + np.float32(SIGMA) * noise
        found.append([int((sample[:, 0, 0] > 0.5).sum()) for sample in pixels])
    return np.array(found)


@pytest.mark.parametrize(("start", "stop"), SLICES)
@pytest.mark.parametrize("batch", [1, 7, 32, 250])
@pytest.mark.parametrize("rows", [None, [0], [4, 1], [2, 3, 0]])
def test_counts_and_predictions_are_those_on_slices_of_the_stream(
    rows: list[int] | None, batch: int, start: int, stop: int
) -> None:
    sampler = NoisyClassifier(_Threshold(), _noisy(batch))
    chosen = None if rows is None else np.array(rows)
    expected = _expected("count", start, stop, list(range(5)) if rows is None else rows)
    found = sampler.predictions("count", start, stop, chosen)
    assert found.dtype == np.int16
    assert np.array_equal(found, expected)
    counts = sampler.counts("count", start, stop, chosen)
    assert counts.dtype == np.int64
    assert counts.tolist() == [np.bincount(row, minlength=3).tolist() for row in expected]


def test_purposes_and_seeds_give_other_noise() -> None:
    sampler = NoisyClassifier(_Threshold(), _noisy())
    assert np.array_equal(sampler.predictions("select", 0, 100), _expected("select", 0, 100, list(range(5))))
    results = [sampler.predictions(purpose, 0, 100) for purpose in ("select", "count", "fresh")]
    results.append(NoisyClassifier(_Threshold(), _noisy(seed=5)).predictions("count", 0, 100))
    for one, other in itertools.combinations(results, 2):
        assert not np.array_equal(one, other)


def test_samples_in_parts_are_those_taken_at_once() -> None:
    sampler = NoisyClassifier(_Threshold(), _noisy())
    bounds = [0, 3, 32, 50, 96, 97, 150]
    parts = [sampler.predictions("count", start, stop) for start, stop in itertools.pairwise(bounds)]
    assert np.array_equal(np.concatenate(parts, axis=1), sampler.predictions("count", 0, 150))
    counts = [sampler.counts("count", start, stop) for start, stop in itertools.pairwise(bounds)]
    assert np.array_equal(np.sum(counts, axis=0), sampler.counts("count", 0, 150))


def test_a_sampler_says_how_many_images_there_are_and_under_what_noise() -> None:
    for sampler in as_samplers(NoisyClassifier(_Threshold(), _noisy()), coins([0.5] * 5, sigma=SIGMA)):
        assert (len(sampler), sampler.sigma) == (5, SIGMA)


def test_progress_is_told_of_all_samples_kept_ones_too() -> None:
    told: list[int] = []
    noisy = _noisy(batch=32, memory=10**6)
    for _ in range(2):
        sampler = NoisyClassifier(_Threshold(), noisy, told.append)
        sampler.counts("count", 3, 50)
        sampler.predictions("count", 0, 9, np.array([1, 2]))
    assert sum(told) == 2 * (5 * 47 + 2 * 9)


def test_logits_that_are_not_finite_are_an_error_in_predictions_too() -> None:
    images = torch.zeros(3, *SHAPE)
    images[1] = 5
    noisy = NoisyImages(images, sigma=SIGMA)
    sampler = NoisyClassifier(_Broken(float("nan")), noisy)
    assert sampler.counts("count", 0, 20, np.array([0, 2])).shape == (2, 2)
    for method in (sampler.counts, sampler.predictions):
        with pytest.raises(BitcertError, match="logits are not finite"):
            method("count", 0, 20)


# Memory


class _Draws:
    """Counts the blocks of noise that are drawn."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.blocks = 0
        block = NoiseStream.block

        def counted(
            stream: NoiseStream, image_id: int, number: int, shape: tuple[int, ...], samples: int
        ) -> NDArray[np.float32]:
            self.blocks += 1
            return block(stream, image_id, number, shape, samples)

        monkeypatch.setattr(NoiseStream, "block", counted)


def _size(samples: int) -> int:
    return 5 * samples * 18 * 4


@pytest.mark.parametrize("memory", [0, _size(40), _size(90), 10**9])
def test_what_is_kept_changes_no_result(memory: int) -> None:
    noisy = _noisy(batch=32, memory=memory)
    for _ in range(3):
        sampler = NoisyClassifier(_Threshold(), noisy)
        for purpose, start, stop in (("select", 0, 40), ("count", 0, 50), ("count", 0, 40), ("count", 33, 83)):
            expected = _expected(purpose, start, stop, list(range(5)))
            assert np.array_equal(sampler.predictions(purpose, start, stop), expected)
            assert np.array_equal(sampler.predictions(purpose, start, stop, np.array([3, 1])), expected[[3, 1]])
            assert sampler.counts(purpose, start, stop).sum() == expected.size


def test_what_is_kept_is_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = _Draws(monkeypatch)
    noisy = _noisy(memory=_size(64 + 32))
    for _ in range(3):
        NoisyClassifier(_Threshold(), noisy).counts("count", 0, 64)
        NoisyClassifier(_Threshold(), noisy).predictions("select", 0, 32)
    assert draws.blocks == 5 * (2 + 1)


def test_the_limit_is_kept_to(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = _Draws(monkeypatch)
    noisy = _noisy(memory=_size(96) - 1)
    sampler = NoisyClassifier(_Threshold(), noisy)
    for _ in range(3):
        sampler.counts("count", 0, 64)
    assert draws.blocks == 5 * 2, "the first fits"
    for again in range(1, 4):
        sampler.counts("select", 0, 32)
        assert draws.blocks == 5 * (2 + again), "the second is a byte too large"
    for _ in range(2):
        sampler.counts("select", 0, 31)
    assert draws.blocks == 5 * (2 + 3 + 1), "what still fits is kept"


def test_some_of_the_images_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = _Draws(monkeypatch)
    sampler = NoisyClassifier(_Threshold(), _noisy(memory=10**9))
    for again in range(1, 4):
        sampler.counts("count", 0, 64, np.array([0, 2]))
        assert draws.blocks == 2 * 2 * again
    sampler.counts("count", 0, 64)
    sampler.counts("count", 0, 64)
    assert draws.blocks == 2 * 2 * 3 + 5 * 2, "nor do they use up the memory"


def test_networks_with_noise_in_memory_are_certified_as_without() -> None:
    kept, made = _noisy(batch=32, memory=10**9), _noisy(batch=32)
    for _ in range(2):
        one, other = (
            certify_fixed(NoisyClassifier(_Threshold(), noisy), n0=20, n=100, alpha=0.01) for noisy in (kept, made)
        )
        assert np.array_equal(one.p_lower, other.p_lower)
        assert np.array_equal(one.prediction, other.prediction)


def _held(images: Tensor, batch: int) -> float:
    """Bytes that are in use once 320 samples are kept, relative to those of the noisy images."""
    noisy = NoisyImages(images, sigma=SIGMA, batch=batch, memory=10**9)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    kept = noisy.batches("count", 0, 320)
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert sum(len(chunk.inputs) for chunk in kept) == 320 * len(images)
    return used / (320 * images.numel() * 4)


def test_kept_images_take_hardly_more_memory_than_their_size() -> None:
    assert _held(torch.zeros(4, 3, 16, 16), batch=250) < 1.15


@pytest.mark.parametrize("batch", [1, 8])
def test_kept_images_in_small_batches_take_hardly_more_memory_than_their_size(batch: int) -> None:
    assert _held(torch.zeros(4, 3, 16, 16), batch) < 1.15


class _InPlace(_Threshold):
    """Shifts its inputs where they are."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.sub_(0.1))


def test_a_network_that_writes_to_its_inputs_spoils_nothing_for_the_next() -> None:
    noisy = _noisy(memory=10**9)
    first = NoisyClassifier(_InPlace(), noisy).predictions("count", 0, 64)
    assert np.array_equal(NoisyClassifier(_InPlace(), noisy).predictions("count", 0, 64), first)


def test_images_that_would_share_their_noise_are_refused() -> None:
    with pytest.raises(BitcertError, match="id"):
        NoisyImages(_images(3), sigma=SIGMA, ids=[1, 2, 1])
