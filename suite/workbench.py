"""The workbench of a problem: network, data and calibration. It knows nothing of the problem."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from suite.certify import NoiseStream, NoisyImages, Setup, Task
from suite.certify.exam import ExamSettings
from suite.certify.sampling import noisy_batches
from suite.computing import torch_threads
from suite.contract.problem import Meter, Problem
from suite.contract.space import FLOAT_BITS, Policy, SearchSpace
from suite.contract.trial import Fidelity
from suite.data import ImageDataset, ImageSplit
from suite.errors import BitcertError
from suite.quantize import (
    RANGED_ENGINES,
    Calibration,
    Engine,
    QuantizedNetwork,
    Statistics,
    TrainableNetwork,
    execute,
    execute_float,
    has_batch_norm,
)
from suite.quantize.integer import IntegerNetwork, integer_network
from suite.seeds import derive_seed
from suite.train.base import augment
from suite.train.finetune import FinetuneSettings
from suite.train.recipe import augmentation_of

Batches = list[tuple[Tensor, Tensor]]
"""Inputs of shape ``(rows, C, H, W)`` with the labels of their rows."""


@dataclass(frozen=True, eq=False)
class Workbench:
    """A float network and its data, ready to be quantized and measured.

    Attributes:
        network: The float network, normalization inside, in evaluation mode.
        network_sha256: Hash of its weights; for a user's network also of its outputs.
        dataset: The images, in their four splits.
        calibration: Quantizer steps of the network, and the inputs its layers saw.
        statistics_images: Training images that the statistics of quantized networks are measured on.
        executed: The network that executes every policy in turn.
        space, sigma, radii, seed, meter: Those of the problem.
        batch: Rows per batch.
        threads: Threads of one evaluation; fixed like ``batch``, so that scores are equal, not nearly equal, everywhere.
        device: Where everything runs.
        finetuning: Batch, rate and quantizer of all training.
        statistics: What is measured again for every policy, such as the statistics of its batch norms.
        exam: The default exam.
        engine: What executes quantized networks, and the float network where it is certified.
        origin: Of a workbench whose policies inherit from a supernet: which one, JSON-ready; empty otherwise.
        inherited: The workbenches of supernets that were loaded for this one; see :mod:`suite.inheritance`.
    """

    network: nn.Module
    network_sha256: str
    dataset: ImageDataset
    calibration: Calibration
    statistics_images: ImageSplit
    executed: QuantizedNetwork
    space: SearchSpace
    sigma: float
    radii: tuple[float, ...]
    seed: int
    batch: int
    threads: int
    device: torch.device
    finetuning: FinetuneSettings
    statistics: Statistics
    exam: ExamSettings
    meter: Meter
    engine: Engine = "torch"
    origin: Mapping[str, Any] = field(default_factory=dict)
    inherited: dict[tuple[str, str], Workbench] = field(default_factory=dict)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        channels, height, width = self.dataset.splits["search"].subset(np.arange(1)).images().shape[1:]
        return channels, height, width

    @cached_property
    def statistics_batches(self) -> list[Tensor]:
        """The images that the statistics of quantized networks are measured on, as base training sees them."""
        return self.training_batches(self.statistics_images, "statistics")

    def statistics_passes(self, statistics: Statistics | None = None) -> int:
        """Forward passes that measuring a policy's statistics makes; 0 if there are none to measure."""
        chosen = statistics or self.statistics
        if not chosen.bias_correction and not (chosen.recalibrate and has_batch_norm(self.network)):
            return 0
        return len(self.statistics_images)

    def quantized(self, policy: Policy) -> nn.Module:
        """The shared network, set to a policy; what is returned refuses to run once that executes another one."""
        return _Execution(self._set(self.executed, policy, self.statistics), policy)

    def separate(self, policy: Policy, statistics: Statistics | None = None) -> QuantizedNetwork:
        """A network of its own, set to a policy, with the problem's statistics or others."""
        network = QuantizedNetwork(self.network, self.space.layers, self.calibration)
        return self._set(network, policy, statistics or self.statistics)

    def _set(self, network: QuantizedNetwork, policy: Policy, statistics: Statistics) -> QuantizedNetwork:
        network.set_policy(policy)
        if self.statistics_passes(statistics):
            network.update_statistics(self.statistics_batches, statistics)
        return network

    def executed_by_engine(self, network: nn.Module | None) -> nn.Module:
        """A quantized network, or the float one (None), as the engine executes it; see :mod:`suite.quantize.engine`."""
        if network is None:
            return self._executed_float
        if self.engine == "torch":
            return network
        return execute(bare(network), self.engine, self.statistics_batches, self.threads, self.dataset.levels)

    @cached_property
    def _executed_float(self) -> nn.Module:
        return execute_float(self.network, self.engine, self.statistics_batches, self.threads, self.dataset.levels)

    def integer(self, network: nn.Module) -> IntegerNetwork:
        """The integer network of a quantized network."""
        return integer_network(bare(network), self.statistics_batches)

    @property
    def engine_passes(self) -> int:
        """Forward passes in which the engine measures ranges of a network."""
        return len(self.statistics_images) if self.engine in RANGED_ENGINES else 0

    def trainable(self, policy: Policy) -> TrainableNetwork:
        """A copy of the network, quantized to a policy as calibrated, for finetuning."""
        return TrainableNetwork(self.network, self.space.layers, policy, self.calibration, self.finetuning.quantizer)

    def float_policy(self) -> Policy:
        """The policy that quantizes nothing."""
        bits = [FLOAT_BITS] * len(self.space.layers)
        return Policy.from_bits(bits, bits)

    def noisy(self, split: ImageSplit, seed: int, memory: int = 0, *, levels: int | None = None) -> NoisyImages:
        """A split's images under noise, keyed by their ids, in fixed batches; keeps up to ``memory`` bytes of them.

        With ``levels``, noise is exact: see :mod:`suite.certify.exact`.
        """
        images = split.images().to(self.device)
        return NoisyImages(
            images, sigma=self.sigma, seed=seed, ids=split.ids, batch=self.batch, memory=memory, levels=levels
        )

    def training_batches(self, split: ImageSplit, purpose: str) -> list[Tensor]:
        """A split's images as base training sees them: augmented by the dataset's recipe, with one noise sample each.

        The statistics of batch norms have to be measured on such images: padding, for one, darkens their edges, and a network
        recalibrated without it certifies less than before.
        """
        seed = derive_seed(self.seed, purpose)
        generator = torch.Generator().manual_seed(seed)
        images = augment(split.images(), *augmentation_of(self.dataset.name), generator).to(self.device)
        stream = NoiseStream(seed, purpose)
        noisy = noisy_batches(images, split.ids, sigma=self.sigma, stop=1, stream=stream, batch=self.batch)
        return [chunk.inputs.clone() for chunk in noisy]

    def labelled_batches(self, split: ImageSplit, stream: NoiseStream, samples: int) -> Batches:
        """A split's images with labels in fixed batches, image by image, with ``samples`` of noise each (0: none)."""
        images = split.images().to(self.device)
        labels = torch.tensor(split.labels, device=self.device)
        if samples == 0:
            return list(zip(images.split(self.batch), labels.split(self.batch), strict=True))
        noisy = noisy_batches(images, split.ids, sigma=self.sigma, stop=samples, stream=stream, batch=self.batch)
        return [(chunk.inputs.clone(), labels[chunk.rows]) for chunk in noisy]

    def fixed_threads(self) -> AbstractContextManager[None]:
        """Run a block with the fixed number of threads."""
        return torch_threads(self.threads)

    def exam_images(self, exam: ExamSettings) -> ImageSplit:
        """The images of an exam; raises BitcertError if there are too few."""
        split = self.dataset.splits[exam.split]
        if exam.images is None:
            return split
        if exam.images > len(split):
            raise BitcertError(f"{exam.images} {exam.split} images asked for, but {self.dataset.name} has {len(split)}")
        first = len(split) - exam.images if exam.split == "search" else 0  # searches have seen the first ones
        return split.subset(np.arange(first, first + exam.images))


class _Execution(nn.Module):
    """A policy on the shared network, as long as that executes it."""

    def __init__(self, network: QuantizedNetwork, policy: Policy) -> None:
        super().__init__()
        self.network, self._policy = network, policy
        self.training = network.training

    def forward(self, images: Tensor) -> Tensor:
        if self.network.policy != self._policy:
            raise BitcertError(
                "this network has been set to another policy since; ask Workbench.separate for networks to keep"
            )
        logits: Tensor = self.network(images)
        return logits


def bare(network: nn.Module) -> nn.Module:
    """The network itself, without what guards its policy."""
    return network.network if isinstance(network, _Execution) else network


class BenchProblem(Problem):
    """A problem whose policies are measured on a workbench: it can be examined, finetuned and probed.

    Attributes:
        protocol: A protocol with its options; None chooses by the finetuning steps.
    """

    protocol: str | None

    @property
    @abstractmethod
    def bench(self) -> Workbench:
        """The workbench; data and checkpoint are read on first access."""

    @property
    @abstractmethod
    def setup(self) -> Setup:
        """What certifiers may ask for, computed once per problem."""

    @abstractmethod
    def search_task(self, fidelity: Fidelity, seed: int = 0) -> Task:
        """What a search evaluation certifies."""


def bench_problem(problem: Problem, purpose: str) -> BenchProblem:
    """The problem, if it has a workbench; else raises BitcertError with ``purpose``, such as ``"network to finetune"``."""
    if isinstance(problem, BenchProblem):
        return problem
    raise BitcertError(
        f"{problem.name} has no {purpose}: its scores do not come from a network that bitcert quantizes; choose a problem with "
        "such a network and images, or certify a model of your own with suite.certify.certify"
    )


def workbench_of(problem: Problem, purpose: str) -> Workbench:
    """The workbench of a problem; arguments and errors are those of :func:`bench_problem`."""
    return bench_problem(problem, purpose).bench
