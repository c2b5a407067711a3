"""From a quantized network to a fixed-point network: the same bits, biases rounded to odd half units, scales to dyadic numbers.

Weights keep their integers and layers the levels of their inputs. Where one layer's outputs become the next one's inputs, the
accumulator of a filter is multiplied by ``weight scale * input scale / output scale``; here by the nearest odd integer times a
power of two, :data:`MULTIPLIER_BITS` bits wide for the largest of a layer (dyadic scales, as in Yao et al., HAWQ-V3, ICML 2021).
Images are taken as the integers that they are. It is a network of its own, close to the one given, and its certificates are about
itself.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from suite.errors import BitcertError
from suite.quantize.fixed_point.layer import MOST_BITS, FixedPointLayer, Output
from suite.quantize.fixed_point.network import FixedPointNetwork
from suite.quantize.graph import substitute, trace
from suite.quantize.integer.lower import Ranges, without_dead_channels
from suite.quantize.integer.nodes import Call, describe
from suite.quantize.layer import QuantizedLayer
from suite.quantize.network import QuantizedNetwork
from suite.quantize.steps import Grid

MULTIPLIER_BITS = 10
_REFERENCE_BITS = 15
_LARGEST_BIAS = 2.0**38  # in units of the accumulators: 53 bits, less those of the multiplier and of the half unit
_MOVES_NOTHING = ("flatten",)


@torch.no_grad()
def fixed_point_network(network: nn.Module, image_shape: tuple[int, int, int], levels: int) -> FixedPointNetwork:
    """The fixed-point network of a quantized network of layers one after the other, ReLUs between them.

    Args:
        network: A network of quantized layers, in evaluation mode; it is not changed.
        image_shape: Channels, height and width.
        levels: Images are integers divided by it.

    Raises:
        BitcertError: If the network cannot be traced, does anything between its layers but ReLU and flattening, has a layer that is
            not quantized to at least 2 bits, or takes its images with fewer levels than they have.
    """
    graph = trace(network, leaf=QuantizedLayer)
    if graph is None:
        raise BitcertError("torch.fx cannot trace this network, so it has no fixed-point form")
    ranges = Ranges(network, graph)
    ranges.run(torch.zeros(2, *image_shape, device=next(network.buffers()).device))
    shapes = {name: seen.shape for name, seen in ranges.seen.items()}
    inside = "network." if isinstance(network, QuantizedNetwork) else ""
    chain = _chain([(node, describe(network, node, shapes, ranges.numbers)) for node in graph.nodes])
    names = [str(node.target).removeprefix(inside) for node, _, _ in chain]
    layers = [layer for _, layer, _ in chain]
    rectified = [after for _, _, after in chain]
    _check_images(names[0], layers[0], levels)
    made: list[FixedPointLayer] = []
    unit = 1.0 / levels
    for name, layer, after, following in zip(names, layers, rectified, [*layers[1:], None], strict=True):
        made.append(_layer(name, layer, unit, following, rectified=after))
        unit = 1.0 if following is None else following.step
    return FixedPointNetwork(made, image_shape, levels=levels, input_fraction=0, rounding="odd")


def reference_network(network: nn.Module, batches: Sequence[Tensor], levels: int) -> FixedPointNetwork:
    """The fixed-point network with 16 bits for weights and 15 for inputs, which stands for a float network.

    Args:
        network: A float network; it is not changed.
        batches: Images, for the largest input of each layer, shape ``(images, C, H, W)``.
        levels: As for :func:`fixed_point_network`, whose errors it raises, too.
    """
    quantized = copy.deepcopy(network)
    largest: dict[nn.Module, float] = {}

    def see(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        largest[module] = max(largest.get(module, 0.0), float(inputs[0].abs().max()))

    layers = [module for module in quantized.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_pre_hook(see) for layer in layers]
    with torch.no_grad():
        for batch in batches:
            quantized(batch)
    for hook in hooks:
        hook.remove()
    grid = Grid(0, 2**_REFERENCE_BITS - 1)
    for module in layers:
        layer = QuantizedLayer(module)
        step = module.weight.detach().abs().max().clamp(min=1e-8) / (2 ** (MOST_BITS - 1) - 1)
        layer.load((module.weight.detach() / step).round() * step, max(largest[module], 1e-8) / grid.high, grid, step)
        substitute(quantized, module, layer)
    shape = batches[0].shape
    return fixed_point_network(quantized.eval(), (shape[1], shape[2], shape[3]), levels)


def _chain(calls: Sequence[tuple[fx.Node, Call]]) -> list[tuple[fx.Node, QuantizedLayer, bool]]:
    """The layers in order, each with whether a ReLU follows; refuses by name whatever else there is."""
    found: list[tuple[fx.Node, QuantizedLayer, bool]] = []
    for node, call in calls:
        kind = call.kind
        if len(node.users) > 1 and kind not in ("constant", "size"):
            raise _refused(f"the result of {node.name} is used more than once")
        if kind == "layer":
            found.append((node, call.arguments["layer"], False))
        elif kind == "clip" and found and (call.arguments["low"], call.arguments["high"]) == (0.0, math.inf):
            found[-1] = (*found[-1][:2], True)
        elif kind == "clip" and not found and call.arguments["low"] <= 0 and call.arguments["high"] >= 1:
            continue  # images lie in [0, 1]
        elif kind == "rearrange" and call.arguments["name"] not in _MOVES_NOTHING:
            raise _refused(f"it has {call.arguments['name']} ({node.name})")
        elif kind not in ("input", "output", "same", "rearrange", "constant", "size"):
            raise _refused(f"it has {kind} ({node.name})")
    if not found:
        raise _refused("it has no layer")
    return found


def _refused(what: str) -> BitcertError:
    return BitcertError(
        f"{what}, but a fixed-point network consists of layers, ReLUs and flattening, one after the other, and takes images in "
        "[0, 1] as they are; choose another engine"
    )


def _check_images(name: str, layer: QuantizedLayer, levels: int) -> None:
    grid = layer.grid
    if grid is None or grid.high - grid.low < levels:
        raise BitcertError(
            f"layer {name!r} takes the images as they are, in {levels + 1} levels, and the policy gives it fewer; pin it at 8 bits"
        )


def _layer(
    name: str, layer: QuantizedLayer, unit: float, following: QuantizedLayer | None, *, rectified: bool
) -> FixedPointLayer:
    """One layer, whose inputs are integers worth ``unit``."""
    found, given = layer.integers(), layer.grid
    if found is None or given is None or not given.plain:
        raise BitcertError(f"layer {name!r}: a fixed-point network needs weights and inputs of 2 to 8 bits")
    weight, scale, _ = without_dead_channels(found, unit, _LARGEST_BIAS)
    bias = _nearest_odd(2.0 * found.bias.double() / (unit * scale.double()))
    ratio = unit * scale.double()
    output = None
    if following is not None:
        output = _output(name, following, rectified=rectified)
        ratio = ratio / following.step
    elif rectified:
        raise _refused("its last layer has a ReLU")
    fraction = MULTIPLIER_BITS - math.frexp(float(ratio.max()))[1]
    if output is not None:
        fraction = max(fraction, 1)
    multiplier = _nearest_odd(torch.ldexp(ratio, torch.tensor(fraction))).clip(min=1)
    integers = weight.double().numpy().astype(np.int64)
    bits = max(2, int(np.abs(integers).max()).bit_length() + 1)
    float_layer = layer.float_layer
    made = FixedPointLayer(
        name, integers, bias, bits, 0, 1, output, multiplier=multiplier, multiplier_fraction=fraction
    )
    if not isinstance(float_layer, nn.Conv2d):
        return made
    padding = float_layer.padding
    if float_layer.groups != 1 or float_layer.dilation != (1, 1) or isinstance(padding, str):
        raise _refused(f"layer {name!r} has groups, dilation or a padding by name")
    stride = float_layer.stride
    return replace(made, stride=(stride[0], stride[1]), padding=(padding[0], padding[1]))


def _output(name: str, following: QuantizedLayer, *, rectified: bool) -> Output:
    grid = following.grid
    if grid is None or not grid.plain:
        raise BitcertError(f"layer {name!r}: a fixed-point network needs inputs of 2 to 8 bits after it")
    signed = grid.low < 0
    if signed == rectified:
        raise BitcertError(f"layer {name!r}: inputs after a ReLU are unsigned, and signed without one")
    return Output((grid.high - grid.low).bit_length(), 0, signed)


def _nearest_odd(values: Tensor) -> NDArray[np.int64]:
    return np.asarray(2 * (values / 2).floor().numpy().astype(np.int64) + 1)
