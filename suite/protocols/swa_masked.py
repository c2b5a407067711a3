"""Weight averaging of the float network under a one-way variational mask; the mask itself is in :mod:`suite.train.masked`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from suite.contract.space import Policy
from suite.protocols.protocol import Prepared, Request
from suite.protocols.swa import quantize_average
from suite.protocols.training import CyclesAndFinish
from suite.quantize import TrainableNetwork
from suite.train.masked import MaskSettings, VariationalLoss, keep_pruned, mask_weights, remove_masks
from suite.train.sqwa import SQWASettings, average_cycles
from suite.workbench import Workbench


@dataclass(frozen=True, slots=True)
class SWAMasked(CyclesAndFinish):
    """An adaptation of weight averaging by one-way variational pruning: ``swa`` whose weights are pruned while they train.

    Only the abstract of the paper could be read. From it: the weights are masked, the mask is updated variationally in every
    iteration, within one training run and without memory for captures, and 50 to 79 % of the parameters are kept. It does not
    say which variational posterior and prior, which threshold, how the mask and the average interact, nor any rate; here
    these are sparse variational dropout, a mask that only shrinks, and a running average that the last mask is applied to.
    The paper deploys a float network; the quantization, as in ``swa``, and the finish under the mask are ours. BOPs do not
    count zeros, so pruning saves nothing here: the question is whether it helps the average.

    Attributes:
        captures: Cycles; each ends with an update of the running average.
        threshold: A weight is pruned once ``log alpha``, of noise variance over squared weight, reaches this.
        weight: Factor of the divergence from the prior; 1 is the variational bound, which prunes all but 6 % of the network of
            digits. The default leaves shares such as the paper's; it was not chosen by score.
        log_variance: Initial ``log sigma^2``, relative to the mean square of a layer's weights.
        speed: How many times faster ``log sigma^2`` is trained than weights.

    References:
        Wang et al., Stochastic weight averaging by one-way variational pruning, IEEE Signal Processing Letters 28 (2021);
        Molchanov, Ashukha and Vetrov, Variational dropout sparsifies deep neural networks, ICML 2017.
    """

    captures: int = 5
    threshold: float = 3.0
    weight: float = 1e-3
    log_variance: float = -5.0
    speed: float = 30.0

    needs_float: ClassVar[bool] = True

    def __post_init__(self) -> None:
        CyclesAndFinish.__post_init__(self)
        self.masking  # noqa: B018 (checks the options)

    @property
    def plan(self) -> SQWASettings:
        """Cycles and finish."""
        return self.split_steps(self.captures, "masters")

    @property
    def masking(self) -> MaskSettings:
        """How weights are masked."""
        return MaskSettings(self.threshold, self.weight, self.log_variance, self.speed)

    def prepare(self, bench: Workbench, policy: Policy, request: Request) -> Prepared:
        """Average the masked float network over cycles, then quantize it and finetune what is left at the low rate."""
        plan, images = self.plan, len(bench.dataset.splits["train"])
        training = self.training(bench, request, noise=self.noise)
        trained = TrainableNetwork(bench.network, bench.space.layers, bench.float_policy(), bench.calibration)
        mask_weights(trained, self.masking)
        losses = average_cycles(trained, replace(training, loss=VariationalLoss(self.masking, images)), plan)
        masks = remove_masks(trained)
        network = quantize_average(bench, policy, trained, training)
        keep_pruned(network, masks)
        training.run(network, plan.finish_steps, plan.finish_rate, "finish", 0, done=self.steps - plan.finish_steps)
        passes = bench.finetuning.forward_passes(self.steps) + training.rows * (plan.captures + 2)
        kept = sum(int(mask.sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())
        return Prepared(network.freeze(), passes, {"captures": losses, "kept": kept})
