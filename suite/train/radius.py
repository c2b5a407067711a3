"""A loss that grows the certified radius: soft votes over Gaussian samples, and a hinge on the radius that they imply."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from suite.errors import BitcertError
from suite.quantize.trainable import TrainableNetwork
from suite.train.loss import TrainingBatch


@dataclass(frozen=True, slots=True)
class RadiusLoss:
    """Cross-entropy of the soft votes, and a hinge on the soft radius of rightly classified images, as in MACER.

    Attributes:
        samples: Noise samples per image, all of them trained on.
        beta: Inverse temperature of the votes that the radius is computed from.
        gamma: Margin of the hinge, in units of ``sigma / 2``: radii beyond it are not pushed further.
        weight: Of the hinge, the paper's lambda.

    Raises:
        BitcertError: If an option is out of range.

    References:
        Zhai et al., MACER: attack-free and scalable robust training via maximizing certified radius, ICLR 2020, arXiv 2001.02378.
    """

    samples: int = 16
    beta: float = 16.0
    gamma: float = 8.0
    weight: float = 12.0

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise BitcertError(f"the radius needs samples >= 1, got {self.samples}")
        if not (0 < self.beta < math.inf and 0 < self.gamma < math.inf and 0 <= self.weight < math.inf):
            raise BitcertError(
                f"the radius needs beta > 0, gamma > 0 and weight >= 0, all finite, got {self.beta}, {self.gamma} and {self.weight}"
            )

    def __call__(self, network: TrainableNetwork, batch: TrainingBatch) -> Tensor:
        """The loss of one step; the first of the samples is the one that other post-steps train on."""
        inputs = batch.inputs
        if self.samples > 1:
            inputs = torch.cat([inputs, batch.noisy("radius", self.samples - 1)])
        logits = network(inputs).unflatten(0, (self.samples, len(batch.labels)))
        hinge = radius_hinge(logits, batch.labels, sigma=batch.sigma, beta=self.beta, gamma=self.gamma)
        return vote_cross_entropy(logits, batch.labels) + self.weight * hinge


def vote_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of the mean softmax over samples; logits of shape ``(samples, rows, classes)``."""
    votes = logits.log_softmax(dim=2).logsumexp(dim=0) - math.log(len(logits))
    return nn.functional.nll_loss(votes, labels)


def radius_hinge(logits: Tensor, labels: Tensor, *, sigma: float, beta: float, gamma: float) -> Tensor:
    """``sigma / 2 * max(0, gamma - (Phi^-1(p_top) - Phi^-1(p_second)))`` of rightly classified images, summed, over all rows.

    Votes p are the mean over samples of ``softmax(beta * logits)``, in double precision; ``Phi^-1(p_top)`` is computed from the
    other votes' sum, which keeps the digits that ``1 - p_top`` loses. Images classified wrongly, and those beyond the margin or
    with an infinite radius, have neither loss nor gradient.

    Args:
        logits: Shape ``(samples, rows, classes)``.
        labels: Shape ``(rows,)``.
        sigma: Standard deviation of the noise.
        beta: Inverse temperature.
        gamma: Margin.

    Returns:
        A scalar of the logits' type.
    """
    votes = (beta * logits.double()).softmax(dim=2).mean(dim=0)
    with torch.no_grad():
        active = (votes.argmax(dim=1) == labels) & (_gap(votes) < gamma)
    hinges = gamma - _gap(votes[active])
    return (sigma / 2 * hinges.sum() / len(labels)).to(logits.dtype)


def _gap(votes: Tensor) -> Tensor:
    """``Phi^-1(p_top) - Phi^-1(p_second)``, shape ``(rows,)``."""
    ranked = votes.sort(dim=1, descending=True).values
    gap: Tensor = -torch.special.ndtri(ranked[:, 1:].sum(dim=1)) - torch.special.ndtri(ranked[:, 1])
    return gap
