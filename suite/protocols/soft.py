"""Finetuning with the float network's soft votes, as a post-step; the loss itself is in :mod:`suite.train.soft`."""

from __future__ import annotations

from dataclasses import dataclass, replace

from suite.contract.space import Policy
from suite.contract.trial import GRADIENT_PASSES
from suite.protocols.protocol import Prepared, Request
from suite.protocols.training import HalfCosine
from suite.train.soft import SoftSettings, SoftVotes
from suite.workbench import Workbench


@dataclass(frozen=True, slots=True)
class Soft(HalfCosine):
    """Distillation from the smoothed float network: its softmax, averaged over noise samples of each image.

    The votes on an image are counted once, when it is first trained on: the teacher costs ``samples`` passes per image of the
    training set, not per step.

    Attributes:
        samples: Noise samples of each image that the float network votes on.
        weight: Share of the soft votes in the loss, between 0 and 1; the labels have the rest.
        temperature: Divides the logits of both networks.
    """

    samples: int = 16
    weight: float = 0.5
    temperature: float = 2.0

    def __post_init__(self) -> None:
        HalfCosine.__post_init__(self)
        self.settings  # noqa: B018 (checks the options)

    @property
    def settings(self) -> SoftSettings:
        """How labels and votes are mixed."""
        return SoftSettings(self.samples, self.weight, self.temperature)

    @property
    def passes_per_image(self) -> int:
        """The most: an image's first step brings the teacher's votes, later ones the student's gradient alone."""
        return GRADIENT_PASSES + self.samples

    def prepare(self, bench: Workbench, policy: Policy, request: Request) -> Prepared:
        """Finetune a copy of the network."""
        loss = SoftVotes(bench.network, self.settings, len(bench.dataset.splits["train"]))
        prepared = self.train(bench, policy, request, loss)
        return replace(prepared, forward_passes=bench.finetuning.forward_passes(self.steps) + loss.passes)
