"""The append-only file in which a run or a study records every event: one JSON object per line, sealed by a checksum.

The last field of a line, ``"crc"``, is the CRC-32 of everything before it in the line, continued from the CRC-32 of the
line above. It therefore depends on every line up to its own: a changed, missing, repeated or moved line is found.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
import warnings
import zlib
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from suite.errors import BitcertError

JOURNAL_VERSION = 3
FILE_NAME = "journal.jsonl"
SYNC_INTERVAL = 1.0
"""Seconds between two waits for the disk."""


class JournalWarning(UserWarning):
    """A journal was repaired, or other software wrote it."""


class Event(BaseModel):
    """One line of a journal. The subclass says which fields it has; every one of them is validated.

    Attributes:
        event: Name of the event, one for each subclass of a schema.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    event: str


E = TypeVar("E", bound=Event)


class Journal(Generic[E]):
    """The single writer of a journal.

    Opening takes a lock that the operating system drops with the process, reads what is there, and cuts off a last
    line that a crash left torn. Every event is handed to the operating system at once, so that a killed process loses
    nothing. The disk is waited for at most once a second: after a power cut the journal is a shorter one, from which
    the same run goes on.

    Args:
        directory: Folder of the run; made if missing.
        schema: The events that may occur, told apart by ``event``; the first of a journal carries ``version``.

    Attributes:
        path: The file.
        events: Everything recorded so far.

    Raises:
        BitcertError: If another process writes it, the folder holds something else, or the journal is damaged.
    """

    def __init__(self, directory: Path, schema: TypeAdapter[E]) -> None:
        self.path = directory / FILE_NAME
        self._schema = schema
        if not self.path.exists() and directory.exists() and any(directory.iterdir()):
            raise BitcertError(f"{directory} is not empty and holds no run; choose another directory")
        directory.mkdir(parents=True, exist_ok=True)
        self._synced = float("-inf")
        self._file = open(self.path, "a+b", buffering=0)  # noqa: SIM115
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            message = f"{directory} is being written by another process; wait for it or choose another directory"
            raise BitcertError(message) from None
        try:
            self._file.seek(0)
            content = self._file.read()
            self.events, intact, self._crc = _parse(content, self.path, schema)
            if torn := len(content) - intact:
                message = f"{self.path}: dropped a torn last line of {torn} bytes"
                warnings.warn(message, JournalWarning, stacklevel=3)
                self._file.truncate(intact)
        except BaseException:
            self._file.close()
            raise

    def append(self, event: E) -> E:
        """Record an event and hand it to the operating system; returns it as a reader will see it.

        Raises:
            ValueError: If the journal could not be read back with it, as with numbers that are not finite.
            OSError: If it cannot be written, as on a full disk; the journal is then as it was before.
        """
        fields = {"event": event.event} | event.model_dump(exclude_unset=True)
        text = json.dumps(fields, separators=(",", ":"), allow_nan=False).encode()
        seen = self._schema.validate_json(text)
        line, crc = _seal(text[:-1], self._crc)
        rest = memoryview(line + b"\n")
        before = os.fstat(self._file.fileno()).st_size
        try:
            while rest:
                rest = rest[os.write(self._file.fileno(), rest) :]
        except OSError:
            os.ftruncate(self._file.fileno(), before)
            raise
        self.events.append(seen)
        self._crc = crc
        now = time.monotonic()
        if now - self._synced > SYNC_INTERVAL:
            os.fsync(self._file.fileno())
            self._synced = now
        return seen

    def close(self) -> None:
        """Write everything to the disk and give up the lock."""
        if not self._file.closed:
            os.fsync(self._file.fileno())
            self._file.close()


class JournalTail(Generic[E]):
    """A reader of a journal that another process may be writing: it locks nothing, writes nothing, and reads every byte once.

    Args:
        path: The file, which may appear later.
        schema: The events that may occur.

    Attributes:
        lines: How many whole lines were read so far.
    """

    def __init__(self, path: Path, schema: TypeAdapter[E]) -> None:
        self.path = path
        self.lines = 0
        self._schema = schema
        self._crc = self._offset = self._file = 0

    def read(self) -> list[E]:
        """The events of the whole lines that were appended since the last call; a last line under way is left for the next.

        A file that was removed and begun again is read from its start: :attr:`lines` is then the number of events returned.

        Raises:
            BitcertError: If the journal is damaged or of another version.
        """
        try:
            with open(self.path, "rb") as stream:
                found = os.fstat(stream.fileno())
                if found.st_ino != self._file or found.st_size < self._offset:
                    self.lines = self._crc = self._offset = 0
                    self._file = found.st_ino
                if found.st_size == self._offset:
                    return []
                stream.seek(self._offset)
                content = stream.read()
        except FileNotFoundError:
            return []
        events, intact, self._crc = _parse(content, self.path, self._schema, self._crc, self.lines)
        self._offset += intact
        self.lines += len(events)
        return events


def read_journal(directory: Path, schema: TypeAdapter[E]) -> list[E]:
    """Read a journal's events without locking it; a torn last line is left out.

    Raises:
        BitcertError: If there is no journal, or it is damaged or of another version.
    """
    path = directory / FILE_NAME
    if not path.is_file():
        raise BitcertError(f"{directory} holds no run: there is no {FILE_NAME} in it")
    return _parse(path.read_bytes(), path, schema)[0]


def _seal(body: bytes, above: int) -> tuple[bytes, int]:
    """Close a line, given without its last brace, with its checksum; also returns the checksum for the next line."""
    crc = zlib.crc32(body, above)
    return b'%s,"crc":"%08x"}' % (body, crc), crc


def _parse(
    content: bytes, path: Path, schema: TypeAdapter[E], crc: int = 0, above: int = 0
) -> tuple[list[E], int, int]:
    """The events, the number of bytes before a torn last line, and the last checksum.

    The content follows ``above`` lines, the last of which has the checksum ``crc``.
    """
    *lines, torn = content.split(b"\n")
    if lines and not above:
        _check_version(lines[0], path)
    events = []
    seal = len(_seal(b"", 0)[0])
    for number, line in enumerate(lines, start=above + 1):
        body = line[:-seal]
        sealed, crc = _seal(body, crc)
        if line != sealed:
            raise BitcertError(
                f"{path}, line {number}: the checksum does not match; the line is damaged, or a line above it is missing, "
                "repeated or out of place. Restore the file from a copy, or start again in another directory"
            )
        try:
            events.append(schema.validate_json(body + b"}"))
        except ValidationError as error:
            raise BitcertError(f"{path}, line {number}: {_reason(error)}") from None
    return events, len(content) - len(torn), crc


def _reason(error: ValidationError) -> str:
    first = error.errors()[0]
    if first["type"] == "union_tag_invalid":
        tag, expected = first["ctx"]["tag"], first["ctx"]["expected_tags"]
        return f"the event {tag!r} is none of {expected}: this is the journal of something else"
    where = ".".join(str(part) for part in first["loc"]) or "event"
    return f"{where}: {first['msg']}, got {first['input']!r:.80}"


def _check_version(line: bytes, path: Path) -> None:
    try:
        header: Any = json.loads(line)
    except ValueError:
        return  # its checksum will not match either
    version = header.get("version") if isinstance(header, dict) else None
    if version != JOURNAL_VERSION:
        raise BitcertError(
            f"{path} is a journal of version {version!r:.20}, this bitcert reads version {JOURNAL_VERSION}; "
            "use the bitcert that wrote it, or another directory"
        )
