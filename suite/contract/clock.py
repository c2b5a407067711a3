"""The clock of a problem: wall time, or whatever a recorded problem replays."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Tells the time in seconds; only differences mean anything."""

    def now(self) -> float:
        """Seconds since some fixed moment."""


class WallClock:
    """Wall time of this process."""

    def now(self) -> float:
        """Seconds of a clock that never goes backward."""
        return time.perf_counter()
