"""Latency of the layers of an integer network in ONNX Runtime, at every precision, and of whole networks.

A layer is timed as a model of its own, cut out of the exported graph (:mod:`.integer.pieces`), and what a runtime executes for
different precisions is timed once where it is the same: noise cannot pretend differences between equal kernels. Models of
their own can be timed by the CPU time of the thread; the runtime's profiler, which times nodes within whole networks,
knows wall time only, which other programs on the machine lengthen.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from suite.contract.latency import LatencyTable, LayerLatency, layer_latency
from suite.contract.space import Layer, Policy, Precision, SearchSpace
from suite.quantize.integer import integer_network, onnx_model
from suite.quantize.integer.pieces import example_inputs, executed_graph, graph_text, layer_pieces, open_session
from suite.quantize.network import QuantizedNetwork

if TYPE_CHECKING:
    import onnx

Clock = Callable[[], float]
"""Seconds; the default is the CPU time of the calling thread, which executes everything."""
Progress = Callable[[str, int, int], None]
"""Called with a stage, how much of it is done, and its total."""

_NANO = 1e9


@dataclass(frozen=True, slots=True, eq=False)
class Kernels:
    """What is executed for one layer.

    Attributes:
        layer: The layer.
        of: Number of the kernel of each precision.
        models: One model for each kernel.
    """

    layer: Layer
    of: dict[Precision, int]
    models: tuple[onnx.ModelProto, ...]


@dataclass(frozen=True, slots=True)
class Timed:
    """A whole network.

    Attributes:
        policy: Its policy.
        kind: ``"uniform"``, ``"random"`` (all choices), or ``"extreme"`` (lowest and highest choice only).
        measured: Nanoseconds per image.
        halves: The same from every other round.
    """

    policy: Policy
    kind: str
    measured: float
    halves: tuple[float, float]

    @property
    def mixed(self) -> bool:
        """Whether bits differ from layer to layer."""
        return self.kind != "uniform"


@dataclass(frozen=True, slots=True)
class Check:
    """How well layers add up to networks.

    Attributes:
        predicted: Nanoseconds per image of each network.
        mean_error: Mean of ``|predicted / measured - 1|`` over mixed networks.
        uniform_error: Mean of ``predicted / measured - 1`` over uniform networks.
        rank_correlation: Spearman's between sums over layers and measured times, over mixed networks; None if either is constant.
        spread: Standard deviation of the measured times of mixed networks over their mean.
        repeatability: Standard deviation of one network's time over repeated measurements, relative to it.
    """

    predicted: tuple[float, ...]
    mean_error: float
    uniform_error: float
    rank_correlation: float | None
    spread: float
    repeatability: float

    @property
    def reliability(self) -> float:
        """Share of the variance between mixed networks that is not noise; its root is the best correlation to expect."""
        return max(0.0, 1 - (self.repeatability / self.spread) ** 2) if self.spread else 0.0


class Exporter:
    """Integer networks of policies as ONNX models, made quickly: batch norms are those of the float network.

    Values do not matter to the time of integer operations; statistics and ranges only have to be there.

    Args:
        network: The quantized network, which is set to one policy after the other.
        images: A few noisy images, for ranges, shape ``(images, C, H, W)``.
    """

    def __init__(self, network: QuantizedNetwork, images: Tensor) -> None:
        self._network, self._images = network, images

    @torch.no_grad()
    def export(self, policy: Policy) -> tuple[onnx.ModelProto, tuple[str, ...]]:
        """The model of a policy, and what owns its products in execution order."""
        self._network.set_policy(policy)
        integer = integer_network(self._network, [self._images])
        channels, height, width = self._images.shape[1:]
        classes = int(integer(self._images[:1]).shape[1])
        return onnx_model(integer, (channels, height, width), classes), tuple(layer.name for layer in integer.layers())


def find_kernels(
    space: SearchSpace, exporter: Exporter, progress: Progress = lambda stage, done, total: None
) -> list[Kernels]:
    """What is executed for every layer and precision of a space: of pinned layers only at their precision.

    Raises:
        BitcertError: If the network has no integer form.
    """
    names = [layer.name for layer in space.layers]
    exported: dict[str, dict[str, tuple[onnx.ModelProto, set[Precision]]]] = {name: {} for name in names}
    policies = list(_uniform_policies(space))
    for done, policy in enumerate(policies):
        progress("precisions", done, len(policies))
        for (name, piece), precision in zip(
            layer_pieces(*exporter.export(policy), names).items(), policy.precisions, strict=True
        ):
            exported[name].setdefault(graph_text(piece), (piece, set()))[1].add(precision)
    progress("precisions", len(policies), len(policies))
    found = []
    for layer in space.layers:
        executed: dict[str, tuple[onnx.ModelProto, set[Precision]]] = {}
        for piece, precisions in exported[layer.name].values():
            executed.setdefault(executed_graph(piece), (piece, set()))[1].update(precisions)
        kernels = list(executed.values())
        # Codings differ from policy to policy beyond bits: of several kernels for a precision the first one stands for it.
        numbers = {bits: number for number in reversed(range(len(kernels))) for bits in kernels[number][1]}
        found.append(Kernels(layer, numbers, tuple(piece for piece, _ in kernels)))
    return found


def _uniform_policies(space: SearchSpace) -> Iterator[Policy]:
    for weight in space.choices:
        for activation in space.choices:
            if weight == activation or not space.tie_weight_activation:
                yield space.uniform(weight, activation)


def check_policies(space: SearchSpace, random: int, seed: int) -> list[tuple[str, Policy]]:
    """Uniform policies at every choice, and random ones: the first half of all choices, the others of the extreme ones only."""
    rng = np.random.default_rng(seed)
    extremes = replace(space, choices=tuple(sorted({space.choices[0], space.choices[-1]})))
    drawn = [("random", space.random(rng)) for _ in range(random - random // 2)]
    drawn += [("extreme", extremes.random(rng)) for _ in range(random // 2)]
    return [("uniform", space.uniform(bits)) for bits in space.choices] + drawn


def time_rounds(
    runs: Sequence[Callable[[], Any]],
    rounds: int,
    clock: Clock = time.thread_time,
    progress: Callable[[int], None] = lambda done: None,
    *,
    warmed: int = 0,
) -> NDArray[np.float64]:
    """Seconds of each run in each round, shape ``(rounds, runs)``; the first pass over all runs warms up and is not counted.

    Runs are interleaved, so that what slows the machine down for a while slows all of them. The first ``warmed`` ones are made
    twice and timed the second time: within a network, a layer finds its inputs in the cache.
    """
    seconds = np.empty((rounds + 1, len(runs)))
    for turn in range(rounds + 1):
        for place, run in enumerate(runs):
            if place < warmed:
                run()
            started = clock()
            run()
            seconds[turn, place] = clock() - started
        progress(turn)
    return seconds[1:]


def measure(
    kernels: Sequence[Kernels],
    networks: Sequence[tuple[str, Policy]],
    exporter: Exporter,
    batch: int,
    rounds: int,
    clock: Clock = time.thread_time,
    progress: Progress = lambda stage, done, total: None,
) -> tuple[LatencyTable, list[Timed]]:
    """Time kernels and whole networks in the same interleaved rounds; every time is the shortest of all rounds.

    The time of a call that does nothing is subtracted from kernels.

    Args:
        kernels: What is executed for every layer.
        networks: Kind and policy of whole networks, some of them mixed.
        exporter: Makes them.
        batch: Images of a call.
        rounds: Counted rounds, at least two.
        clock: See :data:`Clock`.
        progress: See :data:`Progress`.
    """
    whole = []
    for done, (_, policy) in enumerate(networks):
        progress("networks", done, len(networks))
        whole.append(_prepared_run(exporter.export(policy)[0], batch))
    progress("networks", len(networks), len(networks))
    pieces = [_prepared_run(model, batch) for each in kernels for model in each.models]
    runs = [_prepared_run(_nothing(), batch), *pieces, *whole]
    seconds = time_rounds(
        runs, rounds, clock, lambda done: progress("rounds", done, rounds), warmed=len(runs) - len(whole)
    )
    return tabulate(kernels, networks, seconds * _NANO / batch)


def tabulate(
    kernels: Sequence[Kernels], networks: Sequence[tuple[str, Policy]], times: NDArray[np.float64]
) -> tuple[LatencyTable, list[Timed]]:
    """The table and the whole networks from what was timed.

    Args:
        kernels: What was timed for every layer.
        networks: Kind and policy of whole networks.
        times: Nanoseconds per image, shape ``(rounds, runs)``: of a call that does nothing, of all kernels, of all networks.
    """
    split = times.shape[1] - len(networks)
    nothing, *bare = times[:, :split].min(axis=0).tolist()
    left = iter(bare)
    layers = []
    for each in kernels:
        own = {number: max(0, round(next(left) - nothing)) for number in range(len(each.models))}
        layers.append(layer_latency(each.layer, each.of, own))
    whole = times[:, split:]
    halves = np.stack([whole[first::2].min(axis=0) for first in (0, 1)], axis=1).tolist()
    timed = [
        Timed(policy, kind, measured, (first, second))
        for (kind, policy), measured, (first, second) in zip(networks, whole.min(axis=0).tolist(), halves, strict=True)
    ]
    rests = [each.measured - of_layers(layers, each.policy) for each in timed if each.mixed]
    return LatencyTable(tuple(layers), max(0, round(float(np.median(rests))))), timed


def of_layers(layers: Sequence[LayerLatency], policy: Policy) -> float:
    """Sum over layers for a policy, as measured, in nanoseconds per image."""
    return float(sum(layer.measured()[precision] for layer, precision in zip(layers, policy.precisions, strict=True)))


def check(table: LatencyTable, timed: Sequence[Timed]) -> Check:
    """Compare sums over layers, as measured, with whole networks.

    The constant is the median of what layers leave of mixed networks, each one predicted without itself. Uniform networks give
    no constant: layers that read the same values at the same bits share a conversion, which is counted for each of them.

    Args:
        table: Latencies of layers.
        timed: Whole networks; at least one is uniform and three are not.
    """
    sums = np.array([of_layers(table.layers, each.policy) for each in timed])
    measured = np.array([each.measured for each in timed])
    mixed = np.array([each.mixed for each in timed])
    others = [mixed & (np.arange(len(timed)) != place) for place in range(len(timed))]
    predicted = sums + np.array([np.median((measured - sums)[chosen]) for chosen in others])
    errors, ends = predicted / measured - 1, (sums[mixed], measured[mixed])  # one constant for all leaves ranks alone
    halves = np.array([each.halves for each in timed])
    apart = (halves[:, 0] - halves[:, 1]) / measured
    return Check(
        predicted=tuple(predicted.tolist()),
        mean_error=float(np.abs(errors[mixed]).mean()),
        uniform_error=float(errors[~mixed].mean()),
        rank_correlation=None if 0 in map(np.ptp, ends) else float(stats.spearmanr(*ends).statistic),
        spread=float(measured[mixed].std(ddof=1) / measured[mixed].mean()),
        repeatability=math.sqrt(float(np.mean(apart**2)))
        / 2,  # of the mean of two halves that are each sqrt(2) as far apart
    )


def _prepared_run(model: onnx.ModelProto, batch: int) -> Callable[[], object]:
    session = open_session(model)
    binding = session.io_binding()
    for name, array in example_inputs(model, batch).items():
        binding.bind_cpu_input(name, array)
    for value in model.graph.output:
        binding.bind_output(value.name)
    return lambda: session.run_with_iobinding(binding)


def _nothing() -> onnx.ModelProto:
    """A model that copies one number."""
    from onnx import TensorProto, helper

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("given", "result")]
    graph = helper.make_graph([helper.make_node("Identity", ["given"], ["result"])], "nothing", values[:1], values[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
