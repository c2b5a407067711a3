"""The workbench of a problem: network, data and calibration, with what works on them. It knows nothing of the problem."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from suite.certify import NoiseStream, NoisyImages, Setup, Task
from suite.certify.exam import ExamSettings
from suite.certify.sampling import noisy_batches
from suite.contract.problem import Meter, Problem
from suite.contract.space import FLOAT_BITS, Policy, SearchSpace
from suite.contract.trial import Fidelity
from suite.data import ImageDataset, ImageSplit
from suite.errors import BitcertError
from suite.quantize import Calibration, QuantizedNetwork, TrainableNetwork, recalibrate_batch_norm
from suite.train.finetune import FinetuneSettings

Batches = list[tuple[Tensor, Tensor]]
"""Inputs of shape ``(rows, C, H, W)`` with the labels of their rows."""


@dataclass(frozen=True, slots=True, eq=False)
class Workbench:
    """A float network and its data, ready to be quantized and measured.

    Attributes:
        network: The float network, normalization inside, in evaluation mode.
        network_sha256: Hash of its weights; of a user's network also of what it computes.
        dataset: The images, in their four splits.
        calibration: Quantizer steps of the network, and what its layers have seen.
        calibration_batches: Noisy calibration images, for batch-norm recalibration.
        executed: The network that executes every policy in turn.
        space: The policies.
        sigma: Standard deviation of the smoothing noise, in the units of the images.
        radii: Radii at which certified accuracy is reported, ascending.
        seed: Root seed of noise and training.
        batch: Rows per batch.
        threads: Threads of one evaluation; fixed like ``batch``, so that scores are equal, not nearly equal, everywhere.
        device: Where everything runs.
        finetuning: Batch, rate and quantizer of all training.
        recalibrate: Whether batch norms are recalibrated for every policy.
        exam: The default exam.
        meter: What every use of the network is charged to.
    """

    network: nn.Module
    network_sha256: str
    dataset: ImageDataset
    calibration: Calibration
    calibration_batches: list[Tensor]
    executed: QuantizedNetwork
    space: SearchSpace
    sigma: float
    radii: tuple[float, ...]
    seed: int
    batch: int
    threads: int
    device: torch.device
    finetuning: FinetuneSettings
    recalibrate: bool
    exam: ExamSettings
    meter: Meter

    @property
    def recalibration_passes(self) -> int:
        """Forward passes that :meth:`quantized` makes; 0 without recalibration."""
        return sum(len(batch) for batch in self.calibration_batches) if self.recalibrate else 0

    def quantized(self, policy: Policy, *, separate: bool = False) -> QuantizedNetwork:
        """The network executed with a policy, batch norms recalibrated if the problem asks for it.

        Args:
            policy: Any policy for the layers; 32 bits leave weights or inputs as they are.
            separate: Whether to make a separate network rather than set the policy of the shared one.
        """
        network = self.executed
        if separate:
            network = QuantizedNetwork(self.network, self.space.layers, self.calibration, fold=not self.recalibrate)
        network.set_policy(policy)
        if self.recalibrate:
            recalibrate_batch_norm(network, self.calibration_batches)
        return network

    def trainable(self, policy: Policy) -> TrainableNetwork:
        """A copy of the network, quantized to a policy as calibrated, that can be finetuned."""
        return TrainableNetwork(self.network, self.space.layers, policy, self.calibration, self.finetuning.quantizer)

    def float_policy(self) -> Policy:
        """The policy that quantizes nothing."""
        bits = [FLOAT_BITS] * len(self.space.layers)
        return Policy.from_bits(bits, bits)

    def noisy(self, split: ImageSplit, seed: int, memory: int = 0) -> NoisyImages:
        """A split's images under noise, in fixed batches; the noise is keyed by the images' ids.

        Args:
            split: The images.
            seed: Root seed of the noise.
            memory: Bytes of noisy images that may be kept.
        """
        return NoisyImages(
            split.images().to(self.device),
            sigma=self.sigma,
            seed=seed,
            ids=split.ids,
            batch=self.batch,
            memory=memory,
        )

    def labelled_batches(self, split: ImageSplit, stream: NoiseStream, samples: int) -> Batches:
        """A split's images with labels in fixed batches, image by image, with ``samples`` of noise each (0: none)."""
        return labelled_batches(split, stream, samples, sigma=self.sigma, batch=self.batch, device=self.device)

    def fixed_threads(self) -> AbstractContextManager[None]:
        """Run a block with the fixed number of threads."""
        return torch_threads(self.threads)

    def exam_images(self, exam: ExamSettings) -> ImageSplit:
        """The images of an exam.

        Raises:
            BitcertError: If there are fewer than asked for.
        """
        split = self.dataset.splits[exam.split]
        if exam.images is None:
            return split
        if exam.images > len(split):
            raise BitcertError(f"{exam.images} {exam.split} images asked for, but {self.dataset.name} has {len(split)}")
        first = len(split) - exam.images if exam.split == "search" else 0  # searches have seen the first ones
        return split.subset(np.arange(first, first + exam.images))


def labelled_batches(
    split: ImageSplit, stream: NoiseStream, samples: int, *, sigma: float, batch: int, device: torch.device
) -> Batches:
    """Images and labels of a split in batches, image by image, with ``samples`` of noise each (0: none)."""
    images = split.images().to(device)
    labels = torch.tensor(split.labels, device=device)
    if samples == 0:
        return list(zip(images.split(batch), labels.split(batch), strict=True))
    noisy = noisy_batches(images, split.ids, sigma=sigma, stop=samples, stream=stream, batch=batch)
    return [(chunk.inputs.clone(), labels[chunk.rows]) for chunk in noisy]


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Run a block with a number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class BenchProblem(Problem):
    """A problem whose policies are measured on a workbench: it can be examined, finetuned and probed.

    Attributes:
        protocol: How policies become networks: a protocol with its options, or None to choose by the finetuning steps.
    """

    protocol: str | None

    @property
    @abstractmethod
    def bench(self) -> Workbench:
        """The workbench; data and checkpoint are read when it is first asked for."""

    @property
    @abstractmethod
    def setup(self) -> Setup:
        """What certifiers draw on, kept as long as the problem."""

    @abstractmethod
    def search_task(self, fidelity: Fidelity, seed: int = 0) -> Task:
        """What a search evaluation certifies: search images with their noise, labels and samples."""


def bench_problem(problem: Problem, purpose: str) -> BenchProblem:
    """The problem, if it has a workbench.

    Args:
        problem: Any problem.
        purpose: What it would need one for, such as ``"images to hold an exam on"``.

    Raises:
        BitcertError: If it has none.
    """
    if isinstance(problem, BenchProblem):
        return problem
    raise BitcertError(
        f"{problem.name} has no {purpose}: its scores do not come from a network; choose a problem with a network and images"
    )


def workbench_of(problem: Problem, purpose: str) -> Workbench:
    """The workbench of a problem; arguments and errors are those of :func:`bench_problem`."""
    return bench_problem(problem, purpose).bench
