"""Post-training quantization: a policy's network as calibrated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from suite.contract.space import Policy
from suite.protocols.protocol import Prepared, Protocol, Request
from suite.workbench import Workbench


@dataclass(frozen=True, slots=True)
class PTQ(Protocol):
    """Calibrated steps, batch norm recalibrated if the problem asks for it; nothing is trained."""

    default_steps: ClassVar[int] = 0

    def prepare(self, bench: Workbench, policy: Policy, request: Request) -> Prepared:
        """Set the shared network to the policy."""
        self.choose_steps(request.steps)
        return Prepared(bench.quantized(policy), bench.recalibration_passes)

    def forward_passes(self, bench: Workbench, steps: int) -> int:
        """Those of the recalibration."""
        return bench.recalibration_passes
