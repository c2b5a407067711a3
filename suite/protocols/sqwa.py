"""Stochastic quantized weight averaging as a post-step; the method itself is in :mod:`suite.train.sqwa`."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from suite.contract.space import Policy
from suite.protocols.protocol import Prepared, Request
from suite.protocols.training import CyclesAndFinish
from suite.train.sqwa import Averaged, SQWASettings, sqwa
from suite.workbench import Workbench


@dataclass(frozen=True, slots=True)
class SQWA(CyclesAndFinish):
    """Train in cycles, average the quantized networks, quantize the average again and finetune it at a low rate.

    Attributes:
        captures: Cycles; each ends with a capture.
        averaged: What is averaged: ``"quantized"`` weights, or the float ``"masters"`` behind them.
        resolve: Whether the average is quantized with new least-squares steps.
    """

    captures: int = 5
    averaged: Averaged = "quantized"
    resolve: bool = True

    @property
    def plan(self) -> SQWASettings:
        """Cycles and finish."""
        return self.split_steps(self.captures, self.averaged, self.resolve)

    def prepare(self, bench: Workbench, policy: Policy, request: Request) -> Prepared:
        """Finetune a copy of the network."""
        start = self.starting_point(bench)
        network = start.trainable(policy)
        training = self.training(bench, request, noise=self.noise)
        record = sqwa(network, training, self.plan)
        return Prepared(network.freeze(), record.forward_passes, {**asdict(record), **start.origin})
