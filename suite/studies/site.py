"""The verb ``site``."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from suite.studies.model import Group, keyed, setting
from suite.studies.study import Study

if TYPE_CHECKING:
    from suite.board.site import Built
    from suite.report.progress import Progress

_PATIENCE = 2.0  # seconds before bars appear


class SiteSettings(Group):
    """Settings of the site."""

    action: Literal["build"] = setting(..., "what to do: build", metavar="build")
    entries: str = setting(..., "folder with the entries, their verifications and withdrawals", metavar="ENTRIES")
    out: str = setting(..., "where the site goes: a new or empty folder, or an earlier build of it", metavar="OUT")


class Site(Study[SiteSettings, "Built"]):
    """Build the static site of the leaderboard.

    Build the static site of the leaderboard from a folder of entries. It needs no server and no network: open OUT/index.html. An
    entry that cannot be read is named on standard error and left out, and the exit status is 1.
    """

    Settings = SiteSettings
    positional = ("action", "entries", "out")

    def run(self, *, quiet: bool = True) -> Built:
        """Read the entries and write the site."""
        from suite.board.site import build_site
        from suite.board.site.loading import read_entries
        from suite.report.progress import Progress

        with Progress(quiet=quiet) as progress:
            with keyed("entries"):
                collection = read_entries(Path(self.settings.entries), _bar(progress, "entries read"))
            with keyed("out"):
                return build_site(collection, Path(self.settings.out), _bar(progress, "pages made"))

    def to_json(self, result: Built) -> str:
        """What was built, and what is wrong with the other entries."""
        return json.dumps(asdict(result) | {"index": str(self._index)}, indent=2)

    def show(self, result: Built) -> None:
        """Print how many entries there are, by status, and where the site is."""
        statuses = ", ".join(f"{count} {status}" for status, count in result.statuses.items() if count)
        entries, boards = f"{result.entries} entries ({statuses})", f"{result.boards} boards"
        print(f"{entries} on {boards}; {result.pages} files; open {self._index}")

    def answer(self, result: Built, *, as_json: bool) -> int:
        """The same, with what is wrong on standard error."""
        for problem in result.problems:
            print(f"bitcert: {problem}", file=sys.stderr)
        return super().answer(result, as_json=as_json) or int(bool(result.problems))

    @property
    def _index(self) -> Path:
        return Path(self.settings.out) / "index.html"


def _bar(progress: Progress, name: str) -> Callable[[int, int], None]:
    """A bar that appears only where the work takes long enough to wonder."""
    start, added = time.monotonic(), False

    def advance(done: int, total: int) -> None:
        nonlocal added
        if not added and time.monotonic() - start > _PATIENCE:
            progress.add(name, total)
            added = True
        if added:
            progress.update(name, completed=done)

    return advance
