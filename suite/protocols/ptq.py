"""Post-training quantization: a policy's network as calibrated, and post-steps that train nothing either."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from suite.contract.space import Policy
from suite.options import check_counts
from suite.protocols.protocol import PostStep, Prepared, Protocol, Request
from suite.quantize import Statistics
from suite.workbench import Workbench


@dataclass(frozen=True, slots=True)
class PTQ(Protocol):
    """Calibrated steps and recalibrated batch norm; nothing is trained.

    Attributes:
        recalibrate: Whether batch norms get the statistics of the quantized network, on the calibration images.
        bias_correction: Whether layers without a recalibrated batch norm get back the mean output that they have in the
            float network.
    """

    recalibrate: bool = True
    bias_correction: bool = False

    default_steps: ClassVar[int] = 0

    @property
    def statistics(self) -> Statistics:
        """As the options say."""
        return Statistics(self.recalibrate, self.bias_correction)

    def prepare(self, bench: Workbench, policy: Policy, request: Request) -> Prepared:
        """Set the shared network to the policy."""
        self.choose_steps(request.steps)
        return Prepared(bench.quantized(policy), bench.statistics_passes())

    def forward_passes(self, bench: Workbench, steps: int) -> int:
        """Those that measure the statistics."""
        return bench.statistics_passes()


@dataclass(frozen=True, slots=True)
class _Untrained(PostStep):
    """A post-step without an optimizer step."""

    trains: ClassVar[bool] = False

    @property
    def steps(self) -> int:
        """None."""
        return 0


@dataclass(frozen=True, slots=True)
class Plain(_Untrained):
    """As calibrated, with the batch-norm statistics of the float network: what recalibration is measured against."""

    def prepare(self, bench: Workbench, policy: Policy, request: Request) -> Prepared:
        """Quantize a copy of the network."""
        return Prepared(bench.separate(policy, Statistics(recalibrate=False)))


@dataclass(frozen=True, slots=True)
class Recalibrate(_Untrained):
    """Batch norm recalibrated on training images: what a post-step that trains does beyond that is its own merit.

    Attributes:
        images: Training images, drawn by the problem's seed, augmented as in base training and with one noise sample each.
        bias_correction: As in the protocol ``ptq``.
    """

    images: int = 1_000
    bias_correction: bool = False

    def __post_init__(self) -> None:
        check_counts(self, images=1)

    def prepare(self, bench: Workbench, policy: Policy, request: Request) -> Prepared:
        """Quantize a copy of the network and measure its statistics."""
        return recalibrated(bench, policy, self.images, bias_correction=self.bias_correction)


def recalibrated(bench: Workbench, policy: Policy, images: int, *, bias_correction: bool = False) -> Prepared:
    """A policy's network whose statistics are measured on so many training images, drawn by the problem's seed."""
    train = bench.dataset.splits["train"]
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(bench.seed))[:images]
    batches = bench.training_batches(train.subset(order.numpy()), "recalibrate")
    network = bench.separate(policy, Statistics(recalibrate=False))
    network.update_statistics(batches, Statistics(bias_correction=bias_correction))
    return Prepared(network, sum(map(len, batches)), bench.origin)
