"""Statistics of the network as executed: batch norm recalibrated, or biases corrected, on noisy calibration images."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from suite.errors import BitcertError
from suite.quantize.layer import QuantizedLayer


@dataclass(frozen=True, slots=True)
class Statistics:
    """What is measured again of a quantized network before it is used.

    Attributes:
        recalibrate: Whether batch norms get the means and variances of the quantized network; else they keep those of the
            float network, which are wrong for it below about 4 bits.
        bias_correction: Whether layers whose batch norm is not recalibrated, or that have none, get the mean output that
            they have in the float network, channel by channel (Nagel et al., ICCV 2019, section 4.2).
    """

    recalibrate: bool = True
    bias_correction: bool = False


@torch.no_grad()
def update_statistics(
    network: nn.Module,
    batches: Iterable[Tensor],
    statistics: Statistics = Statistics(),
    output_means: Mapping[QuantizedLayer, Tensor] = {},
    settled: Collection[QuantizedLayer] = (),
) -> None:
    """Measure a network's statistics in one pass over the given batches, in place.

    Each batch is normalized with statistics of its own, so that every layer sees inputs that are already corrected; the
    batches' statistics are then averaged with equal weights. Batch norms that were folded into the layer before them are
    recalibrated there. Dropout and everything else stays in evaluation mode.

    Args:
        network: The network to update.
        batches: Images with the problem's noise already added, each of shape ``(images, C, H, W)``.
        statistics: What to update.
        output_means: Mean outputs in the float network of the layers whose bias may be corrected.
        settled: Layers that keep their statistics.

    Raises:
        BitcertError: If something is to be updated and there is no batch, or if the bias of a layer that is called more than once
            is to be corrected: its outputs have another mean in every call.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    norms = norms if statistics.recalibrate else []
    wanted = output_means if statistics.bias_correction else {}
    layers = [module for module in network.modules() if isinstance(module, QuantizedLayer) and module not in settled]
    if not norms and not layers:
        return
    batches = iter(batches)
    first = next(batches, None)
    if first is None:
        raise BitcertError("the statistics of a network need at least one batch of images, got none")
    observed = [
        layer for layer in layers if layer.observe(recalibrate=statistics.recalibrate, output_mean=wanted.get(layer))
    ]
    momenta = [norm.momentum for norm in norms]
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
        norm.train()
    passes = 0
    try:
        for batch in itertools.chain([first], batches):
            network(batch)
            passes += 1
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()
        calls = {layer: layer.settle() for layer in observed}
    names = {module: name for name, module in network.named_modules()}
    repeated = next((names[layer] for layer, count in calls.items() if count > passes), None)
    if repeated is not None:
        raise BitcertError(
            f"layer {repeated!r} is called more than once: its bias cannot be corrected; leave bias_correction out"
        )


def recalibrate_batch_norm(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace means and variances of batch norms by averages over the given batches; see :func:`update_statistics`."""
    update_statistics(network, batches)


def has_batch_norm(network: nn.Module) -> bool:
    """Whether a float network has batch norms with running statistics."""
    return any(isinstance(module, _BatchNorm) and module.track_running_stats for module in network.modules())
