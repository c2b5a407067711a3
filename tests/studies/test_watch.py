"""The verb ``watch``: journals that grow line by line, comparisons under way, the page, and mistakes in one line."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from suite.cli import main
from suite.errors import BitcertError
from suite.problems import load_problem
from suite.run.events import SEARCH_EVENTS
from suite.run.journal import FILE_NAME, Journal, JournalTail, read_journal
from suite.run.registry import make_searcher
from suite.run.state import load_run
from suite.studies.search.run import search
from suite.studies.watch import watch
from suite.studies.watch.follow import QUIET, Followed
from suite.studies.watch.page import render_page, spark
from suite.studies.watch.show import snapshot_table
from suite.studies.watch.snapshot import Row, Snapshot
from tests.test_cli import COMPARE, mistake

EVALUATIONS = 12


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("watch") / "run"
    problem = load_problem("separable", budget="w3a3")
    search(problem, make_searcher("evolution", problem, 3), evaluations=EVALUATIONS, directory=folder, finalists=3)
    (folder / "experiment.yaml").write_text(f"study: search\nspend: {{evaluations: {EVALUATIONS}}}\n", "utf-8")
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of two searchers with one seed, as ``bitcert compare`` leaves it."""
    folder = tmp_path_factory.mktemp("watch") / "comparison"
    assert main([*COMPARE, "--seeds", "0", "--directory", str(folder)]) == 0
    return folder


@pytest.fixture
def under_way(finished: Path, tmp_path: Path) -> Path:
    """The same with one search not begun, the other one in the middle, and no exams."""
    folder = tmp_path / "comparison"
    shutil.copytree(finished, folder)
    shutil.rmtree(folder / "exams")
    shutil.rmtree(folder / "searches" / "cheapest-0")
    cut(folder / "searches" / "random-0", 4)
    return folder


def cut(folder: Path, lines: int) -> None:
    """Leave so many lines of a journal, and half of the next."""
    whole = (folder / FILE_NAME).read_bytes().splitlines(keepends=True)
    (folder / FILE_NAME).write_bytes(b"".join(whole[:lines]) + whole[lines][: len(whole[lines]) // 2])


def now(folder: Path) -> float:
    return max(path.stat().st_mtime for path in folder.rglob("*"))


class Page(HTMLParser):
    """What a page consists of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert not re.search("https?:|//", text.replace("<!DOCTYPE", ""))
        assert not [
            tag for tag, given in self.tags if tag in ("script", "link", "img") or {"src", "href"} & given.keys()
        ]

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [given for name, given in self.tags if name == tag]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    @property
    def refreshes(self) -> list[str | None]:
        return [given["content"] for given in self.all("meta") if given.get("http-equiv") == "refresh"]


def test_a_journal_written_piece_by_piece_is_followed_to_the_figures_of_the_run(
    run_folder: Path, tmp_path: Path
) -> None:
    content = (run_folder / FILE_NAME).read_bytes()
    shutil.copy(run_folder / "experiment.yaml", tmp_path)
    path, followed = tmp_path / FILE_NAME, Followed(tmp_path)
    rows: list[Row] = []
    ends = [place + 1 for place, byte in enumerate(content) if byte == ord("\n")]
    for size in sorted({0, *ends, *(end - 30 for end in ends), *(end - 1 for end in ends)}):
        path.write_bytes(content[:size])
        snapshot = followed.snapshot(now(tmp_path))
        assert path.read_bytes() == content[:size]
        assert snapshot == Followed(tmp_path).snapshot(snapshot.at)  # in steps as at once
        rows += snapshot.rows
    for earlier, later in pairwise(rows):
        assert earlier.evaluations <= later.evaluations
        assert earlier.forward_passes <= later.forward_passes
        assert earlier.share <= later.share
        assert later.curve[: len(earlier.curve)] == earlier.curve
    run = load_run(run_folder)
    assert run.best is not None
    assert (rows[0].state, rows[len(ends)].state, rows[-1].state) == ("waiting", "searching", "done")
    final = rows[-1]
    assert (final.searcher, final.seed, final.stopped, final.share) == ("evolution", 3, run.stopped, 1.0)
    assert (final.evaluations, final.planned_evaluations) == (run.evaluations, EVALUATIONS)
    assert (final.forward_passes, final.failed) == (run.forward_passes, 0)
    assert final.search_score == run.score(run.best)
    assert final.best_at is not None
    assert run.trials[final.best_at - 1].policy == run.best.policy
    assert final.curve[-1] == (
        sum(trial.spend for trial in run.trials) + run.probe_spend,
        max(run.score(trial) for trial in run.trials),
    )


def test_a_tail_reads_every_event_once_and_starts_over_with_a_new_file(run_folder: Path, tmp_path: Path) -> None:
    content, events = (run_folder / FILE_NAME).read_bytes(), read_journal(run_folder, SEARCH_EVENTS)
    tail = JournalTail(tmp_path / FILE_NAME, SEARCH_EVENTS)
    assert tail.read() == []
    (tmp_path / FILE_NAME).write_bytes(content[: len(content) // 2])
    first = tail.read()
    assert 0 < len(first) < len(events)
    (tmp_path / FILE_NAME).write_bytes(content)
    assert first + tail.read() == events
    assert tail.read() == []
    (tmp_path / FILE_NAME).write_bytes(content.splitlines(keepends=True)[0])
    assert tail.read() == events[:1]
    assert tail.lines == 1


def test_a_damaged_line_in_the_middle_is_named(run_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run_folder, folder)
    cut(folder, 3)
    followed = Followed(folder)
    followed.snapshot(now(folder))
    lines = (run_folder / FILE_NAME).read_bytes().splitlines(keepends=True)
    lines[5] = lines[5].replace(b'"number":', b'"numbers":')
    (folder / FILE_NAME).write_bytes(b"".join(lines))
    with pytest.raises(BitcertError, match=r"line 6: the checksum does not match"):
        followed.snapshot(now(folder))


def test_a_search_is_interrupted_when_nobody_writes_and_it_has_been_quiet(run_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run_folder, folder)
    cut(folder, 6)
    last = (folder / FILE_NAME).stat().st_mtime
    elapsed = Followed(folder).snapshot(last).rows[0].elapsed
    assert Followed(folder).snapshot(last + QUIET).state == "searching"
    late = last + 10 * (QUIET + elapsed)
    assert Followed(folder).snapshot(late).state == "interrupted"
    assert Followed(folder).snapshot(late).seconds_left is None
    if Path("/proc/locks").exists():
        with pytest.warns(match="torn last line"):
            writing = Journal(folder, SEARCH_EVENTS)
        assert Followed(folder).snapshot(late + elapsed).state == "searching"
        writing.close()


def test_a_comparison_under_way_shows_what_is_planned(under_way: Path, finished: Path) -> None:
    followed = Followed(under_way)
    snapshot = followed.snapshot(now(under_way))
    random, cheapest = snapshot.rows
    assert (random.searcher, random.seed, random.state, random.evaluations) == ("random", 0, "searching", 1)
    assert (cheapest.searcher, cheapest.state, cheapest.active_at) == ("cheapest", "waiting", None)
    assert random.planned_evaluations == cheapest.planned_evaluations == 3
    assert (snapshot.exams_held, snapshot.exams_expected, snapshot.exams_exact) == (0, 3, False)
    assert snapshot.state == "searching"
    assert snapshot.searched == pytest.approx(1 / 6)
    assert snapshot.seconds_left == pytest.approx(5 * random.elapsed)
    for name in ("random-0", "cheapest-0"):
        shutil.copytree(finished / "searches" / name, under_way / "searches" / name, dirs_exist_ok=True)
    snapshot = followed.snapshot(now(under_way))
    assert [row.state for row in snapshot.rows] == ["exam", "exam"]
    assert (snapshot.searched, snapshot.exams_exact) == (1.0, True)
    shutil.copytree(finished / "exams", under_way / "exams")
    snapshot = followed.snapshot(now(under_way))
    assert (snapshot.state, snapshot.seconds_left) == ("done", 0.0)
    assert snapshot.exams_held == snapshot.exams_expected == len(list((finished / "exams").iterdir()))


def test_several_comparisons_and_other_journals_below_one_folder(
    finished: Path, run_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "b" / "w3a3")
    shutil.copytree(run_folder, tmp_path / "a")
    (tmp_path / "plane").mkdir()
    (tmp_path / "plane" / FILE_NAME).write_text('{"event":"plane","version":3}\n', "utf-8")
    rows = Followed(tmp_path).snapshot(now(tmp_path)).rows
    assert [(row.part, row.searcher) for row in rows] == [
        ("a", "evolution"),
        ("b/w3a3", "random"),
        ("b/w3a3", "cheapest"),
    ]
    inner = Followed(tmp_path / "b" / "w3a3" / "searches" / "random-0").snapshot(now(tmp_path)).rows
    assert [(row.searcher, row.planned_evaluations) for row in inner] == [("random", 3)]


def test_watching_ends_when_everything_is_done_and_writes_the_page_only_on_changes(
    under_way: Path, finished: Path, tmp_path: Path
) -> None:
    page, refreshes, writes = tmp_path / "page.html", [], []

    def pause(_: float) -> None:
        refreshes.append(Page(page.read_text("utf-8")).refreshes)
        writes.append(page.stat().st_ino)
        if len(writes) == 2:
            shutil.copytree(finished, under_way, dirs_exist_ok=True)

    last = watch(Followed(under_way), 1.5, page=page, pause=pause, now=lambda: now(finished))
    assert last.state == "done"
    assert refreshes == [["2"], ["2"]]
    assert writes[0] == writes[1] != page.stat().st_ino
    done = Page(page.read_text("utf-8"))
    assert done.refreshes == []
    assert len(done.all("caption")) == 1
    assert [given["scope"] for given in done.all("th")].count("row") == 2
    assert len(done.all("svg")) == 1  # that of the search with more than one trial


def test_ctrl_c_ends_quietly_with_the_last_look(under_way: Path) -> None:
    def pause(_: float) -> None:
        raise KeyboardInterrupt

    assert watch(Followed(under_way), 1, pause=pause).rows[0].evaluations == 1


def test_names_are_escaped_and_a_curve_becomes_steps_within_its_box() -> None:
    row = Row("", "<b>my:Method", 0, curve=((10.0, 0.1), (20.0, 0.1), (40.0, 0.3)))
    text = render_page(Snapshot("<i>", 0.0, [row], {}), 2)
    assert "<b>" not in text
    assert "<i>" not in text
    assert "&lt;b&gt;my:Method" in text
    assert spark(row.curve) == "M30.5 23.0H119.0V1.0"
    assert spark(row.curve[:1]) == ""
    path = spark([(float(x), x / 1000) for x in range(1000)])
    assert path.endswith("H119.0V1.0")
    assert path.count("H") <= 62


def test_a_low_terminal_keeps_the_searches_under_way() -> None:
    done = [replace(Row("", "random", seed), state="done") for seed in range(5)]
    busy = [replace(Row("", "tpe", seed), state="searching") for seed in range(2)]
    table = snapshot_table(Snapshot("runs", 0.0, [*done, *busy], {}), 3)
    assert [cells[:2] for cells in table.cells] == [["random", "4"], ["tpe", "0"], ["tpe", "1"]]
    assert table.notes[0] == "not shown: 4 done"


def test_the_command_prints_once_without_a_terminal(
    under_way: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert main(["watch", str(under_way), "--page", str(page)]) == 0
    shown = capsys.readouterr().out
    assert "17 % searched" in shown
    assert "best search score" in shown
    assert Page(page.read_text("utf-8")).refreshes == ["2"]
    assert main(["watch", str(under_way), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["state"], found["exams_expected"], found["searches"][0]["evaluations"]) == ("searching", 3, 1)


def test_mistakes_are_one_line(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty, file, once = tmp_path / "empty", tmp_path / "file", ["watch", str(run_folder), "--once"]
    empty.mkdir()
    file.write_text("", "utf-8")
    assert "there is no folder" in mistake(["watch", str(tmp_path / "none")], capsys)
    assert "holds no searches" in mistake(["watch", str(empty)], capsys)
    assert "is a file" in mistake(["watch", str(file)], capsys)
    for interval in ("0", "-1", "nan", "inf", "1e300"):
        assert "interval must be" in mistake([*once, "--interval", interval], capsys)
    assert "ends in .html" in mistake([*once, "--page", str(run_folder / FILE_NAME)], capsys)
    assert "cannot be written" in mistake([*once, "--page", str(file / "page.html")], capsys)
    (empty / "page.html").mkdir()
    assert "cannot be written" in mistake([*once, "--page", str(empty / "page.html")], capsys)
    damaged = tmp_path / "damaged"
    shutil.copytree(run_folder, damaged)
    content = bytearray((damaged / FILE_NAME).read_bytes())
    content[len(content) // 2] ^= 1
    (damaged / FILE_NAME).write_bytes(content)
    os.utime(damaged / FILE_NAME, (0, 0))
    assert "the line is damaged" in mistake(["watch", str(damaged), "--once"], capsys)
