"""The clock of a run: a problem that replays a table brings its own."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """A monotonic clock."""

    def now(self) -> float:
        """Seconds since a fixed moment, never decreasing."""


class WallClock:
    """Real time."""

    def now(self) -> float:
        """Seconds of a monotonic clock."""
        return time.perf_counter()


class ReplayClock:
    """Time that passes as the record says."""

    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        """Seconds of all evaluations so far."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._now += seconds
