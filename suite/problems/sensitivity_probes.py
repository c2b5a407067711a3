"""Sensitivities of a network's layers from one backward pass: first-order terms, squared gradients, changed outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from suite.contract.space import FLOAT_BITS, Policy, Precision
from suite.quantize import TrainableNetwork, recalibrate_batch_norm
from suite.quantize.calibration import Calibration, quantizable_modules
from suite.quantize.layer import Quantizable, apply_layer
from suite.quantize.steps import quantize
from suite.quantize.trainable import TrainableLayer
from suite.workbench import Batches, Workbench

_AT_ONCE = 2**24  # numbers of per-row weight gradients held in memory


def run_hooked(
    network: nn.Module, names: Sequence[str], inputs: Tensor, see: Callable[[int, Tensor], Tensor | None]
) -> Tensor:
    """Run a network; ``see`` gets the position and the inputs of each named layer, and may replace the inputs."""
    handles = [
        network.get_submodule(name).register_forward_pre_hook(
            lambda _, arguments, layer=layer: see(layer, arguments[0])
        )
        for layer, name in enumerate(names)
    ]
    try:
        logits: Tensor = network(inputs)
        return logits
    finally:
        for handle in handles:
            handle.remove()


def first_order_terms(bench: Workbench, batches: Batches, policy: Policy) -> NDArray[np.float64]:
    """First-order loss terms of the network quantized to a policy; see :meth:`suite.contract.probes.Probes.first_order`.

    Batch norms are recalibrated if those of the problem are. The gradient passes quantizers straight through.
    """
    network = TrainableNetwork(bench.network, bench.space.layers, policy, bench.calibration, "lsq").eval()
    if bench.statistics.recalibrate:
        recalibrate_batch_norm(network, bench.statistics_batches)
    rows = sum(len(inputs) for inputs, _ in batches)
    found = np.zeros((2, len(bench.space.layers)))
    by_weights: dict[int, Tensor] = {}
    weights: list[tuple[int, Tensor]] = []
    seen: list[tuple[int, Tensor, Tensor]] = []

    def keep(layer: int, quantized: Tensor) -> Tensor:
        point = quantized if quantized.requires_grad else quantized.detach().requires_grad_()  # leaks are constants
        weights.append((layer, point))
        return point

    for layer, (description, precision) in enumerate(zip(bench.space.layers, policy.precisions, strict=True)):
        module = network.network.get_submodule(description.name)
        assert isinstance(module, TrainableLayer)
        if precision.weight != FLOAT_BITS:
            by_weights[layer] = torch.zeros_like(module.weight)
            module.quantize_weights.register_forward_hook(lambda _, __, quantized, layer=layer: keep(layer, quantized))
        if precision.activation != FLOAT_BITS:
            module.quantize_inputs.register_forward_hook(
                lambda _, given, quantized, layer=layer: seen.append(
                    (layer, (given[0] - quantized).detach(), quantized)
                )
            )
    for inputs, labels in batches:
        weights.clear()
        seen.clear()
        loss = nn.functional.cross_entropy(network(inputs), labels, reduction="sum") / rows
        points = [quantized for _, quantized in weights] + [quantized for *_, quantized in seen]
        slopes = torch.autograd.grad(loss, points, materialize_grads=True) if points else ()
        for (layer, _), slope in zip(weights, slopes[: len(weights)], strict=True):
            by_weights[layer] += slope
        for (layer, change, _), slope in zip(seen, slopes[len(weights) :], strict=True):
            found[1, layer] += float((slope * change).abs().sum(dtype=torch.float64))
    for layer, slope in by_weights.items():
        name, bits = bench.space.layers[layer].name, policy.weights[layer]
        change = bench.calibration.weights[name] - bench.calibration.quantized_weight(name, bits)
        found[0, layer] = float((slope * change).abs().sum(dtype=torch.float64))
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    """One execution of a layer, with the gradients of every row's own loss by its inputs and outputs."""

    layer: int
    inputs: Tensor
    outputs: Tensor
    by_inputs: Tensor
    by_outputs: Tensor


def mean_squared_gradients(bench: Workbench, names: Sequence[str], batches: Batches) -> NDArray[np.float64]:
    """Mean squares of the rows' own gradients; see :meth:`suite.contract.probes.Probes.squared_gradients`.

    The gradients by the weights are computed for each row from the inputs and the output gradients of every layer, so that
    the network itself runs in ordinary batches.
    """
    modules = list(quantizable_modules(bench.network, names).values())
    sums, counts = np.zeros((2, len(modules))), np.zeros((2, len(modules)))
    for inputs, labels in batches:
        by_weights: dict[int, list[_Call]] = {}
        for call in _calls(bench.network, modules, inputs, labels):
            sums[1, call.layer] += float(call.by_inputs.square().sum(dtype=torch.float64))
            counts[1, call.layer] += call.inputs.numel()
            by_weights.setdefault(call.layer, []).append(call)
        for layer, calls in by_weights.items():
            sums[0, layer] += _squared_weight_gradients(modules[layer], calls)
            counts[0, layer] += len(inputs) * modules[layer].weight.numel()
    return sums / counts


def output_changes(
    bench: Workbench, names: Sequence[str], batches: Batches, precisions: Sequence[Precision]
) -> NDArray[np.float64]:
    """Changes of outputs, weighted by their squared gradients; see :meth:`suite.contract.probes.Probes.output_changes`."""
    modules = list(quantizable_modules(bench.network, names).values())
    found = np.zeros((len(modules), len(precisions)))
    for inputs, labels in batches:
        for call in _calls(bench.network, modules, inputs, labels):
            found[call.layer] += _weighted_changes(
                names[call.layer], modules[call.layer], call, bench.calibration, precisions
            )
    return found / sum(len(inputs) for inputs, _ in batches)


def _calls(network: nn.Module, modules: Sequence[Quantizable], inputs: Tensor, labels: Tensor) -> list[_Call]:
    """Run a batch forward and backward; what every layer saw and made, in the order of execution."""
    seen: list[tuple[int, Tensor, Tensor]] = []

    def follow(arguments: tuple[Tensor, ...]) -> Tensor:
        given = arguments[0].clone()
        return given if given.requires_grad else given.requires_grad_()

    def record(layer: int, arguments: tuple[Tensor, ...], outputs: Tensor) -> Tensor:
        seen.append((layer, arguments[0], outputs))
        return outputs.clone()  # what follows may overwrite it

    handles = [module.register_forward_pre_hook(lambda _, arguments: follow(arguments)) for module in modules]
    handles += [
        module.register_forward_hook(lambda _, arguments, outputs, layer=layer: record(layer, arguments, outputs))
        for layer, module in enumerate(modules)
    ]
    try:
        loss = nn.functional.cross_entropy(network(inputs), labels, reduction="sum")
    finally:
        for handle in handles:
            handle.remove()
    points = [given for _, given, _ in seen] + [outputs for *_, outputs in seen]
    slopes = torch.autograd.grad(loss, points, materialize_grads=True)
    pairs = zip(seen, slopes[: len(seen)], slopes[len(seen) :], strict=True)
    return [
        _Call(layer, given.detach(), outputs.detach(), by_inputs, by_outputs)
        for (layer, given, outputs), by_inputs, by_outputs in pairs
    ]


def _squared_weight_gradients(module: Quantizable, calls: Sequence[_Call]) -> float:
    """Sum over rows of the squared length of each row's gradient by a layer's weights, summed over its calls."""
    weight = module.weight.detach()

    def gradient(inputs: Tensor, by_outputs: Tensor) -> Tensor:
        def output_along(weight: Tensor) -> Tensor:
            return (apply_layer(module, inputs[None], weight, None) * by_outputs[None]).sum()

        by_weight: Tensor = torch.func.grad(output_along)(weight)
        return by_weight

    total = 0.0
    chunk = max(1, _AT_ONCE // weight.numel())
    for start in range(0, len(calls[0].inputs), chunk):
        rows = slice(start, start + chunk)
        by_row = [torch.func.vmap(gradient)(call.inputs[rows], call.by_outputs[rows]) for call in calls]
        total += float(torch.stack(by_row).sum(dim=0).square().sum(dtype=torch.float64))
    return total


@torch.no_grad()
def _weighted_changes(
    name: str, module: Quantizable, call: _Call, calibration: Calibration, precisions: Sequence[Precision]
) -> NDArray[np.float64]:
    """``sum (dL/dy)^2 (y_q - y)^2`` for a layer computed at each precision."""
    importance = call.by_outputs.square()
    inputs = {
        bits: quantize(call.inputs, calibration.activation_step(name, bits), calibration.input_grid(name, bits))
        for bits in {precision.activation for precision in precisions}
    }
    weights = {bits: calibration.quantized_weight(name, bits) for bits in {pair.weight for pair in precisions}}
    return np.array(
        [
            float(
                (apply_layer(module, inputs[pair.activation], weights[pair.weight], module.bias) - call.outputs)
                .square_()
                .mul_(importance)
                .sum(dtype=torch.float64)
            )
            for pair in precisions
        ]
    )
