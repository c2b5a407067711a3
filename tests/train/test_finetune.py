"""Finetuning that resumes: the same bits for every quantizer, with randomness of the network's own, on any layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from suite.contract.space import SearchSpace
from suite.data import ImageSplit
from suite.data.images import PixelArray
from suite.kept import KeptState
from suite.networks import trace_layers
from suite.quantize import TrainableNetwork, calibrate
from suite.quantize.trainable import SCHEMES, Scheme
from suite.train.finetune import FinetuneSettings, finetune
from suite.train.loss import TrainingBatch

SHAPE, STEPS = (3, 6, 6), 7


class Dropping(nn.Module):
    """A small network with batch norm and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second, self.drop, self.head = nn.Conv2d(8, 8, 3), nn.Dropout(0.5), nn.Linear(128, 4)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of four classes."""
        features = torch.relu(self.norm(self.first(images)))
        logits: Tensor = self.head(self.drop(torch.relu(self.second(features))).flatten(1))
        return logits


def split() -> ImageSplit:
    pixels = np.random.default_rng(0).integers(0, 256, size=(20, *SHAPE)).astype(np.uint8)
    return ImageSplit(np.arange(20), pixels[:, 0, 0, 0].astype(np.int64) // 64, PixelArray(pixels, 255))


def network(scheme: Scheme, layout: torch.memory_format) -> TrainableNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = Dropping().to(memory_format=layout).eval().requires_grad_(False)
    layers = trace_layers(plain, SHAPE)
    seen = calibrate(plain, [layer.name for layer in layers], [split().images()])
    return TrainableNetwork(plain, layers, SearchSpace(layers, pins={}).uniform(2), seen, scheme)


class Interrupted:
    """Stops a training after some steps."""

    def __init__(self, last: int | None) -> None:
        self.last, self.told = last, [0]

    def __call__(self, done: int) -> None:
        self.told.append(done)
        if done == self.last:
            raise KeyboardInterrupt


def losses(trained: TrainableNetwork, state: KeptState | None = None, last: int | None = None) -> list[float]:
    """Train; returns the losses of the steps."""
    found: list[float] = []

    def loss(network: TrainableNetwork, batch: TrainingBatch) -> Tensor:
        total = nn.functional.cross_entropy(network(batch.inputs), batch.labels)
        found.append(float(total.detach()))
        return total

    stop, settings = Interrupted(last), FinetuneSettings(batch=8, quantizer=trained.scheme)
    try:
        finetune(
            trained, split(), steps=STEPS, sigma=0.1, settings=settings, seed=3, progress=stop, loss=loss, state=state
        )
    except KeyboardInterrupt:
        assert stop.told[-1] == last
    return found


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_step_after_an_interruption_is_the_same(
    scheme: Scheme, layout: torch.memory_format, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epochs end after two and a half batches, so that order and position in the epoch count."""
    monkeypatch.setattr("suite.kept.EVERY", 0)
    whole = network(scheme, layout)
    expected = losses(whole)
    before = torch.get_rng_state()
    for last in range(1, STEPS + 1):
        folder = tmp_path / str(last)
        assert losses(network(scheme, layout), KeptState(folder), last) == expected[:last]
        resumed = network(scheme, layout)
        assert losses(resumed, KeptState(folder)) == expected[last:]
        assert not resumed.training
        for name, tensor in resumed.state_dict().items():
            assert torch.equal(tensor, whole.state_dict()[name]), name
    assert torch.equal(torch.get_rng_state(), before)
