"""Quantization-aware finetuning of every policy before it is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from suite.contract.space import Policy
from suite.protocols.protocol import Prepared, Protocol, Request
from suite.seeds import derive_seed
from suite.train.finetune import finetune
from suite.workbench import Workbench


@dataclass(frozen=True, slots=True)
class Finetune(Protocol):
    """Finetuned on training images for the steps of the fidelity, with the problem's finetuning settings."""

    default_steps: ClassVar[int] = 100

    def prepare(self, bench: Workbench, policy: Policy, request: Request) -> Prepared:
        """Finetune a copy of the network."""
        steps = self.choose_steps(request.steps)
        network = bench.trainable(policy)
        finetune(
            network,
            bench.dataset.splits["train"],
            steps=steps,
            sigma=bench.sigma,
            settings=bench.finetuning,
            seed=derive_seed(bench.seed, "finetune", request.seed),
            progress=request.progress,
            state=request.state,
        )
        return Prepared(network.freeze(), self.forward_passes(bench, steps))

    def forward_passes(self, bench: Workbench, steps: int) -> int:
        """Three for each image of each step."""
        return bench.finetuning.forward_passes(steps)
