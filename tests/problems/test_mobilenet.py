"""MobileNetV2 on CIFAR-10: ReLU6 and depthwise convolutions in every form that a network takes, with weights from a seed."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from suite.cli import main
from suite.contract.probes import ProbeSettings
from suite.contract.space import Precision
from suite.data import load_dataset
from suite.errors import BitcertError
from suite.networks import build_network, save_checkpoint
from suite.problems import load_problem
from suite.problems.network_probes import NetworkProbes
from suite.problems.vision import VisionProblem
from suite.quantize import QuantizedNetwork, TrainableNetwork, calibrate, recalibrate_batch_norm
from suite.quantize.integer import OnnxNetwork, onnx_model
from suite.quantize.steps import fit_steps, weight_grid
from suite.quantize.switchable import SwitchableNetwork
from suite.train.base import TrainSettings
from suite.train.recipe import Recipe, make_checkpoint
from tests.quantize.test_quantized_networks import mixed_policy, quantized_by_hooks

NAME, NETWORK = "cifar10-mobilenetv2", "mobilenet_v2-half"


def noisy(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, 3, 32, 32, generator=generator) + 0.5 * torch.randn(count, 3, 32, 32, generator=generator)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random images in the form of CIFAR-10, and weights from a seed with batch norms that fit them."""
    path, rng = tmp_path_factory.mktemp("cifar10"), np.random.default_rng(0)
    x_train, x_test = (rng.integers(0, 256, (count, 32, 32, 3), np.uint8) for count in (200, 20))
    y_train, y_test = (rng.integers(0, 10, (count, 1), np.uint8) for count in (200, 20))
    np.savez(path / "cifar10.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    network = build_network(NETWORK, 10)
    recalibrate_batch_norm(network, [noisy(32)])
    save_checkpoint(network, path / "weights.safetensors", {})
    return path


@pytest.fixture(scope="module")
def problem(folder: Path) -> VisionProblem:
    found = load_problem(NAME, data=folder, checkpoint=folder / "weights.safetensors", budget="w4a4")
    assert isinstance(found, VisionProblem)
    return found


def test_it_is_torchvisions_network_of_half_the_width_with_a_total_stride_of_8() -> None:
    network, original = build_network(NETWORK, 10), torchvision.models.MobileNetV2(num_classes=10, width_mult=0.5)
    state = {key: value for key, value in network.state_dict().items() if not key.startswith("normalization.")}
    original.load_state_dict(state)
    strides = {name: module.stride for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}
    for name, module in original.named_modules():
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1) if name in ("features.0.0", "features.2.conv.1.0") else module.stride
            assert strides[name] == module.stride, name
    original.eval()
    mean, std = (
        torch.tensor(values).reshape(3, 1, 1) for values in ((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616))
    )
    images = noisy(2)
    torch.testing.assert_close(network(images), original((images - mean) / std))
    assert original.features((images - mean) / std).shape == (2, 1280, 4, 4)


def test_depthwise_convolutions_cost_what_each_of_their_channels_costs() -> None:
    problem = load_problem(NAME)
    layers, network = problem.space.layers, build_network(NETWORK, 10)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, 32, 32))
    assert 2 * sum(layer.macs for layer in layers) == counter.get_total_flops() == 2 * 27_969_024
    depthwise = [layer for layer in layers if layer.groups > 1]
    assert len(depthwise) == 17
    for layer in depthwise:
        pixels = layer.input_size[0] * layer.input_size[1] // layer.stride[0] ** 2
        assert layer.macs == 9 * layer.out_channels * pixels
        assert layer.parameters == 9 * layer.out_channels
    policy = problem.space.uniform(3)
    ends = layers[0].macs + layers[-1].macs
    assert problem.bops(policy) == 64 * ends + 9 * (27_969_024 - ends)


def test_every_channel_has_a_step_of_its_own_and_layers_compute_as_hooks_do(problem: VisionProblem) -> None:
    network, layers, images = copy.deepcopy(problem.network).double(), problem.space.layers, noisy(4).double()
    calibration, policy = calibrate(network, [layer.name for layer in layers], [images]), mixed_policy(layers)
    depthwise = next(layer for layer in layers if layer.groups > 1)
    weight = calibration.weights[depthwise.name]
    alone = torch.cat([fit_steps(filters.reshape(1, 9), weight_grid(3)) for filters in weight])
    torch.testing.assert_close(calibration.weight_step(depthwise.name, 3).flatten(), alone)
    quantized = QuantizedNetwork(network, layers, calibration)
    quantized.set_policy(policy)
    with quantized_by_hooks(network, layers, policy, calibration) as reference, torch.no_grad():
        expected = reference(images)
        torch.testing.assert_close(quantized(images.clone()), expected, rtol=1e-5, atol=1e-6)
        trainable = TrainableNetwork(network, layers, policy, calibration).eval()
        torch.testing.assert_close(trainable(images), expected, rtol=1e-5, atol=1e-6)
    clipped = [module for module in quantized.modules() if isinstance(module, nn.ReLU6)]
    assert len(clipped) == 35
    assert all(module.inplace for module in clipped)
    assert not any(getattr(module, "inplace", False) for module in network.modules())


def test_a_supernet_computes_what_finetuning_starts_from(problem: VisionProblem) -> None:
    bench, space = problem.bench, problem.space
    supernet = SwitchableNetwork(bench.network, space.layers, (2, 4), bench.calibration, pinned=space.pinned).eval()
    policy = space.uniform(2, 4)
    supernet.set_policy(policy)
    with torch.no_grad():
        assert torch.equal(supernet(noisy(4)), bench.trainable(policy).eval()(noisy(4)))


def test_the_integer_network_is_the_same_in_torch_and_in_onnx_runtime(problem: VisionProblem) -> None:
    bench, policy = problem.bench, problem.space.uniform(3)
    integer = bench.integer(bench.separate(policy))
    images = noisy(8)
    with torch.no_grad():
        assert torch.equal(OnnxNetwork(onnx_model(integer, (3, 32, 32), 10))(images), integer(images))
    for layer, operation in zip(problem.space.layers, integer.layers(), strict=True):
        assert operation.name == layer.name
        products = layer.kernel[0] * layer.kernel[1] * layer.in_channels // layer.groups
        levels = (
            4 * 8 if layer.name not in problem.space.pinned else 128 * 256
        )  # the largest weight times the largest input
        assert operation.accumulator_bound <= products * levels + float(operation.bias.abs().max())


def test_squared_gradients_of_depthwise_weights_are_those_of_a_loop_over_rows(problem: VisionProblem) -> None:
    settings = ProbeSettings(images=3, noise=1)
    probes = problem.probes(settings)
    assert isinstance(probes, NetworkProbes)
    found = probes.squared_gradients()[0]
    network = copy.deepcopy(problem.network).requires_grad_(True)
    expected = np.zeros(len(problem.space.layers))
    for inputs, labels in probes._batches:
        for row in range(len(inputs)):
            network.zero_grad()
            nn.functional.cross_entropy(network(inputs[row : row + 1]), labels[row : row + 1]).backward()
            for position, layer in enumerate(problem.space.layers):
                gradient = network.get_parameter(f"{layer.name}.weight").grad
                assert gradient is not None
                expected[position] += float(gradient.double().square().mean()) / settings.images
    np.testing.assert_allclose(found, expected, rtol=1e-2)
    changes = probes.output_changes([Precision(2, 2), Precision(4, 4), Precision(8, 8)])
    assert (np.diff(changes, axis=1) < 0).all()


def test_its_recipe_trains_it(folder: Path, tmp_path: Path) -> None:
    dataset = load_dataset("cifar10", folder)
    small = replace(dataset, splits={**dataset.splits, "train": dataset.splits["train"].subset(range(32))})
    recipe = Recipe(NETWORK, TrainSettings(epochs=1, batch=16, rate=0.2, flip=True, shift=4))
    record = make_checkpoint(small, recipe, tmp_path / "weights.safetensors", sigma=0.5, seed=0)
    assert record["network"] == NETWORK
    assert np.isfinite(record["loss"])


def test_without_a_checkpoint_it_says_how_to_train_one(folder: Path) -> None:
    with pytest.raises(BitcertError, match=f"`bitcert train {NAME} --sigma 0.33`"):
        _ = load_problem(NAME, data=folder, sigma=0.33).network


@pytest.mark.slow
def test_it_is_searched_exported_and_certified(
    folder: Path, tmp_path: Path, problem: VisionProblem, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--data", str(folder), "--checkpoint", str(folder / "weights.safetensors")]
    exam = ["--exam-images", "2", "--exam-n0", "4", "--exam-n", "16", "--json"]
    policy, out = problem.space.uniform(2).to_json(), tmp_path / "model.onnx"
    search = ["search", "--problem", NAME, *given, "--searcher", "fit:images=8", "--evaluations", "1", "--images", "4"]
    search += [
        "--noise",
        "8",
        "--finetune-steps",
        "1",
        "--finalists",
        "0",
        "--directory",
        str(tmp_path / "run"),
        "--json",
    ]
    assert main(search) == 0
    best = json.loads(capsys.readouterr().out)["best"]["metrics"]
    assert best["bops"] <= load_problem(NAME).budget.limits[0].most
    assert main(["export", policy, "--problem", NAME, *given, "--out", str(out), "--exam", *exam]) == 0
    exported = json.loads(capsys.readouterr().out)["metrics"]
    assert main(["examine", "--model", str(out), *given, *exam]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["bops"] == exported["bops"]
