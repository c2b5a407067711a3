"""Recurrent networks with orthogonal matrices: quantized, constrained, probed and trained like all others."""

from __future__ import annotations

import math
from dataclasses import asdict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from suite.contract.probes import ProbeSettings
from suite.contract.space import Layer, Policy
from suite.data import load_dataset
from suite.errors import BitcertError
from suite.networks import (
    build_network,
    load_checkpoint,
    network_layers,
    network_sha256,
    shipped_checkpoints,
    trace_layers,
)
from suite.networks.orthogonal import (
    TOLERANCE,
    ConstrainedLinear,
    HadamardLinear,
    OrthogonalLinear,
    bjorck,
    constrained,
    constrained_once,
    hadamard,
    orthogonalize,
)
from suite.networks.recurrent import RECURRENT, RecurrentNetwork, permutation
from suite.plugins import POST_STEPS
from suite.problems import definitions, load_problem
from suite.protocols import Request, protocol_for
from suite.quantize import Calibration, QuantizedNetwork, Statistics, TrainableNetwork, calibrate
from suite.quantize.calibration import SAMPLE
from suite.quantize.integer import OnnxNetwork, integer_network, onnx_model
from suite.quantize.layer import QuantizedLayer
from suite.quantize.prefixes import PrefixNetwork
from suite.quantize.steps import fit_steps, quantize, weight_grid
from suite.quantize.switchable import SwitchableNetwork
from suite.train.masked import MaskSettings, mask_weights
from suite.train.recipe import accuracy, recipe_for
from suite.workbench import Workbench, workbench_of

SIDES = {"rnn-digits-permuted": 8, "hadamard-digits-permuted": 8, "rnn-mnist-rows": 28}
PROBLEMS = ("digits-permuted-rnn", "digits-permuted-hadamard")


def random_matrix(size: int, seed: int) -> Tensor:
    return torch.randn(size, size, generator=torch.Generator().manual_seed(seed))


def singular_values(matrix: Tensor) -> Tensor:
    values: Tensor = torch.linalg.svdvals(matrix.detach().double())
    return values


def images(side: int, count: int = 6, seed: int = 0) -> Tensor:
    return torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(seed))


def small(recurrent: nn.Linear, steps: int = 5) -> nn.Module:
    """Some recurrent network for images of ``steps`` x 3 pixels, in evaluation mode."""
    network = RecurrentNetwork(4, (0.5,), (0.5,), steps=steps, inputs=3, recurrent=recurrent)
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    return network.eval().requires_grad_(False)


def calibrated(network: nn.Module, seen: Tensor) -> tuple[tuple[Layer, ...], Calibration]:
    layers = trace_layers(network, (1, *seen.shape[2:]))
    return layers, calibrate(network, [layer.name for layer in layers], [seen])


@pytest.fixture(scope="module", params=PROBLEMS)
def bench(request: pytest.FixtureRequest) -> Workbench:
    return workbench_of(load_problem(request.param), "a test")


# The sets of matrices.


@given(st.integers(0, 100), st.integers(2, 12))
def test_an_iteration_maps_singular_values_by_its_polynomial(seed: int, size: int) -> None:
    matrix = random_matrix(size, seed).double()
    before, after = singular_values(matrix / 2), singular_values(bjorck(matrix / 2))
    expected = (1.5 * before - 0.5 * before**3).abs().sort(descending=True).values
    torch.testing.assert_close(after, expected, rtol=1e-9, atol=1e-9)


def test_iterations_converge_to_one_from_between_zero_and_the_root_of_three() -> None:
    values = torch.tensor([0.01, 0.5, 1.0, 1.4, 1.73], dtype=torch.float64)
    matrix = torch.diag(values)
    for _ in range(30):
        matrix = bjorck(matrix)
    torch.testing.assert_close(matrix, torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-12)
    assert torch.equal(bjorck(torch.eye(5)), torch.eye(5))
    assert float(bjorck(torch.tensor([[1.8]]))) < 0  # beyond it, the sign is lost


@given(st.integers(0, 100), st.integers(2, 24), st.floats(1e-3, 1e3))
def test_the_orthogonal_matrix_is_the_polar_factor_whatever_the_scale(seed: int, size: int, scale: float) -> None:
    matrix = random_matrix(size, seed).double() + 2 * torch.eye(size, dtype=torch.float64)
    left, _, right = torch.linalg.svd(matrix)
    if singular_values(matrix)[-1] > 1e-3:
        torch.testing.assert_close(orthogonalize(matrix * scale), left @ right, rtol=0, atol=1e-4)


def test_the_gradient_is_that_of_the_polar_factor() -> None:
    weight = random_matrix(5, 3).double().requires_grad_()
    direction = random_matrix(5, 4).double()
    (found,) = torch.autograd.grad((orthogonalize(weight) * direction).sum(), weight)
    left, _, right = torch.linalg.svd(weight)
    (expected,) = torch.autograd.grad(((left @ right) * direction).sum(), weight)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@given(st.integers(0, 6), st.integers(0, 50))
def test_signed_hadamard_matrices_are_orthogonal_with_entries_of_one_magnitude(power: int, seed: int) -> None:
    size = 2**power
    layer = HadamardLinear(size)
    matrix = layer.constrained(random_matrix(size, seed)).double()
    torch.testing.assert_close(matrix @ matrix.mT, torch.eye(size, dtype=torch.float64), rtol=0, atol=1e-6)
    assert len(matrix.abs().unique()) == 1
    ratio = matrix * size**0.5 / hadamard(size)
    assert torch.equal(ratio.round(), ratio[:, :1].round().expand(size, size))  # one sign for each row
    along = (random_matrix(size, seed) * hadamard(size)).sum(dim=1)
    assert torch.equal(ratio[:, 0] > 0, along > 0)


def test_signs_have_the_gradient_of_what_they_are_signs_of() -> None:
    layer, direction = HadamardLinear(8), random_matrix(8, 1)
    weight = random_matrix(8, 0).requires_grad_()
    (found,) = torch.autograd.grad((layer.constrained(weight) * direction).sum(), weight)
    basis = hadamard(8) / 8**0.5
    torch.testing.assert_close(found, (direction * basis).sum(dim=1, keepdim=True) * basis)


def test_hadamard_matrices_need_a_power_of_two() -> None:
    for size in (0, 3, 12):
        with pytest.raises(BitcertError, match=f"needs a power of two as its size, got {size}"):
            hadamard(size)


@pytest.mark.parametrize("kind", [OrthogonalLinear, HadamardLinear])
def test_evaluation_mode_leaves_a_plain_layer_in_the_set(kind: type[ConstrainedLinear]) -> None:
    layer, inputs = kind(16), random_matrix(16, 1)
    with torch.no_grad():
        layer.weight.copy_(random_matrix(16, 0))
    trained = layer(inputs)
    assert trained.requires_grad
    layer.eval()
    assert torch.equal(layer(inputs), trained)
    assert torch.equal(layer(inputs), nn.functional.linear(inputs, layer.weight))
    torch.testing.assert_close(singular_values(layer.weight), torch.ones(16).double(), rtol=0, atol=TOLERANCE)
    kept = layer.weight.detach().clone()
    assert torch.equal(layer.constrained(layer.weight), kept)
    assert torch.equal(layer.train().eval().weight, kept)
    before = singular_values(kept)
    layer.initialize(torch.Generator().manual_seed(5))
    assert not torch.equal(layer.weight, kept)
    torch.testing.assert_close(singular_values(layer.weight), before, rtol=0, atol=2 * TOLERANCE)


def test_other_layers_are_not_constrained() -> None:
    layer = nn.Linear(4, 4)
    assert constrained(layer, layer.weight) is layer.weight


def test_a_pass_maps_a_weight_once() -> None:
    layer = OrthogonalLinear(8)
    with torch.no_grad():
        layer.weight.copy_(random_matrix(8, 0))
    with constrained_once():
        first = constrained(layer, layer.weight)
        assert constrained(layer, layer.weight) is first
        assert not torch.equal(constrained(layer, layer.weight * 1.0 + torch.eye(8)), first)
    assert constrained(layer, layer.weight) is not first
    network = small(OrthogonalLinear(8)).train().requires_grad_(True)
    for _ in range(2):  # the graph of a pass ends with it
        network(torch.rand(2, 1, 5, 3)).sum().backward()


@pytest.mark.parametrize("bits", range(2, 9))
def test_quantized_orthogonal_matrices_keep_weyls_bound(bits: int) -> None:
    matrix = orthogonalize(random_matrix(64, 0))
    step = fit_steps(matrix.flatten()[None], weight_grid(bits))
    quantized = quantize(matrix, step, weight_grid(bits))
    error = float(singular_values(quantized - matrix)[0])
    away = float((singular_values(quantized) - 1).abs().max())
    assert 0 < away <= error + TOLERANCE


def test_an_orthogonal_layer_remembers_across_a_delay() -> None:
    """The copy task: 2 of 8 symbols, 8 blanks, then both again; the baseline says blank, then guesses, without a memory."""
    delay, symbols, batch, size = 8, 2, 64, 32
    steps, generator = delay + 2 * symbols, torch.Generator().manual_seed(0)
    baseline = symbols * math.log(8) / steps
    recurrent, enter, leave = OrthogonalLinear(size), nn.Linear(10, size), nn.Linear(size, 9)
    recurrent.initialize(generator)
    for layer in (enter, leave):
        nn.init.normal_(layer.weight, std=layer.in_features**-0.5, generator=generator)
        nn.init.zeros_(layer.bias)
    around = [*enter.parameters(), *leave.parameters()]
    optimizer = torch.optim.RMSprop([{"params": around, "lr": 3e-3}, {"params": [recurrent.weight], "lr": 7.5e-4}])
    losses = []
    for _ in range(400):
        given = torch.randint(1, 9, (batch, symbols), generator=generator)
        read, wanted = torch.zeros(2, batch, steps, dtype=torch.long)
        read[:, :symbols], read[:, symbols + delay - 1], wanted[:, -symbols:] = given, 9, given
        driven, state, logits = enter(nn.functional.one_hot(read, 10).float()), torch.zeros(batch, size), []
        with constrained_once():
            for step in range(steps):
                state = torch.relu(driven[:, step] + recurrent(state))
                logits.append(leave(state))
        loss = nn.functional.cross_entropy(torch.stack(logits, dim=1).flatten(0, 1), wanted.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([*around, recurrent.weight], 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] > baseline
    assert sum(losses[-20:]) / 20 < 0.8 * baseline


# The networks.


def test_an_unrolled_network_is_a_relu_rnn() -> None:
    network = small(nn.Linear(6, 6, bias=False), steps=9)
    reference = nn.RNN(3, 6, nonlinearity="relu", batch_first=True)
    state = network.state_dict()
    given = {"weight_ih_l0": state["input.weight"], "weight_hh_l0": state["recurrent.weight"]}
    reference.load_state_dict({**given, "bias_ih_l0": state["input.bias"], "bias_hh_l0": torch.zeros(6)})
    seen = torch.rand(7, 1, 9, 3, generator=torch.Generator().manual_seed(2))
    _, last = reference(network.get_submodule("normalization")(seen)[:, 0])
    expected = nn.functional.linear(last[0], state["readout.weight"], state["readout.bias"])
    torch.testing.assert_close(network(seen), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "macs"),
    [
        ("rnn-digits-permuted", [64 * 64, 64 * 64 * 64, 64 * 10]),
        ("hadamard-digits-permuted", [64 * 128, 64 * 128 * 128, 128 * 10]),
        ("rnn-mnist-rows", [28 * 28 * 96, 28 * 96 * 96, 96 * 10]),
    ],
)
def test_every_step_counts(name: str, macs: list[int]) -> None:
    layers = network_layers(name, 10, (1, SIDES[name], SIDES[name]))
    assert [layer.name for layer in layers] == ["input", "recurrent", "readout"]
    assert [layer.macs for layer in layers] == macs


@pytest.mark.parametrize("name", RECURRENT)
def test_weights_come_from_the_seed_and_every_image_starts_anew(name: str) -> None:
    network = build_network(name, 10, 1, seed=3)
    assert network_sha256(network) == network_sha256(build_network(name, 10, 1, seed=3))
    assert network_sha256(network) != network_sha256(build_network(name, 10, 1, seed=4))
    recurrent = network.get_submodule("recurrent")
    assert isinstance(recurrent, ConstrainedLinear)
    torch.testing.assert_close(
        singular_values(recurrent.weight), torch.ones(recurrent.out_features).double(), rtol=0, atol=TOLERANCE
    )
    one, other = images(SIDES[name], 2)[:, None]
    with torch.no_grad():
        first, between, again = network(one), network(other), network(one)
    assert torch.equal(first, again)
    assert not torch.equal(first, between)


def test_pixels_are_permuted_by_a_constant() -> None:
    order = permutation(64)
    assert sorted(order) == list(range(64))
    assert order[:4] == [13, 12, 55, 7]
    assert build_network("rnn-digits-permuted", 10, 1, seed=1).state_dict()["order"].tolist() == order


# As quantized.


class TwiceRead(nn.Module):
    """A recurrent network whose states are read by another layer too, after the next state is made of them."""

    def __init__(self) -> None:
        super().__init__()
        self.input, self.recurrent, self.readout = nn.Linear(3, 6), nn.Linear(6, 6, bias=False), nn.Linear(6, 4)
        self.activation = nn.ReLU()

    def forward(self, seen: Tensor) -> Tensor:
        rows = seen.flatten(1).unflatten(1, (5, 3))
        state = rows.new_zeros(rows.shape[0], 6)
        logits = rows.new_zeros(rows.shape[0], 4)
        for step in range(5):
            before, driven = state, self.input(rows[:, step])
            state = self.activation(driven + self.recurrent(state))
            logits = logits + self.readout(before)
        total: Tensor = logits + self.readout(state)
        return total


@pytest.mark.parametrize("make", [lambda: small(OrthogonalLinear(8)), TwiceRead])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_states_that_are_read_again_are_not_overwritten(make: object, bits: int) -> None:
    assert callable(make)
    network, seen = make().eval().requires_grad_(False), torch.rand(7, 1, 5, 3)
    layers, calibration = calibrated(network, seen)
    fast, slow = (QuantizedNetwork(network, layers, calibration, fast=fast) for fast in (True, False))
    for quantized in (fast, slow):
        quantized.set_policy(Policy.from_bits([bits] * 3, [bits] * 3))
    given = seen.clone()
    expected = slow(seen)
    assert torch.equal(fast(given), expected)
    assert torch.equal(fast(given), expected)
    assert torch.equal(given, seen)
    overwriting = {name for name, layer in fast.network.named_modules() if getattr(layer, "overwrites", False)}
    assert overwriting == (set() if make is TwiceRead else {"readout"})


def test_the_state_has_one_precision() -> None:
    network, seen = small(OrthogonalLinear(8)), torch.rand(7, 1, 5, 3)
    layers, calibration = calibrated(network, seen)
    quantized = QuantizedNetwork(network, layers, calibration, fast=False)
    quantized.set_policy(Policy.from_bits([8, 8, 8], [8, 2, 8]))
    layer = quantized.network.get_submodule("recurrent")
    assert isinstance(layer, QuantizedLayer)
    assert layer.grid is not None
    assert layer.grid.low == 0  # states are not negative
    outputs: list[Tensor] = []
    layer.register_forward_hook(lambda _, arguments, output: outputs.append(arguments[0].div(layer.step)))
    quantized(seen)
    assert len(outputs) == 5
    assert not outputs[0].any()
    assert len(layer.grid.nearest(torch.cat(outputs)).unique()) <= 4


def test_a_layer_of_many_calls_keeps_no_more_inputs_than_another() -> None:
    network = build_network("rnn-digits-permuted", 10, 1, seed=0)
    layers, calibration = calibrated(network, images(8, 400))
    assert all(calibration.inputs[layer.name].values.numel() <= SAMPLE for layer in layers)
    assert calibration.inputs["recurrent"].values.numel() > SAMPLE // 2


def test_walsh_hadamard_matrices_are_exact_at_any_bits() -> None:
    network = build_network("hadamard-digits-permuted", 10, 1, seed=0)
    _, calibration = calibrated(network, images(8))
    weight = calibration.weights["recurrent"]
    for bits in range(2, 9):
        torch.testing.assert_close(calibration.quantized_weight("recurrent", bits), weight, rtol=1e-5, atol=0)


def test_biases_of_layers_of_many_calls_are_not_corrected() -> None:
    network, seen = small(nn.Linear(8, 8, bias=False)), torch.rand(7, 1, 5, 3)
    layers, calibration = calibrated(network, seen)
    quantized = QuantizedNetwork(network, layers, calibration)
    quantized.set_policy(Policy.from_bits([4, 4, 4], [4, 4, 4]))
    with pytest.raises(BitcertError, match="input' is called more than once: its bias cannot be corrected"):
        quantized.update_statistics([seen, seen], Statistics(bias_correction=True))


def test_what_needs_single_calls_says_so(bench: Workbench) -> None:
    with pytest.raises(BitcertError, match="a layer is not called exactly once"):
        PrefixNetwork(bench.network, bench.space.layers, bench.calibration)


# Probes.


@pytest.mark.parametrize("name", PROBLEMS)
def test_probes_measure_what_can_be_measured(name: str) -> None:
    problem = load_problem(name)
    probes = problem.probes(ProbeSettings(images=6, noise=1))
    with pytest.raises(BitcertError, match="'input' is executed more than once: the loss cannot be differentiated by"):
        probes.derivatives("activation")
    bench = workbench_of(problem, "a test")
    by_weights = probes.derivatives("weight").gradient()
    (inputs, labels) = probes._batches[0]  # type: ignore[attr-defined]
    weight = bench.network.get_parameter("recurrent.weight").detach().clone().requires_grad_()

    def losses(weight: Tensor, reduction: str) -> Tensor:
        logits = torch.func.functional_call(bench.network, {"recurrent.weight": weight}, (inputs,))
        return nn.functional.cross_entropy(logits, labels, reduction=reduction)

    (expected,) = torch.autograd.grad(losses(weight, "mean"), weight)
    torch.testing.assert_close(torch.from_numpy(by_weights[1]).reshape_as(expected), expected, rtol=1e-3, atol=1e-6)
    rows = [torch.autograd.grad(loss, weight, retain_graph=True)[0] for loss in losses(weight, "none")]
    squares = torch.stack(rows).square().double().mean()
    assert probes.squared_gradients()[0, 1] == pytest.approx(float(squares), rel=1e-3)
    policy = problem.space.uniform(3)
    by_weights_error, by_inputs_error = probes.first_order(policy)[:, 1]
    assert by_inputs_error > 0
    assert (by_weights_error > 1e-4) == (name == "digits-permuted-rnn")  # the other one's weights are exact
    assert probes.perturbations("activation").shape == (3, len(problem.space.choices))
    assert (probes.output_changes([policy.precisions[1]]) >= 0).all()


# Trained.


@pytest.mark.parametrize(("name", "sigma", "least"), [(PROBLEMS[0], 0.25, 0.95), (PROBLEMS[1], 0.12, 0.85)])
def test_included_networks_are_as_good_as_recorded(name: str, sigma: float, least: float) -> None:
    dataset, definition = load_dataset("digits"), definitions()[name]
    network = build_network(definition.network, 10, 1)
    record = load_checkpoint(network, shipped_checkpoints(name, sigma)[0])
    assert record["settings"] == asdict(recipe_for("digits", definition.network).settings)
    assert record["data_sha256"] == dataset.sha256
    found = accuracy(network, dataset.splits["search"])
    assert found > least
    assert found == pytest.approx(record["search_accuracy"], abs=0.01)
    matrix = network.get_submodule("recurrent")
    assert isinstance(matrix, ConstrainedLinear)
    assert torch.equal(matrix.constrained(matrix.weight), matrix.weight)


@pytest.mark.parametrize("scheme", ["lsq", "fixed", "dorefa"])
def test_a_finetuned_network_freezes_the_quantized_constrained_weight(bench: Workbench, scheme: str) -> None:
    policy = bench.space.uniform(4)
    network = TrainableNetwork(bench.network, bench.space.layers, policy, bench.calibration, scheme)  # type: ignore[arg-type]
    layer = network.layers()["recurrent"]
    with torch.no_grad():
        layer.weight.add_(0.05 * random_matrix(len(layer.weight), 1))
    assert float((singular_values(layer.weight) - 1).abs().max()) > 0.05
    wanted = layer.quantize_weights(constrained(layer.float_layer, layer.weight))
    assert not torch.equal(wanted, layer.quantize_weights(layer.weight))
    frozen = network.freeze().get_submodule("recurrent")
    assert isinstance(frozen, QuantizedLayer)
    torch.testing.assert_close(frozen.weight / frozen.step, wanted, rtol=1e-6, atol=0)
    network.eval()
    seen = images(8)
    with torch.no_grad():
        torch.testing.assert_close(network(seen), network.freeze()(seen), rtol=1e-4, atol=1e-3)


def test_no_finetuning_steps_change_nothing(bench: Workbench) -> None:
    policy, seen = bench.space.uniform(3), images(8, 20)
    with torch.no_grad():
        expected = bench.quantized(policy)(seen.clone())
        assert torch.equal(bench.trainable(policy).freeze()(seen.clone()), expected)
        switchable = SwitchableNetwork(
            bench.network, bench.space.layers, bench.space.choices, bench.calibration, pinned=bench.space.pinned
        ).eval()
        switchable.set_policy(policy)
        torch.testing.assert_close(switchable(seen), expected, rtol=1e-4, atol=1e-4)


def test_a_supernet_passes_on_weights_of_the_set(bench: Workbench) -> None:
    made = SwitchableNetwork(
        bench.network, bench.space.layers, bench.space.choices, bench.calibration, pinned=bench.space.pinned
    )
    with torch.no_grad():
        master = made.layers["recurrent"].master(8)
        master.add_(0.05 * random_matrix(len(master), 1))
    network, calibration = made.inherited(bench.network, bench.calibration)
    weight = calibration.weights["recurrent"]
    torch.testing.assert_close(singular_values(weight), torch.ones(len(weight)).double(), rtol=0, atol=TOLERANCE)
    assert torch.equal(network.get_parameter("recurrent.weight"), weight)


@pytest.mark.parametrize("step", ["qat:steps=4", "sqwa:steps=4:captures=2", "swa:steps=4:captures=2", "speq:steps=4"])
def test_post_steps_train_recurrent_networks(bench: Workbench, step: str) -> None:
    request = Request(protocol_for("ptq", 0), 0, 0)
    prepared, again = (POST_STEPS.make(step).prepare(bench, bench.space.uniform(3), request) for _ in range(2))
    with torch.no_grad():
        logits = prepared.network(images(8))
        assert torch.equal(again.network(images(8)), logits)
        assert torch.isfinite(logits).all()


def test_constrained_weights_are_not_pruned(bench: Workbench) -> None:
    network = TrainableNetwork(bench.network, bench.space.layers, bench.float_policy(), bench.calibration)
    with pytest.raises(BitcertError, match="'recurrent' are constrained, so none can be pruned"):
        mask_weights(network, MaskSettings())


@pytest.mark.parametrize("bits", [3, 5, 8])
def test_the_integer_network_is_the_same_in_onnx_runtime(bits: int) -> None:
    problem = load_problem("digits-permuted-rnn")
    bench, space = workbench_of(problem, "a test"), problem.space
    network = QuantizedNetwork(bench.network, space.layers, bench.calibration)
    network.set_policy(space.uniform(bits))
    batch = bench.statistics_batches[0][:20]
    integer = integer_network(network, [batch])
    logits = integer(batch)
    assert torch.equal(OnnxNetwork(onnx_model(integer, (1, 8, 8), 10))(batch), logits)
    agreement = (logits.argmax(dim=1) == network(batch).argmax(dim=1)).float().mean()
    assert agreement >= 0.7 or bits < 5, "another network, close to it unless it is erratic itself"
