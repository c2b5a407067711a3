"""Peak memory of a study, estimated from the shapes of its network before it starts, and what the machine has.

Activations count at their largest layer, its inputs once and its outputs twice (a residual sum, a batch norm of its own). A
training step, on top of them, keeps those of all layers: of every input its quantized value, the distance from it and a flag, of
every output what batch norm and ReLU differentiate. A process on a CPU keeps some of the activations that it frees. ``python -m
benchmarks.bench_memory`` compares estimates with measured peaks. Not counted are probes of planning methods, parts of a network
that are no Conv2d or Linear, and Ray's own processes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from suite.computing import IDLE
from suite.contract.trial import Fidelity
from suite.errors import BitcertError
from suite.problems.setup import NOISE_MEMORY
from suite.problems.vision import VisionProblem
from suite.run.machine import available_memory
from suite.studies.settings import ExecutorSettings

_LIBRARIES, _PROCESS, _CONTEXT = 2**29, 2**29, 2**29
"""Bytes of code that all processes share, of what Python and its libraries take in each (torch 2.15 with CUDA, on Linux), and of
what a process takes on a GPU before it computes (not measured)."""

_DATASETS = {"mnist": 3 * 70_000 * 28 * 28, "cifar10": 3 * 60_000 * 3 * 32 * 32, "imagenet": 640 * 1_331_167}
"""Bytes of a dataset before an image of it is used: all pixels, three times while they are read, or the names of all files."""

_FLOAT, GIB = 4, 2**30


@dataclass(frozen=True, slots=True)
class Memory:
    """Estimated bytes of one evaluation at its peak.

    Attributes:
        program: Of Python, its libraries, and the dataset before its images are used; never on a GPU.
        weights: Of the float network while it is loaded, and of the quantized one; with training, of gradients and moments, too.
        images: Of images and noisy images.
        activations: Of a batch.
    """

    program: int
    weights: int
    images: int
    activations: int

    @property
    def computing(self) -> int:
        """What is on the device."""
        return self.weights + self.images + self.activations

    @property
    def on_host(self) -> int:
        """What a process takes of its own on a CPU, with activations that were freed and are kept."""
        return self.program + self.computing + min(IDLE, self.activations)

    @property
    def total(self) -> int:
        """What a process takes on a CPU, alone."""
        return _LIBRARIES + self.on_host


@dataclass(frozen=True, slots=True)
class Place:
    """Memory of this machine, or of a GPU, and what a study takes of it.

    Attributes:
        name: In words.
        fixed: Bytes however many evaluations run at a time.
        each: Bytes of one.
        count: How many run at a time.
        available: Bytes that are there.
    """

    name: str
    fixed: int
    each: int
    count: int
    available: int

    @property
    def taken(self) -> int:
        """Bytes in all."""
        return self.fixed + self.count * self.each

    def check(self, problem: str) -> None:
        """Raise BitcertError if more is taken than there is."""
        if self.taken <= self.available:
            return
        fitting = max(0, self.available - self.fixed) // self.each
        advice = f"run {fitting} at a time (--workers, --gpus-per-trial) or " if fitting else ""
        raise BitcertError(
            f"an evaluation of {problem} takes about {self.each / GIB:.1f} GiB; {self.count} at a time, with what they share, take "
            f"{self.taken / GIB:.1f} GiB, and {self.name} has {self.available / GIB:.1f} GiB available; {advice}use more memory"
        )


def estimate_memory(problem: VisionProblem, fidelity: Fidelity, *, exam_images: int = 0, training: int = 0) -> Memory:
    """Estimate what evaluations, exams and post-steps take; reads neither data nor checkpoint.

    Args:
        problem: Whose network it is.
        fidelity: Of the search.
        exam_images: Of an exam.
        training: Most rows of a training step per image of its batch; 0 if nothing is trained.
    """
    definition, layers = problem.definition, problem.space.layers
    inputs = [layer.in_channels * math.prod(layer.input_size) for layer in layers]
    outputs = [layer.macs * layer.out_channels // layer.parameters for layer in layers]
    pixels = math.prod(definition.shape)
    weights = sum(layer.parameters + layer.biases for layer in layers)
    noisy = fidelity.images * fidelity.noise * pixels * _FLOAT
    held = definition.calibration_images + 3 * definition.statistics_images + max(2 * fidelity.images, exam_images)
    activations = problem.batch * _FLOAT * max(i + 2 * o for i, o in zip(inputs, outputs, strict=True))
    trained = sum((2 * _FLOAT + 1) * i + 2 * _FLOAT * o for i, o in zip(inputs, outputs, strict=True))
    return Memory(
        program=_PROCESS + _DATASETS.get(definition.dataset, 0),
        weights=(9 if training else 4) * _FLOAT * weights,
        images=held * pixels * _FLOAT + (noisy if noisy <= NOISE_MEMORY else 0),
        activations=activations + training * problem.finetuning.batch * trained,
    )


def find_places(
    memory: Memory, driver: Memory | None, device: torch.device, executor: ExecutorSettings, parallel: int
) -> list[Place]:
    """Where evaluations take memory; nowhere that is known on a cluster.

    Args:
        memory: Of one evaluation.
        driver: Of the process that drives workers, if there are any: it calibrates the network, too.
        device: Where evaluations run.
        executor: How.
        parallel: How many at a time.
    """
    if executor.address is not None:
        return []

    def on_host(held: Memory) -> int:
        return held.program if device.type == "cuda" else held.on_host

    fixed = _LIBRARIES + (0 if driver is None else on_host(driver))
    places = [Place("this machine", fixed, on_host(memory), parallel, available_memory())]
    if device.type == "cuda":
        sharing = int(1 / executor.gpus_per_trial) if executor.gpus_per_trial else parallel
        free, each = torch.cuda.mem_get_info(device)[0], _CONTEXT + memory.computing
        places.append(Place(f"the GPU {device}", 0, each, min(parallel, max(1, sharing)), free))
    return places
