"""Follows the journals of running searches without touching them: every snapshot reads only what was appended since the last."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import yaml
from pydantic import ValidationError

from suite.errors import BitcertError
from suite.plugins import POST_STEPS
from suite.report.curves import best_so_far
from suite.run.events import SEARCH_EVENTS
from suite.run.journal import FILE_NAME, JournalTail
from suite.run.limits import Limits
from suite.run.records import Run
from suite.run.state import RunState
from suite.studies.compare.run import CONTENTS, Batch, exam_files, search_folder
from suite.studies.settings import SpendSettings
from suite.studies.study import EXPERIMENT_FILE
from suite.studies.watch.snapshot import Exams, Row, Snapshot, State

QUIET, QUIET_EXAM = 60.0, 3600.0
"""Seconds without a record after which a search that no process here writes, or exams, may count as interrupted."""

MANY_TRIALS = 5
"""So many times the mean time of a trial must have passed as well."""

_DEPTH = 4
_WITH_SEARCHES = ("search", "compare", "ablate", "benchmark", "sensitivity")
_OTHER = re.compile(rb'\{"event":"(?!start")\w+"')
"""How the journal of another study than a search begins."""


@final
class Followed:
    """The searches in a folder: one, those of a comparison, or those of several comparisons below it.

    Args:
        directory: The folder.

    Raises:
        BitcertError: If it is no folder, or holds nothing that can be watched.
    """

    def __init__(self, directory: str | Path) -> None:
        self._directory = Path(directory)
        self._searches: dict[Path, _Search] = {}
        if self._directory.is_file():
            raise BitcertError(f"{directory} is a file; give the folder of a search, of a comparison, or of several")
        if not self._directory.is_dir():
            raise BitcertError(f"there is no folder {directory}; give the --directory of the run")
        begun = _experiment(self._directory).get("study") in _WITH_SEARCHES
        if not begun and next(_places(self._directory), None) is None:
            raise BitcertError(
                f"{directory} holds no searches: there is no {CONTENTS.name} and no {FILE_NAME} of a search in it or below; "
                "give the --directory of the run"
            )

    def snapshot(self, now: float) -> Snapshot:
        """Where everything stands.

        Args:
            now: The time, in seconds since the epoch.

        Raises:
            BitcertError: If a journal or the description of a comparison is damaged, or the folder is gone.
        """
        if not self._directory.is_dir():
            raise BitcertError(f"the folder {self._directory} is gone")
        rows: list[Row] = []
        exams: dict[str, Exams] = {}
        writers = _write_locks()
        for place in sorted(_places(self._directory)):
            part = "" if place == self._directory else place.relative_to(self._directory).as_posix()
            if (place / CONTENTS.name).exists():
                found, exams[part] = self._comparison(place, part, now, writers)
                rows += found
            else:
                row = Row(part, part or place.resolve().name, None)
                rows.append(self._search(place).row(row, _limits_of(place), now, writers))
        return Snapshot(str(self._directory), now, tuple(rows), exams)

    def _search(self, folder: Path) -> _Search:
        return self._searches.setdefault(folder, _Search(folder / FILE_NAME))

    def _comparison(self, folder: Path, part: str, now: float, writers: set[int] | None) -> tuple[list[Row], Exams]:
        settings = CONTENTS.read(folder)["settings"]
        limits, runs = Limits(**settings["limits"]), _runs(folder, settings)
        rows, needed = [], []
        for name, seed in runs:
            search = self._search(search_folder(folder, name, seed))
            row = search.row(Row(part, name, seed), limits, now, writers)
            rows.append(row)
            needed.append(search.exams(folder, settings) if row.state == "done" else None)
        held = {file: file.stat().st_mtime for files in needed for file in files or () if file.exists()}
        unknown = [seed for (_, seed), files in zip(runs, needed, strict=True) if files is None]
        known = {seed for (_, seed), files in zip(runs, needed, strict=True) if files}
        networks = len(set(unknown) - known) if not _shared(settings) else int(not known and bool(unknown))
        each = 1 + len(settings["controls"]) + POST_STEPS.load(settings["post_step"]["name"]).trains
        expected = len({file for files in needed for file in files or ()}) + each * len(unknown) + networks
        begun = max((row.active_at for row in rows if row.active_at is not None), default=now)
        last = max(held.values(), default=begun)
        seconds = (expected - len(held)) * (last - begun) / len(held) if held and last > begun else None
        waiting: State = "interrupted" if not unknown and now - max(last, begun) > QUIET_EXAM else "exam"
        for place, files in enumerate(needed):
            if files is not None:
                state = rows[place].state if files <= held.keys() else waiting
                heard = [held[file] for file in files if file in held]
                rows[place] = replace(rows[place], state=state, active_at=max([rows[place].active_at or 0.0, *heard]))
        return rows, Exams(len(held), expected, not unknown, 0.0 if len(held) == expected else seconds)


@final
class _Search:
    """One journal, and what its events amount to so far."""

    def __init__(self, path: Path) -> None:
        self._tail = JournalTail(path, SEARCH_EVENTS)
        self._state: RunState | None = None
        self._run: Run | None = None
        self._row: Row | None = None

    def row(self, base: Row, limits: Limits | None, now: float, writers: set[int] | None) -> Row:
        """Read what is new; ``base`` says which search it is, ``limits`` what it may spend if that is known."""
        path = self._tail.path
        if limits is not None:
            base = replace(base, planned_evaluations=limits.evaluations, planned_forward_passes=limits.forward_passes)
        events = self._tail.read()
        if events:
            above = self._tail.lines - len(events)
            self._state = RunState.extended(self._state if above else None, events, path, above)
            self._run = None
        if (state := self._state) is None or self._tail.lines == 0:
            return base
        if self._run is None or self._row is None:
            self._run = state.run()
            self._row = _figures(base, self._run)
        run, found = self._run, path.stat()
        row = replace(
            self._row,
            planned_evaluations=base.planned_evaluations,
            planned_forward_passes=base.planned_forward_passes,
            forward_passes=state.spend,
            active_at=found.st_mtime,
            share=_share(run, state, limits),
            elapsed=state.elapsed,
        )
        if run.stopped is not None:
            return replace(row, state="done", share=1.0)
        if not state.asked and not state.probe_spend:
            return row
        quiet = max(QUIET, MANY_TRIALS * state.elapsed / max(1, len(run.trials)))
        alive = (writers is not None and found.st_ino in writers) or now - found.st_mtime <= quiet
        return replace(row, state="searching" if alive else "interrupted")

    def exams(self, folder: Path, settings: Mapping[str, Any]) -> set[Path]:
        """The exams that its winner leads to; none without a successful trial."""
        if self._run is None or self._run.best is None:
            return set()
        return exam_files(folder, settings, self._run)


def _figures(base: Row, run: Run) -> Row:
    best = run.best
    passes, scores = best_so_far(run) if best is not None else ((), ())
    return replace(
        base,
        searcher=run.searcher,
        seed=run.seed,
        evaluations=run.evaluations,
        search_score=None if best is None else run.score(best),
        best_at=None
        if best is None
        else next(
            sum(earlier.repeat_of is None for earlier in run.trials[: place + 1])
            for place, trial in enumerate(run.trials)
            if trial.policy == best.policy and trial.metrics is not None
        ),
        failed=sum(trial.failure is not None for trial in (*run.trials, *run.finals)),
        stopped=run.stopped,
        curve=tuple((float(spent), float(score)) for spent, score in zip(passes, scores, strict=True)),
    )


def _share(run: Run, state: RunState, limits: Limits | None) -> float:
    """How much of the limit that is nearest is used."""
    if limits is None:
        return 0.0
    used = [
        (run.evaluations, limits.evaluations),
        (state.spend, limits.forward_passes),
        (state.elapsed, limits.seconds),
    ]
    return min(1.0, max(amount / limit for amount, limit in used if limit is not None))


def _shared(settings: Mapping[str, Any]) -> bool:
    """Whether the seeds of a comparison share one network."""
    return bool(settings["same_network"] or settings["exam"]["split"] != "exam")


def _runs(folder: Path, settings: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Searchers and seeds of a comparison, or of the batches of it that the folder holds."""
    runs = [(name, seed) for seed in settings["seeds"] for name in settings["searchers"]]
    if not isinstance(text := _experiment(folder).get("batch"), str):
        return runs
    batch = Batch.parse(text)
    part = runs[batch.number - 1 :: batch.count]
    return [run for run in runs if run in part or (search_folder(folder, *run) / FILE_NAME).exists()]


def _limits_of(folder: Path) -> Limits | None:
    """What the search in a folder may spend, as its experiment file or its comparison says; None if neither does."""
    whole = folder.resolve().parent.parent
    if (whole / CONTENTS.name).exists():
        return Limits(**CONTENTS.read(whole)["settings"]["limits"])
    experiment = _experiment(folder)
    if experiment.get("study") != "search":
        return None
    try:
        return SpendSettings.model_validate(experiment.get("spend", {})).limits
    except (ValidationError, BitcertError):
        return None


def _experiment(folder: Path) -> dict[str, Any]:
    """The experiment file in a folder; empty if there is none that can be read."""
    try:
        content = yaml.safe_load((folder / EXPERIMENT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def _places(folder: Path, depth: int = _DEPTH) -> Iterator[Path]:
    """Folders of comparisons and of single searches, from this one down."""
    if (folder / CONTENTS.name).exists():
        yield folder
    elif (folder / FILE_NAME).exists():
        with open(folder / FILE_NAME, "rb") as stream:
            if not _OTHER.match(stream.read(80)):
                yield folder
    elif depth:
        try:
            below = [Path(entry.path) for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
        except OSError:
            below = []
        for inner in below:
            yield from _places(inner, depth - 1)


def _write_locks() -> set[int] | None:
    """Inodes of the files that a process of this machine holds a write lock on; None where the system does not tell.

    Asking for the lock itself could keep a run from starting.
    """
    try:
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return {int(line.split()[-3].rpartition(":")[2]) for line in lines if " FLOCK " in line and " WRITE " in line}
