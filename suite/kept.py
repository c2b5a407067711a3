"""The state of a long computation, kept in files so that it resumes where it was interrupted."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from suite.store import Store, Stored
from suite.versions import package_versions

EVERY = 30.0
"""Seconds between two writes, at least: the most that an interruption costs. What takes less time is never written."""

Groups = Mapping[str, Mapping[str, Tensor]]
Content = Callable[[], tuple[Groups, Mapping[str, Any]]]


class KeptState:
    """The state of what leads to one result: a file for each part of the way.

    Args:
        folder: Where the files are; made with the first of them.
        identity: What the result depends on beside the versions of packages, JSON-ready; parts add what they depend on themselves.
        now: Tells the time in seconds.

    Attributes:
        seconds: What earlier calls had spent when they wrote what has been read.
    """

    def __init__(
        self, folder: Path, identity: Mapping[str, Any] | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.folder, self.seconds = folder, 0.0
        self.identity = {**(identity or {}), "versions": package_versions()}
        self._now = now
        self._started = self._written = now()
        self._waiting: dict[str, tuple[KeptPart, Groups, Mapping[str, Any]]] = {}

    def part(self, name: str, what: str, identity: Callable[[], Mapping[str, Any]]) -> KeptPart:
        """A part of the way; ``what`` it is in words, and what it alone depends on, asked for once."""
        return KeptPart(self, name, what, cache(identity))

    def keep(self, part: KeptPart, content: Content, *, finished: bool) -> None:
        """Write a part's state if it is time to, and with it those of finished parts, which wait until then."""
        due = self._now() - self._written >= EVERY
        if not due and not finished:
            return
        groups, record = content()
        copied = {group: {name: tensor.detach().clone() for name, tensor in of.items()} for group, of in groups.items()}
        self._waiting[part.name] = part, copied, record
        if due:
            seconds = self.seconds + self._now() - self._started
            for waiting, tensors, about in self._waiting.values():
                waiting.store().write(tensors, {**about, "seconds": seconds})
            self._waiting.clear()
            self._written = self._now()


@dataclass(frozen=True, slots=True, eq=False)
class KeptPart:
    """One part of a :class:`KeptState`, which makes it."""

    state: KeptState
    name: str
    what: str
    identity: Callable[[], Mapping[str, Any]]

    def store(self) -> Store:
        """Its file."""
        identity = {**self.state.identity, **self.identity()}
        return Store(self.state.folder / f"{self.name}.safetensors", self.what, identity)

    def read(self) -> Stored | None:
        """What was last written, if anything was; raises BitcertError if it is damaged or of something else."""
        if not (self.state.folder / f"{self.name}.safetensors").exists():
            return None
        stored = self.store().read()
        self.state.seconds = max(self.state.seconds, stored.record["seconds"])
        return stored

    def keep(self, content: Content, *, finished: bool = False) -> None:
        """Write the state if the last write is long ago; that of a finished part at the latest with the next part's.

        Args:
            content: Makes groups of tensors and a JSON-ready record, as :meth:`.Store.write` takes them.
            finished: Whether nothing of this part will follow.
        """
        self.state.keep(self, content, finished=finished)


def kept_beside(file: Path) -> Path:
    """The folder of the state of what is to become a file."""
    return file.with_name(f"{file.name}.unfinished").absolute()


def remove_kept(folder: Path) -> None:
    """Remove a state, and with it what an interrupted write may have left, but nothing else."""
    for file in [*folder.glob("*.safetensors"), *folder.glob(".*.part")]:
        file.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()
