"""Spiking networks: neurons, levels of states, and everything that a policy goes through."""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from suite.certify.exam import ExamSettings
from suite.contract.space import Pin, Policy, Precision
from suite.errors import BitcertError
from suite.networks import build_network, check_layers, trace_layers
from suite.networks.spiking import Leak, Neurons, Spike, SpikingNetwork, TracedNeurons
from suite.problems import load_problem
from suite.problems.vision import VisionProblem
from suite.quantize import QuantizedNetwork, TrainableNetwork, calibrate
from suite.quantize.calibration import SeenInputs
from suite.quantize.integer import OnnxNetwork, integer_network, onnx_model
from suite.quantize.states import centred_levels, state_grid, uniform_levels
from suite.quantize.switchable import SwitchableNetwork
from suite.quantize.trainable import LearnedStep
from suite.run.exam import examine
from suite.run.registry import make_searcher

BY_LEVELS = ("spiking-digits", "spiking-digits-uniform", "spiking-digits-centred")
EVERY = (*BY_LEVELS, "spiking-digits-traces")
STATES = ("first.state", "second.state")


@cache
def vision(name: str, **options: Any) -> VisionProblem:
    problem = load_problem(name, **options)
    assert isinstance(problem, VisionProblem)
    return problem


def images(count: int = 6, seed: int = 0) -> Tensor:
    return torch.rand((count, 1, 8, 8), generator=torch.Generator().manual_seed(seed))


def tiny(steps: int = 4, seed: int = 0) -> SpikingNetwork:
    torch.manual_seed(seed)
    return SpikingNetwork(64, (12, 9), 10, steps, (0.5,), (0.5,)).eval().requires_grad_(False)


# Levels


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize(
    ("low", "high", "threshold"), [(-1.0, 1.2, 1.0), (-4.0, 2.0, 1.0), (-10.0, 5.0, 2.0), (-2.0, 3.0, 0.5)]
)
def test_levels_are_those_of_snntorch(bits: int, low: float, high: float, threshold: float) -> None:
    quant = pytest.importorskip("snntorch.functional.quant")
    settings = {"threshold": threshold, "lower_limit": -low / threshold - 1, "upper_limit": high / threshold - 1}
    states = torch.linspace(low - 1, high + 1, 4001)
    for uniform, levels in (
        (True, uniform_levels(bits, low, high)),
        (False, centred_levels(bits, low, high, threshold)),
    ):
        theirs = quant.state_quant(num_bits=bits, uniform=uniform, thr_centered=not uniform, **settings)(states)
        ours = torch.tensor(levels)[(states[:, None] - torch.tensor(levels)).abs().argmin(dim=1)]
        assert torch.allclose(theirs, ours, atol=1e-5)


def test_centred_levels_by_hand() -> None:
    assert centred_levels(1, -1, 1.2, 1) == pytest.approx((-1, 1.2))
    assert centred_levels(2, -1, 1.2, 1) == pytest.approx((-1, 0.801802, 0.981982, 1.2), abs=1e-6)
    assert centred_levels(3, -1, 1.2, 1)[3:6] == pytest.approx((0.946426, 0.984234, 0.995576), abs=1e-6)


def test_a_threshold_near_an_end_has_a_level_on_either_side() -> None:
    low, high = centred_levels(1, -0.1, 50.0, 0.05)
    assert (low, high) == pytest.approx((-0.1, 50.0))
    for threshold in (0.01, 0.99):
        levels = centred_levels(3, 0.0, 1.0, threshold)
        assert len(levels) == 8
        assert levels[0] < threshold < levels[-1]


@given(
    st.integers(1, 8),
    st.floats(-50, -0.1),
    st.floats(1.1, 50),
    st.floats(0.05, 1.0),
    st.sampled_from(["uniform", "centred"]),
)
def test_levels_ascend_from_end_to_end(bits: int, low: float, high: float, threshold: float, levels: Any) -> None:
    grid = state_grid(bits, levels, low, high, threshold)
    assert grid.levels is not None
    assert len(grid.levels) == 2**bits
    assert (grid.levels[0], grid.levels[-1]) == pytest.approx((low, high))
    assert all(below < above for below, above in pairwise(grid.levels))
    values = torch.linspace(low - 1, high + 1, 501)
    found = grid.nearest(values)
    assert (found.diff() >= 0).all()
    distances = (values[:, None] - torch.tensor(grid.levels)).abs()
    assert torch.allclose((found - values).abs(), distances.min(dim=1).values, atol=1e-6 * (high - low))


def test_halfway_between_levels_is_the_lower_one_and_a_threshold_outside_of_the_range_is_refused() -> None:
    grid = state_grid(2, "uniform", -1.0, 2.0, 1.0)
    assert grid.nearest(torch.tensor([-0.5, 0.5, 1.5])).tolist() == [-1.0, 0.0, 1.0]
    with pytest.raises(BitcertError, match="threshold 3 is outside"):
        centred_levels(3, -1.0, 2.0, 3.0)


def test_the_range_is_what_was_seen_but_for_its_tails_and_holds_the_threshold() -> None:
    values = torch.linspace(-3, 5, 8001)[None]
    assert SeenInputs(True, values, 1.0).range() == pytest.approx((-2.992, 4.992), abs=1e-3)
    assert SeenInputs(False, values / 100 + 0.1, 1.0).range() == pytest.approx((0.0, 1.1))


# Neurons


@pytest.mark.parametrize("feedback", [False, True])
def test_neurons_are_those_of_snntorch(feedback: bool) -> None:
    snntorch = pytest.importorskip("snntorch")
    torch.manual_seed(1)
    neurons, arriving = Neurons(20), torch.randn(12, 1000, 20)
    with torch.no_grad():
        neurons.feedback.weight.mul_(1.0 if feedback else 0.0)
        theirs = snntorch.RLeaky(beta=neurons.state.leak, linear_features=20, reset_mechanism="subtract")
        theirs.recurrent.weight.copy_(neurons.feedback.weight)
        theirs.recurrent.bias.zero_()
        spikes, memory = theirs.init_rleaky()
        potential = arriving[0]
        for step in range(11):
            spikes, memory = theirs(arriving[step], spikes, memory)
            assert torch.allclose(memory, potential, atol=1e-4)
            potential, fired = neurons(potential, arriving[step + 1])
            assert (fired != spikes).float().mean() < 1e-4, "but for potentials at the threshold"


def test_a_leak_by_a_power_of_two_sums_a_constant_current_exactly() -> None:
    neurons = Neurons(3)
    neurons.fire = Spike(math.inf)
    current = torch.tensor([[1.0, 2.0, -4.0]])
    with torch.no_grad():
        potential, total = current, current.clone()
        for step in range(1, 6):
            potential, fired = neurons(potential, current)
            total = 0.875 * total + current
            assert not fired.any()
            assert torch.equal(potential, total)
            assert torch.allclose(potential, current * (1 - 0.875 ** (step + 1)) / 0.125)


def test_the_gradient_of_a_spike_is_its_surrogate_and_so_is_its_derivative() -> None:
    potential = torch.tensor([0.3, 1.0, 1.2], dtype=torch.float64, requires_grad=True)
    fired = Spike(1.0)(potential)
    assert fired.tolist() == [0.0, 0.0, 1.0]
    (slope,) = torch.autograd.grad(fired.sum(), potential, create_graph=True)
    above = potential.detach() - 1
    assert torch.allclose(slope, 1 / (1 + (math.pi * above) ** 2))
    (curvature,) = torch.autograd.grad(slope.sum(), potential)
    assert torch.allclose(curvature, -2 * math.pi**2 * above / (1 + (math.pi * above) ** 2) ** 2)


def test_every_image_starts_at_rest() -> None:
    network, first, second = tiny(), images(2, seed=1), images(2, seed=2)
    before = network(first)
    network(second)
    assert torch.equal(network(first), before)
    assert torch.allclose(network(torch.cat([first, second]))[:2], before, atol=1e-6)


def test_traces_of_synapses_sum_what_arrives_and_fade_by_half() -> None:
    neurons = TracedNeurons(2)
    current = torch.tensor([[0.25, -1.0]])
    with torch.no_grad():
        neurons.feedback.weight.zero_()
        state = neurons.start(current)
        potential, trace = current, current
        for _ in range(6):
            state, fired = neurons(state, current)
            kept = 0.875 * potential
            trace = 0.5 * trace + current
            potential = kept - (kept > 0.875).float() + trace
            assert torch.equal(fired, (kept > 0.875).float())
            assert torch.equal(state[0], potential)
            assert torch.equal(state[1], trace)
    assert potential[0, 0] != potential[0, 1]


# The space


def test_states_are_layers_with_a_multiplication_for_each_neuron_and_step() -> None:
    space = vision("spiking-digits").space
    found = {layer.name: (layer.kind, layer.macs, layer.parameters) for layer in space.layers}
    assert found == {
        "input": ("linear", 64 * 96, 64 * 96),
        "first.state": ("state", 96 * 10, 96),
        "first.feedback": ("linear", 96 * 96 * 10, 96 * 96),
        "between": ("linear", 96 * 64 * 10, 96 * 64),
        "second.state": ("state", 64 * 9, 64),
        "second.feedback": ("linear", 64 * 64 * 9, 64 * 64),
        "output": ("linear", 640, 640),
    }
    assert len(space.variables) == 5
    assert space.pinned["first.state"] == Pin(8, None)
    assert space.pinned["between"] == Pin(None, 1)


def test_costs_by_hand() -> None:
    problem = vision("spiking-digits", budget="w3a4+state-bytes<=80")
    policy = problem.space.uniform(3, 4)
    weights = 96 * 96 * 10 + 96 * 64 * 10 + 64 * 64 * 9
    by_hand = 64 * (64 * 96 + 640) + 3 * 1 * weights + 8 * 4 * (960 + 576)
    assert problem.bops(policy) == problem.budget.limit == by_hand
    memory = problem.budget.limits[1]
    assert (
        memory.cost.units(memory.cost.total(problem.space, policy))
        == (96 + 64) * 4 // 8
        == memory.cost.units(memory.most)
    )
    assert problem.is_feasible(policy)
    assert not problem.is_feasible(problem.space.uniform(3, 5))


def test_a_limit_on_states_is_refused_where_there_are_none() -> None:
    with pytest.raises(BitcertError, match="state-bytes<=10 limits nothing: every policy costs 0 bytes of states"):
        load_problem("digits", budget="w3a3+state-bytes<=10")


def test_your_own_network_may_have_leaks_but_none_that_compute_something_else() -> None:
    class Fading(Leak):
        def forward(self, state: Tensor) -> Tensor:
            return super().forward(state) - 1

    layers = trace_layers(tiny(), (1, 8, 8))
    check_layers(tiny(), layers)
    other = tiny()
    other.first.state = Fading(12)
    with pytest.raises(BitcertError, match=r"first\.state \(Fading\)"):
        check_layers(other, layers)


# Quantized networks


def quantized(name: str, bits: int, **options: Any) -> QuantizedNetwork:
    bench, space = vision(name).bench, vision(name).space
    network = QuantizedNetwork(bench.network, space.layers, bench.calibration, **options)
    network.set_policy(space.uniform(bits))
    return network


@pytest.mark.parametrize("name", BY_LEVELS)
def test_neurons_fire_by_the_potential_as_it_is_stored(name: str) -> None:
    """Two steps, written out."""
    bench, network = vision(name).bench, quantized(name, 3)
    calibration, inside = bench.calibration, network.network
    assert isinstance(inside, SpikingNetwork)
    given = images()
    seen: list[Tensor] = []
    handle = inside.first.feedback.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    network(given)
    handle.remove()
    current = inside.input(inside.normalization(given).flatten(1))
    weight = calibration.quantized_weight("first.feedback", 3)
    potential = current
    for step in range(2):
        grid, width = calibration.input_grid("first.state", 3), calibration.activation_step("first.state", 3)
        kept = 0.875 * grid.nearest(potential / width) * width
        fired = (kept > 0.875).float()
        assert (fired != seen[step]).float().mean() < 0.01, "but for sums of another order at the border of two levels"
        potential = kept - fired + current + fired @ weight.T


@pytest.mark.parametrize("name", EVERY)
def test_without_quantization_it_is_the_float_network_and_its_memory_may_be_overwritten(name: str) -> None:
    bench, space = vision(name).bench, vision(name).space
    network = QuantizedNetwork(bench.network, space.layers, bench.calibration)
    network.set_policy(Policy((Precision(32, 32),) * len(space.layers)))
    assert torch.allclose(network(images()), bench.network(images()), atol=1e-5)
    for bits in (2, 4):
        assert torch.equal(quantized(name, bits, fast=True)(images()), quantized(name, bits, fast=False)(images()))


@pytest.mark.parametrize("name", BY_LEVELS)
def test_finetuning_starts_at_the_quantized_network_and_leaves_leaks_spikes_and_levels_alone(name: str) -> None:
    bench, space = vision(name).bench, vision(name).space
    policy = space.uniform(3)
    network = TrainableNetwork(bench.network, space.layers, policy, bench.calibration)
    assert torch.allclose(network.freeze()(images()), quantized(name, 3)(images()), atol=1e-5)
    learned = {scale.data_ptr() for scale in network.scales()}
    layers = network.layers()

    def inputs_of(layer: str) -> LearnedStep:
        quantizer = layers[layer].quantize_inputs
        assert isinstance(quantizer, LearnedStep)
        return quantizer

    for layer in ("first.feedback", "between", "second.feedback"):
        assert inputs_of(layer).step == 1
        assert inputs_of(layer).step.data_ptr() not in learned
    network.train()
    before = {layer: layers[layer].weight.clone() for layer in ("first.feedback", *STATES)}
    optimizer = torch.optim.SGD(network.parameters(), 0.5, weight_decay=0.1)
    nn.functional.cross_entropy(network(images()), torch.arange(6)).backward()
    optimizer.step()
    assert not torch.equal(layers["first.feedback"].weight, before["first.feedback"])
    for layer in STATES:
        assert torch.equal(layers[layer].weight, before[layer])
        assert torch.allclose(layers[layer].quantize_weights(layers[layer].weight), torch.tensor(0.875))
        trained = inputs_of(layer).step.data_ptr() in learned
        assert trained == (name == "spiking-digits"), "levels in the units of the state have no step to train"


@pytest.mark.parametrize("name", EVERY)
def test_a_supernet_computes_what_finetuning_starts_from(name: str) -> None:
    bench, space = vision(name).bench, vision(name).space
    network = SwitchableNetwork(bench.network, space.layers, (2, 3), bench.calibration, pinned=space.pinned).eval()
    policy = space.uniform(2, 3)
    network.set_policy(policy)
    alone = TrainableNetwork(bench.network, space.layers, policy, bench.calibration).eval()
    assert torch.equal(network(images()), alone(images()))
    assert all(not len(network.layers[state].masters) for state in STATES)
    inherited, calibration = network.inherited(bench.network, bench.calibration)
    again = QuantizedNetwork(inherited, space.layers, calibration)
    again.set_policy(policy)
    assert torch.allclose(again(images()), alone(images()), atol=1e-5)


@pytest.mark.parametrize(
    "post_step",
    [
        "qat:steps=4",
        "sqwa:steps=4:captures=2",
        "swa:steps=4:captures=2",
        "swa-masked:steps=4:captures=2",
        "speq:steps=4",
    ],
)
def test_post_steps_train_spiking_networks(post_step: str) -> None:
    problem = vision("spiking-digits-centred")
    outcome = examine(problem, problem.space.uniform(3), post_step=post_step, exam=ExamSettings(images=8, n0=4, n=20))
    assert outcome.metrics.clean_accuracy is not None
    assert outcome.metrics.clean_accuracy > 0.1


PLANNED = ("hawq-v3", "fit", "output-fisher", "delta-loss", "clado", "certified-ilp", "limpq")
OTHERS = ("adaqat:steps=2", "fracbits:steps=2", "nipq:steps=2", "tpe", "evolution", "arq")


@pytest.mark.parametrize("method", [*(f"{name}:images=8" for name in PLANNED), *OTHERS])
def test_methods_plan_for_states(method: str) -> None:
    problem = vision("spiking-digits", budget="w3a3+state-bytes<=70")
    policy = make_searcher(method, problem, seed=0).ask()
    assert problem.is_feasible(policy)


def test_methods_that_differentiate_by_inputs_say_that_they_cannot() -> None:
    with pytest.raises(BitcertError, match="executed more than once"):
        make_searcher("hawq-v2:images=8", vision("spiking-digits"), seed=0).ask()


# Integers


@pytest.mark.parametrize("bits", [2, 4, 6])
def test_the_integer_network_is_the_same_in_torch_in_onnx_runtime_and_in_64_bit_integers(bits: int) -> None:
    network = quantized("spiking-digits", bits)
    batch = images(40)
    integer = integer_network(network, [batch])
    logits = integer(batch)
    assert torch.equal(OnnxNetwork(onnx_model(integer, (1, 8, 8), 10))(batch), logits)
    assert torch.equal(_in_64_bits(integer, batch), logits)
    agreement = (logits.argmax(dim=1) == network(batch).argmax(dim=1)).float().mean()
    assert agreement >= 0.8, "another network, close to it"


def test_leaks_of_the_integer_network_are_those_of_the_quantized_one() -> None:
    found = [
        layer for layer in integer_network(quantized("spiking-digits", 4), [images()]).layers() if "state" in layer.name
    ]
    assert len(found) == 10 + 9
    for layer in found:
        leaks = layer.weight * layer.weight_scale.reshape(-1, 1)
        assert torch.equal(leaks, torch.diag(leaks.diagonal()))
        assert torch.allclose(leaks.diagonal(), torch.tensor(0.875), atol=2.0**-11), "scales have 12 bits"


def _in_64_bits(integer: nn.Module, batch: Tensor) -> Tensor:
    """Accumulates every layer in int64 of numpy rather than in floating point."""
    from suite.quantize.integer.operations import Accumulate

    kept: list[tuple[Accumulate, Any]] = []

    def in_64_bits(operation: Accumulate) -> Any:
        def compute(inputs: Tensor) -> Tensor:
            weight = operation.weight.numpy().astype(np.int64)
            sums = inputs.numpy().astype(np.int64) @ weight.T + operation.bias.numpy().astype(np.int64)
            scaled = torch.from_numpy(sums).float() * operation.multiplier
            coding = operation.coding
            return scaled if coding is None else scaled.round().clamp(coding.low, coding.high)

        return compute

    for module in integer.modules():
        if isinstance(module, Accumulate):
            kept.append((module, module.compute))
            module.compute = in_64_bits(module)  # type: ignore[method-assign]
    try:
        return integer(batch)  # type: ignore[no-any-return]
    finally:
        for module, compute in kept:
            module.compute = compute  # type: ignore[method-assign]


def test_traces_have_levels_of_their_own() -> None:
    problem = vision("spiking-digits-traces")
    assert len(problem.space.variables) == 7
    calibration = problem.bench.calibration
    assert calibration.has_levels("first.state")
    assert not calibration.has_levels("first.trace"), "they are compared with no threshold"


def test_levels_that_are_no_multiples_have_no_integer_form() -> None:
    with pytest.raises(BitcertError, match="states whose levels are no multiples of a step have no integer form"):
        integer_network(quantized("spiking-digits-centred", 3), [images()])


@pytest.mark.parametrize(
    ("name", "engine", "message"),
    [
        ("spiking-digits", "fixed-point", "a fixed-point network has no states"),
        ("spiking-digits-centred", "onnx", "no multiples of a step"),
        ("spiking-digits-traces", "integer", "no multiples of a step"),
    ],
)
def test_engines_that_cannot_execute_states_are_refused_before_anything_runs(
    name: str, engine: str, message: str
) -> None:
    with pytest.raises(BitcertError, match=message):
        load_problem(name, engine=engine)


def test_ranges_are_recorded_where_levels_need_them() -> None:
    assert "state_ranges" not in vision("spiking-digits").provenance()
    found = vision("spiking-digits-centred").provenance()
    assert found["state_levels"] == "centred"
    for name in STATES:
        low, high = found["state_ranges"][name]
        assert low < 0 < 1 < high


def test_another_network_is_calibrated_with_its_thresholds() -> None:
    network = build_network("spiking-mnist", 10, 1, seed=3)
    layers = trace_layers(network, (1, 28, 28))
    seen = calibrate(network, [layer.name for layer in layers], [torch.rand(4, 1, 28, 28)], state_levels="uniform")
    assert {name for name, inputs in seen.inputs.items() if inputs.threshold == 1.0} == set(STATES)
    assert seen.inputs["between"].binary
    assert not seen.inputs["input"].binary
    assert seen.activation_step("between", 1) == 1.0
