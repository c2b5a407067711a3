"""Finetuning with interval bounds, as a post-step; the loss itself is in :mod:`suite.train.interval_loss`."""

from __future__ import annotations

from dataclasses import dataclass

from suite.contract.space import Policy
from suite.contract.trial import GRADIENT_PASSES
from suite.protocols.protocol import Prepared, Request
from suite.protocols.training import HalfCosine
from suite.train.interval_loss import MARGIN, PENALTY_PASSES, ROWS, WEIGHT, WIDTH, IntervalLoss, IntervalSettings
from suite.workbench import Workbench


@dataclass(frozen=True, slots=True)
class QAIBP(HalfCosine):
    """Quantization-aware interval bound propagation: ``qat``, and bounds that are to prove labels in boxes around images.

    The bounds are those of the quantized network. They take two rows through every layer, centres and half widths, and the
    network's predictions without noise: a step costs ten forward passes per image where one of ``qat`` costs three.

    It pays to train in larger boxes than those that count: on ``digits-linf`` at ``w3a3``, boxes of 3/32 prove 0.86 of the search
    images at 1/16 and 0.36 at 2/16 after 400 steps, boxes of 1/16 0.84 and 0.21, ``qat`` 0.80 and 0.20.

    Differs from the paper: Adam along a half cosine, a margin of 4 logits rather than 0.2, no penalty of widths by default, and the
    mean of the hinge over all images of a batch; see :class:`.IntervalPenalty`.

    Attributes:
        radius: L-infinity radius of the boxes, in units of the image.
        weight: Of the margins that bounds prove, beside cross-entropy.
        margin: Logits by which the label is to beat every other class in the whole box.
        width: Weight of the mean width of hidden layers.

    References:
        Lechner et al., Quantization-aware Interval Bound Propagation for Training Certifiably Robust Quantized Neural Networks,
        AAAI 2023 (arXiv 2211.16187).
    """

    radius: float = 3 / 32
    weight: float = WEIGHT
    margin: float = MARGIN
    width: float = WIDTH

    def __post_init__(self) -> None:
        HalfCosine.__post_init__(self)
        self.settings  # noqa: B018 (checks the options)

    @property
    def settings(self) -> IntervalSettings:
        """How bounds enter the loss."""
        return IntervalSettings(self.radius, self.weight, self.margin, self.width)

    @property
    def passes_per_image(self) -> int:
        """A gradient of the noisy image, its prediction without noise, and the gradient of its bounds."""
        return GRADIENT_PASSES + PENALTY_PASSES

    @property
    def rows_per_image(self) -> int:
        """The noisy image, and both rows of its bounds."""
        return 1 + ROWS

    def prepare(self, bench: Workbench, policy: Policy, request: Request) -> Prepared:
        """Finetune a copy of the network; raises BitcertError if it has no bounds, as with batch norm."""
        return self.train(bench, policy, request, IntervalLoss(self.settings, self.steps))
