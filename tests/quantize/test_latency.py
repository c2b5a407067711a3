"""Latency of layers: what a layer is in an exported graph, equal kernels, timing with a made-up clock, the check of the sum."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from torch import nn

from suite.contract.latency import LatencyTable, layer_latency
from suite.contract.space import Policy, Precision, SearchSpace
from suite.errors import BitcertError
from suite.networks.residual import ResidualNetwork
from suite.quantize import QuantizedNetwork, calibrate
from suite.quantize.integer.pieces import executed_graph, graph_text, layer_pieces
from suite.quantize.latency import (
    Exporter,
    Kernels,
    Timed,
    check,
    check_policies,
    find_kernels,
    measure,
    tabulate,
    time_rounds,
)
from suite.testing.toys import small_layers
from tests.quantize.test_integer import Mobile
from tests.quantize.test_quantized_networks import Awkward, prepared

SHAPE = (3, 8, 8)
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "projection": lambda: ResidualNetwork(1, 5, (0.5,) * 3, (0.25,) * 3, "projection"),
    "mobile": Mobile,
}


def exporter_of(network: nn.Module) -> tuple[Exporter, SearchSpace]:
    found, layers, images = prepared(network, SHAPE)
    quantized = QuantizedNetwork(found, layers, calibrate(found, [layer.name for layer in layers], [images]))
    return Exporter(quantized, images), SearchSpace(layers, choices=(2, 4, 8))


def outputs_of(model: onnx.ModelProto, inputs: dict[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
    """All results of a model, computed without any fusion."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def channels_last(values: NDArray[np.generic]) -> NDArray[np.generic]:
    return values.transpose(0, 2, 3, 1) if values.ndim == 4 else values


@pytest.mark.parametrize("bits", [(2, 4), (4, 8), (8, 8)])
@pytest.mark.parametrize("name", NETWORKS)
def test_pieces_compute_what_the_network_computes_at_their_place(name: str, bits: tuple[int, int]) -> None:
    exporter, space = exporter_of(NETWORKS[name]())
    model, products = exporter.export(space.uniform(*bits))
    pieces = layer_pieces(model, products, [layer.name for layer in space.layers])
    assert list(pieces) == [layer.name for layer in space.layers]
    whole = onnx.shape_inference.infer_shapes(model)
    given = {value.name for value in whole.graph.output}
    whole.graph.output.extend(value for value in whole.graph.value_info if value.name not in given)
    images = np.random.default_rng(0).random((5, *SHAPE), dtype=np.float32)
    everything = outputs_of(whole, {"images": images}) | {"images": images}
    for piece in pieces.values():
        ends = [value.name for value in piece.graph.input]
        inputs = {end: channels_last(everything[end.removesuffix("_channels_last")]) for end in ends}
        for end, found in outputs_of(piece, inputs).items():
            np.testing.assert_array_equal(found, channels_last(everything[end.removesuffix("_channels_last")]))


def test_a_layer_is_its_product_and_what_prepares_codes_for_it() -> None:
    exporter, space = exporter_of(NETWORKS["projection"]())
    names = [layer.name for layer in space.layers]

    def kinds(policy: Policy) -> dict[str, Counter[str]]:
        pieces = layer_pieces(*exporter.export(policy), names)
        return {
            name: Counter(node.op_type for node in piece.graph.node if node.op_type != "Transpose")
            for name, piece in pieces.items()
        }

    few, many = kinds(space.uniform(4, 4)), kinds(space.uniform(8, 8))
    inner, after_sum = "layer1.0.conv2", "layer2.0.conv1"
    assert few[inner] == {"Clip": 1, "Cast": 1, "QLinearConv": 1}
    assert many[inner] == {"QLinearConv": 1}, "codes of 8 bits need no clip, weights of 8 bits no unpacking"
    assert few[after_sum] == {"DequantizeLinear": 1, "QuantizeLinear": 1, "Clip": 1, "Cast": 1, "QLinearConv": 1}
    assert few[names[-1]] == {"MatMulInteger": 1, "Add": 1, "Cast": 1, "Mul": 1}
    assert not any(found["ReduceSum"] for found in few.values()), "pooling belongs to no layer"
    mixed = [4] * len(names)
    mixed[names.index(after_sum)] = 8
    policy = Policy.from_bits([8, *[4] * (len(names) - 2), 8], [8, *mixed[1:-1], 8])
    assert kinds(policy)[inner] == few[inner], "a layer does not depend on the bits of the next one"
    assert kinds(policy)[after_sum] == few[after_sum] - Counter({"Clip": 1})


def test_a_layer_without_a_product_is_refused_in_one_line() -> None:
    exporter, space = exporter_of(NETWORKS["projection"]())
    with pytest.raises(BitcertError, match="'elsewhere' executes no product"):
        layer_pieces(*exporter.export(space.uniform(4)), ["elsewhere"])


def test_precisions_that_execute_the_same_share_a_kernel() -> None:
    exporter, space = exporter_of(NETWORKS["projection"]())
    for kernels in find_kernels(space, exporter):
        if kernels.layer.name in space.pinned:
            assert kernels.of == {Precision(8, 8): 0}
            continue
        assert len(kernels.of) == 9
        of = {tuple(bits): number for bits, number in kernels.of.items()}
        assert of[2, 2] == of[2, 4] == of[4, 2] == of[8, 4], (
            "weights are bytes where they are executed, whatever is stored"
        )
        assert of[2, 8] == of[4, 8]
        assert len({of[2, 2], of[2, 8], of[8, 8]}) == len(kernels.models) == 3, "a clip less; and unsigned weights"


def test_texts_of_graphs_ignore_numbers_and_nothing_else() -> None:
    exporter, space = exporter_of(NETWORKS["projection"]())
    names = [layer.name for layer in space.layers]
    first, second = (layer_pieces(*exporter.export(space.uniform(bits, 8)), names)["layer1.0.conv2"] for bits in (2, 4))
    assert graph_text(first) != graph_text(second), "as stored, weights of 2 and 4 bits differ"
    assert executed_graph(first) == executed_graph(second)
    other = onnx.ModelProto()
    other.CopyFrom(first)
    (product,) = (node for node in other.graph.node if node.op_type == "QLinearConv")
    next(attribute for attribute in product.attribute if attribute.name == "group").i = 2
    assert graph_text(other) != graph_text(first)


def test_spaces_that_tie_weights_to_inputs_are_measured_on_their_diagonal() -> None:
    exporter, space = exporter_of(Straight())
    tied = replace(space, tie_weight_activation=True, pins={})
    for kernels in find_kernels(tied, exporter):
        assert set(kernels.of) == {(2, 2), (4, 4), (8, 8)}


class Straight(nn.Module):
    """One convolution and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, images):  # type: ignore[no-untyped-def]
        return self.linear(self.conv(images).relu().mean(dim=(2, 3)))


def test_networks_without_an_exported_form_are_refused_in_one_line() -> None:
    exporter, space = exporter_of(Awkward())
    with pytest.raises(BitcertError, match="only zeros are exported") as caught:
        find_kernels(space, exporter)
    assert "\n" not in str(caught.value)


# Timing, with a clock of our own


class FakeClock:
    """Time passes only when something is run."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[int] = []

    def __call__(self) -> float:
        return self.now

    def run(self, number: int, seconds: float) -> Callable[[], None]:
        """A run that takes so long, and three times as long the first time."""

        def call() -> None:
            self.now += seconds if number in self.log else 3 * seconds
            self.log.append(number)

        return call


def test_runs_are_interleaved_and_the_first_pass_is_not_counted() -> None:
    clock = FakeClock()
    done: list[int] = []
    found = time_rounds([clock.run(0, 1.0), clock.run(1, 2.5)], 3, clock, done.append)
    np.testing.assert_allclose(found, [[1.0, 2.5]] * 3)
    assert clock.log == [0, 1] * 4
    assert done == [0, 1, 2, 3]


def test_warmed_runs_are_made_twice_and_timed_once() -> None:
    clock = FakeClock()
    found = time_rounds([clock.run(0, 1.0), clock.run(1, 2.5)], 2, clock, warmed=1)
    np.testing.assert_allclose(found, [[1.0, 2.5]] * 2)
    assert clock.log == [0, 0, 1] * 3


def test_whole_measurements_take_their_time_from_the_clock() -> None:
    exporter, space = exporter_of(Straight())
    ticks = iter(range(10**6))
    space = replace(space, pins={}, choices=(4, 8))
    networks = check_policies(space, 4, seed=0)
    stages: list[str] = []
    table, timed = measure(
        find_kernels(space, exporter),
        networks,
        exporter,
        batch=2,
        rounds=2,
        clock=lambda: float(next(ticks)),
        progress=lambda stage, done, total: stages.append(stage),
    )
    assert {entry.measured for layer in table.layers for entry in layer.entries} == {0}, "no slower than doing nothing"
    assert table.constant == 500_000_000, "one second for two images"
    assert {each.measured for each in timed} == {5e8}
    assert [each.kind for each in timed] == ["uniform", "uniform", "random", "random", "extreme", "extreme"]
    assert stages[-1] == "rounds"


# The check of the sum, on synthetic times

LAYERS = small_layers(4)
SPACE = SearchSpace(LAYERS, pins={})
OF = {Precision(w, a): int(w == a == 8) for w in SPACE.choices for a in SPACE.choices}
KERNELS = [Kernels(layer, OF, (onnx.ModelProto(), onnx.ModelProto())) for layer in LAYERS]
TIMES = np.array([[1000.0, 1700], [2000, 2500], [500, 1500], [4000, 4100]])
NOTHING, CONSTANT = 50.0, 700.0


def true_time(policy: Policy) -> float:
    return CONSTANT + sum(float(row[OF[bits]]) for row, bits in zip(TIMES, policy.precisions, strict=True))


def test_times_of_an_additive_machine_are_found_and_predicted_exactly() -> None:
    networks = check_policies(SPACE, 12, seed=0)
    quiet = np.array([NOTHING, *(TIMES.ravel() + NOTHING), *(true_time(policy) for _, policy in networks)])
    slow = np.random.default_rng(0).exponential(300, size=(6, len(quiet)))
    slow[[0, 1]] = 0  # some round is quiet in each half
    table, timed = tabulate(KERNELS, networks, quiet + slow)
    assert table.constant == CONSTANT
    assert [[entry.measured for entry in layer.entries][::48] for layer in table.layers] == TIMES.tolist()
    found = check(table, timed)
    assert found.mean_error == pytest.approx(0, abs=1e-12)
    assert found.uniform_error == pytest.approx(0, abs=1e-12)
    assert found.rank_correlation == pytest.approx(1)
    assert found.repeatability == 0
    assert found.reliability == 1
    np.testing.assert_allclose(found.predicted, [true_time(policy) for _, policy in networks])


def test_what_does_not_add_up_shows_in_the_check() -> None:
    kernels = {0: 1000, 1: 2000}
    table = LatencyTable(tuple(layer_latency(layer, OF, kernels) for layer in LAYERS), 0)
    rng = np.random.default_rng(1)
    times = rng.uniform(9_000, 11_000, size=40)
    timed = [Timed(SPACE.random(rng), "random", time, (time, time)) for time in times.tolist()]
    timed.append(Timed(SPACE.uniform(4), "uniform", 8_000.0, (8_000.0, 8_000.0)))
    found = check(table, timed)
    assert 0.03 < found.mean_error < 0.08
    assert found.uniform_error > 0.2
    assert found.rank_correlation is not None
    assert abs(found.rank_correlation) < 0.6, "its standard error is 0.16 without a relation"


def test_repeatability_is_that_of_a_mean_of_both_halves() -> None:
    """With 400 networks the estimate's standard error is 3.5 %: outside of 14 % once in 16,000 seeds."""
    rng, noise = np.random.default_rng(2), 0.02
    table = LatencyTable(tuple(layer_latency(layer, OF, {0: 0, 1: 0}) for layer in LAYERS), 0)
    halves = 1e6 * (1 + noise * rng.standard_normal((400, 2)))
    timed = [
        Timed(SPACE.random(rng), "random" if place else "uniform", 1e6, (first, second))
        for place, (first, second) in enumerate(halves.tolist())
    ]
    assert check(table, timed).repeatability == pytest.approx(noise / 2**0.5, rel=0.14)


def test_equal_networks_have_no_rank_correlation() -> None:
    table = LatencyTable(tuple(layer_latency(layer, OF, {0: 5, 1: 5}) for layer in LAYERS), 0)
    rng = np.random.default_rng(3)
    timed = [
        Timed(SPACE.random(rng), kind, 100.0, (100.0, 100.0)) for kind in ("uniform", "random", "random", "random")
    ]
    found = check(table, timed)
    assert found.rank_correlation is None
    assert found.reliability == 0


def test_policies_of_the_check_are_uniform_random_and_extreme() -> None:
    space = SearchSpace(LAYERS)
    found = check_policies(space, 7, seed=0)
    assert [policy for kind, policy in found if kind == "uniform"] == [space.uniform(bits) for bits in space.choices]
    assert Counter(kind for kind, _ in found) == {"uniform": 7, "random": 4, "extreme": 3}
    for kind, policy in found:
        assert policy in space
        if kind == "extreme":
            assert {bits for precision in policy.precisions for bits in precision} <= {2, 8}
