"""Time slices: a run that is interrupted when its time is over, and goes on when the same command is run again."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from suite.errors import BitcertError

_SECONDS = {"s": 1, "m": 60, "h": 3600}


class SliceOver(KeyboardInterrupt):
    """The time of a slice is over; whatever can be resumed after Ctrl-C can be after it."""


def parse_duration(text: str) -> float:
    """Seconds of a duration such as ``90s``, ``10m`` or ``1.5h``.

    Raises:
        BitcertError: If it is none, or not positive.
    """
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([smh])", text, re.ASCII)
    if found is None or float(found[1]) == 0:
        raise BitcertError(f"a slice is a time such as 90s, 10m or 1.5h, got {text!r}")
    return float(found[1]) * _SECONDS[found[2]]


@contextmanager
def time_slice(seconds: float | None) -> Iterator[None]:
    """Interrupt the block after this time; None never interrupts it. Only for the main thread.

    Raises:
        SliceOver: In the block, once.
    """
    if seconds is None:
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise SliceOver

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
