"""Differentiable interval bounds of a float or quantized network, to train with.

**Bounds.** A box ``low <= x <= high`` passes a layer ``W x + b`` as ``W c + b -+ |W| r`` with centre c and half width r, and
whatever is monotone (ReLU, pooling, the quantizers of inputs) by its two ends. The last layer is fused with the specification: with
rows ``W_y - W_j`` the bound on ``logit_y - logit_j`` is tighter than that on each of them. A quantized layer's weights are
those that its quantizer makes, and gradients pass both quantizers straight through.

Everything is computed in floating point, so the bounds are for training, not for certificates: sums are rounded, and a number at
the border of two levels may fall on either side. :mod:`suite.certify.interval` proves, in integers.

References:
    Gowal et al., Scalable Verified Training for Provably Robust Image Classification, ICCV 2019; Lechner, Zikelic, Chatterjee,
    Henzinger, Rus, Quantization-aware Interval Bound Propagation for Training Certifiably Robust Quantized Neural Networks, AAAI
    2023 (arXiv 2211.16187).
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from suite.data import ImageSplit
from suite.errors import BitcertError
from suite.networks import Normalization
from suite.quantize.graph import called_module, trace
from suite.quantize.layer import Quantizable, QuantizedLayer, apply_layer
from suite.quantize.trainable import TrainableLayer

Layer = nn.Conv2d | nn.Linear | TrainableLayer | QuantizedLayer

_LAYERS = (nn.Conv2d, nn.Linear, TrainableLayer, QuantizedLayer)
_LEAVES = (TrainableLayer, QuantizedLayer, Normalization)
_POOLING = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
_MONOTONE = (nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.Identity, nn.Flatten, Normalization, *_POOLING)
_MONOTONE_FUNCTIONS = (torch.relu, functional.relu, functional.relu6, torch.clamp, torch.flatten)
_MONOTONE_METHODS = ("relu", "clamp", "flatten", "mean")
_SUMS = (operator.add, torch.add)


class Bounds(NamedTuple):
    """What holds for every image of a box.

    Attributes:
        margins: At most ``logit_y - logit_j`` for the label y, shape ``(images, classes)``; infinite where j is y.
        width: Mean width of the inputs of all layers but the first, averaged over these layers; a scalar, 0 if there is one layer.
    """

    margins: Tensor
    width: Tensor


class IntervalNetwork:
    """The bounds of a network: its calls are traced once, its weights are read whenever bounds are computed.

    Args:
        network: A float network, a :class:`.TrainableNetwork`, what that freezes to, or a :class:`.QuantizedNetwork`: convolutions,
            linear layers, ReLU, pooling, sums, and batch norm in evaluation mode, with a linear layer at the end.

    Raises:
        BitcertError: If it cannot be traced, or computes something else, which is named.
    """

    def __init__(self, network: nn.Module) -> None:
        graph = trace(network, _LEAVES)
        if graph is None:
            raise BitcertError(
                "torch.fx cannot trace this network, so it has no interval bounds; avoid control flow that depends on data"
            )
        self._image, *calls, output = graph.nodes
        last = calls[-1] if calls and output.args == (calls[-1],) else None
        end = None if last is None else called_module(network, last)
        if last is None or not isinstance(end, _LAYERS) or not isinstance(_float_layer(end), nn.Linear):
            raise BitcertError(
                "interval bounds need a network that ends in a linear layer, whose outputs are its logits"
            )
        self._end, self._last = end, last.all_input_nodes[0]
        self._calls = [(node, _operation(network, node), node.all_input_nodes) for node in calls[:-1]]

    def __call__(self, low: Tensor, high: Tensor, labels: Tensor) -> Bounds:
        """Bounds for boxes of images.

        Args:
            low: Least pixels, shape ``(images, C, H, W)``.
            high: Largest pixels, the same shape.
            labels: Class y of each box, shape ``(images,)``.

        Raises:
            BitcertError: If a batch norm or a dropout is in training mode, where outputs are no function of an image alone.
        """
        values, widths = {self._image: torch.cat([low, high])}, list[Tensor]()
        for node, operation, sources in self._calls:
            given = [values[source] for source in sources]
            if isinstance(operation, _LAYERS):
                weight, bias, entering = _opened(operation, given[0])
                widths.append(_width(entering))
                values[node] = _through(_float_layer(operation), weight, bias, entering)
            else:
                values[node] = operation(*given)
        weight, bias, entering = _opened(self._end, values[self._last])
        widths.append(_width(entering))
        hidden = widths[1:]
        return Bounds(
            _margins(weight, bias, entering, labels),
            torch.stack(hidden).mean() if hidden else torch.zeros_like(widths[0]),
        )


def box(images: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Least and largest pixels, in [0, 1], of the images within an L-infinity radius of these."""
    return (images - radius).clamp(0.0, 1.0), (images + radius).clamp(0.0, 1.0)


@torch.no_grad()
def certified_share(network: nn.Module, split: ImageSplit, radius: float, batch: int = 500) -> float:
    """Share of a split's images whose label these bounds prove within a radius, as far as floating point can tell.

    Args:
        network: In evaluation mode; see :class:`IntervalNetwork`.
        split: Images.
        radius: L-infinity, in the units of the images.
        batch: Images at once.
    """
    bounds, proven = IntervalNetwork(network), 0
    device = next((tensor.device for tensor in (*network.parameters(), *network.buffers())), torch.device("cpu"))
    for start in range(0, len(split), batch):
        images = split.images(start, start + batch).to(device)
        labels = torch.from_numpy(split.labels[start : start + batch]).to(device)
        proven += int((bounds(*box(images, radius), labels).margins > 0).all(dim=1).sum())
    return proven / len(split)


def _operation(network: nn.Module, node: fx.Node) -> Layer | Callable[..., Tensor]:
    """A layer, or how both ends of boxes, one after the other along the batch, pass a call."""
    module = called_module(network, node)
    if isinstance(module, _LAYERS):
        return module
    if isinstance(module, nn.BatchNorm2d):
        return partial(_through_norm, module, str(node.target))
    if isinstance(module, nn.Dropout):
        return partial(_through_dropout, module, str(node.target))
    if isinstance(module, _MONOTONE):
        return module
    sources = node.all_input_nodes
    if node.op == "call_function" and node.target in _SUMS and len(sources) == len(node.args) == 2 and not node.kwargs:
        return torch.add
    if sources and sources == [node.args[0]]:
        if node.op == "call_function" and node.target in _MONOTONE_FUNCTIONS:
            return partial(_through_function, node.target, node.args[1:], node.kwargs)
        if node.op == "call_method" and node.target in _MONOTONE_METHODS:
            return partial(_through_function, getattr(Tensor, str(node.target)), node.args[1:], node.kwargs)
    name = f"{node.target} ({type(module).__name__})" if module is not None else node.name
    raise BitcertError(
        f"interval bounds cannot pass {name}; they pass convolutions, linear layers, ReLU, pooling, sums, and batch norm in "
        "evaluation mode"
    )


def _float_layer(layer: Layer) -> Quantizable:
    return layer if isinstance(layer, nn.Conv2d | nn.Linear) else layer.float_layer


def _opened(layer: Layer, given: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
    """Weight and bias that a layer computes with, and the inputs that it makes of those given."""
    if isinstance(layer, TrainableLayer):
        return layer.quantized_weight(), layer.bias, layer.quantize_inputs(given)
    if isinstance(layer, QuantizedLayer) and layer.grid is not None:
        return layer.weight, layer.bias, layer.grid.nearest(given / layer.step)
    return layer.weight, layer.bias, given


def _through(layer: Quantizable, weight: Tensor, bias: Tensor | None, entering: Tensor) -> Tensor:
    centre, half = _centre(entering)
    centre, half = apply_layer(layer, centre, weight, bias), apply_layer(layer, half, weight.abs(), None)
    return torch.cat([centre - half, centre + half])


def _through_norm(norm: nn.BatchNorm2d, name: str, given: Tensor) -> Tensor:
    if norm.training or norm.running_var is None:
        raise BitcertError(
            f"interval bounds cannot pass {name} (BatchNorm2d in training mode), whose outputs depend on other images; choose a "
            "network without batch norm, such as mlp-digits or convnet-mnist"
        )
    centre, half = _centre(given)
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.affine:
        scale = scale * norm.weight.abs()
    centre, half = norm(centre), half * scale.reshape(-1, 1, 1)
    return torch.cat([centre - half, centre + half])


def _through_function(function: Any, arguments: tuple[Any, ...], keywords: dict[str, Any], given: Tensor) -> Tensor:
    passed: Tensor = function(given, *arguments, **keywords)
    return passed


def _through_dropout(dropout: nn.Dropout, name: str, given: Tensor) -> Tensor:
    if dropout.training and dropout.p > 0:
        raise BitcertError(f"interval bounds cannot pass {name} (Dropout in training mode), whose outputs are random")
    return given


def _margins(weight: Tensor, bias: Tensor | None, entering: Tensor, labels: Tensor) -> Tensor:
    """Bounds of a last layer fused with the specification."""
    centre, half = _centre(entering)
    logits = functional.linear(centre, weight, bias)
    rows = weight[labels, None] - weight
    differences = logits.gather(1, labels[:, None]) - logits
    margins = differences - (rows.abs() @ half[:, :, None]).squeeze(2)
    return margins.scatter(1, labels[:, None], torch.inf)


def _centre(both: Tensor) -> tuple[Tensor, Tensor]:
    """Centres and half widths of boxes."""
    low, high = both.chunk(2)
    return (low + high) / 2, (high - low) / 2


def _width(both: Tensor) -> Tensor:
    low, high = both.chunk(2)
    return (high - low).mean()
