"""What interval bounds add to a training loss, for base training and for finetuning."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from suite.contract.trial import GRADIENT_PASSES
from suite.errors import BitcertError
from suite.quantize.trainable import TrainableNetwork
from suite.train.interval import IntervalNetwork, box
from suite.train.loss import TrainingBatch, cross_entropy

ROWS = 2
"""Rows that bounds differentiate for an image: centres and half widths."""

PENALTY_PASSES = 1 + GRADIENT_PASSES * ROWS
"""Forward passes charged for the penalty of an image: its prediction, and the gradient of its bounds."""

WEIGHT, MARGIN, WIDTH = 0.5, 4.0, 0.0
"""Defaults of :class:`IntervalSettings`."""

_RAMP = 0.9


@dataclass(frozen=True, slots=True)
class IntervalSettings:
    """How interval bounds enter a loss.

    Attributes:
        radius: L-infinity radius of the boxes around images, in units of the image, within (0, 1].
        weight: Of the hinge on margins, beside cross-entropy.
        margin: Logits by which the label is to beat every other class in the whole box; beyond it nothing is pushed.
        width: Weight of the mean width of hidden layers.

    Raises:
        BitcertError: If a setting is out of range.
    """

    radius: float
    weight: float = WEIGHT
    margin: float = MARGIN
    width: float = WIDTH

    def __post_init__(self) -> None:
        if not 0 < self.radius <= 1:
            raise BitcertError(f"interval bounds need a radius within (0, 1], in units of the image, got {self.radius}")
        for name in ("weight", "margin", "width"):
            if not 0 <= getattr(self, name) < math.inf:
                raise BitcertError(f"interval bounds need a {name} >= 0 that is finite, got {getattr(self, name)}")


class IntervalPenalty:
    """Hinge on the margins of boxes around images, and the width of hidden layers.

    ``weight`` times the mean over images of ``sum_j max(0, margin - m_j)``, 0 for those that are predicted wrongly, with m_j the
    bound on the label's logit minus that of class j; plus ``width`` times the mean width of hidden layers. Radius and weight grow
    linearly from 0 over the first 90 % of the training. A mean over the images that are predicted rightly instead would reward a
    network that gives one answer for all, which has wide margins on them: deep networks collapse to it.

    Differs from the paper: margins of 4 logits rather than 0.2 (trained at 1/16 on digits, a network of three hidden layers had
    0.17 of the search images proven at 2/16, in place of 0.01), no penalty of widths by default (0.01 and 0.1 changed little), one
    training in place of three with growing weights, and the optimizer of base training in place of AdamW, which proved less.

    Args:
        network: What is trained, in training mode; it must be one that :class:`.IntervalNetwork` can bound.
        settings: Radius and weights.

    Raises:
        BitcertError: If the network has no bounds.

    References:
        Lechner et al., Quantization-aware Interval Bound Propagation for Training Certifiably Robust Quantized Neural Networks,
        AAAI 2023 (arXiv 2211.16187), section 4; the code of its authors.
    """

    def __init__(self, network: nn.Module, settings: IntervalSettings) -> None:
        self._network, self._settings = network, settings
        self._bounds = IntervalNetwork(network)

    def __call__(self, images: Tensor, labels: Tensor, progress: float) -> Tensor:
        """The penalty of a step, a scalar.

        Args:
            images: Without noise, in [0, 1], shape ``(images, C, H, W)``.
            labels: Shape ``(images,)``.
            progress: Share of the training that is over, within [0, 1).
        """
        settings, ramp = self._settings, min(1.0, progress / _RAMP)
        with torch.no_grad():
            right = self._network(images).argmax(dim=1) == labels
        found = self._bounds(*box(images, ramp * settings.radius), labels)
        hinges = (settings.margin - found.margins).clamp(min=0).sum(dim=1)
        hinge = torch.where(right, hinges, 0.0).mean()
        penalty: Tensor = ramp * settings.weight * hinge + settings.width * found.width
        return penalty


class IntervalLoss:
    """Cross-entropy of noisy images, and :class:`IntervalPenalty` of the boxes around them without noise.

    Args:
        settings: Radius and weights.
        steps: Optimizer steps of the training.
    """

    def __init__(self, settings: IntervalSettings, steps: int) -> None:
        self._settings, self._steps = settings, steps
        self._penalty: tuple[TrainableNetwork, IntervalPenalty] | None = None

    def __call__(self, network: TrainableNetwork, batch: TrainingBatch) -> Tensor:
        """The loss of one step."""
        if self._penalty is None or self._penalty[0] is not network:
            self._penalty = network, IntervalPenalty(network, self._settings)
        images = batch.images.to(batch.inputs.device)
        return cross_entropy(network, batch) + self._penalty[1](images, batch.labels, batch.step / self._steps)
