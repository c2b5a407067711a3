"""Quantized networks as fixed-point networks: the same integers, and what has no such form is refused by name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from suite.contract.space import SearchSpace
from suite.errors import BitcertError
from suite.networks import trace_layers
from suite.quantize import QuantizedNetwork, calibrate, execute
from suite.quantize.fixed_point import (
    FixedPointNetwork,
    fixed_point_network,
    read_fixed_point,
    reference_network,
    write_fixed_point,
)
from suite.quantize.fixed_point.convert import MULTIPLIER_BITS

SHAPE = (1, 8, 8)


def convolutional() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Hardtanh(0.0, 1.0),
        nn.Conv2d(1, 6, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(96, 24),
        nn.ReLU(),
        nn.Linear(24, 5),
    ).eval()


def images(count: int = 200) -> Tensor:
    return torch.randint(0, 17, (count, *SHAPE), generator=torch.Generator().manual_seed(0)) / 16


def quantized(network: nn.Module, bits: int) -> QuantizedNetwork:
    layers = trace_layers(network, SHAPE)
    made = QuantizedNetwork(network, layers, calibrate(network, [layer.name for layer in layers], [images()]))
    made.set_policy(SearchSpace(layers).uniform(bits))
    return made


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_outputs_are_those_of_the_quantized_network_but_for_roundings(bits: int) -> None:
    network = quantized(convolutional(), bits)
    made = fixed_point_network(network, SHAPE, 16)
    expected, found = network(images()).flatten(), made(images()).flatten()
    assert np.corrcoef(expected.numpy(), found.numpy())[0, 1] > 0.999
    agreed = network(images()).argmax(dim=1) == made(images()).argmax(dim=1)
    assert float(agreed.float().mean()) > 0.97


def test_weights_keep_their_integers_and_inputs_their_levels() -> None:
    network = quantized(convolutional(), 3)
    made = fixed_point_network(network, SHAPE, 16)
    for name, layer in zip(network.layers, made.layers, strict=True):
        found = network.network.get_submodule(name).integers()  # type: ignore[operator]
        assert np.array_equal(found.weight.numpy(), layer.weight)
    assert [layer.output and (layer.output.low, layer.output.high) for layer in made.layers] == [(0, 7), (0, 255), None]
    assert all(step.shift > 0 for step in made.steps[:-1])
    assert made.rounding == "odd"


def test_multipliers_are_as_precise_as_they_say() -> None:
    network = quantized(convolutional(), 4)
    made = fixed_point_network(network, SHAPE, 16)
    units = [1 / 16, *(network.network.get_submodule(name).step for name in network.layers[1:])]
    for place, (name, layer) in enumerate(zip(network.layers[:-1], made.layers, strict=False)):
        scale = network.network.get_submodule(name).integers().scale.numpy()  # type: ignore[operator]
        assert layer.multiplier is not None
        ratio = scale * units[place] / units[place + 1]
        off = np.abs(layer.multiplier / 2.0**layer.multiplier_fraction - ratio) / ratio.max()
        assert off.max() <= 2.0 ** (2 - MULTIPLIER_BITS)


def test_a_float_network_has_a_form_of_many_bits() -> None:
    network = convolutional()
    made = reference_network(network, [images()], 16)
    expected, found = network(images()).detach(), made(images())
    assert torch.equal(expected.argmax(dim=1), found.argmax(dim=1))
    assert np.corrcoef(expected.flatten().numpy(), found.flatten().numpy())[0, 1] > 1 - 1e-6


@pytest.mark.parametrize("ending", [".json", ".safetensors"])
def test_files_keep_multipliers(ending: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    made = fixed_point_network(quantized(convolutional(), 4), SHAPE, 16)
    write_fixed_point(made, path := tmp_path / f"network{ending}")
    again = read_fixed_point(path)
    codes = np.rint(images(20).numpy() * 16).astype(np.int64)
    assert np.array_equal(made.outputs(codes), again.outputs(codes))
    for before, after in zip(made.layers, again.layers, strict=True):
        assert before.multiplier is not None
        assert after.multiplier is not None
        assert np.array_equal(before.multiplier, after.multiplier)


class _Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 5)

    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        return self.second(torch.relu(self.first(flat) + flat))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (_Twice(), "used more than once"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 5)), "look-up"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU()), "last layer"),
        (
            nn.Sequential(nn.Conv2d(1, 4, 3, groups=1, dilation=2), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)),
            "dilation",
        ),
    ],
)
def test_what_has_no_fixed_point_form_is_refused_by_name(network: nn.Module, message: str) -> None:
    with pytest.raises(BitcertError, match=message):
        fixed_point_network(quantized(network.eval(), 4), SHAPE, 16)


def test_a_first_layer_that_rounds_the_images_is_refused() -> None:
    with pytest.raises(BitcertError, match="takes the images as they are"):
        fixed_point_network(quantized(convolutional(), 4), SHAPE, 1000)


def test_the_engine_needs_images_on_a_grid() -> None:
    network = quantized(convolutional(), 4)
    assert isinstance(execute(network, "fixed-point", [images()], 1, 16), FixedPointNetwork)
    with pytest.raises(BitcertError, match="levels"):
        execute(network, "fixed-point", [images()], 1, None)


@pytest.mark.parametrize("change", [{"multiplier": [2] * 6}, {"multiplier": [1] * 5}, {"multiplier": [-1] * 6}])
def test_wrong_multipliers_are_refused(change: dict[str, list[int]]) -> None:
    made = fixed_point_network(quantized(convolutional(), 4), SHAPE, 16)

    def changed() -> FixedPointNetwork:
        layer = replace(made.layers[0], multiplier=np.array(change["multiplier"]))
        return FixedPointNetwork([layer, *made.layers[1:]], SHAPE, levels=16, input_fraction=0)

    with pytest.raises(BitcertError, match=r"'1'.*multiplier"):
        changed()
