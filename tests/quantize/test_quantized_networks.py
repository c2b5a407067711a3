"""Quantized networks against a slow reference built from hooks; the float network stays as it was."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from suite.contract.space import Layer, Policy, SearchSpace
from suite.errors import BitcertError
from suite.networks import build_network, trace_layers
from suite.quantize import Calibration, QuantizedNetwork, TrainableNetwork, calibrate, recalibrate_batch_norm
from suite.quantize.folding import followed_by_batch_norm
from suite.quantize.steps import activation_grid, weight_grid

Case = tuple[nn.Module, tuple[Layer, ...], Tensor]


class Awkward(nn.Module):
    """Grouped, strided, dilated and biased convolutions, reflected borders, a shared input, a linear layer on positions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect", bias=True)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 12, 3, stride=2, padding=2, dilation=2, groups=4, bias=True)
        self.shared = nn.Conv2d(8, 12, 1, stride=2, bias=False)
        self.mix = nn.Linear(12, 12)
        self.head = nn.Linear(12, 5)

    def forward(self, images: Tensor) -> Tensor:
        features = self.norm(self.stem(images)).relu()
        both = self.grouped(features) + self.shared(features)
        mixed = self.mix(both.permute(0, 2, 3, 1)).relu()
        logits: Tensor = self.head(mixed.mean(dim=(1, 2)))
        return logits


def prepared(network: nn.Module, shape: tuple[int, int, int], seed: int = 0) -> Case:
    """The network with batch-norm statistics that differ from the start, its layers, and noisy images."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            with torch.no_grad():
                module.weight.uniform_(-1.5, 1.5, generator=generator)
                module.bias.normal_(0, 0.2, generator=generator)
    images = torch.rand(6, *shape, generator=generator)
    images = images + 0.25 * torch.randn(images.shape, generator=generator)
    return network.eval().requires_grad_(False), trace_layers(network, shape), images


def awkward() -> Case:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Awkward()
    return prepared(network, (3, 12, 12))


def resnet20() -> Case:
    return prepared(build_network("resnet20", 10), (3, 16, 16))


CASES = {"awkward": awkward, "resnet20": resnet20}


@contextmanager
def quantized_by_hooks(
    network: nn.Module, layers: tuple[Layer, ...], policy: Policy, calibration: Calibration
) -> Iterator[nn.Module]:
    """A copy whose weights are quantized in place and whose layers' inputs are quantized by hooks."""
    duplicate = copy.deepcopy(network)
    handles = []
    for layer, precision in zip(layers, policy.precisions, strict=True):
        module = duplicate.get_submodule(layer.name)
        assert isinstance(module, nn.Conv2d | nn.Linear)
        step = calibration.weight_step(layer.name, precision.weight)
        grid = weight_grid(precision.weight)
        module.weight.data = torch.round(module.weight / step).clamp(grid.low, grid.high) * step

        def hook(
            _: nn.Module, inputs: tuple[Tensor], name: str = layer.name, bits: int = precision.activation
        ) -> tuple[Tensor]:
            step = calibration.activation_step(name, bits)
            grid = activation_grid(bits, calibration.inputs[name].signed)
            return (torch.round(inputs[0] / step).clamp(grid.low, grid.high) * step,)

        handles.append(module.register_forward_pre_hook(hook))
    yield duplicate
    for handle in handles:
        handle.remove()


def mixed_policy(layers: tuple[Layer, ...]) -> Policy:
    return Policy.from_bits([2 + i % 7 for i in range(len(layers))], [8 - i % 6 for i in range(len(layers))])


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("per_channel", [True, False])
def test_it_equals_a_network_quantized_by_hooks(name: str, per_channel: bool) -> None:
    network, layers, images = CASES[name]()
    calibration = calibrate(network, [layer.name for layer in layers], [images], per_channel=per_channel)
    policy = mixed_policy(layers)
    with quantized_by_hooks(network.double(), layers, policy, calibration) as reference, torch.no_grad():
        expected = reference(images.double())
    network.float()
    for fold in (True, False):
        quantized = QuantizedNetwork(network, layers, calibration, fold=fold)
        quantized.set_policy(policy)
        # A rounding at the edge of two levels may fall differently in single precision: most logits must agree closely.
        with torch.no_grad():
            error = (quantized(images) - expected).abs()
        assert error.median() < 1e-3 * expected.abs().max()


@pytest.mark.parametrize("name", CASES)
def test_the_float_network_is_left_as_it_was(name: str) -> None:
    network, layers, images = CASES[name]()
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    logits = network(images)
    calibration = calibrate(network, [layer.name for layer in layers], [images])
    quantized = QuantizedNetwork(network, layers, calibration)
    for policy in (mixed_policy(layers), SearchSpace(layers).uniform(2)):
        quantized.set_policy(policy)
        quantized(images)
    TrainableNetwork(network, layers, mixed_policy(layers), calibration)(images).sum().backward()
    assert list(network.state_dict()) == list(before)
    assert all(torch.equal(network.state_dict()[key], before[key]) for key in before)
    assert torch.equal(network(images), logits)


def test_switching_back_gives_the_same_logits_bit_for_bit() -> None:
    network, layers, images = resnet20()
    calibration = calibrate(network, [layer.name for layer in layers], [images])
    quantized, fresh = (QuantizedNetwork(network, layers, calibration) for _ in range(2))
    policies = [SearchSpace(layers).uniform(bits) for bits in (2, 5, 2)] + [mixed_policy(layers)]
    fresh.set_policy(policies[-1])
    with torch.inference_mode():
        logits = []
        for policy in policies:
            quantized.set_policy(policy)
            logits.append(quantized(images))
        assert torch.equal(logits[0], logits[2])
        assert not torch.equal(logits[0], logits[1])
        assert torch.equal(logits[3], fresh(images))


def test_eight_bits_are_close_to_float_and_two_are_not() -> None:
    network, layers, images = resnet20()
    quantized = QuantizedNetwork(network, layers, calibrate(network, [layer.name for layer in layers], [images]))
    errors = {}
    for bits in (2, 4, 8):
        quantized.set_policy(SearchSpace(layers).uniform(bits))
        errors[bits] = float((quantized(images) - network(images)).norm() / network(images).norm())
    assert errors[8] < 0.1 < errors[2]
    assert errors[8] < errors[4] < errors[2]


def test_no_float_weight_is_copied() -> None:
    network, layers, images = resnet20()
    calibration = calibrate(network, [layer.name for layer in layers], [images])
    quantized = QuantizedNetwork(network, layers, calibration)
    assert not list(quantized.parameters())
    for layer in layers:
        assert calibration.weights[layer.name].data_ptr() == network.get_parameter(f"{layer.name}.weight").data_ptr()


def test_weights_take_at_most_as_many_values_a_channel_as_the_grid_has() -> None:
    network, layers, images = resnet20()
    quantized = QuantizedNetwork(
        network, layers, calibrate(network, [layer.name for layer in layers], [images]), fold=False
    )
    quantized.set_policy(SearchSpace(layers).uniform(2))
    for layer in layers[1:-1]:
        weight = quantized.network.get_submodule(layer.name).weight
        assert isinstance(weight, Tensor)
        assert max(len(channel.unique()) for channel in weight) == 3


def test_inputs_are_signed_where_calibration_saw_negative_ones() -> None:
    network, layers, images = resnet20()
    calibration = calibrate(network, [layer.name for layer in layers], [images])
    assert calibration.inputs["conv1"].signed
    assert not calibration.inputs["layer1.0.conv2"].signed
    assert not calibration.inputs["linear"].signed


def test_every_batch_norm_of_a_residual_network_is_folded_and_a_shared_output_is_not() -> None:
    network, layers, _ = resnet20()
    assert len(followed_by_batch_norm(network)) == len(layers) - 1

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)

        def forward(self, images: Tensor) -> Tensor:
            features = self.conv(images)
            normalized: Tensor = self.norm(features) + features
            return normalized

    assert followed_by_batch_norm(Shared()) == {}


def test_a_network_that_cannot_be_traced_is_executed_with_its_batch_norms() -> None:
    class Untraceable(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Linear(2, 2)

        def forward(self, images: Tensor) -> Tensor:
            features = self.norm(self.conv(images))
            if float(features.sum()) > 1e9:
                features = -features
            logits: Tensor = self.head(features.mean(dim=(2, 3)))
            return logits

    network, layers, images = prepared(Untraceable(), (1, 4, 4))
    assert followed_by_batch_norm(network) == {}
    quantized = QuantizedNetwork(network, layers, calibrate(network, ["conv", "head"], [images]))
    quantized.set_policy(SearchSpace(layers).uniform(4))
    assert torch.allclose(quantized(images), network(images), atol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet_v2"])
def test_torchvisions_networks_work_unchanged(name: str) -> None:
    network = build_network(name, 1000)
    layers = trace_layers(network, (3, 224, 224))
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        quantized = QuantizedNetwork(network, layers, calibrate(network, [layer.name for layer in layers], [images]))
        quantized.set_policy(SearchSpace(layers).uniform(6))  # a grid of 8 bits takes three times as long to fit
        expected, found = network(images), quantized(images)
    assert torch.isfinite(found).all()
    assert (found - expected).norm() < 0.35 * expected.norm()


def test_weights_that_are_not_finite_are_refused_by_the_layers_name() -> None:
    network, layers, images = resnet20()
    network.get_parameter("layer2.0.conv1.weight")[0, 0, 0, 0] = torch.nan
    with pytest.raises(BitcertError, match=r"layer2\.0\.conv1"):
        calibrate(network, [layer.name for layer in layers], [images])


def test_a_layer_that_is_never_executed_and_no_images_are_refused() -> None:
    network, _, images = awkward()
    network.add_module("unused", nn.Linear(2, 2))
    with pytest.raises(BitcertError, match="unused"):
        calibrate(network, ["stem", "unused"], [images])
    with pytest.raises(BitcertError, match="at least one image"):
        calibrate(network, ["stem"], [])
    with pytest.raises(BitcertError, match="BatchNorm2d"):
        calibrate(network, ["norm"], [images])


def test_recalibrated_statistics_are_averages_over_the_batches() -> None:
    network, _, _ = awkward()
    assert isinstance(network, Awkward)
    generator = torch.Generator().manual_seed(3)
    batches = [torch.rand(16, 3, 12, 12, generator=generator) for _ in range(3)]
    outputs = [network.stem(batch).transpose(0, 1).flatten(1) for batch in batches]
    recalibrate_batch_norm(network, batches)
    assert network.norm.running_mean is not None
    assert network.norm.running_var is not None
    assert not network.norm.training
    torch.testing.assert_close(network.norm.running_mean, torch.stack([out.mean(dim=1) for out in outputs]).mean(dim=0))
    torch.testing.assert_close(network.norm.running_var, torch.stack([out.var(dim=1) for out in outputs]).mean(dim=0))
    with pytest.raises(ValueError, match="at least one"):
        recalibrate_batch_norm(network, [])
