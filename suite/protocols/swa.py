"""Stochastic weight averaging of the float network before quantization: a control for SQWA."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

from suite.contract.space import Policy
from suite.protocols.protocol import Prepared, Request
from suite.protocols.training import CyclesAndFinish
from suite.quantize import TrainableNetwork, calibrate, recalibrate_batch_norm
from suite.train.sqwa import SQWASettings, Training, average_cycles
from suite.workbench import Workbench


@dataclass(frozen=True, slots=True)
class SWA(CyclesAndFinish):
    """The float network trained in SQWA's cycles and averaged, then quantized and finished like SQWA.

    Attributes:
        captures: Cycles; each ends with a capture.

    References:
        Izmailov et al., Averaging weights leads to wider optima and better generalization, UAI 2018.
    """

    captures: int = 5

    needs_float: ClassVar[bool] = True

    @property
    def plan(self) -> SQWASettings:
        """Cycles and finish."""
        return self.split_steps(self.captures, "masters")

    def prepare(self, bench: Workbench, policy: Policy, request: Request) -> Prepared:
        """Average the float network over cycles, then quantize it and finetune at the low rate."""
        plan = self.plan
        training = self.training(bench, request, noise=self.noise)
        trained = TrainableNetwork(bench.network, bench.space.layers, bench.float_policy(), bench.calibration)
        losses = average_cycles(trained, training, plan)
        network = quantize_average(bench, policy, trained, training)
        training.run(network, plan.finish_steps, plan.finish_rate, "finish", 0, done=self.steps - plan.finish_steps)
        passes = bench.finetuning.forward_passes(self.steps) + training.rows * (plan.captures + 2)
        return Prepared(network.freeze(), passes, {"captures": losses})


def quantize_average(
    bench: Workbench, policy: Policy, trained: TrainableNetwork, training: Training
) -> TrainableNetwork:
    """Quantize an averaged float network to a policy, with recalibrated batch norm and steps of its own."""
    layers = bench.space.layers
    recalibrate_batch_norm(trained, training.images)
    averaged = copy.deepcopy(bench.network)
    averaged.load_state_dict(trained.network.state_dict())
    averaged.eval().requires_grad_(False)
    calibration = calibrate(averaged, [layer.name for layer in layers], training.images)
    return TrainableNetwork(averaged, layers, policy, calibration, bench.finetuning.quantizer)
