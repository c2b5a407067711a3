"""FATNN: levels, gradients and scale against the paper's formulas, and networks that keep the learned thresholds."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from suite.quantize import QuantizedNetwork, TrainableNetwork
from suite.quantize.fatnn import TernaryInputs, TernaryWeights
from suite.quantize.steps import Grid, fit_steps, quantize, weight_grid
from suite.quantize.trainable import LearnedStep
from suite.train.finetune import FinetuneSettings, finetune
from suite.train.sqwa import mean_loss
from tests.quantize.test_low_bits import prepared, split, tiny, uniform

slopes = st.floats(0.1, 10)


def inputs(first: float, second: float, step: float, grid: Grid) -> TernaryInputs:
    quantizer = TernaryInputs(step, grid).double()
    with torch.no_grad():
        quantizer.slopes.copy_(torch.tensor([first, second]))
        quantizer.step.fill_(step)
    return quantizer


def published(values: Tensor, first: float, second: float, *, signed: bool) -> Tensor:
    if signed:
        return (first * values).clamp(-1, 0).round() + (second * values).clamp(0, 1).round()
    return (first * values).clamp(0, 1).round() + (second * (values - 1 / first)).clamp(0, 1).round()


@pytest.mark.parametrize("signed", [False, True])
@given(first=slopes, second=slopes, step=st.floats(0.1, 3))
def test_inputs_have_the_levels_of_the_paper_in_training_and_in_the_grid(
    signed: bool, first: float, second: float, step: float
) -> None:
    quantizer = inputs(first, second, step, Grid(-1, 1) if signed else Grid(0, 2))
    values = torch.randn(200, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
    values = values if signed else values.relu()
    first, second = quantizer.slopes.tolist()
    levels = published(values, first, second, signed=signed)
    step = float(quantizer.step.detach())
    with torch.no_grad():
        torch.testing.assert_close(quantizer(values), levels * step)
        assert torch.equal(quantize(values, step, quantizer.grid), quantizer(values))


def test_numbers_at_a_threshold_go_to_the_level_next_to_zero() -> None:
    signed, unsigned = inputs(0.5, 0.25, 1.0, Grid(-1, 1)), inputs(0.5, 0.25, 1.0, Grid(0, 2))
    edges = torch.tensor([-1.0, 2.0], dtype=torch.float64)  # -.5 / .5 and .5 / .25
    assert signed(edges).tolist() == published(edges, 0.5, 0.25, signed=True).tolist() == [0, 0]
    assert signed(edges * 1.001).tolist() == [-1, 1]
    edges = torch.tensor([1.0, 4.0], dtype=torch.float64)  # .5 / .5 and 1 / .5 + .5 / .25
    assert unsigned(edges).tolist() == published(edges, 0.5, 0.25, signed=False).tolist() == [0, 1]
    assert unsigned(edges * 1.001).tolist() == [1, 2]


@pytest.mark.parametrize("signed", [False, True])
def test_gradients_are_those_of_the_clamps_and_of_the_step(signed: bool) -> None:
    first, second, step = 0.8, 1.7, 0.6
    quantizer = inputs(first, second, step, Grid(-1, 1) if signed else Grid(0, 2))
    values = torch.linspace(-2.03 if signed else 0.01, 3, 300, dtype=torch.float64, requires_grad=True)
    upstream = torch.linspace(-1, 2, 300, dtype=torch.float64)
    first, second = quantizer.slopes.tolist()
    (quantizer(values) * upstream).sum().backward()
    step, plain = float(quantizer.step.detach()), values.detach()
    if signed:
        lower, upper = (first * plain > -1) & (plain < 0), (plain > 0) & (second * plain < 1)
        by_first, by_second = plain * lower, plain * upper
    else:
        shifted = second * (plain - 1 / first)
        lower, upper = first * plain < 1, (shifted > 0) & (shifted < 1)
        by_first, by_second = plain * lower + second / first**2 * upper, (plain - 1 / first) * upper
    assert values.grad is not None
    assert quantizer.slopes.grad is not None
    assert quantizer.step.grad is not None
    torch.testing.assert_close(values.grad, upstream * step * (first * lower + second * upper))
    expected = torch.stack([(upstream * step * by).sum() for by in (by_first, by_second)])
    torch.testing.assert_close(quantizer.slopes.grad, expected)
    levels = published(plain, first, second, signed=signed)
    torch.testing.assert_close(quantizer.step.grad, (upstream * levels).sum())


def test_weights_are_normalized_cut_at_their_thresholds_and_scaled_by_least_squares() -> None:
    weight = torch.randn(5, 4, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.1
    quantizer = TernaryWeights(weight, torch.full((5, 1, 1, 1), 0.9, dtype=torch.float64))
    with torch.no_grad():
        quantizer.slopes[0] *= torch.linspace(0.5, 2, 5).reshape(-1, 1, 1, 1)
        found = quantizer(weight)
    for channel in range(5):
        row = weight[channel].flatten()
        below, above = (float(slope[channel]) for slope in quantizer.slopes.detach())
        normal = (row - row.mean()) / (row.std(correction=0) + 1e-5)
        levels = (normal > 0.5 / above).double() - (normal < -0.5 / below).double()
        assert set(levels.tolist()) == {-1.0, 0.0, 1.0}
        scale = float(row @ levels / (levels @ levels))
        torch.testing.assert_close(found[channel].flatten(), levels * scale)
        assert float(quantizer.step_of(weight)[channel]) == pytest.approx(scale)


def test_weights_of_mean_zero_start_as_least_squares_ternary_ones() -> None:
    half = torch.randn(6, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weight = torch.cat([half, -half], dim=1)
    steps = fit_steps(weight, weight_grid(2))[:, None]
    with torch.no_grad():
        torch.testing.assert_close(TernaryWeights(weight, steps)(weight), quantize(weight, steps, weight_grid(2)))


def test_weights_and_thresholds_get_gradients_and_channels_of_zeros_stay_zero() -> None:
    weight = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    weight[1] = 0
    weight.requires_grad_()
    quantizer = TernaryWeights(weight.detach(), torch.ones(3, 1))
    quantizer(weight).square().sum().backward()
    assert weight.grad is not None
    assert quantizer.slopes.grad is not None
    assert torch.isfinite(weight.grad).all()
    assert weight.grad[[0, 2]].abs().max() > 0
    assert quantizer.slopes.grad.abs().amax(dim=(0, 2))[[0, 2]].min() > 0
    assert not quantizer(weight)[1].any()


def test_a_ternary_network_starts_like_calibration_learns_its_thresholds_and_keeps_them() -> None:
    network = tiny()
    layers, calibration = prepared(network, ternary=True)
    policy = uniform(layers, 2)
    trainable = TrainableNetwork(network, layers, policy, calibration, "fatnn")
    for layer in trainable.layers().values():
        assert isinstance(layer.quantize_weights, TernaryWeights)
        assert isinstance(layer.quantize_inputs, TernaryInputs)
    assert len(trainable.scales()) == 3 * 3, "a step and two pairs of thresholds for each layer"
    batches = [(split().images(), torch.tensor(split().labels))]
    first = layers[0].name
    quantizer = trainable.layers()[first].quantize_inputs
    values = calibration.inputs[first].values
    step = calibration.activation_step(first, 2)
    torch.testing.assert_close(quantizer(values), quantize(values, step, calibration.input_grid(first, 2)))
    before = mean_loss(trainable, batches)
    starts = [scale.detach().clone() for scale in trainable.scales()]
    finetune(trainable, split(), steps=60, sigma=0.1, settings=FinetuneSettings(32, 1e-2, quantizer="fatnn"), seed=0)
    assert mean_loss(trainable, batches) < before - 0.05
    assert not any(torch.equal(start, scale) for start, scale in zip(starts, trainable.scales(), strict=True))
    trainable.double()
    images = batches[0][0].double()
    with torch.no_grad():
        torch.testing.assert_close(trainable.freeze()(images), trainable(images), rtol=1e-9, atol=1e-9)


def test_other_precisions_are_those_of_lsq() -> None:
    network = tiny()
    layers, calibration = prepared(network, ternary=True)
    four_levels = prepared(network)[1]
    for bits, used in ((1, calibration), (3, calibration), (8, calibration)):
        trainable = TrainableNetwork(network, layers, uniform(layers, bits), used, "fatnn").eval()
        quantized = QuantizedNetwork(network, layers, used)
        quantized.set_policy(uniform(layers, bits))
        images = split().images()
        with torch.no_grad():
            torch.testing.assert_close(trainable(images), quantized(images), rtol=1e-4, atol=1e-5)
    for layer in TrainableNetwork(network, layers, uniform(layers, 2), four_levels, "fatnn").layers().values():
        assert isinstance(layer.quantize_inputs, LearnedStep), "four levels have no two thresholds"
