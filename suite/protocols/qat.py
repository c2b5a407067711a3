"""Quantization-aware finetuning of winners: controls for SQWA without averaging."""

from __future__ import annotations

from dataclasses import dataclass

from suite.contract.space import Policy
from suite.protocols.protocol import Prepared, Request
from suite.protocols.training import CyclesAndFinish, HalfCosine
from suite.train.sqwa import SQWASettings
from suite.workbench import Workbench


@dataclass(frozen=True, slots=True)
class QAT(HalfCosine):
    """Quantization-aware finetuning along one half cosine.

    Attributes:
        noise: Whether to train under the smoothing noise.
    """

    noise: bool = True

    def prepare(self, bench: Workbench, policy: Policy, request: Request) -> Prepared:
        """Finetune a copy of the network."""
        return self.train(bench, policy, request, noise=self.noise)


@dataclass(frozen=True, slots=True)
class QATLowRate(CyclesAndFinish):
    """Quantization-aware finetuning with SQWA's finish at a low rate."""

    @property
    def plan(self) -> SQWASettings:
        """One cycle and a finish."""
        return self.split_steps(1)

    def prepare(self, bench: Workbench, policy: Policy, request: Request) -> Prepared:
        """Finetune a copy of the network at the first rate, then at the low one."""
        plan, start = self.plan, self.starting_point(bench)
        network = start.trainable(policy)
        training = self.training(bench, request, noise=self.noise)
        training.run(network, plan.cycle_steps, self.rate, "part", 0, done=0)
        training.run(network, plan.finish_steps, self.finish_rate, "part", plan.cycle_steps, done=plan.cycle_steps)
        return Prepared(network.freeze(), bench.finetuning.forward_passes(self.steps), start.origin)
