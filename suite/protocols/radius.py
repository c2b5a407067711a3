"""Finetuning for certified radii, as a post-step; the loss itself is in :mod:`suite.train.radius`."""

from __future__ import annotations

from dataclasses import dataclass

from suite.contract.space import Policy
from suite.contract.trial import GRADIENT_PASSES
from suite.protocols.protocol import Prepared, Request
from suite.protocols.training import HalfCosine
from suite.train.radius import RadiusLoss
from suite.workbench import Workbench


@dataclass(frozen=True, slots=True)
class Radius(HalfCosine):
    """Soft votes over noise samples, and a hinge on the radius that they imply: MACER's loss, for finetuning.

    Defaults are MACER's at sigma 0.25 and 0.5; MACER itself trains float networks from scratch. Every sample is trained on, so a
    step costs ``samples`` times one of ``qat``.

    Attributes:
        samples: Noise samples per image.
        beta: Inverse temperature of the votes that the radius is computed from.
        gamma: Margin of the hinge, in units of ``sigma / 2``.
        weight: Of the hinge, the paper's lambda.

    References:
        Zhai et al., MACER: attack-free and scalable robust training via maximizing certified radius, ICLR 2020, arXiv 2001.02378.
    """

    samples: int = 16
    beta: float = 16.0
    gamma: float = 8.0
    weight: float = 12.0

    def __post_init__(self) -> None:
        HalfCosine.__post_init__(self)
        self.loss  # noqa: B018 (checks the options)

    @property
    def loss(self) -> RadiusLoss:
        """The loss."""
        return RadiusLoss(self.samples, self.beta, self.gamma, self.weight)

    @property
    def passes_per_image(self) -> int:
        """A gradient for every sample."""
        return GRADIENT_PASSES * self.rows_per_image

    @property
    def rows_per_image(self) -> int:
        """Every sample."""
        return self.samples

    def prepare(self, bench: Workbench, policy: Policy, request: Request) -> Prepared:
        """Finetune a copy of the network."""
        return self.train(bench, policy, request, self.loss)
