"""The protocol ``supernet``: policies inherit the weights and quantizer steps of one network that was trained for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from suite.contract.space import Policy
from suite.inheritance import inherited
from suite.options import check_counts
from suite.protocols.protocol import PostStep, Prepared, Protocol, Request
from suite.protocols.ptq import recalibrated
from suite.quantize import Statistics
from suite.workbench import Workbench


@dataclass(frozen=True, slots=True)
class Supernet(Protocol):
    """Weights and quantizer steps inherited from a supernet, batch norm recalibrated; nothing is trained.

    Attributes:
        file: The supernet, as made by ``bitcert supernet``; empty for one that comes with bitcert.
        variant: Which of those: ``"shared"``, ``"switchable"`` (a batch norm for every precision of a layer) or ``"private"``
            (weights for every bit width, too).
        recalibrate: Whether batch norms get the statistics of the quantized network, on the calibration images. A supernet has
            no statistics of its own: without, they are those of the float network from which it was made.
    """

    file: str = ""
    variant: str = "shared"
    recalibrate: bool = True

    default_steps: ClassVar[int] = 0

    @property
    def statistics(self) -> Statistics:
        """As the option says."""
        return Statistics(self.recalibrate)

    def starting_point(self, bench: Workbench) -> Workbench:
        """The supernet's."""
        return inherited(bench, self.file, self.variant)

    def prepare(self, bench: Workbench, policy: Policy, request: Request) -> Prepared:
        """Set the supernet to the policy."""
        self.choose_steps(request.steps)
        start = self.starting_point(bench)
        return Prepared(start.quantized(policy), start.statistics_passes(), start.origin)

    def forward_passes(self, bench: Workbench, steps: int) -> int:
        """Those that measure the statistics; training the supernet is set-up."""
        return bench.statistics_passes()


@dataclass(frozen=True, slots=True)
class Inherited(PostStep):
    """As inherited from a supernet, batch norm recalibrated: what the protocol ``supernet`` measures, on exam images.

    Attributes:
        file, variant: As for the protocol.
        images: Training images on which batch norm is recalibrated, as by ``recalibrate``; the calibration images if None.
    """

    file: str = ""
    variant: str = "shared"
    images: int | None = None

    trains: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.images is not None:
            check_counts(self, images=1)

    @property
    def steps(self) -> int:
        """None."""
        return 0

    def setup_passes(self, bench: Workbench) -> int:
        """Those of the supernet's training."""
        return int(inherited(bench, self.file, self.variant).origin["supernet_passes"])

    def prepare(self, bench: Workbench, policy: Policy, request: Request) -> Prepared:
        """Set a copy of the supernet to the policy."""
        start = inherited(bench, self.file, self.variant)
        if self.images is not None:
            return recalibrated(start, policy, self.images)
        return Prepared(start.separate(policy, Statistics()), start.statistics_passes(Statistics()), start.origin)
