"""LSQ, PACT and DoReFa: levels and gradients against the papers' formulas; finetuning starts where calibration ended."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from suite.contract.space import SearchSpace
from suite.data import ImageSplit
from suite.data.images import PixelArray
from suite.errors import BitcertError
from suite.networks import build_network, trace_layers
from suite.quantize import SCHEMES, Scheme, TrainableNetwork, calibrate
from suite.quantize.steps import Grid
from suite.quantize.trainable import LearnedClip, LearnedStep, TanhWeights, straight_through
from suite.train.finetune import FinetuneSettings, finetune

VALUES = torch.tensor([-3.0, -1.1, -0.26, -0.01, 0.0, 0.2, 0.74, 0.76, 2.0, 9.0], dtype=torch.float64)


@pytest.mark.parametrize("grid", [Grid(-3, 3), Grid(0, 7), Grid(-8, 7)])
def test_learned_steps_have_the_gradients_of_the_paper(grid: Grid) -> None:
    step = 0.5
    quantizer = LearnedStep(torch.tensor(step, dtype=torch.float64), grid, values_per_step=len(VALUES))
    values = VALUES.clone().requires_grad_()
    upstream = torch.linspace(-1, 2, len(VALUES), dtype=torch.float64)
    quantized = quantizer(values)
    quantized.backward(upstream)
    scaled = VALUES / step
    torch.testing.assert_close(quantized.detach(), scaled.round().clamp(grid.low, grid.high) * step)
    inside = (scaled > grid.low) & (scaled < grid.high)
    by_step = torch.where(inside, scaled.round() - scaled, scaled.clamp(grid.low, grid.high))  # equation 3
    assert quantizer.step.grad is not None
    torch.testing.assert_close(quantizer.step.grad, (upstream * by_step).sum() / np.sqrt(len(VALUES) * grid.high))
    assert values.grad is not None
    edge = (scaled == grid.low) | (scaled == grid.high)
    torch.testing.assert_close(values.grad[~edge], torch.where(inside, upstream, 0.0)[~edge])  # equation 5


def test_the_papers_initial_step() -> None:
    step = LearnedStep.initial_step(VALUES, Grid(-3, 3))
    assert float(step) == pytest.approx(2 * VALUES.abs().mean().item() / np.sqrt(3))


def test_a_learned_clip_has_the_gradients_of_the_paper() -> None:
    quantizer = LearnedClip(1.5, Grid(0, 3)).double()
    values = VALUES.clone().requires_grad_()
    quantized = quantizer(values)
    quantized.sum().backward()
    clipped = VALUES.clamp(0, 1.5)
    torch.testing.assert_close(quantized.detach(), (clipped / 0.5).round() * 0.5)
    assert quantizer.clip.grad is not None
    assert quantizer.clip.grad.item() == (VALUES >= 1.5).sum()
    assert values.grad is not None
    inside = (VALUES > 0) & (VALUES < 1.5)
    torch.testing.assert_close(values.grad[VALUES != 0], inside.double()[VALUES != 0])


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_tanh_weights_lie_on_the_papers_levels(bits: int) -> None:
    weight = torch.randn(6, 4, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    quantized = TanhWeights(bits)(weight)
    levels = quantized / quantized.abs().max()
    expected = torch.tanh(weight) / (2 * torch.tanh(weight).abs().max()) + 0.5
    expected = 2 * ((expected * (2**bits - 1)).round() / (2**bits - 1)) - 1
    torch.testing.assert_close(levels, expected / expected.abs().max())
    assert len(levels.unique()) <= 2**bits


def test_straight_through_passes_the_gradient() -> None:
    values = VALUES.clone().requires_grad_()
    straight_through(values.round(), values).square().sum().backward()
    assert values.grad is not None
    torch.testing.assert_close(values.grad, 2 * VALUES.round())


def toy_split() -> ImageSplit:
    rng = np.random.default_rng(0)
    labels = rng.integers(4, size=128)
    pixels = rng.integers(0, 60, size=(128, 1, 8, 8))
    for quarter in range(4):
        row, column = divmod(quarter, 2)
        pixels[labels == quarter, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 150
    return ImageSplit(np.arange(128), labels, PixelArray(pixels.astype(np.uint8), 255))


def toy(scheme: Scheme) -> TrainableNetwork:
    network = build_network("resnet8", 4, 1).requires_grad_(False)
    layers = trace_layers(network, (1, 8, 8))
    calibration = calibrate(network, [layer.name for layer in layers], [toy_split().images()])
    return TrainableNetwork(network, layers, SearchSpace(layers).uniform(3), calibration, scheme)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_frozen_network_computes_what_the_trained_one_does(scheme: Scheme) -> None:
    trainable = toy(scheme)
    finetune(trainable, toy_split(), steps=5, sigma=0.1, settings=FinetuneSettings(batch=32, quantizer=scheme), seed=0)
    images = toy_split().images()
    with torch.no_grad():
        expected, found = trainable(images), trainable.freeze()(images)
    assert (found - expected).abs().median() < 1e-3 * expected.abs().max()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_finetuning_lowers_the_loss_and_follows_its_seed(scheme: Scheme) -> None:
    split = toy_split()
    labels = torch.tensor(split.labels)
    settings = FinetuneSettings(batch=32, learning_rate=3e-3, quantizer=scheme)

    def trained(seed: int, steps: int) -> torch.Tensor:
        network = toy(scheme)
        finetune(network, split, steps=steps, sigma=0.1, settings=settings, seed=seed)
        with torch.no_grad():
            logits: torch.Tensor = network(split.images())
        return logits

    before, after = trained(0, 0), trained(0, 30)
    cross_entropy = torch.nn.functional.cross_entropy
    assert cross_entropy(after, labels) < 0.95 * cross_entropy(before, labels)
    assert torch.equal(trained(0, 30), after)
    assert not torch.equal(trained(1, 30), after)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(BitcertError, match="learning_rate"):
        FinetuneSettings(learning_rate=0)
    with pytest.raises(BitcertError, match="known: lsq, fixed, pact, dorefa, fatnn"):
        FinetuneSettings(quantizer="magic")  # type: ignore[arg-type]


def test_a_loss_that_is_not_finite_ends_the_finetuning() -> None:
    with pytest.raises(BitcertError, match="lower the learning rate"):
        finetune(toy("lsq"), toy_split(), steps=20, sigma=0.1, settings=FinetuneSettings(learning_rate=1e30), seed=0)
