"""The question that solvers answer: is there an image near this one on which another class wins?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from suite.certify.interval import ball, excluded, margins_between
from suite.quantize.fixed_point import FixedPointNetwork

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """An image, a radius, and the classes that bounds do not exclude.

    Attributes:
        network: The network.
        label: Class that must win.
        low: Least code of every pixel, shape ``(pixels,)``.
        high: Largest code of every pixel, shape ``(pixels,)``.
        targets: Classes that may win, those that bounds come closest to excluding first.
    """

    network: FixedPointNetwork
    label: int
    low: Integers
    high: Integers
    targets: tuple[int, ...]

    @classmethod
    def around(cls, network: FixedPointNetwork, image: Integers, label: int, radius: int) -> Query:
        """The query of an integer image, with the targets that interval bounds leave."""
        low, high = ball(network, image.reshape(1, -1), radius)
        labels = np.array([label])
        margins = margins_between(network, low, high, labels)
        open_ = np.flatnonzero(~excluded(margins, labels)[0])
        ordered = open_[np.argsort(-margins[0, open_], kind="stable")]
        return cls(network, label, low[0], high[0], tuple(ordered.tolist()))

    def breaks(self, point: Integers) -> bool:
        """Whether this is an image within the radius that the network, executed, gives another class than the label."""
        inside = point.shape == self.low.shape and bool(((self.low <= point) & (point <= self.high)).all())
        return inside and int(self.network.predict(point[None])[0]) != self.label


class Answer(NamedTuple):
    """What a solver found: an image, proof that there is none, or neither within its limit."""

    point: Integers | None
    complete: bool

    @classmethod
    def unknown(cls) -> Answer:
        """Neither."""
        return cls(None, complete=False)


class Limit(NamedTuple):
    """When a solver gives up, whichever comes first.

    Attributes:
        seconds: On the clock: what is left undecided depends on the machine and on what else runs there.
        work: In units that solvers count, a function of the query alone: see :class:`.Effort`.
    """

    seconds: float = math.inf
    work: float = math.inf


class Solver(Protocol):
    """Answers a query; ``complete`` without a point is a proof that there is none."""

    def __call__(self, query: Query, limit: Limit, workers: int) -> Answer:
        """Search within a limit on so many threads; one, if work is limited."""
