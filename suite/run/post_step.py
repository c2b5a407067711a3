"""What every winner goes through before the exam: SQWA, or a control at equal steps."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from suite import plugins
from suite.certify import NoiseStream
from suite.contract.space import FLOAT_BITS, Policy
from suite.errors import BitcertError, unknown_name
from suite.problems.vision import SmoothedProblem
from suite.quantize import TrainableNetwork, calibrate, recalibrate_batch_norm
from suite.seeds import derive_seed
from suite.train.sqwa import Averaged, SQWASettings, State, Training, average_cycles, sqwa

POST_STEPS = ("none", "qat", "qat-low-lr", "swa", "sqwa")

_AVERAGING = ("swa", "sqwa")
_IMAGES = 1_000
"""Training images, at most, on which batch norms are recomputed and losses measured."""


@dataclass(frozen=True, slots=True)
class PostStep:
    """Finetuning between search and exam, the same for every winner; all kinds take equally many optimizer steps.

    Attributes:
        name: ``"none"`` (quantized as calibrated), ``"sqwa"``, or one of its controls: ``"qat"`` (quantization-aware
            finetuning along one half cosine), ``"qat-low-lr"`` (the same with SQWA's finish at a low rate) and ``"swa"``
            (the float network trained in SQWA's cycles and averaged, then quantized and finished like SQWA).
        steps: Optimizer steps in total.
        captures: Cycles of ``"sqwa"`` and ``"swa"``.
        finish: Share of the steps that is spent at the low rate at the end.
        rate: Learning rate, of every cycle at its start.
        finish_rate: The low rate, at its start.
        averaged: What ``"sqwa"`` averages: ``"quantized"`` weights, or the float ``"masters"``.
        resolve: Whether its average is quantized with new least-squares steps.
        noise: Whether training sees the noise of smoothing.
        seed: Seed of order and noise.
    """

    name: str = "none"
    steps: int = 400
    captures: int = 5
    finish: float = 0.25
    rate: float = 1e-3
    finish_rate: float = 1e-4
    averaged: Averaged = "quantized"
    resolve: bool = True
    noise: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.name not in POST_STEPS:
            raise unknown_name("post-step", self.name, POST_STEPS)
        for name, kinds in (("steps", (int,)), ("captures", (int,)), ("finish", (int, float)), ("seed", (int,))):
            if type(getattr(self, name)) not in kinds:
                raise BitcertError(f"{name} of the post-step must be a number, got {getattr(self, name)!r}")
        for name in ("resolve", "noise"):
            if type(getattr(self, name)) is not bool:
                raise BitcertError(f"{name} of the post-step must be true or false, got {getattr(self, name)!r}")
        if not 0 < self.finish < 1:
            raise BitcertError(f"finish is a share of the steps between 0 and 1, got {self.finish}")
        if self.captures < 1 or self.seed < 0:
            raise BitcertError(
                f"a post-step needs captures >= 1 and a seed >= 0, got {self.captures} captures and seed {self.seed}"
            )
        if self.steps <= self._cycles:
            raise BitcertError(f"{self.steps} steps are too few for {self._cycles} cycles and a finish")
        self.plan  # noqa: B018 (checks the rest)

    @property
    def plan(self) -> SQWASettings:
        """Cycles and finish that make up the steps; what the cycles leave over is added to the finish."""
        cycle = max(1, round(self.steps * (1 - self.finish)) // self._cycles)
        cycle = min(cycle, (self.steps - 1) // self._cycles)
        return SQWASettings(
            captures=self._cycles,
            cycle_steps=cycle,
            rate=self.rate,
            finish_steps=self.steps - self._cycles * cycle,
            finish_rate=self.finish_rate,
            averaged=self.averaged,
            resolve=self.resolve,
        )

    @property
    def _cycles(self) -> int:
        return self.captures if self.name in _AVERAGING else 1


def parse_post_step(text: str, steps: int | None = None) -> PostStep:
    """Read a post-step with options, such as ``sqwa:captures=3:noise=false``.

    Args:
        text: Name, options after it.
        steps: Optimizer steps where no option says otherwise; the default if None.

    Raises:
        BitcertError: If the name, an option or a value is not known.
    """
    name, options = plugins.POST_STEPS.parse(text)
    known = [field.name for field in fields(PostStep) if field.name != "name"]
    for option in options:
        if option not in known:
            raise unknown_name(f"option of {name}", option, known)
    given = {} if steps is None else {"steps": steps}
    return PostStep(name, **{**given, **options})


@dataclass(frozen=True, slots=True)
class Finished:
    """A network that went through a post-step.

    Attributes:
        network: For inference.
        forward_passes: What the post-step cost.
        record: What happened on the way, JSON-ready; empty where there is nothing to tell.
    """

    network: nn.Module
    forward_passes: int
    record: dict[str, Any]


def apply_post_step(
    problem: SmoothedProblem,
    policy: Policy,
    step: PostStep,
    *,
    finetune_steps: int = 0,
    state: Path | None = None,
    captured: Callable[[int, State], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Finished:
    """Quantize a problem's network to a policy and put it through a post-step.

    Args:
        problem: Where network, training images and sigma come from.
        policy: A feasible policy.
        step: What is done.
        finetune_steps: Finetuning where the step is ``"none"``: policies that were searched finetuned are examined so.
        state: File that keeps the state of SQWA between cycles.
        captured: Called with SQWA's captures, where they are to be kept.
        progress: Called with the number of finished optimizer steps.

    Raises:
        BitcertError: If the training diverges.
    """
    if step.name == "none":
        network = problem.quantized(policy, finetune_steps, step.seed, progress)
        return Finished(network, problem.preparation_passes(finetune_steps), {})
    plan, training = step.plan, training_of(problem, step, progress)
    if step.name == "swa":
        return _average_float(problem, policy, step, training)
    network = problem.trainable(policy)
    if step.name == "sqwa":
        record = sqwa(network, training, plan, state=state, captured=captured)
        return Finished(network.freeze(), record.forward_passes, asdict(record))
    first = step.steps if step.name == "qat" else step.steps - plan.finish_steps
    training.run(network, first, step.rate, "part", 0, done=0)
    if first < step.steps:
        training.run(network, plan.finish_steps, step.finish_rate, "part", first, done=first)
    return Finished(network.freeze(), problem.finetuning.forward_passes(step.steps), {})


def training_of(problem: SmoothedProblem, step: PostStep, progress: Callable[[int], None] | None = None) -> Training:
    """What a post-step trains on; training images with one noise sample each, the same for every policy, measure losses."""
    train = problem.dataset.splits["train"]
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(problem.seed))[:_IMAGES]
    stream = NoiseStream(derive_seed(problem.seed, "post-step"), "post-step")
    return Training(
        split=train,
        sigma=problem.sigma if step.noise else 0.0,
        finetuning=problem.finetuning,
        seed=derive_seed(problem.seed, "post-step", step.seed),
        batches=problem.labelled_batches(train.subset(order.numpy()), stream, samples=1),
        progress=progress,
    )


def _average_float(problem: SmoothedProblem, policy: Policy, step: PostStep, training: Training) -> Finished:
    """Average the float network over cycles (SWA, Izmailov et al. 2018), then quantize it and finetune at the low rate."""
    plan, layers = replace(step.plan, averaged="masters"), problem.space.layers
    unquantized = Policy.from_bits([FLOAT_BITS] * len(layers), [FLOAT_BITS] * len(layers))
    trained = TrainableNetwork(problem.network, layers, unquantized, problem.calibration)
    losses = average_cycles(trained, training, plan)
    recalibrate_batch_norm(trained, training.images)
    averaged = copy.deepcopy(problem.network)
    averaged.load_state_dict(trained.network.state_dict())
    averaged.eval().requires_grad_(False)
    calibration = calibrate(averaged, [layer.name for layer in layers], training.images)
    network = TrainableNetwork(averaged, layers, policy, calibration, problem.finetuning.quantizer)
    training.run(network, plan.finish_steps, plan.finish_rate, "finish", 0, done=step.steps - plan.finish_steps)
    passes = problem.finetuning.forward_passes(step.steps) + training.rows * (plan.captures + 2)
    return Finished(network.freeze(), passes, {"captures": losses})
