"""Calibration: what is recorded of each layer, and the steps that follow."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from suite.errors import BitcertError
from suite.quantize import calibrate, calibration
from suite.quantize.steps import activation_grid, fit_steps, weight_grid


class _Twice(nn.Module):
    """A convolution, and a linear layer that is called on both signs of its output."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.head = nn.Linear(3, 2)

    def forward(self, images: Tensor) -> Tensor:
        features = self.norm(self.conv(images)).relu().mean(dim=(2, 3))
        logits: Tensor = self.head(features) + self.head(2 * features)
        return logits


@pytest.fixture
def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return _Twice().eval().requires_grad_(False)


def _images(count: int) -> Tensor:
    return torch.randn(count, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def test_inputs_are_recorded_without_zeros_from_every_call(network: nn.Module) -> None:
    images = _images(5)
    images[:, :, 0] = 0
    found = calibrate(network, ["conv", "head"], [images[:3], images[3:]])
    assert found.inputs["conv"].values.tolist() == [images[images != 0].tolist()]
    assert found.inputs["conv"].signed
    assert isinstance(network, _Twice)
    features = [network.norm(network.conv(part)).relu().mean(dim=(2, 3)) for part in (images[:3], images[3:])]
    expected = torch.cat([torch.cat([part.flatten(), 2 * part.flatten()]) for part in features])
    torch.testing.assert_close(found.inputs["head"].values[0], expected[expected != 0])
    assert not found.inputs["head"].signed


def test_a_large_calibration_keeps_an_even_sample(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "SAMPLE", 100)
    images = _images(100)
    found = calibrate(network, ["conv"], [images[:60], images[60:90], images[90:]]).inputs["conv"].values
    kept = found[0].tolist()
    assert 80 <= len(kept) <= 100
    # Every batch is sampled in proportion to its images: 1,600 values, one in sixteen of each.
    values = images.flatten()
    expected = [values[start:stop:16].tolist() for start, stop in ((0, 960), (960, 1440), (1440, 1600))]
    assert kept == [value for part in expected for value in part]


def test_weight_steps_are_the_least_squares_ones_of_each_channel_or_of_the_layer(network: nn.Module) -> None:
    assert isinstance(network, _Twice)
    by_channel = calibrate(network, ["conv", "head"], [_images(4)])
    whole = calibrate(network, ["conv", "head"], [_images(4)], per_channel=False)
    for bits in (2, 5):
        grid = weight_grid(bits)
        for name, weight in (("conv", network.conv.weight), ("head", network.head.weight)):
            expected = fit_steps(weight.flatten(1), grid)
            step = by_channel.weight_step(name, bits)
            assert step.shape == (len(weight), *[1] * (weight.dim() - 1))
            assert torch.equal(step.flatten(), expected)
            assert torch.equal(whole.weight_step(name, bits).flatten(), fit_steps(weight.reshape(1, -1), grid))
            assert whole.weight_step(name, bits).dim() == weight.dim()


@pytest.mark.parametrize("bits", [2, 8])
def test_activation_steps_are_the_least_squares_ones_on_the_grid_that_was_seen(network: nn.Module, bits: int) -> None:
    found = calibrate(network, ["conv", "head"], [_images(4)])
    for name, signed in (("conv", True), ("head", False)):
        expected = fit_steps(found.inputs[name].values, activation_grid(bits, signed))
        assert found.activation_step(name, bits) == float(expected)


def test_the_network_is_left_as_it_was(network: nn.Module) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    calibrate(network, ["conv", "head"], [_images(4)])
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_inputs_that_are_not_finite_are_refused_by_the_layers_name(network: nn.Module) -> None:
    images = _images(4)
    images[2, 0, 1, 1] = torch.inf
    with pytest.raises(BitcertError, match="layer 'conv' sees inputs that are not finite"):
        calibrate(network, ["conv", "head"], [images])
    assert not any(module._forward_pre_hooks for module in network.modules()), "an error leaves no hook behind"


@pytest.mark.parametrize("batches", [[], [torch.zeros(0, 1, 4, 4)]])
def test_a_calibration_without_images_is_refused(network: nn.Module, batches: list[Tensor]) -> None:
    with pytest.raises(BitcertError, match="at least one image"):
        calibrate(network, ["conv", "head"], batches)


def test_a_layer_that_sees_only_zeros_gets_the_step_one(network: nn.Module) -> None:
    found = calibrate(network, ["conv"], [torch.zeros(2, 1, 4, 4)])
    assert not found.inputs["conv"].signed
    assert found.activation_step("conv", 4) == 1
