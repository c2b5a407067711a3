"""The journal: append-only, one writer, mended after a crash, refused when damaged."""

import json
import multiprocessing
from pathlib import Path

import pytest

from suite.errors import BitcertError
from suite.run.journal import FILE_NAME, JOURNAL_VERSION, Journal, JournalWarning, read_journal

START = {"event": "start", "version": JOURNAL_VERSION}


def written(directory: Path, *events: dict[str, object]) -> Path:
    journal = Journal(directory)
    for event in events:
        journal.append(event)
    journal.close()
    return directory / FILE_NAME


def test_events_are_read_back_in_order(tmp_path: Path) -> None:
    events = [START, *({"event": "ask", "number": number, "share": 1 / 3} for number in range(5))]
    written(tmp_path / "run", *events)
    assert read_journal(tmp_path / "run") == events


def test_an_event_can_be_read_before_the_journal_is_closed(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(START)
    assert read_journal(tmp_path) == [START]
    journal.close()


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_torn_last_line_is_dropped_and_said(tmp_path: Path, cut: int) -> None:
    path = written(tmp_path, START, {"event": "ask", "number": 0})
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.warns(JournalWarning, match="dropped a torn last line"):
        journal = Journal(tmp_path)
    assert journal.events == [START]
    journal.append({"event": "ask", "number": 7})
    journal.close()
    assert read_journal(tmp_path) == [START, {"event": "ask", "number": 7}]


@pytest.mark.parametrize("line", [b"{broken\n", b"[1]\n", b"{}\n", b"\xff\xfe\n"])
def test_a_damaged_line_is_refused_by_its_number_and_nothing_is_changed(tmp_path: Path, line: bytes) -> None:
    path = written(tmp_path, START)
    content = path.read_bytes() + line + b'{"event":"ask"}\n'
    path.write_bytes(content)
    with pytest.raises(BitcertError, match="line 2"):
        Journal(tmp_path)
    assert path.read_bytes() == content


def test_a_journal_of_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text(json.dumps({"event": "start", "version": 999}) + "\n")
    with pytest.raises(BitcertError, match="version 999"):
        Journal(tmp_path)
    with pytest.raises(BitcertError, match="version 999"):
        read_journal(tmp_path)


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(BitcertError, match="holds no run"):
        Journal(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_missing_journal_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(BitcertError, match="holds no run"):
        read_journal(tmp_path / "nothing")


def test_a_second_writer_in_this_process_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with pytest.raises(BitcertError, match="another process"):
        Journal(tmp_path)
    journal.close()
    Journal(tmp_path).close()


def _open(directory: Path) -> str:
    try:
        Journal(directory).close()
    except BitcertError as error:
        return str(error)
    return "opened"


def test_a_second_writer_in_another_process_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert "another process" in pool.apply(_open, (tmp_path,))
        journal.close()
        assert pool.apply(_open, (tmp_path,)) == "opened"


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with pytest.raises(ValueError, match="JSON"):
        journal.append({"event": "tell", "acr": float("nan")})
    journal.close()
    assert (tmp_path / FILE_NAME).read_bytes() == b""
