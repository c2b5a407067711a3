"""Probes of a real network: against slow references, honest counts, training images only."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import nn

from suite.certify import NoiseStream
from suite.contract.probes import ProbeSettings
from suite.contract.space import FLOAT_BITS, Policy, Precision
from suite.errors import BitcertError
from suite.problems import load_problem, network_probes
from suite.problems.network_probes import NetworkProbes
from suite.problems.sensitivity_probes import mean_squared_gradients
from suite.problems.separable import SeparableProblem
from suite.problems.vision import VisionProblem
from suite.quantize import recalibrate_batch_norm
from suite.quantize.steps import activation_grid, quantize
from suite.seeds import derive_seed
from suite.workbench import Workbench

SMALL = ProbeSettings(images=12, noise=3, seed=5)


def digits(protocol: str | None = "ptq:recalibrate=false") -> VisionProblem:
    problem = load_problem("digits", protocol=protocol)
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
                problem.bench.separate(problem.space.uniform(bits)) if layer.name not in problem.space.pinned else None
            )
            if executed is not None:
                stored: Any = executed.get_submodule(f"network.{layer.name}")
                weight = stored._unscaled / stored.step  # without the batch norm that is folded in
                change = (weight - calibration.weights[layer.name]).double().square().sum()
                assert weights[position, column] == pytest.approx(float(change), rel=1e-3)
            grid = activation_grid(bits, calibration.inputs[layer.name].signed)
            values = seen[layer.name]
            rounded = quantize(values, calibration.activation_step(layer.name, bits), grid)
            expected = (rounded - values).double().square().sum() / len(values)
            assert inputs[position, column] == pytest.approx(float(expected), rel=1e-3)


def quantized_by_hand(problem: VisionProblem, policy: Policy) -> tuple[nn.Module, list[torch.Tensor], list[Any]]:
    """A copy of the network on quantized weights, its hooks quantizing inputs straight through; weights; (change, inputs)."""
    network, calibration, leaves, seen = copy.deepcopy(problem.network), problem.bench.calibration, [], []
    for layer, precision in zip(problem.space.layers, policy.precisions, strict=True):
        module: Any = network.get_submodule(layer.name)
        module.weight = nn.Parameter(calibration.quantized_weight(layer.name, precision.weight).clone())
        leaves.append(module.weight)

        def see(
            _: nn.Module, given: tuple[torch.Tensor], name: str = layer.name, bits: int = precision.activation
        ) -> Any:
            values = given[0]
            if bits == FLOAT_BITS:
                shifted = values + torch.zeros_like(values, requires_grad=True)
                seen.append((torch.zeros_like(values), shifted))
                return shifted
            step, grid = calibration.activation_step(name, bits), activation_grid(bits, calibration.inputs[name].signed)
            rounded = quantize(values.detach(), step, grid)
            clipped = values.clamp(grid.low * step, grid.high * step)
            through = clipped + (rounded - clipped).detach() + torch.zeros_like(values, requires_grad=True)
            seen.append((values.detach() - rounded, through))
            return through

        module.register_forward_pre_hook(see)
    if problem.bench.statistics.recalibrate:
        recalibrate_batch_norm(network, problem.bench.statistics_batches)
    seen.clear()
    return network, leaves, seen


def test_first_order_terms_are_gradients_at_the_quantized_point_times_what_quantization_changed(
    problem: VisionProblem,
) -> None:
    inputs, labels = rows(problem, SMALL)
    for policy in (problem.space.uniform(3), problem.space.uniform(2, 5), float_policy(problem)):
        network, leaves, seen = quantized_by_hand(problem, policy)
        loss = nn.functional.cross_entropy(network(inputs), labels)
        slopes = torch.autograd.grad(loss, leaves + [through for _, through in seen])
        expected = np.zeros((2, len(leaves)))
        for layer, leaf in enumerate(leaves):
            change = problem.bench.calibration.weights[problem.space.layers[layer].name] - leaf.detach()
            expected[0, layer] = float((slopes[layer] * change).abs().sum())
            expected[1, layer] = float((slopes[len(leaves) + layer] * seen[layer][0]).abs().sum())
        found = problem.probes(SMALL).first_order(policy)
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-7)
    assert not found.any(), "nothing changes in the float network"


def test_first_order_terms_of_the_last_layer_agree_with_finite_differences(problem: VisionProblem) -> None:
    inputs, labels = rows(problem, SMALL)
    weights, activations = list(float_policy(problem).weights), list(float_policy(problem).activations)
    weights[-1] = activations[-1] = 2
    name, calibration = problem.space.layers[-1].name, problem.bench.calibration
    linear: Any = problem.network.get_submodule(name)
    network, _, seen = quantized_by_hand(problem, Policy.from_bits(weights, activations))
    network(inputs)
    change, values = seen[-1][0].double(), seen[-1][1].detach().double()
    weight, bias, tiny = calibration.quantized_weight(name, 2).double(), linear.bias.detach().double(), 1e-4

    def loss(values: torch.Tensor, weight: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
        return nn.functional.cross_entropy(values @ weight.T + bias, labels, reduction=reduction)

    by_weight, by_values = torch.zeros_like(weight), torch.zeros_like(values)
    for index in np.ndindex(*weight.shape):
        moved = torch.zeros_like(weight)
        moved[index] = tiny
        by_weight[index] = (loss(values, weight + moved) - loss(values, weight - moved)) / (2 * tiny)
    for column in range(values.shape[1]):
        moved = torch.zeros_like(values)
        moved[:, column] = tiny
        ends = [loss(values + sign * moved, weight, "none") for sign in (1, -1)]
        by_values[:, column] = (ends[0] - ends[1]) / (2 * tiny * len(values))
    found = problem.probes(SMALL).first_order(Policy.from_bits(weights, activations))
    changes = calibration.weights[name].double() - weight, change
    expected = [float((by_weight * changes[0]).abs().sum()), float((by_values * changes[1]).abs().sum())]
    assert found[:, -1] == pytest.approx(expected, rel=1e-3)


class Unusual(nn.Module):
    """Groups, padding by wrapping around, a layer that runs twice, operations in place."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(4, 6, 3, groups=2, padding=1, padding_mode="circular", bias=False)
        self.narrow = nn.Conv2d(6, 6, (1, 3), stride=2)
        self.again = nn.Linear(6, 6)
        self.last = nn.Linear(6, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = self.narrow(torch.relu_(self.grouped(images))).mean(dim=(2, 3))
        hidden += torch.relu_(self.again(hidden))
        logits: torch.Tensor = self.last(self.again(hidden).tanh_())
        return logits


def test_squared_gradients_are_those_of_a_loop_over_rows(problem: VisionProblem) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unusual, images = Unusual().requires_grad_(False), torch.randn(7, 4, 6, 7)
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    names = ["grouped", "narrow", "again", "last"]
    bench = cast(Workbench, SimpleNamespace(network=unusual))
    found = mean_squared_gradients(bench, names, [(images[:4], labels[:4]), (images[4:], labels[4:])])
    assert found == pytest.approx(row_by_row(unusual, names, images, labels), rel=1e-4)

    names = [layer.name for layer in problem.space.layers]
    expected = row_by_row(problem.network, names, *rows(problem, SMALL))
    assert problem.probes(SMALL).squared_gradients() == pytest.approx(expected, rel=1e-3)


def row_by_row(network: nn.Module, names: list[str], images: torch.Tensor, labels: torch.Tensor) -> Any:
    """Mean squared gradients, each row alone."""
    network, squares = copy.deepcopy(network).requires_grad_(True), np.zeros((2, len(names)))
    for image, label in zip(images[:, None], labels[:, None], strict=True):
        seen: dict[str, list[torch.Tensor]] = {name: [] for name in names}
        handles = []
        for name in names:

            def see(_: nn.Module, given: tuple[torch.Tensor], calls: list[torch.Tensor] = seen[name]) -> torch.Tensor:
                calls.append(given[0] + torch.zeros_like(given[0], requires_grad=True))
                return calls[-1]

            handles.append(network.get_submodule(name).register_forward_pre_hook(see))
        loss = nn.functional.cross_entropy(network(image), label)
        for handle in handles:
            handle.remove()
        for layer, name in enumerate(names):
            module: Any = network.get_submodule(name)
            (by_weight,) = torch.autograd.grad(loss, module.weight, retain_graph=True)
            by_inputs = torch.cat(
                [slope.flatten() for slope in torch.autograd.grad(loss, seen[name], retain_graph=True)]
            )
            squares[:, layer] += float(by_weight.square().mean()), float(by_inputs.square().mean())
    return squares / len(images)


def test_output_changes_are_weighted_by_the_squared_gradients_of_each_row(problem: VisionProblem) -> None:
    precisions = [Precision(2, 2), Precision(2, 8), Precision(4, 3)]
    found = problem.probes(SMALL).output_changes(precisions)
    assert found.shape == (len(problem.space.layers), 3)
    calibration, network = problem.bench.calibration, copy.deepcopy(problem.network).requires_grad_(True)
    for position in (0, 4, len(problem.space.layers) - 1):
        name = problem.space.layers[position].name
        module: Any = network.get_submodule(name)
        expected = np.zeros(3)
        for image, label in zip(*rows(problem, SMALL), strict=True):
            seen: list[torch.Tensor] = []
            handle = module.register_forward_hook(lambda _, given, made, seen=seen: seen.extend((given[0], made + 0)))
            second = module.register_forward_hook(lambda _, given, made, seen=seen: seen[1])
            loss = nn.functional.cross_entropy(network(image[None]), label[None])
            handle.remove()
            second.remove()
            (slope,) = torch.autograd.grad(loss, seen[1])
            for column, (weight, activation) in enumerate(precisions):
                grid = activation_grid(activation, calibration.inputs[name].signed)
                values = quantize(seen[0].detach(), calibration.activation_step(name, activation), grid)
                alone = copy.deepcopy(module)
                alone.weight.data = calibration.quantized_weight(name, weight)
                expected[column] += float((slope * (alone(values) - seen[1])).square().sum().detach())
        assert found[position] == pytest.approx(expected / SMALL.rows, rel=1e-3)


def test_every_measurement_is_charged() -> None:
    problem = digits()
    probes, meter = problem.probes(SMALL), problem.meter
    recalibration = problem.bench.statistics_passes()
    for count in (1, 2):
        probes.measure(float_policy(problem))
        assert meter.forward_passes == count * (36 + recalibration)
    before = meter.forward_passes
    probes.perturbations("weight")
    assert meter.forward_passes == before
    probes.perturbations("activation")
    assert meter.forward_passes == before + 36
    probes.squared_gradients()
    assert meter.forward_passes == before + 4 * 36
    probes.output_changes([Precision(2, 2), Precision(3, 3)])
    assert meter.forward_passes == before + 9 * 36
    probes.first_order(problem.space.uniform(3))
    assert meter.forward_passes == before + 12 * 36 + recalibration
    problem.probes(ProbeSettings(images=12, noise=0)).measure(float_policy(problem))
    assert meter.forward_passes == before + 12 * 36 + 12 + 2 * recalibration


def test_recalibration_is_charged_with_what_runs_a_quantized_network() -> None:
    problem = digits(None)
    problem.probes(SMALL).measure(float_policy(problem))
    assert problem.meter.forward_passes == 36 + 250
    problem.probes(SMALL).first_order(problem.space.uniform(3))
    assert problem.meter.forward_passes == 4 * 36 + 2 * 250


def test_backward_passes_leave_the_network_as_it_was() -> None:
    problem = digits()
    before = {name: value.clone() for name, value in problem.network.state_dict().items()}
    probes, inputs = problem.probes(SMALL), rows(problem, SMALL)[0]
    logits = problem.network(inputs)
    probes.first_order(problem.space.uniform(2))
    probes.squared_gradients()
    probes.output_changes([Precision(2, 2)])
    assert torch.equal(problem.network(inputs), logits)
    assert all(torch.equal(before[name], value) for name, value in problem.network.state_dict().items())
    assert not any(parameter.grad is not None for parameter in problem.network.parameters())


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
    assert probes.first_order(policy).sum() == pytest.approx(2 * total)
    squares = probes.squared_gradients()[0]
    columns = [problem.space.choices.index(bits) for bits in policy.weights]
    perturbed = probes.perturbations("weight")[range(4), columns]
    assert squares @ perturbed == pytest.approx(total)
    both = probes.output_changes([Precision(3, 5)])[:, 0]
    assert both.sum() == pytest.approx(problem.loss(problem.space.uniform(3, 5)))
