"""What training post-steps share: their data, one half cosine, and how cycles and a finish split the steps."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from suite.certify import NoiseStream
from suite.contract.space import Policy
from suite.errors import BitcertError
from suite.inheritance import inherited
from suite.kept import KeptState
from suite.protocols.protocol import PostStep, Prepared, Request
from suite.seeds import derive_seed
from suite.train.loss import Loss, cross_entropy
from suite.train.sqwa import Averaged, SQWASettings, Training
from suite.workbench import Workbench

FLOAT, SUPERNET = "float", "supernet"
_IMAGES = 1_000  # training images, at most, for batch-norm recalibration and losses


@dataclass(frozen=True, slots=True)
class Trained(PostStep):
    """A post-step that trains.

    Attributes:
        start: What is trained: the ``"float"`` network as calibrated, the ``"supernet"`` that comes with bitcert for it, or a file
            that ``bitcert supernet`` made.
        needs_float: Whether it works with the float network itself, so that it cannot start from a supernet.
    """

    start: str = field(default=FLOAT, kw_only=True)

    needs_float: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.needs_float and self.start != FLOAT:
            raise BitcertError(f"{self.name} works with the float network and cannot start from {self.start!r}")
        if self.start not in (FLOAT, SUPERNET) and not self.start.endswith(".safetensors"):
            raise BitcertError(f"start is {FLOAT}, {SUPERNET}, or a supernet's file (.safetensors), got {self.start!r}")

    def starting_point(self, bench: Workbench) -> Workbench:
        """The workbench of what is trained."""
        if self.start == FLOAT:
            return bench
        return inherited(bench, "" if self.start == SUPERNET else self.start)

    def training(self, bench: Workbench, request: Request, *, noise: bool, loss: Loss = cross_entropy) -> Training:
        """What it trains on, as it was requested."""
        return training_of(
            bench, noise=noise, seed=request.seed, progress=request.progress, state=request.state, loss=loss
        )

    def setup_passes(self, bench: Workbench) -> int:
        """Those of the supernet's training, if it starts from one."""
        return int(self.starting_point(bench).origin.get("supernet_passes", 0))


@dataclass(frozen=True, slots=True)
class HalfCosine(Trained):
    """A post-step that finetunes the quantized network along one half cosine.

    Attributes:
        steps: Optimizer steps.
        rate: Learning rate at the start.
    """

    steps: int = 400
    rate: float = 1e-3

    def __post_init__(self) -> None:
        Trained.__post_init__(self)
        if self.steps < 1 or not 0 < self.rate < float("inf"):
            raise BitcertError(f"steps must be at least 1 and rate must be a positive number, got {self}")

    def train(
        self, bench: Workbench, policy: Policy, request: Request, loss: Loss = cross_entropy, *, noise: bool = True
    ) -> Prepared:
        """Finetune a copy of the network on a loss; the passes are those per image and step."""
        start = self.starting_point(bench)
        network = start.trainable(policy)
        training = self.training(bench, request, noise=noise, loss=loss)
        training.run(network, self.steps, self.rate, "part", 0, done=0)
        return Prepared(
            network.freeze(), bench.finetuning.forward_passes(self.steps, self.passes_per_image), start.origin
        )


@dataclass(frozen=True, slots=True)
class CyclesAndFinish(Trained):
    """A post-step that trains in cycles at one rate and finishes at a low one.

    Attributes:
        steps: Optimizer steps in total.
        finish: Share of the steps for the finish, within (0, 1); it also takes the cycles' remainder.
        rate: Learning rate at the start of each cycle.
        finish_rate: The low rate, at the start of the finish.
        noise: Whether to train under the smoothing noise.
    """

    steps: int = 400
    finish: float = 0.25
    rate: float = 1e-3
    finish_rate: float = 1e-4
    noise: bool = True

    def __post_init__(self) -> None:
        Trained.__post_init__(self)
        self.plan  # noqa: B018 (checks the options)

    @property
    @abstractmethod
    def plan(self) -> SQWASettings:
        """Cycles and finish that make up the steps."""

    def split_steps(self, captures: int, averaged: Averaged = "quantized", resolve: bool = True) -> SQWASettings:
        """The plan for a number of cycles; raises BitcertError on options out of range or too few steps."""
        if not 0 < self.finish < 1:
            raise BitcertError(f"finish is a share of the steps between 0 and 1, got {self.finish}")
        if captures < 1:
            raise BitcertError(f"a post-step needs captures >= 1, got {captures}")
        if self.steps <= captures:
            raise BitcertError(f"{self.steps} steps are too few for {captures} cycles and a finish")
        cycle = min(max(1, round(self.steps * (1 - self.finish)) // captures), (self.steps - 1) // captures)
        finish = self.steps - captures * cycle
        return SQWASettings(captures, cycle, self.rate, finish, self.finish_rate, averaged, resolve)


def training_of(
    bench: Workbench,
    *,
    noise: bool,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
    state: KeptState | None = None,
    loss: Loss = cross_entropy,
) -> Training:
    """What a post-step trains on; losses are measured on training images with one noise sample, the same for all policies."""
    train = bench.dataset.splits["train"]
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(bench.seed))[:_IMAGES]
    stream = NoiseStream(derive_seed(bench.seed, "post-step"), "post-step")
    return Training(
        split=train,
        sigma=bench.sigma if noise else 0.0,
        finetuning=bench.finetuning,
        seed=derive_seed(bench.seed, "post-step", seed),
        batches=bench.labelled_batches(train.subset(order.numpy()), stream, samples=1),
        progress=progress,
        loss=loss,
        state=state,
    )
