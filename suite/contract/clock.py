"""Where a run reads the time: a problem that replays a table brings its own clock."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Something that tells the time."""

    def now(self) -> float:
        """Seconds since some moment, never fewer than before."""


class WallClock:
    """The time that passes."""

    def now(self) -> float:
        """Seconds of a monotonic clock."""
        return time.perf_counter()
