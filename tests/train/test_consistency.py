"""Consistency regularization against its definition, and what it does to predictions."""

import numpy as np
import pytest
import torch
from scipy import special, stats

from suite.data import load_dataset
from suite.networks import build_network
from suite.train.base import TrainSettings, train_base
from suite.train.consistency import consistency_loss


@pytest.mark.parametrize("samples", [2, 5])
@pytest.mark.parametrize("weight", [0.0, 10.0])
def test_it_is_divergence_from_the_mean_plus_half_the_entropy(samples: int, weight: float) -> None:
    logits = np.random.default_rng(0).normal(size=(samples, 7, 4)) * 3
    votes = special.softmax(logits, axis=-1)
    mean = votes.mean(axis=0)
    divergence = np.mean([stats.entropy(mean[i], vote[i]) for vote in votes for i in range(7)])
    expected = weight * divergence + 0.5 * np.mean([stats.entropy(mean[i]) for i in range(7)])
    assert float(consistency_loss(torch.from_numpy(logits), weight)) == pytest.approx(expected, rel=1e-12)


def test_equal_predictions_cost_their_entropy_alone() -> None:
    logits = torch.randn((1, 3, 4), generator=torch.Generator().manual_seed(0)).repeat(2, 1, 1)
    assert float(consistency_loss(logits, 10.0)) == pytest.approx(float(consistency_loss(logits, 0.0)))


def test_extreme_logits_have_finite_gradients() -> None:
    logits = torch.tensor([[[1e4, -1e4]], [[-1e4, 1e4]]], requires_grad=True)
    consistency_loss(logits, 10.0).backward()
    assert torch.isfinite(logits.grad).all()  # type: ignore[arg-type]


def test_trained_with_it_a_network_changes_its_mind_less_under_noise() -> None:
    split = load_dataset("digits").splits["train"].subset(range(300))
    images = load_dataset("digits").splits["search"].subset(range(150)).images().repeat(2, 1, 1, 1)
    noisy = images + 0.5 * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    differing = []
    for weight in (0.0, 10.0):
        network = build_network("resnet8", 10, 1)
        train_base(network, split, sigma=0.5, settings=TrainSettings(epochs=8, batch=50, consistency=weight), seed=0)
        with torch.no_grad():
            first, second = network(noisy).softmax(dim=1).chunk(2)
        differing.append(float((first - second).abs().sum(dim=1).mean()))
    assert differing[1] < 0.8 * differing[0]
