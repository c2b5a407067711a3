"""Verdicts: is a fixed-point network robust around an image?

In this order: the network itself; interval bounds, which leave the classes that may win; an attack; a complete solver. A verdict
``robust`` is a proof by bounds or solver, ``not robust`` comes with an image that the network, executed, gets wrong, and whatever
was not decided within the solver's limit is ``unknown``, never robust.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from suite.certify.interval import MISCLASSIFIED, certified_radius
from suite.certify.linf.attack import attack
from suite.certify.linf.query import Limit, Query, Solver
from suite.certify.linf.solvers import solve_with_highs, solver_named
from suite.errors import BitcertError
from suite.options import check_counts, check_positive
from suite.quantize.fixed_point import FixedPointNetwork

Integers = NDArray[np.int64]
Status = Literal["robust", "not robust", "unknown"]
Opinion = Literal["agrees", "silent", "disagrees"]


@dataclass(frozen=True, slots=True)
class Effort:
    """How hard to try.

    Attributes:
        solver: ``"cp-sat"`` or ``"branch"``.
        seconds: Limit of the solver on the clock, for each image and radius; None for none.
        workers: Threads of the solver.
        restarts: Starting points of the attack; 0 for none.
        steps: Moves of each.
        seed: Of the attack.
        second: Whether HiGHS gives an opinion on what the solver decided, within the same seconds.
        work: Limit of the solver's work, for each image and radius; None for none. What it decides within so much work is the
            same on a busy machine. The unit is one of CP-SAT's deterministic time, which estimates the steps taken and was 2.4 to
            4 seconds of one core where this was measured, or 10,000 boxes of branch and bound (0.2 to 3 seconds).

    Raises:
        BitcertError: If a number is out of range, nothing is limited, or work is and there are several threads or a second opinion.
    """

    solver: str = "cp-sat"
    seconds: float | None = 30.0
    workers: int = 1
    restarts: int = 40
    steps: int = 40
    seed: int = 0
    second: bool = False
    work: float | None = None

    def __post_init__(self) -> None:
        check_positive(self, "seconds", "work")
        check_counts(self, workers=1, restarts=0, steps=0, seed=0)
        if self.seconds is None and self.work is None:
            raise BitcertError("a solver needs a limit: seconds or work")
        if self.work is not None and (self.workers > 1 or self.second):
            raise BitcertError(
                "work is counted on one thread and not by HiGHS; limit seconds for more threads or its opinion"
            )

    @property
    def limit(self) -> Limit:
        """Of the solver."""
        return Limit(*(math.inf if most is None else most for most in (self.seconds, self.work)))


@dataclass(frozen=True, slots=True)
class Verdict:
    """About one image and radius.

    Attributes:
        status: What is known.
        by: What decided it, or was tried last: ``"network"``, ``"bounds"``, ``"attack"``, or the solver.
        seconds: Time it took.
        counterexample: Codes of an image within the radius that gets another class; None unless not robust.
        opinion: Whether HiGHS agrees; None if it was not asked.
    """

    status: Status
    by: str
    seconds: float
    counterexample: tuple[int, ...] | None = None
    opinion: Opinion | None = None


def verify(
    network: FixedPointNetwork,
    image: Integers,
    label: int,
    radius: int,
    effort: Effort = Effort(),
    *,
    solver: Solver | None = None,
) -> Verdict:
    """Decide whether the network predicts the label on all images within a radius of one.

    Args:
        network: The network.
        image: Integer codes, shape ``(C, H, W)`` or flattened.
        label: The class that must be predicted; an image that gets another one is not robust at any radius.
        radius: L-infinity radius in levels.
        effort: How hard to try.
        solver: In place of that of ``effort``.

    Raises:
        BitcertError: If the radius is negative, or the solver is unknown or not installed.
        RuntimeError: If a solver's counterexample is none, or a proof is contradicted: one of the two is wrong.
    """
    began = time.perf_counter()
    solve = solver or solver_named(effort.solver)

    def verdict(status: Status, by: str, point: Integers | None = None, opinion: Opinion | None = None) -> Verdict:
        found = None if point is None else tuple(point.tolist())
        return Verdict(status, by, time.perf_counter() - began, found, opinion)

    flat = image.reshape(-1)
    if int(network.predict(flat[None])[0]) != label:
        return verdict("not robust", "network", flat)
    query = Query.around(network, flat, label, radius)
    if not query.targets:
        return verdict("robust", "bounds")
    found = attack(query, restarts=effort.restarts, steps=effort.steps, seed=effort.seed)
    if found is not None:
        _confirm(query, found, "the attack")
        return verdict("not robust", "attack", found)
    answer = solve(query, effort.limit, effort.workers)
    if answer.point is not None:
        _confirm(query, answer.point, effort.solver)
        return verdict("not robust", effort.solver, answer.point, _second_opinion(query, effort, robust=False))
    if not answer.complete:
        return verdict("unknown", effort.solver)
    return verdict("robust", effort.solver, None, _second_opinion(query, effort, robust=True))


def _confirm(query: Query, point: Integers, source: str) -> None:
    """Execute the network on what is said to be a counterexample."""
    if not query.breaks(point):
        raise RuntimeError(
            f"{source} gave a counterexample that the network, executed, does not confirm; no verdict of it counts"
        )


def _second_opinion(query: Query, effort: Effort, *, robust: bool) -> Opinion | None:
    if not effort.second:
        return None
    answer = solve_with_highs(query, effort.limit, 1)
    if robust and answer.point is not None:
        raise RuntimeError(f"HiGHS found a counterexample where {effort.solver} has proven that there is none")
    if not answer.complete:
        return "silent"
    return "agrees" if robust == (answer.point is None) else "disagrees"


@dataclass(frozen=True, slots=True)
class MaximumRadius:
    """The maximum robust radius of an image, in levels, as far as it is known.

    Attributes:
        robust: Largest radius that is proven; :data:`~suite.certify.interval.MISCLASSIFIED` if the image itself gets another class.
        broken: Smallest radius at which a counterexample is known; None if there is none.
        counterexample: Codes of that counterexample.
        levels: Largest radius that there is.
        seconds: Time it took.
    """

    robust: int
    broken: int | None
    counterexample: tuple[int, ...] | None
    levels: int
    seconds: float

    @property
    def exact(self) -> bool:
        """Whether no radius in between is open."""
        return self.robust + 1 == (self.levels + 1 if self.broken is None else self.broken)


def maximum_radius(
    network: FixedPointNetwork,
    image: Integers,
    label: int,
    effort: Effort = Effort(),
    *,
    solver: Solver | None = None,
) -> MaximumRadius:
    """Bisect for the largest radius at which :func:`verify` says robust, from where interval bounds stop.

    Robustness is monotone in the radius. A radius that stays unknown is left open, and the search goes on below it, then above.
    Arguments and errors are those of :func:`verify`.
    """
    began = time.perf_counter()
    flat = image.reshape(1, -1)
    robust = int(certified_radius(network, flat, np.array([label]))[0])
    broken, point = network.levels + 1, None
    if robust == MISCLASSIFIED:
        broken, point = 0, tuple(flat[0].tolist())
    open_: tuple[int, int] | None = None  # the least and the largest radius that stayed unknown
    while True:
        below = range(robust + 1, broken if open_ is None else open_[0])
        above = range(broken if open_ is None else open_[1] + 1, broken)
        left = below or above
        if not left:
            break
        radius = left[len(left) // 2]
        found = verify(network, flat[0], label, radius, effort, solver=solver)
        if found.status == "robust":
            robust = radius
            open_ = None if left is above else open_
        elif found.counterexample is not None:
            point = found.counterexample
            broken = int(np.abs(np.array(point) - flat[0]).max())
            open_ = None if open_ is not None and broken <= open_[0] else open_
        else:
            open_ = (radius, radius) if open_ is None else (min(open_[0], radius), max(open_[1], radius))
    known = None if broken > network.levels else broken
    return MaximumRadius(robust, known, point, network.levels, time.perf_counter() - began)
