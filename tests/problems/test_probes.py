"""Probes of a real network: against slow references, honest counts, training images only."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import nn

from suite.certify import NoiseStream
from suite.contract.probes import ProbeSettings
from suite.contract.space import FLOAT_BITS, Policy
from suite.errors import BitcertError
from suite.problems import load_problem, network_probes
from suite.problems.network_probes import NetworkProbes
from suite.problems.separable import SeparableProblem
from suite.problems.vision import VisionProblem
from suite.quantize.steps import activation_grid, quantize
from suite.seeds import derive_seed

SMALL = ProbeSettings(images=12, noise=3, seed=5)


def digits() -> VisionProblem:
    problem = load_problem("digits")
    assert isinstance(problem, VisionProblem)
    return problem


@pytest.fixture(scope="module")
def problem() -> VisionProblem:
    return digits()


def float_policy(problem: VisionProblem) -> Policy:
    layers = len(problem.space.layers)
    return Policy.from_bits([FLOAT_BITS] * layers, [FLOAT_BITS] * layers)


def rows(problem: VisionProblem, settings: ProbeSettings) -> tuple[torch.Tensor, torch.Tensor]:
    """The inputs and labels of a probe, image by image, made the slow way."""
    train = problem.bench.dataset.splits["train"]
    chosen = np.random.default_rng([problem.seed, settings.seed]).permutation(len(train))[: settings.images]
    split = train.subset(chosen)
    stream = NoiseStream(derive_seed(problem.seed, "probe", settings.seed), "probe")
    inputs = [
        image + problem.sigma * torch.from_numpy(noise)
        for image, name in zip(split.images(), split.ids, strict=True)
        for noise in stream.draw(int(name), 0, settings.noise, problem.bench.dataset.shape)
    ]
    return torch.stack(inputs), torch.tensor(split.labels).repeat_interleave(settings.noise)


def test_float_policy_is_the_float_network(problem: VisionProblem) -> None:
    inputs, labels = rows(problem, SMALL)
    logits = problem.network(inputs)
    found = problem.probes(SMALL).measure(float_policy(problem))
    assert found.loss == pytest.approx(float(nn.functional.cross_entropy(logits, labels)), rel=1e-4)
    chances = []
    for row, label in zip(logits.double(), labels.tolist(), strict=True):
        rival = max(float(value) for other, value in enumerate(row) if other != label)
        chances.append(1 / (1 + np.exp(2 * (rival - float(row[label])))))
    mean = np.clip(np.reshape(chances, (SMALL.images, SMALL.noise)).mean(axis=1), 0.5, 0.001**1e-4)
    assert found.radius == pytest.approx(float((problem.sigma * norm.ppf(mean)).mean()), rel=1e-3)


def test_one_layer_alone_is_quantized(problem: VisionProblem) -> None:
    inputs, labels = rows(problem, SMALL)
    name, calibration = problem.space.layers[3].name, problem.bench.calibration
    layer = problem.network.get_submodule(name)
    assert isinstance(layer, nn.Conv2d)
    float_weight = layer.weight.detach().clone()
    policy = float_policy(problem)
    for bits in ((2, FLOAT_BITS), (FLOAT_BITS, 2), (3, 4)):
        grid = activation_grid(bits[1], calibration.inputs[name].signed)
        handle = layer.register_forward_pre_hook(
            lambda _, arguments, bits=bits, grid=grid: (
                arguments[0]
                if bits[1] == FLOAT_BITS
                else quantize(arguments[0], calibration.activation_step(name, bits[1]), grid)
            )
        )
        layer.weight.data = calibration.quantized_weight(name, bits[0])
        try:
            expected = float(nn.functional.cross_entropy(problem.network(inputs), labels))
        finally:
            handle.remove()
            layer.weight.data = float_weight
        weights, activations = list(policy.weights), list(policy.activations)
        weights[3], activations[3] = bits
        found = problem.probes(SMALL).measure(Policy.from_bits(weights, activations))
        assert found.loss == pytest.approx(expected, rel=1e-4)


def test_a_probe_after_an_evaluation_leaves_no_float_layer_behind(problem: VisionProblem) -> None:
    policy, fidelity = problem.space.uniform(3), problem.fidelity.__class__(images=8, noise=8)
    fresh = digits().evaluate(policy, fidelity)
    problem.probes(SMALL).measure(float_policy(problem))
    again = problem.evaluate(policy, fidelity)
    assert (again.acr, again.clean_accuracy) == (fresh.acr, fresh.clean_accuracy)


def test_perturbations_are_those_of_the_deployed_quantizer(problem: VisionProblem) -> None:
    probes, calibration = problem.probes(SMALL), problem.bench.calibration
    seen: dict[str, torch.Tensor] = {}
    handles = [
        problem.network.get_submodule(layer.name).register_forward_pre_hook(
            lambda _, arguments, name=layer.name: seen.update({name: arguments[0].clone()})
        )
        for layer in problem.space.layers
    ]
    problem.network(rows(problem, SMALL)[0])
    for handle in handles:
        handle.remove()
    weights, inputs = probes.perturbations("weight"), probes.perturbations("activation")
    for position, layer in enumerate(problem.space.layers):
        for column, bits in enumerate(problem.space.choices):
            executed = (
                problem.bench.quantized(problem.space.uniform(bits)) if layer.name not in problem.space.pinned else None
            )
            if executed is not None:
                stored: Any = executed.get_submodule(f"network.{layer.name}")
                scale: torch.Tensor | float = 1.0
                if stored._scale is not None:  # the layer after it was folded in
                    scale = stored._scale.reshape(-1, 1, 1, 1)
                weight = stored.weight / stored.step / scale
                change = (weight - calibration.weights[layer.name]).double().square().sum()
                assert weights[position, column] == pytest.approx(float(change), rel=1e-3)
            grid = activation_grid(bits, calibration.inputs[layer.name].signed)
            values = seen[layer.name]
            rounded = quantize(values, calibration.activation_step(layer.name, bits), grid)
            expected = (rounded - values).double().square().sum() / len(values)
            assert inputs[position, column] == pytest.approx(float(expected), rel=1e-3)


def test_every_measurement_is_charged() -> None:
    problem = digits()
    probes = problem.probes(SMALL)
    for count in (1, 2):
        probes.measure(float_policy(problem))
        assert problem.meter.forward_passes == count * 36
    probes.perturbations("weight")
    assert problem.meter.forward_passes == 72
    probes.perturbations("activation")
    assert problem.meter.forward_passes == 108
    problem.probes(ProbeSettings(images=12, noise=0)).measure(float_policy(problem))
    assert problem.meter.forward_passes == 120


def test_images_are_training_images_and_change_with_the_seed(problem: VisionProblem) -> None:
    train = {tuple(image.flatten().tolist()) for image in problem.bench.dataset.splits["train"].images()}
    seen = []
    for seed in range(3):
        probes = NetworkProbes(problem.bench, ProbeSettings(images=20, noise=0, seed=seed))
        images = torch.cat([inputs for inputs, _ in probes._batches])
        assert all(tuple(image.flatten().tolist()) in train for image in images)
        seen.append(images)
    assert not torch.equal(seen[0], seen[1])
    with pytest.raises(BitcertError, match="997 training images"):
        problem.probes(ProbeSettings(images=998))


@pytest.mark.parametrize("settings", [{"images": 0}, {"noise": -1}, {"seed": -1}, {"images": 1.5}])
def test_settings_out_of_range_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(BitcertError, match="of a probe must be an integer"):
        ProbeSettings(**settings)


def test_a_network_that_is_not_finite_is_an_error() -> None:
    problem = digits()
    probes = problem.probes(SMALL)
    linear = problem.network.get_submodule(problem.space.layers[-1].name)
    assert isinstance(linear, nn.Linear)
    with torch.no_grad():
        linear.bias[0] = torch.nan
    with pytest.raises(BitcertError, match="not finite"):
        probes.measure(float_policy(problem))


@pytest.mark.parametrize("freeze_weights", [False, True])
def test_learned_steps_are_reproduced_and_charged(problem: VisionProblem, freeze_weights: bool) -> None:
    before = problem.meter.forward_passes
    steps, again, other = (
        where.probes(ProbeSettings(seed=seed)).learned_steps(1, images=100, freeze_weights=freeze_weights)
        for where, seed in ((problem, 2), (digits(), 2), (problem, 3))
    )
    assert problem.meter.forward_passes - before == 2 * 3 * 100 * 8
    assert steps.shape == (2, 10, 7)
    assert (steps > 0).all()
    assert np.array_equal(steps, again)
    assert not np.array_equal(steps, other)
    assert (np.diff(np.median(steps, axis=1), axis=1) < 0).all(), "fewer bits need larger steps"


def test_steps_are_learned_on_all_training_images_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, seen = digits(), []
    monkeypatch.setattr(
        network_probes, "learn_steps", lambda *given, **named: seen.append((len(given[4]), named["freeze_weights"]))
    )
    problem.probes(ProbeSettings()).learned_steps(2)
    assert problem.meter.forward_passes == 2 * 3 * 997 * 8
    assert seen == [(997, False)]


@pytest.mark.parametrize("freeze_weights", [False, True])
def test_learning_the_steps_leaves_the_network_and_the_global_generator_alone(freeze_weights: bool) -> None:
    problem = digits()
    weights = {name: value.clone() for name, value in problem.network.state_dict().items()}
    state = torch.get_rng_state()
    problem.probes(ProbeSettings()).learned_steps(1, images=70, freeze_weights=freeze_weights)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(weights[name], value) for name, value in problem.network.state_dict().items())


def test_probes_of_the_separable_problem_add_up_to_its_formula() -> None:
    problem = SeparableProblem(layers=4, seed=3)
    probes = problem.probes(ProbeSettings(images=2, noise=2))
    vectors = [
        {layer: np.ones(shape, dtype=np.float32)} for layer, shape in enumerate(probes.derivatives("weight").shapes)
    ]
    products = probes.derivatives("weight").products(vectors)
    curvature = np.array([product[layer][0, 0] for layer, product in enumerate(products)])
    losses = curvature[:, None] / 2 * probes.perturbations("weight")
    policy = Policy.from_bits([2, 5, 3, 8], [FLOAT_BITS] * 4)
    total = sum(losses[layer, problem.space.choices.index(bits)] for layer, bits in enumerate(policy.weights))
    assert probes.measure(policy).loss == pytest.approx(total, rel=1e-5)
