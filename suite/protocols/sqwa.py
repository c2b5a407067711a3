"""Stochastic quantized weight averaging as a post-step; the method itself is in :mod:`suite.train.sqwa`."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from suite.contract.space import Policy
from suite.problems.workbench import Workbench
from suite.protocols.protocol import PostStep, Prepared, Request
from suite.protocols.training import plan_cycles, training_of
from suite.train.sqwa import Averaged, SQWASettings, sqwa


@dataclass(frozen=True, slots=True)
class SQWA(PostStep):
    """Train in cycles, average the quantized networks, quantize the average again and finetune it at a low rate.

    Attributes:
        steps: Optimizer steps in total.
        captures: Cycles, each of which ends with a capture.
        finish: Share of the steps that is spent at the low rate at the end.
        rate: Learning rate at the start of each cycle.
        finish_rate: The low rate, at its start.
        averaged: What is averaged: ``"quantized"`` weights, or the float ``"masters"`` behind them.
        resolve: Whether the average is quantized with new least-squares steps.
        noise: Whether training sees the noise of smoothing.

    References:
        Shin, Boo and Sung, SQWA: Stochastic quantized weight averaging for improving the generalization capability of
        low-precision deep neural networks, arXiv 2002.00343, 2020.
    """

    steps: int = 400
    captures: int = 5
    finish: float = 0.25
    rate: float = 1e-3
    finish_rate: float = 1e-4
    averaged: Averaged = "quantized"
    resolve: bool = True
    noise: bool = True

    def __post_init__(self) -> None:
        self.plan  # noqa: B018 (checks the options)

    @property
    def plan(self) -> SQWASettings:
        """Cycles and finish."""
        return plan_cycles(
            self.steps, self.captures, self.finish, self.rate, self.finish_rate, self.averaged, self.resolve
        )

    def prepare(self, bench: Workbench, policy: Policy, request: Request) -> Prepared:
        """Finetune a copy of the network; ``request.state`` keeps its state between cycles."""
        network = bench.trainable(policy)
        record = sqwa(
            network,
            training_of(bench, noise=self.noise, seed=request.seed, progress=request.progress),
            self.plan,
            state=request.state,
        )
        return Prepared(network.freeze(), record.forward_passes, asdict(record))
