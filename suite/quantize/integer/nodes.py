"""What the calls of a traced network are to an integer network."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from suite.errors import BitcertError
from suite.quantize.graph import called_module
from suite.quantize.layer import QuantizedLayer

_SAME = (nn.Identity, nn.Dropout, nn.Dropout2d)
_POINTWISE = (
    *(nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.SiLU, nn.GELU, nn.LeakyReLU, nn.ELU, nn.Tanh, nn.Softplus, nn.Mish),
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


def describe(network: nn.Module, node: fx.Node, shape: tuple[int, ...] | None) -> Call:
    """Say what a call is.

    Args:
        network: What was traced.
        node: The call.
        shape: Of its result, None if that is no tensor.

    Raises:
        BitcertError: If it cannot be executed in integers.
    """
    inputs = tuple(node.all_input_nodes)
    module = called_module(network, node)
    found = None
    if node.op in ("placeholder", "output", "get_attr"):
        found = Call({"placeholder": "input", "output": "output", "get_attr": "constant"}[node.op], inputs)
    elif module is not None:
        found = _module(module, inputs)
    elif node.target in ("size", getattr) or shape is None:
        found = Call("size", inputs)
    else:
        found = _function(node, inputs, shape)
    if found is None:
        what = type(module).__name__ if module is not None else getattr(node.target, "__name__", node.target)
        raise BitcertError(f"{what} ({node.name}) cannot be executed in integers; keep to what the documentation lists")
    return found


def _module(module: nn.Module, inputs: tuple[fx.Node, ...]) -> Call | None:
    if isinstance(module, QuantizedLayer):
        return Call("layer", inputs, arguments={"layer": module})
    if isinstance(module, _SAME):
        return Call("same", inputs)
    if isinstance(module, nn.BatchNorm2d):
        return Call("norm", inputs, arguments={"norm": module})
    if isinstance(module, nn.ReLU | nn.ReLU6 | nn.Hardtanh):
        low, high = (0.0, math.inf) if isinstance(module, nn.ReLU) else (float(module.min_val), float(module.max_val))
        return Call("clip", inputs, arguments={"low": low, "high": high})
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


def _function(node: fx.Node, inputs: tuple[fx.Node, ...], shape: tuple[int, ...]) -> Call | None:
    target = node.target
    arguments: dict[Any, Any] = {**dict(enumerate(node.args)), **node.kwargs}
    if target in _ARITHMETIC and "alpha" not in arguments:
        return _arithmetic(node, _ARITHMETIC[target])
    if target in (torch.relu, functional.relu, functional.relu6, "relu"):
        high = 6.0 if target is functional.relu6 else math.inf
        return Call("clip", inputs, arguments={"low": 0.0, "high": high})
    if target in _POINTWISE_FUNCTIONS or target in _POINTWISE_METHODS:
        chosen = getattr(torch, target) if isinstance(target, str) else target
        others, named = node.args[1:], dict(node.kwargs)
        named.pop("inplace", None)
        return Call("look-up", inputs, lambda codes: chosen(codes, *others, **named))
    if target in (torch.flatten, "flatten", "view", "reshape") and len(shape) == 2:
        return _flatten(inputs[:1])
    if target in (torch.mean, "mean"):
        dims = arguments.get(1, arguments.get("dim"))
        keep = bool(arguments.get(2, arguments.get("keepdim", False)))
        axes = _axes(dims, len(shape) if keep else len(shape) + (1 if isinstance(dims, int) else len(dims or ())))
        return Call("mean", inputs, arguments={"axes": axes, "keep": keep}) if axes and 0 not in axes else None
    if target in (torch.permute, "permute"):
        order: Any = arguments[1] if isinstance(arguments[1], tuple | list) else node.args[1:]
        axes = tuple(axis % len(shape) for axis in order)
        return Call("rearrange", inputs, lambda codes: codes.permute(axes), {"name": "permute", "axes": axes})
    if target is functional.adaptive_avg_pool2d and arguments.get(1) in (1, (1, 1)):
        return Call("mean", inputs, arguments={"axes": (2, 3), "keep": True})
    if target is functional.max_pool2d:
        defaults = {"stride": None, "padding": 0, "dilation": 1, "ceil_mode": False}
        given = [
            arguments.get(place + 2, arguments.get(name, value)) for place, (name, value) in enumerate(defaults.items())
        ]
        return _max_pool(inputs, arguments.get(1, arguments.get("kernel_size")), *given[:3], ceil_mode=bool(given[3]))
    if target is functional.avg_pool2d and len(arguments) <= 3:
        return _average(
            inputs, arguments.get(1, arguments.get("kernel_size")), arguments.get(2, arguments.get("stride")), 0
        )
    if target is functional.pad and arguments.get(2, "constant") == "constant" and not arguments.get(3):
        pads = tuple(arguments[1])
        return Call(
            "rearrange",
            inputs,
            lambda codes: functional.pad(codes, pads),
            {"name": "pad", "pads": pads, "rank": len(shape)},
        )
    if target is operator.getitem and isinstance(node.args[1], tuple):
        index = node.args[1]
        if all(isinstance(part, slice) for part in index):
            return Call("rearrange", inputs, lambda codes: codes[index], {"name": "slice", "index": index})
    if target is torch.cat:
        dim = int(arguments.get(1, arguments.get("dim", 0)))
        return Call("concatenate", inputs, lambda *codes: torch.cat(codes, dim), {"name": "concatenate", "dim": dim})
    return None


def _arithmetic(node: fx.Node, name: str) -> Call | None:
    left, right = node.args
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
