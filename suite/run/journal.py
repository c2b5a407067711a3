"""The append-only file in which a run records every event, one JSON object a line."""

from __future__ import annotations

import fcntl
import json
import os
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from suite.errors import BitcertError

JOURNAL_VERSION = 2
FILE_NAME = "journal.jsonl"
SYNC_INTERVAL = 1.0
"""Seconds between two waits for the disk."""

Event = Mapping[str, Any]


class JournalWarning(UserWarning):
    """A journal was mended or does not match the software that reads it."""


class Journal:
    """The single writer of a journal.

    Opening takes a lock that the operating system drops with the process, reads what is there, and cuts off a last
    line that a crash left torn. Every event is handed to the operating system at once, so that a killed process loses
    nothing. The disk is waited for at most once a second: after a power cut the journal is a shorter one, from which
    the same run goes on.

    Args:
        directory: Folder of the run; made if missing.

    Attributes:
        events: Everything recorded so far.

    Raises:
        BitcertError: If another process writes it, the folder holds something else, or the journal is damaged.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / FILE_NAME
        if not self.path.exists() and directory.exists() and any(directory.iterdir()):
            raise BitcertError(f"{directory} is not empty and holds no run; choose another directory")
        directory.mkdir(parents=True, exist_ok=True)
        self._synced = float("-inf")
        self._file = open(self.path, "a+b", buffering=0)  # noqa: SIM115
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise BitcertError(
                f"{directory} is being written by another process; wait for it or choose another directory"
            ) from None
        try:
            self._file.seek(0)
            content = self._file.read()
            self.events, intact = parse_journal(content, self.path)
            if intact < len(content):
                warnings.warn(
                    f"{self.path}: dropped a torn last line of {len(content) - intact} bytes",
                    JournalWarning,
                    stacklevel=3,
                )
                self._file.truncate(intact)
        except BaseException:
            self._file.close()
            raise

    def append(self, event: Event) -> None:
        """Record an event and hand it to the operating system.

        Raises:
            OSError: If it cannot be written, as on a full disk; the journal is then as it was before.
        """
        rest = memoryview(json.dumps(event, separators=(",", ":"), allow_nan=False).encode() + b"\n")
        before = os.fstat(self._file.fileno()).st_size
        try:
            while rest:
                rest = rest[os.write(self._file.fileno(), rest) :]
        except OSError:
            os.ftruncate(self._file.fileno(), before)
            raise
        self.events.append(dict(event))
        now = time.monotonic()
        if now - self._synced > SYNC_INTERVAL:
            os.fsync(self._file.fileno())
            self._synced = now

    def close(self) -> None:
        """Write everything to the disk and give up the lock."""
        if not self._file.closed:
            os.fsync(self._file.fileno())
            self._file.close()


def read_journal(directory: Path) -> list[dict[str, Any]]:
    """Read a journal's events without locking it; a torn last line is left out.

    Raises:
        BitcertError: If there is no journal, or it is damaged or of another version.
    """
    path = directory / FILE_NAME
    if not path.is_file():
        raise BitcertError(f"{directory} holds no run: there is no {FILE_NAME} in it")
    return parse_journal(path.read_bytes(), path)[0]


def parse_journal(content: bytes, path: Path) -> tuple[list[dict[str, Any]], int]:
    """Split a journal's content into events; also returns the number of bytes before a torn last line."""
    intact = content.rfind(b"\n") + 1
    events = []
    for number, line in enumerate(content[:intact].splitlines(), start=1):
        try:
            event = json.loads(line)
            if not isinstance(event, dict) or "event" not in event:
                raise ValueError
        except ValueError:
            raise BitcertError(f"{path}, line {number}: not a journal event; the file is damaged") from None
        events.append(event)
    if events and events[0].get("version") != JOURNAL_VERSION:
        raise BitcertError(
            f"{path} is a journal of version {events[0].get('version')!r}, this bitcert reads version {JOURNAL_VERSION}; "
            "use the bitcert that wrote it, or another directory"
        )
    return events, intact
