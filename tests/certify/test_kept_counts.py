"""Counts that resume: the batches of an uninterrupted count, and no image counted twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from suite.certify import NoisyClassifier, NoisyImages
from suite.certify.kept_counts import KeptCounts, images_per_part
from suite.kept import KeptState


class OfTheBatch(nn.Module):
    """A network whose answers depend on everything in the batch, as the last bits of sums in floating point do."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        """Logits of three classes."""
        self.batches.append(images.clone())
        own = images.flatten(1) @ torch.linspace(-1, 1, images[0].numel() * 3).reshape(-1, 3)
        return (own - own.mean(dim=0)) * torch.tensor([1.0, 1.1, 0.9])


@given(st.integers(1, 20_000), st.integers(1, 4_000))
def test_parts_hold_whole_batches(samples: int, batch: int) -> None:
    images = images_per_part(samples, batch)
    assert images * samples % batch == 0
    assert images * samples >= 2_000


@pytest.mark.parametrize(("batch", "samples"), [(7, 10), (6, 10), (5, 10), (25, 10), (64, 33), (1000, 10)])
@pytest.mark.parametrize("rows", [None, np.array([1, 4, 5, 9, 11])])
def test_an_interrupted_count_resumes_with_the_batches_of_an_uninterrupted_one(
    batch: int, samples: int, rows: NDArray[np.int64] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("suite.kept.EVERY", 0)
    monkeypatch.setattr("suite.certify.kept_counts._ROWS", 1)
    images = torch.rand(13, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    noisy, whole = NoisyImages(images, sigma=0.5, batch=batch), OfTheBatch()
    expected = NoisyClassifier(whole, noisy).counts("count", 3, 3 + samples, rows)
    part = images_per_part(samples, batch) * samples // batch  # batches
    for stop in range(1, len(whole.batches) + 1):
        folder, told = tmp_path / str(stop), [0]

        def count(network: OfTheBatch, most: int, folder: Path = folder, told: list[int] = told) -> NDArray[np.int64]:
            def progress(passes: int) -> None:
                told[0] += passes
                if len(network.batches) == most:
                    raise KeyboardInterrupt

            told[0] = 0
            state = KeptState(folder).part("exam", "exam", dict)
            counts = NoisyClassifier(network, noisy, progress, KeptCounts(state, batch, progress))
            return counts.counts("count", 3, 3 + samples, rows)

        with pytest.raises(KeyboardInterrupt):
            count(OfTheBatch(), stop)
        network = OfTheBatch()
        assert np.array_equal(count(network, -1), expected)
        assert told[0] == expected.sum()
        left = whole.batches[(stop - 1) // part * part :]
        assert len(network.batches) == len(left)
        assert all(map(torch.equal, network.batches, left))
