"""Post-training quantization: a policy's network as it is calibrated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from suite.contract.space import Policy
from suite.protocols.protocol import Prepared, Protocol, Request
from suite.workbench import Workbench


@dataclass(frozen=True, slots=True)
class PTQ(Protocol):
    """Quantized with calibrated steps, batch norms recalibrated where the problem asks for it; nothing is trained."""

    default_steps: ClassVar[int] = 0

    def prepare(self, bench: Workbench, policy: Policy, request: Request) -> Prepared:
        """Set the policy of the network that all policies share."""
        self.choose_steps(request.steps)
        return Prepared(bench.quantized(policy), bench.recalibration_passes)

    def forward_passes(self, bench: Workbench, steps: int) -> int:
        """Those of the recalibration."""
        return bench.recalibration_passes
