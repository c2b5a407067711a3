"""Batch-norm recalibration: statistics of the network as it is executed."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


@torch.no_grad()
def recalibrate_batch_norm(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace running means and variances by averages over the given batches, in place.

    Every batch counts the same. Dropout and everything else stays in evaluation mode.

    Args:
        network: Network whose batch-norm layers are updated.
        batches: Images with the problem's noise already added, each of shape ``(images, C, H, W)``; at least one.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    norms = [norm for norm in norms if norm.track_running_stats]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
        norm.train()
    try:
        seen = False
        for batch in batches:
            network(batch)
            seen = True
        if not seen:
            raise ValueError("batch-norm recalibration needs at least one batch")
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()
