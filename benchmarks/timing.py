"""Interleaved timing of alternatives, so that drift of the machine affects all of them equally."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def measure(
    alternatives: Mapping[str, Callable[[], object]], rounds: int = 15, warmup: int = 2
) -> dict[str, list[float]]:
    """Seconds of every alternative in every round, after ``warmup`` uncounted rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in alternatives}
    for round_number in range(warmup + rounds):
        for name, run in alternatives.items():
            started = time.perf_counter()
            run()
            if round_number >= warmup:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def ratio(seconds: Mapping[str, list[float]], name: str, to: str) -> str:
    """Median, smallest and largest ratio of two alternatives over the rounds, as text."""
    ratios = [one / other for one, other in zip(seconds[name], seconds[to], strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
