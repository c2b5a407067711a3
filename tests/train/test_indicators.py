"""LIMPQ's indicators: what is trained, with which batch norms, and that training lowers the loss."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from suite.contract.space import Layer, Policy
from suite.data import ImageSplit, load_dataset
from suite.errors import BitcertError
from suite.networks import Normalization
from suite.quantize import Calibration
from suite.quantize.calibration import calibrate
from suite.quantize.steps import activation_grid, quantize, weight_grid
from suite.quantize.switchable import Sharing, SwitchableNetwork
from suite.train.indicators import learn_steps, train_steps

CHOICES = (2, 3, 4)
LAYERS = (
    Layer("conv1", "conv", macs=1, parameters=36, in_channels=1, input_size=(8, 8)),
    Layer("conv2", "conv", macs=1, parameters=144, in_channels=4, input_size=(6, 6)),
    Layer("linear", "linear", macs=1, parameters=640, in_channels=64),
)


class Small(nn.Module):
    """Two convolutions; a batch norm follows the first alone, the second one's output goes two ways."""

    def __init__(self) -> None:
        super().__init__()
        self.normalization = Normalization((0.5,), (0.5,))
        self.conv1, self.norm1 = nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.norm2 = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
        self.linear = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        hidden = torch.relu(self.norm1(self.conv1(self.normalization(images))))
        hidden = self.conv2(hidden)
        hidden = torch.relu(self.norm2(hidden) + hidden)
        logits: Tensor = self.linear(hidden.flatten(1))
        return logits


@pytest.fixture(scope="module")
def split() -> ImageSplit:
    return load_dataset("digits").splits["train"].subset(range(130))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = Small()
        with torch.no_grad():  # statistics of its own, as a trained network has them
            assert made.norm1.running_mean is not None
            made.norm1.running_mean.uniform_(-0.1, 0.1)
            made.norm1.weight.uniform_(0.5, 1.5)
        return made.eval()


@pytest.fixture(scope="module")
def seen(network: nn.Module, split: ImageSplit) -> Calibration:
    return calibrate(network, [layer.name for layer in LAYERS], [split.images()])


def switchable(network: nn.Module, seen: Calibration, *, freeze_weights: bool) -> SwitchableNetwork:
    norms = Sharing(norms="shared" if freeze_weights else "weights")
    return SwitchableNetwork(network, LAYERS, CHOICES, seen, sharing=norms, start="lsq")


def run(network: SwitchableNetwork, images: Tensor, assigned: tuple[int, ...]) -> Tensor:
    bits = [CHOICES[choice] for choice in assigned]
    network.set_policy(Policy.from_bits(bits, bits))
    with torch.no_grad():
        logits: Tensor = network(images)
    return logits


def policies() -> Iterator[tuple[int, ...]]:
    yield from ((choice,) * 3 for choice in range(3))
    yield (0, 2, 1)


def loss(network: SwitchableNetwork, split: ImageSplit, assigned: tuple[int, ...]) -> float:
    """On clean images with the batch's own statistics, as in training; the network's state stays."""
    logits = run(copy.deepcopy(network).train(), split.images(), assigned)
    return float(nn.functional.cross_entropy(logits, torch.tensor(split.labels)))


def quantized(network: nn.Module, seen: Calibration, images: Tensor, assigned: tuple[int, ...]) -> Tensor:
    """The float network with hooks that round inputs and weights at LSQ's initial steps, written out."""
    plain = copy.deepcopy(network)
    for layer, choice in zip(LAYERS, assigned, strict=True):
        module, inputs = plain.get_submodule(layer.name), seen.inputs[layer.name]
        assert isinstance(module, nn.Conv2d | nn.Linear)
        grids = weight_grid(CHOICES[choice]), activation_grid(CHOICES[choice], inputs.signed)
        steps = [
            float(2 * values.abs().mean() / grid.high**0.5)
            for values, grid in zip((module.weight.detach(), inputs.values), grids, strict=True)
        ]
        module.weight.data = quantize(module.weight.data, torch.tensor(steps[0]), grids[0])
        module.register_forward_pre_hook(lambda _, given, step=steps[1], grid=grids[1]: quantize(given[0], step, grid))
    with torch.no_grad():
        logits: Tensor = plain(images)
    return logits


@pytest.mark.parametrize("freeze_weights", [False, True])
def test_untrained_it_is_the_network_at_the_initial_steps(
    network: nn.Module, seen: Calibration, split: ImageSplit, freeze_weights: bool
) -> None:
    made = switchable(network, seen, freeze_weights=freeze_weights).eval()
    for assigned in policies():
        expected = quantized(network, seen, split.images(), assigned)
        assert torch.allclose(run(made, split.images(), assigned), expected, atol=1e-4)


def test_frozen_only_the_steps_are_trained(network: nn.Module, seen: Calibration, split: ImageSplit) -> None:
    made = switchable(network, seen, freeze_weights=True)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    train_steps(made, split, choices=CHOICES, epochs=1, sigma=0.25, seed=0, freeze_weights=True)
    changed = {name for name, value in made.state_dict().items() if not torch.equal(before[name], value)}
    assert changed == {name for name in before if name.endswith(".step")}
    assert len(changed) == 2 * len(LAYERS) * len(CHOICES)
    assert not any(layer.norms for layer in made.layers.values())


def test_unfrozen_weights_are_trained_and_every_bit_width_has_statistics_of_its_own(
    network: nn.Module, seen: Calibration, split: ImageSplit
) -> None:
    before = copy.deepcopy(network.state_dict())
    made = switchable(network, seen, freeze_weights=False)
    fixed = {name for name, _ in made.named_buffers() if "normalization" in name}
    state = {name: value.clone() for name, value in made.state_dict().items()}
    train_steps(made, split, choices=CHOICES, epochs=1, sigma=0.25, seed=0)
    changed = {name for name, value in made.state_dict().items() if not torch.equal(state[name], value)}
    assert changed == set(state) - fixed
    assert [len(layer.norms) for layer in made.layers.values()] == [3, 0, 0], (
        "only the first batch norm follows one layer alone"
    )
    after = made.layers["conv1"].norms.state_dict()
    means = [after[f"{choice}.running_mean"] for choice in range(3)]
    assert not torch.allclose(means[0], means[1], rtol=1e-2)
    assert not torch.allclose(means[1], means[2], rtol=1e-2)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items()), "the float network"


def test_a_pass_updates_the_statistics_of_the_bit_widths_in_use_alone(
    network: nn.Module, seen: Calibration, split: ImageSplit
) -> None:
    made = switchable(network, seen, freeze_weights=False)
    run(made.train(), split.images(), (1, 0, 2))
    after = made.layers["conv1"].norms.state_dict()
    assert [int(after[f"{choice}.num_batches_tracked"]) for choice in range(3)] == [0, 1, 0]


def test_training_lowers_the_loss_of_every_policy(network: nn.Module, seen: Calibration, split: ImageSplit) -> None:
    made = switchable(network, seen, freeze_weights=False)
    before = [loss(made, split, assigned) for assigned in policies()]
    train_steps(made, split, choices=CHOICES, epochs=4, sigma=0.1, seed=0)
    after = [loss(made, split, assigned) for assigned in policies()]
    assert all(np.less(after, before)), (before, after)


def test_a_last_batch_of_one_image_and_dropout_are_no_trouble(
    network: nn.Module, seen: Calibration, split: ImageSplit
) -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10), nn.Dropout(0.5)).eval()
    layers = (Layer("1", "linear", macs=1, parameters=640, in_channels=64),)
    calibration = calibrate(flat, ["1"], [split.images()])

    def learn(images: int) -> object:
        few = split.subset(range(images))
        return learn_steps(flat, layers, CHOICES, calibration, few, epochs=1, sigma=0.1, seed=0).tolist()

    state = torch.get_rng_state()
    first = learn(65)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert learn(65) == first
    with pytest.raises(BitcertError, match="at least 2 images"):
        learn(1)


def test_a_network_that_diverges_is_an_error(network: nn.Module, seen: Calibration, split: ImageSplit) -> None:
    broken = copy.deepcopy(network)
    with torch.no_grad():
        broken.get_submodule("linear").bias[0] = torch.inf  # type: ignore[operator]
    with pytest.raises(BitcertError, match="not finite"):
        learn_steps(broken, LAYERS, CHOICES, seen, split, epochs=1, sigma=0.1, seed=0)
