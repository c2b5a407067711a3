"""When a search ends, how often it retries, and how its best policies are measured a second time within its limits."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from suite.contract.trial import Fidelity
from suite.errors import BitcertError

FINALISTS = 4
"""How many of the best policies are measured again by default where a search measures estimates."""

RETRIES = 2
"""How often a failed trial is retried by default: what killed a worker may not kill the next one."""

STALLED_AFTER = 100
"""A run ends after this many trials in a row that spent nothing, repeats or failures, unless its searcher learns from repeats."""


@dataclass(frozen=True, slots=True)
class Limits:
    """When a search ends, the second measurements of its best included.

    Attributes:
        evaluations: Most evaluations, failed ones and second measurements included; None for no limit. A trial that repeats
            an earlier one is none.
        forward_passes: No further trial once this many are spent, probes and second measurements included; None for no
            limit.
        seconds: No further trial after this time on the problem's clock, that of interrupted sessions included; None for
            no limit. With a wall clock, what a run finds then depends on the machine. Second measurements come on top.
    """

    evaluations: int | None = 64
    forward_passes: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("evaluations", self.evaluations), ("forward_passes", self.forward_passes)):
            if value is not None and value < 1:
                raise BitcertError(f"{name} must be at least 1, got {value}")
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise BitcertError(f"seconds must be a positive number, got {self.seconds}")
        if self.evaluations is None and self.forward_passes is None and self.seconds is None:
            raise BitcertError("a search needs a limit: evaluations, forward_passes or seconds")


@dataclass(frozen=True, slots=True)
class Promotion:
    """A second measurement of the best policies of a search, once it is over.

    Attributes:
        finalists: How many different policies are measured again, as far as limits allow (:func:`hold_back`); a single
            candidate is not.
        fidelity: Of the second measurement.
        seed: Of the second measurement; another one than the search's, so that luck is not measured twice.
    """

    finalists: int
    fidelity: Fidelity
    seed: int

    def __post_init__(self) -> None:
        if self.finalists < 1:
            raise BitcertError(f"finalists must be at least 1, got {self.finalists}")


def hold_back(limits: Limits, finalists: int, passes: int) -> tuple[Limits, int]:
    """Keep part of the limits for second measurements.

    A search may spend its limit but for what all finalists cost at most; where the limit is so small that this leaves less
    than they cost, the search comes first and the finalists have the rest. With four finalists, 64 evaluations are 60 and 4,
    and 6 are 4 and 2. What the search is left with never falls as the limit rises, so a finished search can be extended.

    Args:
        limits: Of search and second measurements together.
        finalists: How many policies are to be measured again.
        passes: Most forward passes of one second measurement; only used with a limit on forward passes.

    Returns:
        The limits of the search alone, and how many policies can be measured again: none where that would be a single one.
    """
    if finalists < 2:
        return limits, 0
    left, fitting = limits, finalists
    for name, each in (("evaluations", 1), ("forward_passes", max(passes, 1))):
        limit = getattr(limits, name)
        if limit is not None:
            searched = max(limit - finalists * each, min(limit, finalists * each))
            left = replace(left, **{name: searched})
            fitting = min(fitting, (limit - searched) // each)
    return left, fitting if fitting > 1 else 0
