"""What the calls of a traced network are to an integer network."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from suite.errors import BitcertError
from suite.networks.recurrent import Read
from suite.networks.spiking import Spike
from suite.quantize.graph import called_module
from suite.quantize.layer import QuantizedLayer

_SAME = (nn.Identity, nn.Dropout, nn.Dropout2d)
_POINTWISE = (
    *(
        nn.Hardswish,
        nn.Hardsigmoid,
        nn.Sigmoid,
        nn.SiLU,
        nn.GELU,
        nn.LeakyReLU,
        nn.ELU,
        nn.Tanh,
        nn.Softplus,
        nn.Mish,
        Spike,
    ),
)
_POINTWISE_FUNCTIONS = (
    *(functional.hardswish, functional.hardsigmoid, torch.sigmoid, functional.silu, functional.gelu, torch.tanh),
    *(functional.leaky_relu, functional.elu, functional.mish),
)
_POINTWISE_METHODS = ("sigmoid", "tanh")
_ARITHMETIC: dict[Any, str] = {
    operator.add: "Add",
    torch.add: "Add",
    operator.sub: "Sub",
    operator.mul: "Mul",
    torch.mul: "Mul",
    operator.truediv: "Div",
    "add": "Add",
    "mul": "Mul",
}
_FLATTENINGS = (torch.flatten, torch.squeeze, torch.reshape, "flatten", "squeeze", "view", "reshape")
_RELUS = (torch.relu, functional.relu, functional.relu6, "relu")
_CLAMPS: dict[Any, tuple[str, str]] = {
    torch.clamp: ("min", "max"),
    "clamp": ("min", "max"),
    functional.hardtanh: ("min_val", "max_val"),
}

Numbers = int | tuple[int, ...]
"""A whole number, or several."""


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One call of a traced network.

    Attributes:
        kind: ``input``, ``constant``, ``layer``, ``norm``, ``same``, ``clip``, ``look-up``, ``add``, ``multiply``, ``mean``,
            ``average``, ``rearrange``, ``arithmetic`` with a constant, ``size`` or ``output``.
        inputs: The calls whose results it takes.
        function: What it does to a tensor, where codes are moved or looked up.
        arguments: Numbers that belong to it.
    """

    kind: str
    inputs: tuple[fx.Node, ...] = ()
    function: Callable[..., Tensor] | None = None
    arguments: dict[str, Any] = field(default_factory=dict)


def describe(
    network: nn.Module, node: fx.Node, shapes: Mapping[str, tuple[int, ...]], numbers: Mapping[str, Numbers]
) -> Call:
    """Say what a call is.

    Args:
        network: What was traced.
        node: The call.
        shapes: Of all results that are tensors, by the names of their calls.
        numbers: Results that are whole numbers and the same for every batch, such as the height of an image, likewise.

    Raises:
        BitcertError: If it cannot be executed in integers.
    """
    inputs = tuple(source for source in node.all_input_nodes if source.name in shapes)
    module = called_module(network, node)
    found = None
    if node.op in ("placeholder", "output", "get_attr"):
        found = Call({"placeholder": "input", "output": "output", "get_attr": "constant"}[node.op], inputs)
    elif module is not None:
        found = _module(module, inputs)
    elif node.name not in shapes:
        found = Call("size", inputs)
    else:
        found = _function(node, inputs, shapes, numbers)
    if found is None:
        what = type(module).__name__ if module is not None else getattr(node.target, "__name__", node.target)
        raise BitcertError(f"{what} ({node.name}) cannot be executed in integers; keep to what the documentation lists")
    return found


def _module(module: nn.Module, inputs: tuple[fx.Node, ...]) -> Call | None:
    if isinstance(module, QuantizedLayer):
        return Call("layer", inputs, arguments={"layer": module})
    if isinstance(module, Read):
        return Call("rearrange", inputs, module.forward, {"name": "gather", "index": module.index.tolist()})
    if isinstance(module, _SAME):
        return Call("same", inputs)
    if isinstance(module, nn.BatchNorm2d):
        return Call("norm", inputs, arguments={"norm": module})
    if isinstance(module, nn.ReLU | nn.ReLU6 | nn.Hardtanh):
        low, high = (0.0, math.inf) if isinstance(module, nn.ReLU) else (float(module.min_val), float(module.max_val))
        return _clip(inputs, low, high)
    if isinstance(module, _POINTWISE):
        return Call("look-up", inputs, module.forward)
    if isinstance(module, nn.Flatten) and module.start_dim == 1 and module.end_dim == -1:
        return _flatten(inputs)
    if isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1)):
        return Call("mean", inputs, arguments={"axes": (2, 3), "keep": True})
    if isinstance(module, nn.MaxPool2d):
        window = (module.kernel_size, module.stride, module.padding, module.dilation)
        return _max_pool(inputs, *window, ceil_mode=module.ceil_mode)
    if isinstance(module, nn.AvgPool2d) and not module.ceil_mode and module.divisor_override is None:
        padded = _pair(module.padding) != (0, 0)
        if module.count_include_pad or not padded:
            return _average(inputs, module.kernel_size, module.stride, module.padding)
    return None


def _function(
    node: fx.Node, inputs: tuple[fx.Node, ...], shapes: Mapping[str, tuple[int, ...]], numbers: Mapping[str, Numbers]
) -> Call | None:
    target, shape = node.target, shapes[node.name]
    if target in _FLATTENINGS and inputs:
        return _flatten(inputs) if shape[:1] == shapes[inputs[0].name][:1] and len(shape) == 2 else None
    positional, named = fx.node.map_arg((node.args, node.kwargs), lambda source: numbers.get(source.name, source))
    if any(source not in inputs for source in _nodes((positional, named))):
        return None  # a number that depends on the batch
    arguments: dict[Any, Any] = {**dict(enumerate(positional)), **named}
    if target in _ARITHMETIC and "alpha" not in arguments:
        return _arithmetic(positional, _ARITHMETIC[target])
    if target in _RELUS:
        return _clip(inputs, 0.0, 6.0 if target is functional.relu6 else math.inf)
    if target in _CLAMPS:
        low, high = (_argument(arguments, place, name) for place, name in enumerate(_CLAMPS[target], start=1))
        unlimited = low is None, high is None
        return _clip(inputs, -math.inf if unlimited[0] else float(low), math.inf if unlimited[1] else float(high))
    if target is torch.zeros_like:
        return Call("look-up", inputs, torch.zeros_like)
    if target is functional.dropout and not _argument(arguments, 2, "training", True):
        return Call("same", inputs)
    if target in _POINTWISE_FUNCTIONS or target in _POINTWISE_METHODS:
        chosen = getattr(torch, target) if isinstance(target, str) else target
        others = {name: value for name, value in named.items() if name not in ("inplace", "input")}
        return Call("look-up", inputs, lambda codes: chosen(codes, *positional[1:], **others))
    if target in (torch.mean, "mean"):
        dims, keep = _argument(arguments, 1, "dim"), bool(_argument(arguments, 2, "keepdim", False))
        axes = _axes(dims, len(shapes[inputs[0].name]))
        return Call("mean", inputs, arguments={"axes": axes, "keep": keep}) if axes and 0 not in axes else None
    if target in (torch.permute, "permute"):
        order: Any = arguments[1] if isinstance(arguments[1], tuple | list) else positional[1:]
        axes = tuple(axis % len(shape) for axis in order)
        return Call("rearrange", inputs, lambda codes: codes.permute(axes), {"name": "permute", "axes": axes})
    if target is functional.pad:
        mode, value = _argument(arguments, 2, "mode", "constant"), _argument(arguments, 3, "value")
        return None if mode != "constant" or value else _pad(inputs, tuple(_argument(arguments, 1, "pad")), len(shape))
    if target is operator.getitem and isinstance(positional[1], tuple):
        index = positional[1]
        if all(isinstance(part, slice) for part in index):
            return Call("rearrange", inputs, lambda codes: codes[index], {"name": "slice", "index": index})
    if target is torch.cat:
        dim = int(_argument(arguments, 1, "dim", 0))
        return Call("concatenate", inputs, lambda *codes: torch.cat(codes, dim), {"name": "concatenate", "dim": dim})
    return _pooling(target, inputs, arguments)


def _pooling(target: Any, inputs: tuple[fx.Node, ...], arguments: dict[Any, Any]) -> Call | None:
    """Functional forms of pooling."""
    if target is functional.adaptive_avg_pool2d and _argument(arguments, 1, "output_size") in (1, (1, 1), [1, 1]):
        return Call("mean", inputs, arguments={"axes": (2, 3), "keep": True})
    kernel, stride = _argument(arguments, 1, "kernel_size"), _argument(arguments, 2, "stride")
    padding = _argument(arguments, 3, "padding", 0)
    if target is functional.max_pool2d:
        dilation, ceil_mode = _argument(arguments, 4, "dilation", 1), bool(_argument(arguments, 5, "ceil_mode", False))
        return _max_pool(inputs, kernel, stride, padding, dilation, ceil_mode=ceil_mode)
    if target is functional.avg_pool2d:
        special = _argument(arguments, 4, "ceil_mode", False) or _argument(arguments, 6, "divisor_override")
        counted = _argument(arguments, 5, "count_include_pad", True) or _pair(padding) == (0, 0)
        return None if special or not counted else _average(inputs, kernel, stride, padding)
    return None


def _argument(arguments: dict[Any, Any], place: int, name: str, default: Any = None) -> Any:
    """An argument that was given by place or by name."""
    return arguments.get(place, arguments.get(name, default))


def _nodes(arguments: Any) -> list[fx.Node]:
    """The calls whose results are among arguments."""
    found: list[fx.Node] = []
    fx.node.map_arg(arguments, found.append)
    return found


def _clip(inputs: tuple[fx.Node, ...], low: float, high: float) -> Call:
    return Call("clip", inputs, arguments={"low": low, "high": high})


def _pad(inputs: tuple[fx.Node, ...], pads: tuple[int, ...], rank: int) -> Call:
    return Call(
        "rearrange", inputs, lambda codes: functional.pad(codes, pads), {"name": "pad", "pads": pads, "rank": rank}
    )


def _arithmetic(positional: tuple[Any, ...], name: str) -> Call | None:
    left, right = positional
    if isinstance(left, fx.Node) and isinstance(right, fx.Node):
        if right.op == "get_attr" and left.op != "get_attr":
            return Call("arithmetic", (left,), arguments={"name": name, "constant": right})
        return {"Add": Call("add", (left, right)), "Mul": Call("multiply", (left, right))}.get(name)
    value, constant = (left, right) if isinstance(left, fx.Node) else (right, left)
    if (
        not isinstance(value, fx.Node)
        or not isinstance(constant, int | float)
        or (value is right and name in ("Sub", "Div"))
    ):
        return None
    return Call("arithmetic", (value,), arguments={"name": name, "constant": float(constant)})


def _flatten(inputs: tuple[fx.Node, ...]) -> Call:
    return Call("rearrange", inputs, lambda codes: codes.flatten(1), {"name": "flatten"})


def _max_pool(
    inputs: tuple[fx.Node, ...], kernel: Any, stride: Any, padding: Any, dilation: Any, *, ceil_mode: bool
) -> Call:
    kernel, stride, padding, dilation = _pair(kernel), _pair(stride or kernel), _pair(padding), _pair(dilation)

    def pool(codes: Tensor) -> Tensor:
        return functional.max_pool2d(codes, kernel, stride, padding, dilation, ceil_mode)

    window = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation, "ceil_mode": ceil_mode}
    return Call("rearrange", inputs, pool, {"name": "max_pool", **window})


def _average(inputs: tuple[fx.Node, ...], kernel: Any, stride: Any, padding: Any) -> Call:
    window = {"kernel": _pair(kernel), "stride": _pair(stride or kernel), "padding": _pair(padding)}
    return Call("average", inputs, arguments=window)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _axes(dims: Any, rank: int) -> tuple[int, ...]:
    """Axes that a mean is taken over, counted from the first; none if it is not said."""
    given = (dims,) if isinstance(dims, int) else tuple(dims or ())
    return tuple(sorted(axis % rank for axis in given))
