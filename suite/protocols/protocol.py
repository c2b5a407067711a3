"""From a policy to the network that is measured: the contracts of protocols and post-steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

from torch import nn

from suite.contract.space import Policy
from suite.contract.trial import GRADIENT_PASSES
from suite.errors import BitcertError
from suite.kept import KeptState
from suite.plugins import POST_STEPS, PROTOCOLS
from suite.quantize import Statistics
from suite.workbench import Workbench


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """How one network is to be prepared.

    Attributes:
        protocol: The search's protocol; it also prepares policies without a post-step.
        steps: Finetuning steps of the protocol; post-steps have their own.
        seed: Seed of training order and noise.
        state: Where training is kept, so that it resumes where it was interrupted; None to keep nothing.
        progress: Called with the number of finished optimizer steps.
    """

    protocol: Protocol
    steps: int = 0
    seed: int = 0
    state: KeptState | None = None
    progress: Callable[[int], None] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A network as deployed.

    Attributes:
        network: For inference.
        forward_passes: What its preparation cost.
        record: What happened on the way, JSON-ready.
    """

    network: nn.Module
    forward_passes: int = 0
    record: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Preparation(ABC):
    """Makes networks of policies. Subclasses are frozen dataclasses whose fields are their options."""

    @abstractmethod
    def prepare(self, bench: Workbench, policy: Policy, request: Request) -> Prepared:
        """Make the quantized network of a policy; raises BitcertError if training diverges."""

    def deploy(self, bench: Workbench, policy: Policy, request: Request) -> Prepared:
        """Make the network of a policy as it will be deployed: prepared, and executed by the problem's engine."""
        prepared = self.prepare(bench, policy, request)
        network = bench.executed_by_engine(prepared.network)
        return replace(prepared, network=network, forward_passes=prepared.forward_passes + bench.engine_passes)


@dataclass(frozen=True, slots=True)
class Protocol(Preparation):
    """How every policy of a search becomes the network that is measured.

    Attributes:
        default_steps: Default finetuning steps; 0 for a protocol that does not finetune.
    """

    default_steps: ClassVar[int]

    @property
    def statistics(self) -> Statistics:
        """What is measured again of networks that are quantized without finetuning, in probes too."""
        return Statistics()

    def starting_point(self, bench: Workbench) -> Workbench:
        """What is quantized, and probed: the float network's workbench itself, or that of a supernet made from it."""
        return bench

    @abstractmethod
    def forward_passes(self, bench: Workbench, steps: int) -> int:
        """Forward passes that :meth:`prepare` costs with ``steps`` finetuning steps."""

    def choose_steps(self, steps: int | None) -> int:
        """The given finetuning steps, or the default; raises BitcertError if they contradict the protocol."""
        chosen = self.default_steps if steps is None else steps
        if (chosen > 0) != (self.default_steps > 0):
            raise BitcertError(
                f"protocol {PROTOCOLS.name_of(type(self))} and {steps} finetuning steps contradict each other; leave one of "
                "them out"
            )
        return chosen


@dataclass(frozen=True, slots=True)
class PostStep(Preparation):
    """What every winner goes through between search and held-out certification.

    Attributes:
        trains: Whether it trains the network; if not, winners are certified as the search measured them.
    """

    trains: ClassVar[bool] = True

    @property
    @abstractmethod
    def steps(self) -> int:
        """Optimizer steps in total."""

    def setup_passes(self, bench: Workbench) -> int:
        """Forward passes that were made once for all policies of a problem, whatever the budget: those of a supernet's training."""
        return 0

    @property
    def passes_per_image(self) -> int:
        """Forward passes of an image in an optimizer step, a backward pass counted as two; the most, where they vary."""
        return GRADIENT_PASSES

    @property
    def rows_per_image(self) -> int:
        """Rows that an optimizer step differentiates for each image of its batch."""
        return 1

    @property
    def name(self) -> str:
        """Its registered name."""
        return POST_STEPS.name_of(type(self))

    def to_dict(self) -> dict[str, Any]:
        """Name and options, JSON-ready."""
        return {"name": self.name, **asdict(self)}


@dataclass(frozen=True, slots=True)
class NoPostStep(PostStep):
    """The winner as its search measured it."""

    trains: ClassVar[bool] = False

    @property
    def steps(self) -> int:
        """None."""
        return 0

    def prepare(self, bench: Workbench, policy: Policy, request: Request) -> Prepared:
        """Prepare the policy by the search's protocol."""
        return request.protocol.prepare(bench, policy, request)
