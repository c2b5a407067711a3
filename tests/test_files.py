"""Writing files in one step."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from suite.files import write_bytes, write_text


def test_write_creates_folders_and_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "table.csv"
    write_text(path, "é\r\nfirst\n")
    assert path.read_bytes() == "é\r\nfirst\n".encode()
    write_bytes(path, b"second")
    assert path.read_bytes() == b"second"
    assert list(path.parent.iterdir()) == [path]


def test_failed_write_leaves_the_old_content_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "table.csv"
    write_text(path, "old")

    def fail(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_others_can_read_a_new_file_and_permissions_of_an_old_one_stay(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    write_text(path, "new")
    assert path.stat().st_mode & 0o777 == 0o644
    path.chmod(0o600)
    write_text(path, "newer")
    assert path.stat().st_mode & 0o777 == 0o600
