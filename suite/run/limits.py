"""When a search ends, how often it retries, and how its best policies are measured a second time."""

from __future__ import annotations

import math
from dataclasses import dataclass

from suite.contract.trial import Fidelity
from suite.errors import BitcertError

FINALISTS = 4
"""How many of the best policies are measured again by default where a search measures estimates."""

RETRIES = 2
"""How often a failed trial is retried by default: what killed a worker may not kill the next one."""

STALLED_AFTER = 100
"""A run ends after this many trials in a row that spent nothing, repeats or failures: a limit on spend never would."""


@dataclass(frozen=True, slots=True)
class Limits:
    """When a search ends.

    Attributes:
        evaluations: Most trials, repeats included; None for no limit.
        forward_passes: No further trial once this many are spent, probes included; None for no limit.
        seconds: No further trial after this time on the problem's clock, that of interrupted sessions included; None for
            no limit. With a wall clock, what a run finds then depends on the machine.
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
        finalists: How many different policies are measured again; a single candidate is not.
        fidelity: Of the second measurement.
        seed: Of the second measurement; another one than the search's, so that luck is not measured twice.
    """

    finalists: int
    fidelity: Fidelity
    seed: int

    def __post_init__(self) -> None:
        if self.finalists < 1:
            raise BitcertError(f"finalists must be at least 1, got {self.finalists}")
