"""Writing files in one step."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from suite.errors import BitcertError
from suite.files import read_sealed, write_bytes, write_sealed, write_text


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


def test_sealed_json_comes_back_and_any_change_of_its_content_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "note.json"
    write_sealed(path, {"b": [1, 2.5], "a": {"π": None}})
    assert read_sealed(path, "a note") == {"b": [1, 2.5], "a": {"π": None}}
    intact = path.read_text()
    for before, after in (("2.5", "2.6"), ("1", "1.0"), ("null", "false"), ('"b"', '"c"'), ("[1, 2.5]", "NaN")):
        path.write_text(intact.replace(before, after, 1))
        with pytest.raises(BitcertError, match=r"note\.json is damaged: its content does not match its checksum"):
            read_sealed(path, "a note")


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"a": ' + b"9" * 10_000 + b"}"])
def test_what_is_no_sealed_json_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "note.json").write_bytes(content)
    with pytest.raises(BitcertError, match="is not a note"):
        read_sealed(tmp_path / "note.json", "a note")


def test_missing_sealed_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(BitcertError, match=r"a note is missing: there is no file .*note\.json"):
        read_sealed(tmp_path / "note.json", "a note")


def test_json_that_cannot_be_read_back_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_sealed(tmp_path / "note.json", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []
