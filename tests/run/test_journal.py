"""The journal: append-only, one writer, mended after a crash, refused when damaged."""

import json
import multiprocessing
import zlib
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, TypeAdapter

from suite.errors import BitcertError
from suite.run.journal import FILE_NAME, Event, Journal, JournalWarning, read_journal


class Begin(Event):
    """The first line of a journal of notes."""

    event: Literal["start"] = "start"
    version: Literal[3] = 3


class Note(Event):
    """A numbered note."""

    event: Literal["ask"] = "ask"
    number: int
    share: float = 0.0
    name: str = ""


NOTES: TypeAdapter[Begin | Note] = TypeAdapter(Annotated[Begin | Note, Field(discriminator="event")])
START = Begin(version=3)


def written(directory: Path, *events: Begin | Note) -> Path:
    journal = Journal(directory, NOTES)
    for event in events:
        journal.append(event)
    journal.close()
    return directory / FILE_NAME


def sealed(*lines: str) -> bytes:
    """Lines of a journal, written without the journal's own code."""
    content, crc = b"", 0
    for line in lines:
        body = line.removesuffix("}").encode()
        crc = zlib.crc32(body, crc)
        content += body + f',"crc":"{crc:08x}"}}\n'.encode()
    return content


def test_events_are_read_back_in_order(tmp_path: Path) -> None:
    events: list[Begin | Note] = [START, *(Note(number=number, share=1 / 3, name="\N{SNOWMAN}") for number in range(5))]
    written(tmp_path / "run", *events)
    assert read_journal(tmp_path / "run", NOTES) == events


def test_the_format_is_what_the_documentation_says(tmp_path: Path) -> None:
    path = written(tmp_path, START, Note(number=1), Note(number=1))
    lines = ['{"event":"start","version":3}', '{"event":"ask","number":1}', '{"event":"ask","number":1}']
    assert path.read_bytes() == sealed(*lines)


def test_an_event_can_be_read_before_the_journal_is_closed(tmp_path: Path) -> None:
    journal = Journal(tmp_path, NOTES)
    journal.append(START)
    assert read_journal(tmp_path, NOTES) == [START]
    journal.close()


@pytest.mark.parametrize("cut", [1, 5, 20, 30])
def test_a_torn_last_line_is_dropped_and_said(tmp_path: Path, cut: int) -> None:
    path = written(tmp_path, START, Note(number=0))
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.warns(JournalWarning, match="dropped a torn last line"):
        journal = Journal(tmp_path, NOTES)
    assert journal.events == [START]
    journal.append(Note(number=7))
    journal.close()
    assert read_journal(tmp_path, NOTES) == [START, Note(number=7)]


@pytest.mark.parametrize("line", [b"{broken\n", b"[1]\n", b"{}\n", b"\xff\xfe\n", b"\n", b"null\n"])
def test_a_damaged_line_is_refused_by_its_number_and_nothing_is_changed(tmp_path: Path, line: bytes) -> None:
    path = written(tmp_path, START)
    content = path.read_bytes() + line + b'{"event":"ask"}\n'
    path.write_bytes(content)
    with pytest.raises(BitcertError, match="line 2"):
        Journal(tmp_path, NOTES)
    assert path.read_bytes() == content


def test_lines_that_are_lost_repeated_or_out_of_place_are_refused_by_number(tmp_path: Path) -> None:
    path = written(tmp_path, START, *(Note(number=number) for number in range(4)))
    start, *notes = path.read_bytes().splitlines(keepends=True)
    damaged = {
        "line 3": [start, notes[0], *notes[2:]],
        "line 4": [start, *notes[:2], notes[1], *notes[2:]],
        "line 2": [start, notes[1], notes[0], *notes[2:]],
        "line 5": [start, *notes[:3], notes[3].replace(b'"number":3', b'"number":8')],
    }
    for where, lines in damaged.items():
        path.write_bytes(b"".join(lines))
        with pytest.raises(BitcertError, match=f"{FILE_NAME}, {where}: the checksum does not match"):
            read_journal(tmp_path, NOTES)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"event":"ask","number":"1"}', "number: Input should be a valid integer"),
        ('{"event":"ask","number":true}', "number: Input should be a valid integer"),
        ('{"event":"ask"}', "number: Field required"),
        ('{"event":"ask","number":1,"extra":0}', "extra: Extra inputs are not permitted"),
        ('{"event":"ask","number":1,"share":NaN}', "share: Input should be a finite number"),
        ('{"event":"ask","number":1,"share":1e999}', "share: Input should be a finite number"),
        ('{"event":"guess","number":1}', "the event 'guess' is none of 'start', 'ask'"),
        ('{"number":1}', "Unable to extract tag"),
        ("[1]}", "Invalid JSON"),
    ],
)
def test_every_field_is_validated_even_where_the_checksum_matches(tmp_path: Path, line: str, why: str) -> None:
    (tmp_path / FILE_NAME).write_bytes(sealed('{"event":"start","version":3}', line))
    with pytest.raises(BitcertError, match=f"line 2: .*{why}"):
        read_journal(tmp_path, NOTES)


def test_a_journal_of_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text(json.dumps({"event": "start", "version": 999}) + "\n")
    with pytest.raises(BitcertError, match="version 999"):
        Journal(tmp_path, NOTES)
    with pytest.raises(BitcertError, match="version 999"):
        read_journal(tmp_path, NOTES)


def test_a_journal_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(sealed('{"event":"plane","version":3}'))
    with pytest.raises(BitcertError, match="journal of something else"):
        Journal(tmp_path, NOTES)


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(BitcertError, match="holds no run"):
        Journal(tmp_path, NOTES)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_missing_journal_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(BitcertError, match="holds no run"):
        read_journal(tmp_path / "nothing", NOTES)


def test_a_second_writer_in_this_process_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path, NOTES)
    with pytest.raises(BitcertError, match="another process"):
        Journal(tmp_path, NOTES)
    journal.close()
    Journal(tmp_path, NOTES).close()


def _open(directory: Path) -> str:
    try:
        Journal(directory, NOTES).close()
    except BitcertError as error:
        return str(error)
    return "opened"


def test_a_second_writer_in_another_process_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path, NOTES)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert "another process" in pool.apply(_open, (tmp_path,))
        journal.close()
        assert pool.apply(_open, (tmp_path,)) == "opened"


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path, NOTES)
    with pytest.raises(ValueError, match="JSON"):
        journal.append(Note.model_construct(event="ask", number=0, share=float("nan")))
    journal.close()
    assert (tmp_path / FILE_NAME).read_bytes() == b""
