"""From a quantized network to an integer network: the codings of all values, and the operations between them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn

from suite.errors import BitcertError
from suite.networks.spiking import Leak
from suite.quantize.folding import scale_and_shift
from suite.quantize.graph import trace
from suite.quantize.integer.codes import Coding, coding_for, short, short_tensor
from suite.quantize.integer.network import IntegerNetwork, Step
from suite.quantize.integer.nodes import Call, Numbers, describe
from suite.quantize.integer.operations import (
    Accumulate,
    Add,
    Clip,
    Decode,
    Encode,
    LookUp,
    Multiply,
    Operation,
    Pool,
    Real,
    Rearrange,
    Recode,
)
from suite.quantize.layer import Integers, QuantizedLayer
from suite.quantize.network import QuantizedNetwork

_NORM_WEIGHT = 64  # of a batch norm as a convolution: its bias counts in 64ths of the inputs' codes
_LARGEST_BIAS = 2.0**22  # in units of the accumulators
_LEAST_SCALE = 2.0**-100
_FINEST_TERM = 2.0**-8  # scale of one term of a sum, relative to the other's: keeps sums exact


@torch.no_grad()
def integer_network(network: nn.Module, batches: Iterable[Tensor]) -> IntegerNetwork:
    """The integer network of a quantized network, which computes with integers only, to the last bit the same everywhere.

    Inputs of layers and weights keep their bits and steps. What other operations read or write, such as the terms of a residual
    sum, is rounded to 8 bits; it is another network than the one given, close to it, and certificates of one
    are not those of the other. Scales are rounded to 12 significant bits and biases to the unit of the accumulators.

    Args:
        network: A network of quantized layers, in evaluation mode, statistics settled; it is not changed.
        batches: Images with the problem's noise added, for the ranges of what has no quantizer of its own.

    Raises:
        BitcertError: If the network cannot be traced, computes something that has no integer form, or does not quantize a layer.
    """
    graph = trace(network, leaf=QuantizedLayer)
    if graph is None:
        raise BitcertError(
            "torch.fx cannot trace this network, so it has no integer form; avoid control flow that depends on data"
        )
    ranges = Ranges(network, graph)
    for batch in batches:
        ranges.run(batch)
    if not ranges.seen:
        raise BitcertError("an integer network needs at least one batch of images, got none")
    inside = "network." if isinstance(network, QuantizedNetwork) else ""
    numbers = _without_batch_sizes(network, graph, ranges.numbers, batch) if ranges.numbers else {}
    return _Lowering(network, graph, ranges.seen, numbers, inside).lower()


@dataclass(slots=True)
class Seen:
    """Smallest and largest number of a value, and its shape."""

    low: float
    high: float
    shape: tuple[int, ...]


class Ranges(fx.Interpreter):
    """Runs a network and records the range of every value, and the whole numbers of the last batch, such as sizes."""

    def __init__(self, network: nn.Module, graph: fx.Graph) -> None:
        super().__init__(fx.GraphModule(network, graph))
        self.seen: dict[str, Seen] = {}
        self.numbers: dict[str, Numbers] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run a call and record its result."""
        result = super().run_node(n)
        if isinstance(result, Tensor) and result.is_floating_point():
            low, high = (float(value) for value in torch.aminmax(result))
            before = self.seen.get(n.name)
            if before is not None:
                low, high = min(low, before.low), max(high, before.high)
            self.seen[n.name] = Seen(low, high, tuple(result.shape))
        elif isinstance(result, int) or (isinstance(result, tuple) and all(isinstance(part, int) for part in result)):
            self.numbers[n.name] = result
        return result


def _without_batch_sizes(
    network: nn.Module, graph: fx.Graph, numbers: dict[str, Numbers], images: Tensor
) -> dict[str, Numbers]:
    """The numbers that are the same for a batch of another size."""
    others = Ranges(network, graph)
    others.run(images[:1] if len(images) > 1 else images.repeat(2, 1, 1, 1))
    return {name: number for name, number in numbers.items() if others.numbers[name] == number}


class _Lowering:
    """Translates the calls of a network one by one."""

    def __init__(
        self, network: nn.Module, graph: fx.Graph, seen: dict[str, Seen], numbers: dict[str, Numbers], inside: str
    ) -> None:
        self._network, self._graph, self._seen, self._inside = network, graph, seen, inside
        shapes = {name: found.shape for name, found in seen.items()}
        self._calls = {node: describe(network, node, shapes, numbers) for node in graph.nodes}
        self._steps: list[Step] = []
        self._coding: dict[fx.Node, Coding | None] = {}  # of results; None for real numbers
        self._recoded: dict[tuple[fx.Node, Coding], str] = {}

    def lower(self) -> IntegerNetwork:
        """The integer network."""
        for node in self._graph.nodes:
            self._lower(node, self._calls[node])
        return IntegerNetwork(self._steps)

    def _lower(self, node: fx.Node, call: Call) -> None:
        if call.kind in ("constant", "size"):
            return
        if call.kind == "input":
            self._coding[node] = None
            return
        if call.kind == "output":
            self._finish(call.inputs)
            return
        source = call.inputs[0]
        given = self._coding[source]
        if call.kind == "arithmetic" and given is None:
            self._emit(node, Real(call.arguments["name"], self._constant(call)), source)
        elif call.kind == "same" or (call.kind == "clip" and self._absorbs_clip(source)):
            self._alias(node, source)
        elif call.kind == "layer":
            self._layer(node, source, call.arguments["layer"])
        elif given is None:
            if call.kind != "rearrange":
                raise BitcertError(
                    f"{node.name} works on real numbers before the first quantized layer; only arithmetic may"
                )
            self._emit(node, self._rearrange(call, None), source)
        elif call.kind == "rearrange":
            self._emit(node, self._rearrange(call, given), source)
        else:
            self._elementwise(node, call, given)

    def _elementwise(self, node: fx.Node, call: Call, given: Coding) -> None:
        """What computes new codes from codes."""
        inputs = call.inputs
        if call.kind == "clip":
            self._emit(node, Clip(given.clipped(call.arguments["low"], call.arguments["high"])), *inputs)
            return
        wanted = self._wanted(node)
        if call.kind == "concatenate":
            given_all = [self._recode(source, wanted) for source in inputs]
            self._coding[node] = wanted
            self._steps.append(Step(self._rearrange(call, wanted), tuple(given_all), node.name))
        elif call.kind == "norm":
            self._emit(node, self._norm(call.arguments["norm"], given, wanted, node.name), *inputs)
        elif call.kind == "look-up":
            assert call.function is not None
            self._emit(node, LookUp(call.function, given, wanted), *inputs)
        elif call.kind == "arithmetic":
            real = Real(call.arguments["name"], self._constant(call))
            self._emit(node, LookUp(real.compute, given, wanted), *inputs)
        elif call.kind == "mean":
            shape = self._seen[inputs[0].name].shape
            axes = call.arguments["axes"]
            size = math.prod(shape[axis] for axis in axes)
            result = None if self._reaches_output(node) else wanted
            self._emit(node, Pool(given, result, size, axes, keep=call.arguments["keep"]), *inputs)
        elif call.kind == "average":
            self._emit(node, _average(call, self._seen[inputs[0].name].shape[1], given, wanted), *inputs)
        else:
            second = self._coding[inputs[-1]]
            if second is None:
                raise BitcertError(f"{node.name} combines codes with real numbers, which has no integer form")
            both = (given, second)
            pair = (inputs[0], inputs[-1])
            self._emit(node, Add(both, wanted) if call.kind == "add" else Multiply(both, wanted), *pair)

    def _layer(self, node: fx.Node, source: fx.Node, layer: QuantizedLayer) -> None:
        name = str(node.target).removeprefix(self._inside)
        found = layer.integers()
        if found is None:
            raise BitcertError(
                f"layer {name} is not quantized; an integer network needs a policy without 32-bit layers"
            )
        coding = _input_coding(layer)
        weight, scale, bias = without_dead_channels(found, coding.scale)
        float_layer = layer.float_layer
        if isinstance(float_layer, Leak):  # as a linear layer of one weight for each neuron
            weight, float_layer = torch.diag(weight[:, 0]), nn.Linear(len(weight), len(weight), device=weight.device)
        wanted = None if self._reaches_output(node) else self._wanted(node)
        operation = Accumulate(float_layer, weight, scale, bias, given=coding, coding=wanted, name=name)
        self._coding[node] = wanted
        self._steps.append(Step(operation, (self._input_codes(source, layer, coding),), node.name))

    def _norm(self, norm: nn.BatchNorm2d, given: Coding, wanted: Coding, name: str) -> Accumulate:
        """A batch norm of its own, as a convolution of each channel with one weight."""
        scale, shift = scale_and_shift(norm)
        channels = len(scale)
        layer = nn.Conv2d(channels, channels, 1, groups=channels, device=scale.device)
        weight = (torch.sign(scale) * _NORM_WEIGHT).reshape(-1, 1, 1, 1)
        weight_scale = short_tensor((scale.abs() / _NORM_WEIGHT).clamp(min=_LEAST_SCALE))
        bias = (shift.double() / (given.scale * weight_scale.double())).round()
        return Accumulate(layer, weight, weight_scale, bias, given=given, coding=wanted, name=name)

    def _rearrange(self, call: Call, coding: Coding | None) -> Rearrange:
        assert call.function is not None
        return Rearrange(call.function, coding, call.arguments["name"], call.arguments)

    def _constant(self, call: Call) -> Tensor:
        constant = call.arguments["constant"]
        if isinstance(constant, fx.Node):
            value = attrgetter(str(constant.target))(self._network)
            assert isinstance(value, Tensor)
            return value.detach()
        return torch.tensor(constant)

    def _finish(self, results: tuple[fx.Node, ...]) -> None:
        if len(results) != 1:
            raise BitcertError(f"an integer network has one result, this network has {len(results)}")
        coding = self._coding[results[0]]
        if coding is not None:
            self._steps.append(Step(Decode(coding), (results[0].name,), "logits"))

    def _emit(self, node: fx.Node, operation: Operation, *sources: fx.Node) -> None:
        self._coding[node] = operation.coding
        self._steps.append(Step(operation, tuple(source.name for source in sources), node.name))

    def _alias(self, node: fx.Node, source: fx.Node) -> None:
        self._coding[node] = self._coding[source]
        self._steps.append(Step(None, (source.name,), node.name))

    def _recode(self, source: fx.Node, wanted: Coding) -> str:
        """The name of a value in a coding; adds what converts it."""
        given = self._coding[source]
        if given is not None and given.scale == wanted.scale and given.low >= wanted.low and given.high <= wanted.high:
            return source.name
        key = (source, wanted)
        if key not in self._recoded:
            self._recoded[key] = f"{source.name}_as_{len(self._recoded)}"
            operation = Encode(wanted) if given is None else Recode(given, wanted)
            self._steps.append(Step(operation, (source.name,), self._recoded[key]))
        return self._recoded[key]

    def _input_codes(self, source: fx.Node, layer: QuantizedLayer, wanted: Coding) -> str:
        """The name of a layer's inputs as codes; levels that are no roundings are looked up by codes of 8 bits."""
        grid = layer.grid
        assert grid is not None
        if grid.plain:
            return self._recode(source, wanted)
        given = self._coding[source]
        if given is None:
            seen = self._seen[source.name]
            given = coding_for(seen.low, seen.high, power_of_two=False)
        name = self._recode(source, given)
        step = torch.tensor(wanted.scale)
        table = LookUp(lambda values: grid.nearest(values / step) * step, given, wanted)
        self._steps.append(Step(table, (name,), f"{name}_for_{len(self._steps)}"))
        return self._steps[-1].output

    # Which coding a new value gets depends on who reads it.

    def _wanted(self, node: fx.Node) -> Coding:
        """The coding of a new value: that of the layers that read it if they agree and nothing else does, else 8 bits."""
        last, low, high = self._after_clip(node)
        readers = list(self._readers(last))
        layers = [self._calls[reader].arguments["layer"] for reader in readers if self._calls[reader].kind == "layer"]
        codings, plain = set(map(_input_coding, layers)), all(layer.grid.plain for layer in layers)
        kinds = {self._calls[reader].kind for reader in readers}
        is_sum = self._calls[node].kind == "add"
        if kinds == {"layer"} and len(codings) == 1 and plain and not is_sum:
            return codings.pop().clipped(low, high)
        seen = self._seen[last.name]
        terms = [reader for reader in readers if self._calls[reader].kind == "add"]
        floor = max((self._largest(term) for term in terms), default=0.0) * _FINEST_TERM
        lowest = min(seen.low, -floor) if seen.low < 0 else seen.low
        return coding_for(lowest, max(seen.high, floor), power_of_two=is_sum or bool(terms)).clipped(low, high)

    def _largest(self, term: fx.Node) -> float:
        """The largest magnitude in a sum and its terms."""
        found = [self._seen[node.name] for node in (term, *self._calls[term].inputs)]
        return max(max(-seen.low, seen.high) for seen in found)

    def _after_clip(self, node: fx.Node) -> tuple[fx.Node, float, float]:
        """A value after the clips that follow it and that nothing else reads, with their limits."""
        low, high, last = -math.inf, math.inf, node
        while len(last.users) == 1:
            reader = next(iter(last.users))
            call = self._calls[reader]
            if call.kind == "clip":
                low, high = max(low, call.arguments["low"]), min(high, call.arguments["high"])
            elif call.kind != "same":
                break
            last = reader
        return last, low, high

    def _absorbs_clip(self, source: fx.Node) -> bool:
        """Whether what made a value has already clipped it: its only reader is a clip."""
        while self._calls[source].kind in ("same", "clip"):
            if len(source.users) != 1:
                return False
            source = self._calls[source].inputs[0]
        makes = self._calls[source].kind not in ("rearrange", "input")
        return len(source.users) == 1 and makes and self._coding[source] is not None

    def _readers(self, node: fx.Node) -> Iterable[fx.Node]:
        """Who computes with a value, beyond what only moves or clips it."""
        for reader in node.users:
            if self._calls[reader].kind in ("same", "rearrange", "clip"):
                yield from self._readers(reader)
            elif self._calls[reader].kind != "size":
                yield reader

    def _reaches_output(self, node: fx.Node) -> bool:
        """Whether a result is the network's."""
        readers = list(node.users)
        while len(readers) == 1 and self._calls[readers[0]].kind in ("same", "rearrange"):
            readers = list(readers[0].users)
        return len(readers) == 1 and self._calls[readers[0]].kind == "output"


def _input_coding(layer: QuantizedLayer) -> Coding:
    if layer.grid is None:
        raise BitcertError(
            "a layer whose inputs are not quantized has no integer form; choose a policy without 32-bit layers"
        )
    if layer.grid.levels is not None:
        raise BitcertError("states whose levels are no multiples of a step have no integer form; let them be integers")
    return Coding(short(layer.step), layer.grid.low, layer.grid.high)


def without_dead_channels(
    found: Integers, unit: float, largest: float = _LARGEST_BIAS
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, short scales, and biases as integers; a channel whose slope vanishes beside its bias becomes that bias.

    Args:
        found: A layer.
        unit: Worth of one unit of its inputs.
        largest: Bias of a channel that does not vanish, in units of the accumulators.
    """
    scale = short_tensor(found.scale.clamp(min=_LEAST_SCALE))
    dead = found.bias.double().abs() > largest * unit * scale.double()
    scale = torch.where(dead, short_tensor(found.bias.abs() / (largest * unit)).clamp(min=_LEAST_SCALE), scale)
    weight = torch.where(dead.reshape(-1, *[1] * (found.weight.dim() - 1)), 0.0, found.weight)
    return weight, scale, (found.bias.double() / (unit * scale.double())).round()


def _average(call: Call, channels: int, given: Coding, wanted: Coding) -> Accumulate:
    """A mean over windows, as a convolution of each channel with ones."""
    window = call.arguments
    layer = nn.Conv2d(
        channels, channels, window["kernel"], window["stride"], window["padding"], groups=channels, bias=False
    )
    ones, none = torch.ones_like(layer.weight), torch.zeros(channels)
    share = short_tensor(torch.full((channels,), 1 / math.prod(window["kernel"])))
    return Accumulate(layer, ones.detach(), share, none, given=given, coding=wanted, name="average pooling")
