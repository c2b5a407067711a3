"""Building the site: every page and download of it in memory, then onto disk, each in one step."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from jinja2 import Environment

from suite.board.site.listing import entries_frame, entry_columns, images_frame, table_content, to_csv
from suite.board.site.loading import STATUSES, Board, Collection, Listed
from suite.board.site.standings import rank_entries, standings
from suite.errors import BitcertError
from suite.files import write_bytes, write_text
from suite.report.exams import flatten, norm_text
from suite.report.page import LICENCES, PLOTS, SCRIPT, STYLE, TABLES, asset, templates
from suite.report.table import to_records

MANIFEST = "site.json"
"""Names every file of a site: what is not in it is not the site's, and stays."""

_MADE_BY = "bitcert site"


@dataclass(frozen=True, slots=True)
class Built:
    """What a build wrote.

    Attributes:
        pages: Files of the site.
        entries: How many entries it lists.
        statuses: Status -> how many.
        boards: How many boards.
        problems: Why other entries are not listed, or are not listed as their files say.
    """

    pages: int
    entries: int
    statuses: Mapping[str, int]
    boards: int
    problems: tuple[str, ...]


def build_site(
    collection: Collection, directory: Path, advance: Callable[[int, int], None] = lambda done, total: None
) -> Built:
    """Write the site; equal entries give equal bytes.

    Files of an earlier build that are no longer needed are removed, all others in the folder stay.

    Args:
        collection: What to list.
        directory: Where to: a new or empty folder, or one with an earlier build.
        advance: Told after each entry how many of how many have a page.

    Raises:
        BitcertError: If the folder holds anything but such a site.
    """
    earlier = _read_manifest(directory)
    files = {name: text.encode("utf-8") for name, text in _files(collection, advance)}
    _write_manifest(
        directory, earlier | set(files)
    )  # before anything else: what a build leaves when it is killed is known
    for name, data in files.items():
        path = directory / name
        if not (path.is_file() and path.read_bytes() == data):
            write_bytes(path, data)
    for name in earlier - set(files):
        (directory / name).unlink(missing_ok=True)
    _write_manifest(directory, set(files))
    statuses = [each.status for each in collection.entries]
    counted: dict[str, int] = {status: statuses.count(status) for status in STATUSES}
    return Built(len(files) + 1, len(statuses), counted, len(collection.boards), collection.problems)


def _write_manifest(directory: Path, names: set[str]) -> None:
    write_text(directory / MANIFEST, json.dumps({"made_by": _MADE_BY, "files": sorted(names)}, indent=1) + "\n")


def _read_manifest(directory: Path) -> set[str]:
    """The files of an earlier build; none in an empty folder."""
    if directory.exists() and not directory.is_dir():
        raise BitcertError(f"{directory} is a file; name a folder for the site")
    if not directory.exists() or not any(directory.iterdir()):
        return set()
    try:
        content = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
        if content["made_by"] != _MADE_BY:
            raise ValueError("it is another program's")
        names = set(content["files"])
    except (OSError, ValueError, LookupError, TypeError):
        raise BitcertError(
            f"{directory} is not empty and holds no earlier build of the site ({MANIFEST}); name another folder"
        ) from None
    inside = [PurePosixPath(name) for name in names]
    return {str(path) for path in inside if not path.is_absolute() and ".." not in path.parts}


def _files(collection: Collection, advance: Callable[[int, int], None]) -> Iterator[tuple[str, str]]:
    """Name and text of every file, the front page last, so that its links lead somewhere from the start."""
    environment, boards = templates("suite.board.site"), collection.boards
    ranks = {name: rank for listed in boards.values() for name, rank in rank_entries(listed).items()}
    for name in (STYLE, SCRIPT, TABLES, PLOTS, *LICENCES):
        yield f"assets/{name}", asset(name)
    for number, each in enumerate(collection.entries, 1):
        yield from _entry_files(environment, each, ranks.get(each.name))
        advance(number, len(collection.entries))
    numbers = {board.slug: number for number, board in enumerate(boards)}
    for board, listed in boards.items():
        yield from _board_files(environment, board, listed, ranks, numbers)
    frame = entries_frame(collection.entries, ranks)
    yield "entries.csv", to_csv(frame)
    yield "entries.json", _json(to_records(frame))
    yield (
        "index.html",
        environment.get_template("index.html").render(
            root="",
            boards=[_summarize(board, listed) for board, listed in boards.items()],
            table=table_content(collection.entries, numbers, entry_columns(ranks)),
            counts={status: sum(each.status == status for each in collection.entries) for status in STATUSES},
        ),
    )


def _summarize(board: Board, listed: list[Listed]) -> dict[str, Any]:
    """One line about a board, for the front page."""
    ranks = rank_entries(listed)
    first = min(
        (each for each in listed if each.name in ranks), key=lambda each: (ranks[each.name], each.name), default=None
    )
    return {
        "board": board,
        "exam": json.loads(board.exam),
        "counts": {status: sum(each.status == status for each in listed) for status in STATUSES},
        "first": first,
        "label": listed[0].objective.label,
    }


def _board_files(
    environment: Environment, board: Board, listed: list[Listed], ranks: Mapping[str, int], numbers: Mapping[str, int]
) -> Iterator[tuple[str, str]]:
    base, found, label = f"boards/{board.slug}", standings(board, listed), listed[0].objective.label
    radii = sorted({radius for each in listed for radius in each.certified_accuracy})
    columns = entry_columns(ranks, radii=radii, one_board=True, label=label)
    frame = entries_frame(listed, ranks)
    yield f"{base}.csv", to_csv(frame)
    methods = None if found is None else found.table
    yield (
        f"{base}.json",
        _json({"methods": [] if methods is None else to_records(methods.frame), "entries": to_records(frame)}),
    )
    if methods is not None:
        yield f"{base}.tex", methods.to_latex()
        yield f"{base}.methods.csv", to_csv(methods.frame)
    yield (
        f"{base}.html",
        environment.get_template("board.html").render(
            root="../",
            board=board,
            exam=json.loads(board.exam),
            norm=norm_text(board.norm),
            label=label,
            methods=methods,
            table=table_content(listed, numbers, columns),
        ),
    )


def _entry_files(environment: Environment, each: Listed, rank: int | None) -> Iterator[tuple[str, str]]:
    base, entry = f"entries/{each.name}", each.entry
    provenance = flatten(
        entry.model_dump(mode="json", exclude={"images": True, "origin": {"command", "notes", "links"}})
    )
    yield f"{base}.json", each.text
    for kind, part in (("verification", each.verification), ("withdrawn", each.withdrawal)):
        if part is not None:
            yield f"{base}.{kind}.json", part.model_dump_json(indent=2) + "\n"
    yield f"{base}.csv", to_csv(images_frame(each))
    yield (
        f"{base}.html",
        environment.get_template("entry.html").render(
            root="../",
            each=each,
            entry=entry,
            board=each.board,
            rank=rank,
            norm=norm_text(each.board.norm),
            curve=[[round(radius, 6), round(share, 6)] for radius, share in each.curve()],
            layers=list(zip(entry.policy.weights, entry.policy.activations, strict=True)),
            most_bits=max((*entry.policy.weights, *entry.policy.activations, 1)),
            provenance=provenance,
        ),
    )


def _json(content: Any) -> str:
    return json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False, default=_plain) + "\n"


def _plain(value: Any) -> Any:
    """Numpy's numbers as Python's."""
    return value.item()
