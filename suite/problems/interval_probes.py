"""Probes of problems whose certificates are without noise: clean training images, and boxes around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from suite.contract.probes import ProbeSettings, Quality
from suite.contract.space import Policy
from suite.errors import BitcertError
from suite.problems.network_probes import NetworkProbes
from suite.train.interval import IntervalNetwork, box
from suite.workbench import Workbench

_SHARPNESS = 2.0  # factor of the margins, as for samples of noise
_PASSES = 2  # of a box


class IntervalProbes(NetworkProbes):
    """Measurements on clean training images; where others have a radius under noise, these have one of interval bounds.

    Bounds are computed in floating point (:mod:`suite.train.interval`), so that layers may stay in 32 bits; they order policies and
    certify nothing.

    Args:
        bench: Network and data; its meter is charged.
        settings: Images; their noise plays no part.
        radii: L-infinity radii, ascending, in the units of the images.
    """

    def __init__(self, bench: Workbench, settings: ProbeSettings, radii: Sequence[float]) -> None:
        super().__init__(bench, replace(settings, noise=0))
        self._radii = [radius for radius in radii if radius > 0]

    def measure(self, policy: Policy) -> Quality:
        """Measure the network quantized to a policy; a forward pass for each image, and two for each of its boxes."""
        boxes = _PASSES * len(self._radii) * self._settings.rows
        self._bench.meter.charge(self._settings.rows + boxes + self._bench.statistics_passes())
        with self._bench.fixed_threads():
            return self._quality(self._bench.separate(policy))

    @torch.inference_mode()
    def _quality(self, network: nn.Module) -> Quality:
        bounds, steps = IntervalNetwork(network), np.diff([0.0, *self._radii])
        loss, radius = 0.0, 0.0
        for inputs, labels in self._batches:
            loss += float(nn.functional.cross_entropy(network(inputs.clone()), labels, reduction="sum").double())
            for step, wanted in zip(steps, self._radii, strict=True):
                margins = bounds(*box(inputs, wanted), labels).margins.amin(dim=1)
                radius += step * float(torch.sigmoid(_SHARPNESS * margins).double().sum())
        if not np.isfinite(loss):
            raise BitcertError("the network's loss is not finite; check its weights and the quantizer steps")
        return Quality(loss / self._settings.images, radius / self._settings.images)
