"""Certifiers without noise, for fixed-point networks: what they certify holds with certainty, in the L-infinity norm.

Radii are in the units of the images: k levels of L are k / L. A prediction certified at a radius is that of all images of the grid
within it. No radius counts beyond the largest that is asked for: a classifier that always gives one answer is robust everywhere,
and an average over unlimited radii would put it first. Noise samples, n0, n and alpha play no part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import nn

from suite.certify.certificates import Certificates
from suite.certify.certifier import ExamCertifier, Measurement, Setup, Task
from suite.certify.exact import to_levels
from suite.certify.interval import bisections, certified_radius
from suite.certify.linf.solvers import check_name, solver_named
from suite.certify.linf.verify import Effort, verify
from suite.contract.trial import GRADIENT_PASSES
from suite.errors import BitcertError
from suite.quantize.fixed_point import FixedPointNetwork

Integers = NDArray[np.int64]

_ON_THE_GRID = 1e-9  # of a level: radii such as 2 / 255 are rounded
_PASSES = 2  # of a box: its two sides
_MOST_LEVELS = 255  # of images, for which the passes of a search are planned


@dataclass(frozen=True, slots=True)
class Interval(ExamCertifier):
    """Interval bounds of fixed-point networks: L-infinity certificates without noise, for searches."""

    exam_limited_by_samples: ClassVar[bool] = False
    samples: ClassVar[bool] = False

    def measure(self, network: nn.Module, task: Task, setup: Setup) -> Measurement:
        """The largest radius that bounds prove for each prediction, up to the largest of the problem."""
        exact = _fixed_point(network)
        codes = _codes(exact, task)
        predicted = exact.predict(codes)
        most = _levels(exact, task)[-1]
        radius = certified_radius(exact, codes, predicted, most)
        passes = np.full(len(codes), 1 + _PASSES * bisections(most))
        if task.progress is not None:
            task.progress(int(passes.sum()))
        return _measurement(exact, predicted, radius, passes, task)

    def most_samples(self, n0: int, n: int) -> int:
        """Passes for one image of 8 bits."""
        return 1 + _PASSES * bisections(_MOST_LEVELS)


@dataclass(frozen=True, slots=True)
class Verify(ExamCertifier):
    """Verdicts on fixed-point networks at the problem's radii, by bounds, attack and a complete solver: L-infinity, for exams.

    A radius that the solver left open is not certified; the share of images with such a radius is the value ``undecided``. What
    limits the solver is work, not time, so that the same images stay undecided on a busy machine.

    Attributes:
        work: Limit of the solver for each image and radius: units of CP-SAT's deterministic time, each 2.4 to 4 seconds of one
            core where it was measured, or 10,000 boxes of branch and bound.
        solver: ``"cp-sat"`` or ``"branch"``.
        restarts: Starting points of the attack.
        steps: Moves of each.
    """

    work: float = 2.5
    solver: str = "cp-sat"
    restarts: int = 40
    steps: int = 40
    exam_limited_by_samples: ClassVar[bool] = False
    samples: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self._effort  # noqa: B018 (checks the numbers)
        check_name(self.solver)

    def check_installed(self) -> None:
        """Raise BitcertError unless the solver is there."""
        solver_named(self.solver)

    @property
    def _effort(self) -> Effort:
        return Effort(self.solver, None, restarts=self.restarts, steps=self.steps, work=self.work)

    def measure(self, network: nn.Module, task: Task, setup: Setup) -> Measurement:
        """Certify each prediction at the radii, from the smallest up, until one is not proven."""
        exact = _fixed_point(network)
        codes = _codes(exact, task)
        predicted = exact.predict(codes)
        tried = _levels(exact, task)
        by_bounds = certified_radius(exact, codes, predicted, tried[-1])
        proven, undecided = np.zeros(len(codes), dtype=np.int64), np.zeros(len(codes), dtype=bool)
        passes = np.full(len(codes), 1 + _PASSES * bisections(tried[-1]))
        attack = GRADIENT_PASSES * self.restarts * (self.steps + 1)
        for image in range(len(codes)):
            for radius in tried:
                if radius > by_bounds[image]:
                    verdict = verify(exact, codes[image], int(predicted[image]), radius, self._effort)
                    passes[image] += _PASSES if verdict.by == "bounds" else _PASSES + attack
                    undecided[image] = verdict.status == "unknown"
                    if verdict.status != "robust":
                        break
                proven[image] = radius
            if task.progress is not None:
                task.progress(1)
        return _measurement(exact, predicted, proven, passes, task, undecided=float(undecided.mean()))

    def most_samples(self, n0: int, n: int) -> int:
        """One, where an image counts as one: what solvers do is no forward pass."""
        return 1


def _measurement(
    network: FixedPointNetwork, predicted: Integers, proven: Integers, passes: Integers, task: Task, **values: float
) -> Measurement:
    """Certificates of radii that are proven in levels; a radius between two levels holds no more images than the lower one."""
    asked = np.array([0.0, *task.radii])
    reached = np.searchsorted([_level(network, radius) for radius in asked], proven, side="right") - 1
    radius = np.maximum(proven / network.levels, asked[reached])
    found = Certificates(predicted, radius, np.ones(len(predicted)), passes)
    return Measurement(
        acr=found.acr(task.labels),
        certified_accuracy=found.certified_accuracy(task.labels, task.radii),
        forward_passes=int(passes.sum()),
        alpha=0.0,
        certificates=found,
        values=values,
        norm="linf",
    )


def _fixed_point(network: nn.Module) -> FixedPointNetwork:
    """The network, or what it says is its fixed-point form."""
    found = getattr(network, "fixed_point", network)
    if not isinstance(found, FixedPointNetwork):
        raise BitcertError(
            f"certificates without noise are about fixed-point networks, not about a {type(network).__name__}; choose the engine "
            "fixed-point"
        )
    return found


def _levels(network: FixedPointNetwork, task: Task) -> list[int]:
    """The radii of a task in levels, ascending, 0 the first."""
    return sorted({0, *(_level(network, radius) for radius in task.radii)})


def _level(network: FixedPointNetwork, radius: float) -> int:
    return min(network.levels, int(radius * network.levels + _ON_THE_GRID))


def _codes(network: FixedPointNetwork, task: Task) -> Integers:
    """The task's images as integers, shape ``(images, C, H, W)``."""
    return np.asarray(to_levels(task.noisy.pixels, network.levels).cpu().numpy(), dtype=np.int64)
