"""What a viewer sees of running searches at one moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["waiting", "searching", "exam", "done", "interrupted"]


@dataclass(frozen=True, slots=True)
class Row:
    """Where one search stands.

    Attributes:
        part: Folder of its comparison, or of the search itself, relative to what is watched.
        searcher, seed: Which search of that comparison; no seed is known before its journal says so.
        state: ``"exam"`` is a search that is over while exams of its winner are missing.
        evaluations, planned_evaluations: Finished ones, second measurements included, and the limit; None for no known limit.
        forward_passes, planned_forward_passes: The same of forward passes, probes included.
        search_score: Of the best policy so far, an estimate on search images and no exam score; None before the first.
        best_at: The evaluation, from 1, that found that policy.
        failed: Trials that failed for good.
        stopped: Why the search ended; None if it goes on.
        active_at: When anything was last recorded, in seconds since the epoch; None before.
        share: How much of its limit is used, from 0 to 1.
        elapsed: Time of the search in seconds, earlier sessions included.
        curve: Forward passes and best search estimate by then, after every trial.
    """

    part: str
    searcher: str
    seed: int | None
    state: State = "waiting"
    evaluations: int = 0
    planned_evaluations: int | None = None
    forward_passes: int = 0
    planned_forward_passes: int | None = None
    search_score: float | None = None
    best_at: int | None = None
    failed: int = 0
    stopped: str | None = None
    active_at: float | None = None
    share: float = 0.0
    elapsed: float = 0.0
    curve: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Exams:
    """Held-out certification of one comparison.

    Attributes:
        held: Exams on file.
        expected: How many there will be, at most while winners are unknown: equal winners share exams.
        exact: Whether all winners are known.
        seconds: Time that the missing ones will take at the rate so far; None if unknown.
    """

    held: int
    expected: int
    exact: bool
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All searches of a folder at one moment.

    Attributes:
        directory: What is watched.
        at: When, in seconds since the epoch.
        rows: One per search, in the order of the comparisons' settings.
        exams: Exams of every comparison, by its part.
    """

    directory: str
    at: float
    rows: Sequence[Row]
    exams: dict[str, Exams]

    @property
    def state(self) -> State:
        """That of the whole: ``"done"`` once every search and exam is."""
        found = {row.state for row in self.rows}
        for state in ("searching", "interrupted", "exam", "waiting"):
            if state in found:
                return state
        return "done" if found else "waiting"

    @property
    def searched(self) -> float:
        """How much of all searches is done, from 0 to 1."""
        return sum(row.share for row in self.rows) / len(self.rows) if self.rows else 0.0

    @property
    def exams_held(self) -> int:
        """Exams on file."""
        return sum(exams.held for exams in self.exams.values())

    @property
    def exams_expected(self) -> int:
        """How many exams there will be, at most."""
        return sum(exams.expected for exams in self.exams.values())

    @property
    def exams_exact(self) -> bool:
        """Whether that number is known exactly."""
        return all(exams.exact for exams in self.exams.values())

    @property
    def seconds_left(self) -> float | None:
        """Time left at the rate so far: of the searches while there are any, then of the exams; None if nothing tells.

        Searches of a comparison run side by side, comparisons one after another.
        """
        if self.state in ("done", "interrupted"):
            return 0.0 if self.state == "done" else None
        if self.searched == 1:
            parts = [exams.seconds for exams in self.exams.values()]
            return None if None in parts else sum(part for part in parts if part is not None)
        longest: dict[str, float] = {}
        for row in self.rows:
            longest[row.part] = max(row.elapsed, longest.get(row.part, 0.0))
        taken = sum(longest.values())
        return taken / self.searched * (1 - self.searched) if self.searched > 0 and taken > 0 else None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "directory": self.directory,
            "at": self.at,
            "state": self.state,
            "searched": self.searched,
            "seconds_left": self.seconds_left,
            "exams_held": self.exams_held,
            "exams_expected": self.exams_expected,
            "exams_exact": self.exams_exact,
            "searches": [asdict(row) for row in self.rows],
        }
