"""Noise drawn on a device: its addresses, and its distribution. The generator of a CPU stands for that of a GPU."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from suite.certify.device_noise import DeviceNoise
from suite.certify.noise import BLOCK, NoiseStream
from suite.certify.sampling import noisy_batches
from suite.problems.loading import batch_on, full_precision
from suite.quantize.integer.operations import exact_dtype

_SHAPE = (1, 4, 4)
_CPU = torch.device("cpu")


def _block(seed: int = 0, purpose: str = "count", image: int = 3, block: int = 2, samples: int = BLOCK) -> torch.Tensor:
    return DeviceNoise(NoiseStream(seed, purpose), _CPU).block(image, block, _SHAPE, samples)


def test_a_block_depends_on_its_address_alone() -> None:
    noise = DeviceNoise(NoiseStream(0, "count"), _CPU)
    noise.block(9, 9, _SHAPE)
    torch.rand(5)
    assert torch.equal(noise.block(3, 2, _SHAPE), _block())
    assert torch.equal(_block(samples=5), _block()[:5])
    before = torch.random.get_rng_state()
    _block()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_blocks_of_different_addresses_are_independent_and_normal() -> None:
    addresses = itertools.product((0, 1), ("count", "select"), range(5), range(4))
    drawn = np.stack([_block(*address).numpy().ravel() for address in addresses])
    correlations = np.corrcoef(drawn)[np.triu_indices(len(drawn), 1)]
    # 3,160 pairs of 512 independent values: the largest is below 5.2 / sqrt(512) but for a chance of 1e-3
    assert np.abs(correlations).max() < 5.2 / np.sqrt(drawn.shape[1])
    assert stats.kstest(drawn.ravel(), "norm").pvalue > 1e-4


@pytest.mark.parametrize("batch", [1, 7, 250])
def test_batches_do_not_change_the_noise(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.rand(3, *_SHAPE, generator=torch.Generator().manual_seed(0))
    stream, ids = NoiseStream(5, "count"), np.array([4, 0, 9])
    _draw_as_a_gpu_does(monkeypatch)
    made = list(noisy_batches(images, ids, sigma=0.5, start=10, stop=70, stream=stream, batch=batch))
    inputs, rows = torch.cat([chunk.inputs for chunk in made]), torch.cat([chunk.rows for chunk in made])
    own = DeviceNoise(stream, _CPU)
    for row, image_id in enumerate(ids):
        noise = torch.cat([own.block(int(image_id), block, _SHAPE) for block in range(3)])[10:70]
        assert torch.allclose(inputs[rows == row], images[row] + 0.5 * noise)


def _draw_as_a_gpu_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send the draws of a CPU's stream to the generator that a device has."""

    def block(stream: NoiseStream, image_id: int, block: int, shape: Any, samples: int = BLOCK) -> Any:
        return DeviceNoise(stream, _CPU).block(image_id, block, shape, samples).numpy()

    monkeypatch.setattr(NoiseStream, "block", block)


def test_a_gpu_computes_in_full_precision() -> None:
    backends: list[Any] = [getattr(torch.backends.cudnn, "conv"), torch.backends.cuda.matmul]  # noqa: B009 (has no type)
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "tf32"
        full_precision()
        assert [backend.fp32_precision for backend in backends] == ["ieee", "ieee"]
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


def test_sums_of_integers_have_64_bits_on_a_gpu() -> None:
    assert exact_dtype(2**24 - 1, _CPU) == torch.float32
    assert exact_dtype(2**24, _CPU) == torch.float64
    assert exact_dtype(1, torch.device("cuda")) == torch.float64


def test_a_gpu_gets_batches_that_keep_it_busy() -> None:
    assert batch_on(_CPU, 250, (3, 32, 32)) == 250
    gpu = torch.device("cuda")
    assert batch_on(gpu, 250, (3, 32, 32)) == 4000
    assert batch_on(gpu, 50, (3, 224, 224)) == 81
    assert batch_on(gpu, 250, (1, 8, 8)) == 16_000
    assert batch_on(gpu, 250, (3, 512, 512)) == 250
