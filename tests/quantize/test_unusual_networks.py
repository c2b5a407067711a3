"""Networks as people bring them: flattened by view, modules under two names, every kind of border, unusual batch norms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from suite.contract.space import SearchSpace
from suite.networks import trace_layers
from suite.quantize import QuantizedNetwork, TrainableNetwork, calibrate
from suite.quantize.folding import followed_by_batch_norm, scale_and_shift
from suite.quantize.steps import quantize, weight_grid

SHAPE = (3, 8, 8)


def _images(count: int = 5) -> Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(0))


def _settled(network: nn.Module) -> nn.Module:
    """The network in evaluation mode and in double precision, with weights and statistics from a seed."""
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return network.double().eval().requires_grad_(False)


def _quantized(network: nn.Module, bits: int, *, fold: bool = True) -> QuantizedNetwork:
    layers = trace_layers(network, SHAPE)
    calibration = calibrate(network, [layer.name for layer in layers], [_images().double()])
    quantized = QuantizedNetwork(network, layers, calibration, fold=fold)
    quantized.set_policy(SearchSpace(layers, pins={}).uniform(bits))
    return quantized


class _View(nn.Module):
    """The classic: convolutions, then ``view``."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3)
        self.second = nn.Conv2d(6, 4, 3)
        self.head = nn.Linear(64, 5)

    def forward(self, images: Tensor) -> Tensor:
        features = self.second(self.first(images).relu()).relu()
        logits: Tensor = self.head(features.view(features.size(0), -1))
        return logits


def test_a_network_that_flattens_by_view_runs_quantized_and_frozen() -> None:
    network = _settled(_View()).float()
    layers = trace_layers(network, SHAPE)
    calibration = calibrate(network, [layer.name for layer in layers], [_images()])
    policy = SearchSpace(layers, pins={}).uniform(8)
    quantized = QuantizedNetwork(network, layers, calibration)
    quantized.set_policy(policy)
    expected = network(_images())
    for other in (quantized, TrainableNetwork(network, layers, policy, calibration).freeze()):
        assert (other(_images()) - expected).norm() < 0.05 * expected.norm()


class _Aliases(nn.Module):
    """One convolution and one batch norm, each under two names; the second names are those that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.same_conv, self.same_norm = self.conv, self.norm

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.same_norm(self.same_conv(images)).mean(dim=(2, 3))
        return logits


class _CalledTwice(nn.Module):
    """One convolution at two places."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.conv, self.norm = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)

    def forward(self, images: Tensor) -> Tensor:
        features = self.norm(self.conv(self.stem(images))).relu()
        logits: Tensor = self.conv(features).mean(dim=(2, 3))
        return logits


class _SharedNorm(nn.Module):
    """One batch norm after two convolutions, and one without statistics of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.third = nn.Conv2d(4, 4, 1)
        self.shared, self.of_the_batch = nn.BatchNorm2d(4), nn.BatchNorm2d(4, track_running_stats=False)

    def forward(self, images: Tensor) -> Tensor:
        features = self.shared(self.second(self.shared(self.first(images)).relu()))
        logits: Tensor = self.of_the_batch(self.third(features)).mean(dim=(2, 3))
        return logits


class _Norms(nn.Module):
    """A biased convolution before a batch norm with weights, an unbiased one before one without, a linear layer before one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.second, self.bare = nn.Conv2d(4, 4, 3, bias=False), nn.BatchNorm2d(4, affine=False)
        self.head, self.last = nn.Linear(4, 3), nn.BatchNorm1d(3)

    def forward(self, images: Tensor) -> Tensor:
        features = self.bare(self.second(self.norm(self.first(images)).relu())).mean(dim=(2, 3))
        logits: Tensor = self.last(self.head(features))
        return logits


FOLDED = {_Aliases: {"conv": "norm"}, _CalledTwice: {}, _SharedNorm: {}, _Norms: {"first": "norm", "second": "bare"}}


def _by_hooks(network: nn.Module, quantized: QuantizedNetwork, bits: int) -> Tensor:
    """The quantized logits, from the float network with weights replaced and inputs rounded by hooks on its modules."""
    layers = trace_layers(network, SHAPE)
    handles = []
    try:
        for layer in layers:
            module = network.get_submodule(layer.name)
            assert isinstance(module, nn.Conv2d | nn.Linear)
            step = quantized.calibration.activation_step(layer.name, bits)
            low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
            if not quantized.calibration.inputs[layer.name].signed:
                low, high = 0, 2**bits - 1

            def round_inputs(
                module: nn.Module, inputs: tuple[Tensor], step: float = step, low: int = low, high: int = high
            ) -> tuple[Tensor]:
                return ((inputs[0] / step).round().clamp(low, high) * step,)

            handles.append(module.register_forward_pre_hook(round_inputs))
            weight_step = quantized.calibration.weight_step(layer.name, bits)
            module.weight.copy_(quantize(module.weight, weight_step, weight_grid(bits)))
        logits: Tensor = network(_images().double())
        return logits
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("bits", [2, 5])
@pytest.mark.parametrize("kind", FOLDED, ids=lambda kind: kind.__name__)
def test_every_call_of_every_layer_is_quantized_and_folding_changes_nothing(
    kind: type[nn.Module], bits: int, fold: bool
) -> None:
    network = _settled(kind())
    assert followed_by_batch_norm(network) == FOLDED[kind]
    quantized = _quantized(network, bits, fold=fold)
    found = quantized(_images().double())
    untouched = network(_images().double())
    torch.testing.assert_close(found, _by_hooks(network, quantized, bits), rtol=1e-9, atol=1e-9)
    assert not torch.allclose(found, untouched, rtol=1e-4)


@pytest.mark.parametrize("scheme", ["lsq", "pact", "dorefa"])
@pytest.mark.parametrize("kind", FOLDED, ids=lambda kind: kind.__name__)
def test_frozen_networks_compute_what_the_trained_ones_did(kind: type[nn.Module], scheme: str) -> None:
    network = _settled(kind())
    layers = trace_layers(network, SHAPE)
    calibration = calibrate(network, [layer.name for layer in layers], [_images().double()])
    trainable = TrainableNetwork(
        network,
        layers,
        SearchSpace(layers, pins={}).uniform(3),
        calibration,
        scheme,  # type: ignore[arg-type]
    )
    trainable.double().eval()
    images = 3 * _images().double()  # beyond what calibration saw, so that inputs are clipped at both ends
    with torch.no_grad():
        torch.testing.assert_close(trainable.freeze()(images), trainable(images), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("affine", [True, False])
def test_a_batch_norm_in_evaluation_mode_is_its_scale_and_shift(affine: bool) -> None:
    norm = _settled(nn.BatchNorm2d(3, affine=affine, eps=0.1))
    assert isinstance(norm, nn.BatchNorm2d)
    scale, shift = scale_and_shift(norm)
    images = _images().double()
    torch.testing.assert_close(images * scale[:, None, None] + shift[:, None, None], norm(images))


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize(
    "options",
    [{"padding": 1}, {"padding": (0, 2), "stride": 2, "dilation": 2}, {"padding": "same"}, {"padding": 2, "groups": 3}],
    ids=str,
)
def test_borders_are_those_of_the_float_layer(mode: str, options: dict[str, object]) -> None:
    network = _settled(nn.Sequential(nn.Conv2d(3, 6, 3, padding_mode=mode, **options)))  # type: ignore[arg-type]
    quantized = _quantized(network, 4)
    torch.testing.assert_close(quantized(_images().double()), _by_hooks(network, quantized, 4), rtol=1e-9, atol=1e-9)
