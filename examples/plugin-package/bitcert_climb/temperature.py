"""A post-step: temperature scaling, which divides all logits by one number and changes no prediction."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from suite.contract.space import Policy
from suite.options import check_positive
from suite.protocols.protocol import PostStep, Prepared, Request
from suite.workbench import Workbench


class _Divide(nn.Module):
    def __init__(self, number: float) -> None:
        super().__init__()
        self.number = number

    def forward(self, logits: Tensor) -> Tensor:
        return logits / self.number


@dataclass(frozen=True, slots=True)
class Temperature(PostStep):
    """Divide the logits of the network that the search measured.

    Attributes:
        temperature: What they are divided by.
    """

    temperature: float = 2.0

    def __post_init__(self) -> None:
        check_positive(self, "temperature")

    @property
    def steps(self) -> int:
        """No optimizer steps."""
        return 0

    def prepare(self, bench: Workbench, policy: Policy, request: Request) -> Prepared:
        """Prepare the policy by the search's protocol, and divide its logits."""
        prepared = request.protocol.prepare(bench, policy, request)
        network = nn.Sequential(prepared.network, _Divide(self.temperature)).eval()
        return replace(prepared, network=network, record={"temperature": self.temperature})
