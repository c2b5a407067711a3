"""Batch-norm recalibration: statistics of the network as executed."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from suite.errors import BitcertError
from suite.quantize.layer import QuantizedLayer


@torch.no_grad()
def recalibrate_batch_norm(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace running means and variances by averages over the given batches, in place.

    Batches are weighted equally. Dropout and everything else stays in evaluation mode.

    Args:
        network: The network to update; a quantized one must be built with ``fold=False``.
        batches: At least one batch of images with the problem's noise already added, each of shape ``(images, C, H, W)``.

    Raises:
        BitcertError: If there is no batch, or batch norms were folded away.
    """
    if any(isinstance(module, QuantizedLayer) and module.folded for module in network.modules()):
        raise BitcertError("the batch norms of this network were folded into its layers; build it with fold=False")
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    norms = [norm for norm in norms if norm.track_running_stats]
    if not norms:
        return
    batches = iter(batches)
    first = next(batches, None)
    if first is None:
        raise BitcertError("batch-norm recalibration needs at least one batch")
    momenta = [norm.momentum for norm in norms]
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
        norm.train()
    try:
        for batch in itertools.chain([first], batches):
            network(batch)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()
