"""The verb ``watch``: a live view of running searches, read from their journals alone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from suite.errors import BitcertError
from suite.files import write_text
from suite.studies.model import Group, SettingError, setting
from suite.studies.study import Study, print_table

if TYPE_CHECKING:
    from suite.studies.watch.follow import Followed
    from suite.studies.watch.snapshot import Snapshot

INTERVAL, LONGEST = 2.0, 86_400.0
_LINES_AROUND = 8  # what the terminal shows beside the rows


class WatchSettings(Group):
    """Settings of a live view."""

    directory: str = setting(
        ..., "folder of a search, of a comparison, or of several, as --directory said", metavar="DIR"
    )
    interval: float | None = setting(None, "seconds between two looks (default: 2)", metavar="SECONDS")
    once: bool = setting(False, "look once; so it is without a terminal, unless --page and --interval are given")
    page: str | None = setting(
        None, "also keep this page up to date: one HTML file that refreshes itself in a browser", metavar="FILE.html"
    )


class Watch(Study[WatchSettings, "Snapshot"]):
    """Watch running searches.

    Show how far a search, a comparison, or several of them are, from their journals alone; the run itself is not touched. Ends
    by itself when all searches and exams are done, and on Ctrl-C.
    """

    Settings = WatchSettings
    positional = ("directory",)

    def run(self, *, quiet: bool = True) -> Snapshot:
        """Look once, or until everything is done; returns the last look. Ctrl-C before the first one ends the program quietly."""
        try:
            return self._run(quiet=quiet)
        except KeyboardInterrupt:
            raise SystemExit(0) from None

    def _run(self, *, quiet: bool) -> Snapshot:
        from rich.console import Console

        from suite.studies.watch.follow import Followed

        interval = INTERVAL if self.settings.interval is None else self.settings.interval
        if not 0 < interval <= LONGEST:
            raise SettingError(
                ("interval",), f"interval must be above 0 and at most {LONGEST:g} seconds, got {interval:g}"
            )
        page = None if self.settings.page is None else _page_file(self.settings.page)
        followed = Followed(self.settings.directory)
        console = Console()
        in_background = page is not None and self.settings.interval is not None and not console.is_terminal
        if quiet or self.settings.once or not (console.is_terminal or in_background):
            return watch(followed, interval, page=page, pause=None)
        with ExitStack() as stack:
            show: Callable[[Snapshot], object] = lambda _: None  # noqa: E731
            if console.is_terminal:
                from rich.live import Live

                from suite.studies.watch.show import snapshot_table

                live = stack.enter_context(Live(console=console, auto_refresh=False, transient=True))

                def show(snapshot: Snapshot) -> None:
                    table = snapshot_table(snapshot, console.height - _LINES_AROUND)
                    live.update(table.fit(console), refresh=True)

            return watch(followed, interval, page=page, show=show)

    def to_json(self, result: Snapshot) -> str:
        """Every search and its figures."""
        return json.dumps(result.to_dict(), indent=2)

    def show(self, result: Snapshot) -> None:
        """Print the table."""
        from suite.studies.watch.show import snapshot_table

        print_table(snapshot_table(result))


def watch(
    followed: Followed,
    interval: float,
    *,
    page: Path | None = None,
    show: Callable[[Snapshot], object] = lambda _: None,
    pause: Callable[[float], object] | None = time.sleep,
    now: Callable[[], float] = time.time,
) -> Snapshot:
    """Look again and again until everything is done or Ctrl-C is pressed.

    Args:
        followed: What is watched.
        interval: Seconds between two looks.
        page: A page that is written when anything but the time has changed.
        show: Called with every snapshot.
        pause: Called with the interval between two looks; None looks once.
        now: The time, in seconds since the epoch.

    Returns:
        The last snapshot.

    Raises:
        BitcertError: If a journal is damaged, or the page cannot be written.
    """
    from suite.studies.watch.page import render_page

    written: Snapshot | None = None
    snapshot = followed.snapshot(now())
    try:
        while True:
            if page is not None and (written is None or replace(snapshot, at=written.at) != written):
                _write(page, render_page(snapshot, interval))
                written = snapshot
            show(snapshot)
            if snapshot.state == "done" or pause is None:
                return snapshot
            pause(interval)
            snapshot = followed.snapshot(now())
    except KeyboardInterrupt:
        return snapshot


def _page_file(given: str) -> Path:
    """A path that can only be meant for a page: a journal must never be overwritten by one."""
    page = Path(given)
    if page.suffix.lower() not in (".html", ".htm"):
        raise SettingError(("page",), f"the page is a file that ends in .html, got {given}")
    return page


def _write(page: Path, text: str) -> None:
    try:
        write_text(page, text)
    except OSError as error:
        raise BitcertError(f"the page {page} cannot be written: {error.strerror}; choose another --page") from None
