"""How the workers of a Ray cluster wait for each other; apart, so that the process that counts them loads nothing else."""

from __future__ import annotations


class Gathering:
    """Counts the workers that have started."""

    def __init__(self) -> None:
        self._count = 0

    def add(self, workers: int) -> int:
        """Add some, and say how many there are."""
        self._count += workers
        return self._count
