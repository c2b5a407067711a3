"""Binary and ternary numbers: closed forms against exhaustive search, levels as executed, and training that ends in them."""

from __future__ import annotations

from collections import OrderedDict
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from suite.contract.space import Layer, Policy, SearchSpace
from suite.data import ImageSplit
from suite.data.images import PixelArray
from suite.networks import build_network, trace_layers
from suite.quantize import Calibration, QuantizedNetwork, TrainableNetwork, calibrate
from suite.quantize import layer as executed
from suite.quantize.layer import apply_layer
from suite.quantize.steps import BINARY, LEAST_STEP, Grid, activation_grid, fit_steps, quantize, weight_grid
from suite.quantize.trainable import FixedStep, LearnedStep, Scheme
from suite.train.finetune import FinetuneSettings, finetune
from suite.train.sqwa import SQWASettings, Training, mean_loss, resolve_steps, sqwa

SHAPE = (1, 4, 4)

rows_of_numbers = st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=8)


def test_the_grids_of_one_and_two_bits() -> None:
    assert weight_grid(1) == activation_grid(1, signed=True) == BINARY
    assert weight_grid(2) == Grid(-1, 1), "ternary"
    assert weight_grid(2, four_levels=True) == Grid(-2, 1)
    assert all(weight_grid(bits, four_levels=True) == weight_grid(bits) for bits in (1, 3, 4, 8))
    assert activation_grid(1, signed=False) == Grid(0, 1)
    assert activation_grid(2, signed=False, ternary=True) == Grid(0, 2)
    assert activation_grid(2, signed=True, ternary=True) == Grid(-1, 1)
    for bits in (1, 3, 4, 8):
        for signed in (False, True):
            assert activation_grid(bits, signed, ternary=True) == activation_grid(bits, signed)


@given(rows_of_numbers, st.sampled_from([0.25, 1.0, 3.0]))
def test_binary_is_the_sign_times_the_step_with_zero_as_one(values: list[float], step: float) -> None:
    given_values = torch.tensor(values)
    assert quantize(given_values, step, BINARY).tolist() == [-step if value < 0 else step for value in values]
    assert given_values.tolist() == values


def test_the_least_negative_numbers_are_minus_one() -> None:
    tiny = torch.finfo(torch.float32).tiny
    assert quantize(torch.tensor([-tiny, -0.0, 0.0, tiny]), 1.0, BINARY).tolist() == [-1, 1, 1, 1]


@given(rows_of_numbers)
def test_the_best_binary_step_is_the_mean_absolute_value_with_the_error_of_its_formula(values: list[float]) -> None:
    row = np.array(values, dtype=np.float64)
    best = np.inf
    for signs in product([-1, 1], repeat=len(row)):  # the step of least squares for signs is their mean with the row
        step = max(0.0, float(row @ np.array(signs)) / len(row))
        best = min(best, float(((row - step * np.array(signs)) ** 2).sum()))
    rows = torch.tensor(row)[None]
    step = float(fit_steps(rows, BINARY)[0])
    assert step == pytest.approx(np.abs(row).mean() or LEAST_STEP)
    error = float((quantize(rows, step, BINARY) - rows).square().sum())
    assert error == pytest.approx(best, abs=1e-6)
    assert error == pytest.approx(row @ row - len(row) * np.abs(row).mean() ** 2, abs=1e-6)


def test_binary_steps_are_fitted_row_by_row_and_rows_of_zeros_stay_next_to_zero() -> None:
    rows = torch.tensor([[1.0, -3.0], [0.0, 0.0], [-0.5, -0.5]])
    assert fit_steps(rows, BINARY).tolist() == [2.0, pytest.approx(LEAST_STEP), 0.5]
    assert quantize(rows, fit_steps(rows, BINARY)[:, None], BINARY)[1].abs().max() < 1e-7


@given(st.integers(0, 2**32), st.integers(2, 200))
def test_binary_inputs_have_the_best_threshold(seed: int, count: int) -> None:
    values = np.abs(np.random.default_rng(seed).standard_normal(count))
    largest = np.sort(values)[::-1]
    # With the k largest at the step, their mean is the best step.
    best = values @ values - (np.cumsum(largest) ** 2 / np.arange(1, count + 1)).max()
    rows = torch.tensor(values)[None]
    found = quantize(rows, fit_steps(rows, Grid(0, 1))[:, None], Grid(0, 1))
    assert float((found - rows).square().sum()) == pytest.approx(best, rel=2e-3, abs=1e-9)


# Networks


def split() -> ImageSplit:
    """Images of two classes: brighter on the left, brighter on the right."""
    rng = np.random.default_rng(0)
    labels = np.arange(64) % 2
    pixels = rng.integers(0, 160, size=(64, *SHAPE))
    pixels[labels == 0, :, :, :2] += 90
    pixels[labels == 1, :, :, 2:] += 90
    return ImageSplit(np.arange(64), labels.astype(np.int64), PixelArray(pixels.astype(np.uint8), 255))


class Centre(nn.Module):
    """Around zero, so that the first layer sees negative numbers."""

    def forward(self, images: Tensor) -> Tensor:
        return images - 0.5


def tiny(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parts = OrderedDict(
            centre=Centre(),
            conv=nn.Conv2d(1, 6, 3, padding=1),
            norm=nn.BatchNorm2d(6),
            relu=nn.ReLU(),
            wide=nn.Conv2d(6, 8, 3, stride=2, bias=False),
            relu2=nn.ReLU(),
            flat=nn.Flatten(),
            linear=nn.Linear(8, 2),
        )
        return nn.Sequential(parts).eval().requires_grad_(False)


def prepared(network: nn.Module, *, ternary: bool = False) -> tuple[tuple[Layer, ...], Calibration]:
    layers = trace_layers(network, SHAPE)
    images = split().images().to(next(network.parameters()).dtype)
    return layers, calibrate(network, [layer.name for layer in layers], [images], ternary_inputs=ternary)


def uniform(layers: tuple[Layer, ...], weight: int, activation: int | None = None) -> Policy:
    return SearchSpace(layers, (1, 2, 3, 8), pins={}).uniform(weight, activation)


def levels_seen(network: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> list[list[float]]:
    """The distinct numbers that each quantized layer's convolution or product gets, in execution order."""
    seen: list[list[float]] = []

    def watch(layer: nn.Conv2d | nn.Linear, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        seen.append(inputs.unique().tolist())
        return apply_layer(layer, inputs, weight, bias)

    with torch.no_grad(), monkeypatch.context() as patch:
        patch.setattr(executed, "apply_layer", watch)
        network(images)
    return seen


@pytest.mark.parametrize(("bits", "ternary"), [(1, False), (2, True), (2, False)])
def test_a_network_computes_with_the_levels_of_its_bits(
    bits: int, ternary: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = tiny()
    layers, calibration = prepared(network, ternary=ternary)
    quantized = QuantizedNetwork(network, layers, calibration)
    quantized.set_policy(uniform(layers, bits))
    inputs = levels_seen(quantized, split().images(), monkeypatch)
    signed = {1: [-1, 1], 2: [-1, 0, 1] if ternary else [-2, -1, 0, 1]}[bits]
    unsigned = {1: [0, 1], 2: [0, 1, 2] if ternary else [0, 1, 2, 3]}[bits]
    assert inputs == [signed, unsigned, unsigned]
    for name in ("conv", "wide", "linear"):
        weight, step = calibration.quantized_weight(name, bits), calibration.weight_step(name, bits)
        assert set((weight / step).round().unique().tolist()) <= ({-1.0, 1.0} if bits == 1 else {-1.0, 0.0, 1.0})


def test_a_binary_network_is_that_of_signs_and_means_in_plain_arithmetic() -> None:
    network = tiny().double()
    images = split().images().double()
    layers, calibration = prepared(network)
    quantized = QuantizedNetwork(network, layers, calibration)
    quantized.set_policy(uniform(layers, 1))

    def binary(weight: Tensor) -> Tensor:
        means = weight.flatten(1).abs().mean(dim=1).reshape(-1, *[1] * (weight.dim() - 1))
        return torch.where(weight < 0, -means, means)

    step = {layer.name: calibration.activation_step(layer.name, 1) for layer in layers}
    conv, norm, wide, linear = (network.get_submodule(name) for name in ("conv", "norm", "wide", "linear"))
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(wide, nn.Conv2d)
    assert isinstance(linear, nn.Linear)
    signs = torch.where(images < 0.5, -1.0, 1.0).double() * step["conv"]
    features = nn.functional.conv2d(signs, binary(conv.weight), conv.bias, padding=1)
    features = norm(features).relu()
    on = (features > step["wide"] / 2).double() * step["wide"]
    features = nn.functional.conv2d(on, binary(wide.weight), stride=2).relu().flatten(1)
    on = (features > step["linear"] / 2).double() * step["linear"]
    torch.testing.assert_close(quantized(images), on @ binary(linear.weight).T + linear.bias, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("weight", "activation", "ternary"), [(1, 1, False), (1, 8, False), (2, 2, True)])
def test_training_lowers_the_loss_and_ends_in_a_network_of_the_same_levels(
    weight: int, activation: int, ternary: bool
) -> None:
    network = tiny()
    layers, calibration = prepared(network, ternary=ternary)
    trainable = TrainableNetwork(network, layers, uniform(layers, weight, activation), calibration)
    batches = [(split().images(), torch.tensor(split().labels))]
    before = mean_loss(trainable, batches)
    finetune(trainable, split(), steps=60, sigma=0.1, settings=FinetuneSettings(32, 1e-2), seed=0)
    assert mean_loss(trainable, batches) < before - 0.05

    # Steps that are powers of two make every product exact, so that the order of multiplications does not matter.
    with torch.no_grad():
        for layer in trainable.layers().values():
            for quantizer in (layer.quantize_weights, layer.quantize_inputs):
                assert isinstance(quantizer, LearnedStep)
                quantizer.step.copy_(torch.exp2(quantizer.positive_step().log2().round()))
        norm = trainable.network.get_submodule("norm")
        assert isinstance(norm, nn.BatchNorm2d)
        norm.reset_parameters()
        norm.eps = 0.0
        assert torch.equal(trainable.freeze()(batches[0][0]), trainable(batches[0][0]))


@pytest.mark.parametrize("scheme", ["lsq", "fixed", "pact", "dorefa"])
def test_every_scheme_trains_binary_networks(scheme: Scheme, monkeypatch: pytest.MonkeyPatch) -> None:
    network = tiny()
    layers, calibration = prepared(network)
    trainable = TrainableNetwork(network, layers, uniform(layers, 1), calibration, scheme)
    settings = FinetuneSettings(32, 1e-2, quantizer=scheme)
    finetune(trainable, split(), steps=3, sigma=0.1, settings=settings, seed=0)
    for layer in trainable.layers().values():
        sizes = layer.quantize_weights(layer.weight).detach().abs().flatten(1)
        torch.testing.assert_close(sizes, sizes[:, :1].expand_as(sizes)), "one size for each channel"
        assert float(sizes.min()) > 0
    first, *others = levels_seen(trainable.freeze(), split().images(), monkeypatch)
    assert set(first) <= {-1, 1}
    assert all(set(other) <= {0, 1} for other in others)


def test_the_gradient_of_a_binary_weight_ends_at_its_step() -> None:
    quantizer = LearnedStep(torch.tensor(0.5, dtype=torch.float64), BINARY, values_per_step=4)
    values = torch.tensor([-0.9, -0.2, 0.1, 0.7], dtype=torch.float64, requires_grad=True)
    upstream = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    (quantizer(values) * upstream).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [0, 2, 3, 0]
    assert quantizer.step.grad is not None
    by_step = [-1, -1 + 0.4, 1 - 0.2, 1]  # sign outside, sign - v / s inside (LSQ, equation 3)
    assert float(quantizer.step.grad) == pytest.approx(
        sum(by * up for by, up in zip(by_step, upstream.tolist(), strict=True)) / 2
    )


def test_averaging_binary_networks_ends_in_a_binary_one_with_steps_of_least_squares() -> None:
    network = tiny()
    layers, calibration = prepared(network)
    trainable = TrainableNetwork(network, layers, uniform(layers, 1), calibration, "fixed")
    with torch.no_grad():
        for layer in trainable.layers().values():
            layer.weight.mul_(1.7)
    resolve_steps(trainable)
    for layer in trainable.layers().values():
        quantizer = layer.quantize_weights
        assert isinstance(quantizer, FixedStep)
        expected = layer.weight.flatten(1).abs().mean(dim=1)
        torch.testing.assert_close(quantizer.step.flatten(), expected)
    images = [(split().images(), torch.tensor(split().labels))]
    training = Training(split(), 0.1, FinetuneSettings(16, quantizer="fixed"), 0, images)
    sqwa(trainable, training, SQWASettings(captures=2, cycle_steps=2, finish_steps=1))
    for layer in trainable.layers().values():
        sizes = layer.quantize_weights(layer.weight).detach().abs().flatten(1)
        torch.testing.assert_close(sizes, sizes[:, :1].expand_as(sizes))


def test_inputs_of_two_bits_have_four_levels_unless_three_are_asked_for() -> None:
    network = build_network("resnet8", 4, 1).eval().requires_grad_(False)
    layers = trace_layers(network, (1, 8, 8))
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    names = [layer.name for layer in layers]
    four, three = (calibrate(network, names, [images], ternary_inputs=ternary) for ternary in (False, True))
    for name in names[1:]:
        assert four.input_grid(name, 2) == Grid(0, 3)
        assert three.input_grid(name, 2) == Grid(0, 2)
        assert four.activation_step(name, 3) == three.activation_step(name, 3)
