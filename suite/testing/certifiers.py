"""What every certifier has to pass."""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from suite.certify import BaseRecord, NoisyImages, SetScores, Setup, Task, design_scores, record_base
from suite.certify.certifier import Certifier, ExamCertifier, Measurement
from suite.errors import BitcertError
from suite.quantize.fixed_point import FixedPointLayer, FixedPointNetwork

FALSE_ALARM = 1e-6
"""Probability that a sound certifier fails; the seeds are fixed."""

SIGMA, ALPHA, N0, N = 0.5, 0.05, 8, 64
RADII = (0.0, 0.25, 0.5)


class HalfSpace(nn.Module):
    """Class 1 where the first pixel is above a border: under Gaussian noise its certified radius is the distance to it.

    Args:
        border: Value of the first pixel.

    Attributes:
        rows: Rows that went through the network.
    """

    def __init__(self, border: float = 0.0) -> None:
        super().__init__()
        self.border = border
        self.rows = 0

    def forward(self, images: Tensor) -> Tensor:
        """Logits of two classes."""
        self.rows += len(images)
        side = images.flatten(1)[:, 0] - self.border
        return torch.stack([-side, side], dim=1)


@functools.cache
def _scores(images: int, n: int, alpha: float) -> SetScores:
    probability = stats.norm.cdf(np.linspace(-0.2, 1.5, 40) / SIGMA)
    return design_scores(probability, n=n, images=images, sigma=SIGMA, radii=RADII, alpha=alpha)


class _HalfSpaceSetup(Setup):
    """Bases that predict like another half space than the one measured, and scores for its images."""

    def float_base(self, task: Task) -> BaseRecord:
        return record_base(task.sampler(HalfSpace(0.02)), n0=10 * task.n0, n=10 * task.n)

    def bases(self, task: Task) -> Sequence[BaseRecord]:
        return [self.float_base(task)]

    def scores(self, images: int, n: int, alpha: float) -> SetScores:
        return _scores(images, n, alpha)


class NoiselessCertifierConformance(ABC):
    """Sound on a fixed-point network whose robust radii are known, complete if it says so, and without noise.

    Attributes:
        complete: Whether it finds the largest radius there is, of those that the task asks for.
    """

    complete: bool = False
    levels, border = 16, 6
    """Images are integers 0..levels, and of class 1 above the border."""

    @abstractmethod
    def make(self) -> Certifier:
        """Build the certifier under test."""

    def robust(self) -> NDArray[np.int64]:
        """The largest radius, in levels, at which an image keeps its class, shape ``(images,)``."""
        codes = np.arange(self.levels + 1)
        return np.where(codes > self.border, codes - self.border - 1, self.border - codes)

    def measured(self, seed: int = 0) -> Measurement:
        """A measurement of all images of one pixel, whose labels are right."""
        weight, bias = np.array([[-1], [1]]), np.array([self.border, -self.border])
        network = FixedPointNetwork(
            [FixedPointLayer("line", weight, bias, 2, 0, 0)], (1, 1, 1), levels=self.levels, input_fraction=0
        )
        codes = torch.arange(self.levels + 1)
        noisy = NoisyImages((codes / self.levels).reshape(-1, 1, 1, 1), sigma=SIGMA, seed=seed)
        labels = (codes.numpy() > self.border).astype(np.int64)
        radii = (0.0, 1 / self.levels, 3.5 / self.levels)  # the last one between two levels: as many images as at 3
        task = Task(noisy, labels, radii, n0=N0, n=N, alpha=ALPHA)
        return self.make().measure(network, task, _HalfSpaceSetup())

    def test_certificates_are_sound_and_certain(self) -> None:
        found = self.measured()
        assert (found.alpha, found.norm) == (0.0, "linf")
        assert found.certificates is not None
        assert (found.certificates.radius * self.levels < self.robust() + 1).all()
        assert (found.certificates.prediction == (np.arange(self.levels + 1) > self.border)).all()

    def test_certificates_reach_the_radii_asked_for_if_it_is_complete(self) -> None:
        found = self.measured()
        assert found.certified_accuracy is not None
        for radius, share in found.certified_accuracy.items():
            most = float((self.robust() >= int(radius * self.levels)).mean())
            assert share <= most + 1e-9
            assert not self.complete or share >= most - 1e-9

    def test_noise_plays_no_part(self) -> None:
        assert self.measured(0).certified_accuracy == self.measured(1).certified_accuracy

    def test_other_networks_are_refused_by_name(self) -> None:
        noisy = NoisyImages(torch.zeros(1, 1, 1, 1), sigma=SIGMA, seed=0)
        task = Task(noisy, np.ones(1, dtype=np.int64), RADII, n0=N0, n=N, alpha=ALPHA)
        with pytest.raises(BitcertError, match="HalfSpace"):
            self.make().measure(HalfSpace(), task, _HalfSpaceSetup())


class CertifierConformance(ABC):
    """Sound on a network whose certified radii are known, deterministic, and honest about its forward passes."""

    repetitions: int = 150
    """Independent measurements in the test of soundness."""

    distances: NDArray[np.float64] = np.linspace(-0.3, 1.2, 16)
    """Distances of the images to the border, negative on the wrong side; all have label 1."""

    @abstractmethod
    def make(self) -> Certifier:
        """Build the certifier under test."""

    def task(self, seed: int) -> Task:
        """The images at their distances, with noise of a seed."""
        images = torch.zeros(len(self.distances), 1, 1, 2)
        images[:, 0, 0, 0] = torch.from_numpy(self.distances)
        noisy = NoisyImages(images, sigma=SIGMA, seed=seed)
        return Task(noisy, np.ones(len(images), dtype=np.int64), RADII, n0=N0, n=N, alpha=ALPHA)

    def measured(self, seed: int) -> tuple[Measurement, int]:
        """A measurement of the half space, and the rows that went through it."""
        network, task = HalfSpace().eval(), self.task(seed)
        with torch.no_grad():
            return self.make().measure(network, task, _HalfSpaceSetup()), network.rows

    def test_certificates_are_sound(self) -> None:
        """At most as many wrong ones as the promised failure probability explains."""
        found = [self.measured(seed)[0] for seed in range(self.repetitions)]
        if self.make().estimates:
            assert all(measurement.alpha == 1 for measurement in found), "estimates promise nothing"
            pytest.skip("an estimate promises nothing")
        if found[0].certificates is not None:
            wrong = sum(self._wrong(measurement) for measurement in found)
            tried = self.repetitions * len(self.distances)
        else:
            wrong, tried = sum(self._too_high(measurement) for measurement in found), self.repetitions
        assert wrong <= stats.binom.isf(FALSE_ALARM, tried, ALPHA)

    def test_the_same_noise_gives_the_same_measurement(self) -> None:
        first, second = self.measured(3)[0], self.measured(3)[0]
        assert (first.acr, first.certified_accuracy) == (second.acr, second.certified_accuracy)
        assert first.forward_passes == second.forward_passes

    def test_forward_passes_are_those_made(self) -> None:
        measurement, rows = self.measured(1)
        assert measurement.forward_passes == rows > 0

    def test_measurements_are_numbers_in_their_range(self) -> None:
        measurement, _ = self.measured(2)
        assert 0 < measurement.alpha <= 1
        if measurement.acr is not None:
            assert math.isfinite(measurement.acr)
            assert measurement.acr >= 0
        shares = measurement.certified_accuracy or {}
        assert list(shares) == sorted(shares)
        assert all(0 <= share <= 1 for share in shares.values())
        assert list(shares.values()) == sorted(shares.values(), reverse=True), "larger radii hold for fewer images"

    def test_an_exam_certifies_every_image(self) -> None:
        certifier = self.make()
        if not isinstance(certifier, ExamCertifier):
            pytest.skip("it holds no exams")
        with torch.no_grad():
            found = certifier.examine(HalfSpace().eval(), self.task(5), _HalfSpaceSetup())
        assert found.certificates is not None
        assert found.certificates.radius.shape == self.distances.shape
        assert self._wrong(found) <= stats.binom.isf(FALSE_ALARM, len(self.distances), ALPHA)

    def _wrong(self, measurement: Measurement) -> int:
        certificates = measurement.certificates
        assert certificates is not None
        right = certificates.prediction == (self.distances > 0)
        too_far = certificates.radius > np.abs(self.distances) + 1e-6
        return int(((certificates.prediction >= 0) & (~right | too_far)).sum())

    def _too_high(self, measurement: Measurement) -> bool:
        shares = (measurement.certified_accuracy or {}).items()
        acr = float(np.maximum(self.distances, 0).mean())
        return (measurement.acr or 0.0) > acr + 1e-6 or any(
            share > (self.distances >= radius).mean() + 1e-9 for radius, share in shares
        )
