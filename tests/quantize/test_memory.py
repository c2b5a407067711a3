"""Overwritten and rearranged activations: the same logits as with neither, and nobody else's numbers touched."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from suite.contract.space import Layer, SearchSpace
from suite.networks import build_network, trace_layers
from suite.quantize import Calibration, QuantizedNetwork, TrainableNetwork, calibrate
from suite.quantize.layer import QuantizedLayer
from suite.quantize.memory import arrange_channels_last, economize, overwrite_inputs

Step = tuple[str, int, int]


def _images(shape: tuple[int, int, int], count: int = 7) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))


def _settled(network: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return network.eval().requires_grad_(False)


def _calibrated(network: nn.Module, images: Tensor) -> tuple[tuple[Layer, ...], Calibration]:
    layers = trace_layers(network, (images.shape[1], images.shape[2], images.shape[3]))
    return layers, calibrate(network, [layer.name for layer in layers], [images.clone()])


def _quantized(network: nn.Module, images: Tensor, *changes: Callable[[nn.Module], None]) -> list[QuantizedNetwork]:
    """The quantized network as it is without, and with each of the changes."""
    layers, calibration = _calibrated(network, images)
    made = [QuantizedNetwork(network, layers, calibration, fast=False) for _ in range(len(changes) + 1)]
    for change, quantized in zip(changes, made[1:], strict=True):
        change(quantized.network)
    for quantized in made:
        quantized.set_policy(SearchSpace(layers, pins={}).uniform(3))
    return made


def _layers(quantized: QuantizedNetwork | nn.Module) -> dict[str, QuantizedLayer]:
    network = quantized.network if isinstance(quantized, QuantizedNetwork) else quantized
    return {name: module for name, module in network.named_modules() if isinstance(module, QuantizedLayer)}


def _overwriting(network: nn.Module, images: Tensor) -> dict[str, bool]:
    """Which layers overwrite their inputs, after a check that this changes neither the logits nor the images."""
    plain, quantized = _quantized(network, images, overwrite_inputs)
    with torch.inference_mode():
        expected, used = plain(images), images.clone()
        assert torch.equal(quantized(used), expected)
        assert torch.equal(quantized(used), expected)
        assert torch.equal(used, images)
    return {name: layer.overwrites for name, layer in _layers(quantized).items()}


class _Program(nn.Module):
    """A list of operations, each on results counted back from the last; logits are means of the last and another one."""

    def __init__(self, steps: list[Step], other: int) -> None:
        super().__init__()
        self.steps, self.other = steps, other
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.convs = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(2))
        self.relus = nn.ModuleList(
            [nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), nn.ReLU6(inplace=True), nn.Identity()]
        )
        self.head = nn.Conv2d(4, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        results = [self.stem(images)]
        for kind, back, other in self.steps:
            first, second = results[-1 - back % len(results)], results[-1 - other % len(results)]
            if kind == "conv":
                results.append(self.convs[other % 3](first))
            elif kind == "norm":
                results.append(self.norms[other % 2](first))
            elif kind == "relu":
                results.append(self.relus[other % 5](first))
            elif kind == "add":
                results.append(first + second)
            elif kind == "add in place":
                first += second
                results.append(first)
            elif kind == "alias":
                results.append(first[:, :, 0:])
            elif kind == "view":
                results.append(first.view(-1).view(first.shape))
        logits: Tensor = self.head(results[-1]).mean(dim=(2, 3))
        return logits + results[-1 - self.other % len(results)].mean(dim=(2, 3)) if self.other else logits


_steps = st.lists(
    st.tuples(
        st.sampled_from(["conv", "conv", "relu", "relu", "norm", "add", "add in place", "alias", "view"]),
        st.sampled_from([0, 0, 0, 1, 2]),
        st.integers(0, 4),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(_steps, st.integers(0, 3))
def test_any_network_computes_the_same(steps: list[Step], other: int) -> None:
    network, images = _settled(_Program(steps, other)).double(), _images((1, 5, 4)).double()
    plain, overwriting, rearranged, both = _quantized(
        network, images, overwrite_inputs, arrange_channels_last, economize
    )
    with torch.inference_mode():
        expected, used = plain(images), images.clone()
        assert torch.equal(overwriting(used), expected)
        assert torch.equal(used, images)
        for quantized in (rearranged, both):
            torch.testing.assert_close(quantized(images), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "shape"), [("resnet8", (1, 8, 8)), ("resnet20", (3, 16, 16))])
def test_residual_networks_overwrite_what_no_shortcut_needs(name: str, shape: tuple[int, int, int]) -> None:
    network = build_network(name, 10, shape[0]).requires_grad_(False)
    for layer, overwrites in _overwriting(network, _images(shape)).items():
        assert overwrites == layer.endswith("conv2")
    _, quantized = _quantized(network, _images(shape), economize)
    assert all(module.inplace for module in quantized.modules() if isinstance(module, nn.ReLU))
    assert not any(module.inplace for module in network.modules() if isinstance(module, nn.ReLU))
    assert all(layer.channels_last for layer in _layers(quantized).values() if layer.is_convolution)


def test_images_and_results_with_two_readers_are_left_alone() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.third = (nn.Conv2d(2, 2, 3, padding=1) for _ in range(3))
            self.relu, self.twice = nn.ReLU(), nn.Conv2d(2, 2, 1)

        def forward(self, images: Tensor) -> Tensor:
            features = self.relu(self.first(images))
            signed = self.second(features) - features
            both = self.twice(signed) + self.twice(self.third(signed))
            logits: Tensor = both.mean(dim=(2, 3))
            return logits

    found = _overwriting(_settled(Shared()), _images((2, 6, 6)))
    assert found == {"first": False, "second": False, "third": False, "twice": False}


def test_a_slice_is_not_overwritten_and_a_new_tensor_is() -> None:
    class Sliced(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(2, 4, 3)
            self.of_slice, self.of_sum, self.head = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1), nn.Linear(2, 3)

        def forward(self, images: Tensor) -> Tensor:
            features = self.stem(images)
            sliced = self.of_slice(features[:, :2])
            logits: Tensor = self.head(self.of_sum(sliced + features[:, 1:3]).mean(dim=(2, 3)))
            return logits

    found = _overwriting(_settled(Sliced()), _images((2, 6, 6)))
    assert found == {"stem": False, "of_slice": False, "of_sum": True, "head": False}


class _Passed(nn.Module):
    """A result that two read, one of them under a second name."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.stem, self.conv = nn.Conv2d(2, 3, 3), nn.Conv2d(3, 3, 1)
        self.identity, self.relu, self.relu6 = nn.Identity(), nn.ReLU(inplace=True), nn.ReLU6(inplace=True)

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images)
        passed = features
        if self.kind == "sum":
            passed += 1
        elif self.kind != "nothing":
            passed = self.get_submodule(self.kind)(features)
        logits: Tensor = (self.conv(passed) + features).mean(dim=(2, 3))
        return logits


@pytest.mark.parametrize("kind", ["nothing", "identity", "relu", "relu6", "sum"])
def test_a_result_under_two_names_is_left_alone(kind: str) -> None:
    assert _overwriting(_settled(_Passed(kind)), _images((2, 6, 6))) == {"stem": False, "conv": False}


class _View(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(64, 5)

    def forward(self, images: Tensor) -> Tensor:
        features = self.second(self.first(images).relu()).relu()
        features = features + self.third(features)
        logits: Tensor = self.head(features.view(features.size(0), -1))
        return logits


def test_convolutions_before_a_view_keep_the_usual_layout() -> None:
    network, images = _settled(_View()), _images((1, 8, 8))
    plain, quantized = _quantized(network, images, arrange_channels_last)
    assert [layer.channels_last for layer in _layers(quantized).values()] == [True, False, False, None]
    strides = [layer.weight.stride() for layer in _layers(quantized).values()]
    assert strides == [(9, 1, 3, 1), (36, 9, 3, 1), (4, 1, 1, 1), (64, 1)]
    with torch.inference_mode():
        torch.testing.assert_close(quantized(images), plain(images))


def test_the_layout_lasts_from_policy_to_policy() -> None:
    network, images = build_network("resnet8", 10, 1).requires_grad_(False), _images((1, 8, 8))
    _, quantized = _quantized(network, images, arrange_channels_last)
    outputs: list[Tensor] = []
    quantized.network.get_submodule("conv1").register_forward_hook(lambda _, __, output: outputs.append(output))
    for bits in (2, 8):
        quantized.set_policy(SearchSpace(trace_layers(network, (1, 8, 8)), pins={}).uniform(bits))
        quantized(images)
        assert outputs[-1].stride() == (1024, 1, 128, 16)


def test_a_network_that_cannot_be_traced_is_left_as_it_is() -> None:
    class Untraceable(_View):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images if float(images.sum()) < 1e9 else -images)

    network, images = _settled(Untraceable()), _images((1, 8, 8))
    plain, quantized = _quantized(network, images, economize)
    assert not any(layer.overwrites or layer.channels_last is not None for layer in _layers(quantized).values())
    with torch.inference_mode():
        assert torch.equal(quantized(images), plain(images))


def test_finetuned_networks_are_frozen_with_it() -> None:
    network, images = build_network("resnet8", 10, 1).requires_grad_(False), _images((1, 8, 8))
    layers, calibration = _calibrated(network, images)
    policy = SearchSpace(layers).uniform(4)
    quantized = QuantizedNetwork(network, layers, calibration)
    quantized.set_policy(policy)
    frozen = TrainableNetwork(network, layers, policy, calibration).freeze()
    for name, layer in _layers(quantized).items():
        other = _layers(frozen)[name]
        assert (layer.overwrites, layer.channels_last) == (other.overwrites, other.channels_last)
        assert layer.weight.stride() == other.weight.stride()
