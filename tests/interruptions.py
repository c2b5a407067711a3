"""Interruptions of what keeps its state, at places that do not depend on how fast the machine is."""

from __future__ import annotations

from typing import Any

import pytest

from suite.kept import KeptState


def interrupt_every_second_write(monkeypatch: pytest.MonkeyPatch, error: type[BaseException]) -> list[int]:
    """Let every state be written at once, and raise an error after every second write; the writes so far, counted from 1."""
    keep, writes = KeptState.keep, list[int]()

    def interrupt(self: KeptState, *arguments: Any, **options: Any) -> None:
        keep(self, *arguments, **options)
        writes.append(len(writes) + 1)
        if len(writes) % 2 == 0:
            raise error

    monkeypatch.setattr("suite.kept.EVERY", 0)
    monkeypatch.setattr(KeptState, "keep", interrupt)
    return writes
