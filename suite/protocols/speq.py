"""Self-distillation with stochastic input precision, as a post-step; the loss itself is in :mod:`suite.train.speq`."""

from __future__ import annotations

from dataclasses import dataclass

from suite.contract.space import Policy
from suite.contract.trial import GRADIENT_PASSES
from suite.protocols.protocol import Prepared, Request
from suite.protocols.training import HalfCosine
from suite.train.speq import SPEQLoss, TeacherNoise
from suite.workbench import Workbench


@dataclass(frozen=True, slots=True)
class SPEQ(HalfCosine):
    """The network taught by itself with its inputs at randomly raised precision (stochastic precision ensemble).

    Its abstract gives the method; temperature, weight and the clip of raised inputs are not in it, and are options or choices of
    this implementation. One more forward pass per image than ``qat``.

    Attributes:
        u: Probability with which a layer's inputs keep the policy's precision in the teacher.
        temperature: Divides the logits of teacher and student.
        weight: Of the cosine distance, the paper's mu.
        high: Bits of the teacher's raised inputs; layers with at least as many, and pinned ones, stay as they are.
        noise: Whether the teacher sees the same noise, as published, or a fresh sample (ours).

    References:
        Boo, Shin, Choi and Sung, Stochastic precision ensemble: self-knowledge distillation for quantized deep neural networks,
        AAAI 2021, arXiv 2009.14502.
    """

    u: float = 0.5
    temperature: float = 2.0
    weight: float = 1.0
    high: int = 8
    noise: TeacherNoise = "same"

    def __post_init__(self) -> None:
        HalfCosine.__post_init__(self)
        self.loss(())

    @property
    def passes_per_image(self) -> int:
        """The teacher's forward pass beside the student's gradient."""
        return GRADIENT_PASSES + 1

    def loss(self, raisable: tuple[str, ...]) -> SPEQLoss:
        """The loss, for the layers whose inputs the teacher may raise."""
        return SPEQLoss(raisable, self.u, self.temperature, self.weight, self.high, self.noise)

    def prepare(self, bench: Workbench, policy: Policy, request: Request) -> Prepared:
        """Finetune a copy of the network."""
        space = bench.space
        raisable = tuple(
            layer.name
            for layer, bits, free in zip(space.layers, policy.activations, space.free[1], strict=True)
            if free and bits < self.high
        )
        return self.train(bench, policy, request, self.loss(raisable))
