"""A report is complete, self-contained, and the same every time."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from suite.errors import BitcertError
from suite.report.comparison import Comparison
from suite.report.layout import leaderboard_table
from suite.report.statistics import ranking_reliability
from suite.report.write import SCHEMA_VERSION, render_page, to_json, write_report
from tests.report.fabricated import fabricate

FILES = {
    "leaderboard.csv",
    "leaderboard.json",
    "leaderboard.md",
    "leaderboard.tex",
    "leaderboard.html",
    *(f"milestones.{kind}" for kind in ("csv", "md", "tex", "html")),
    "rows.csv",
    "index.html",
    *(
        f"{name}.{kind}"
        for name in ("certified_accuracy", "score_vs_bops", "best_so_far", "policies")
        for kind in ("png", "svg")
    ),
}


class Page(HTMLParser):
    """Collects what a page loads, and checks that its tags are balanced."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def compact() -> Comparison:
    return fabricate(("random", "uniform", "tpe"), 2, layers=4, images=40, evaluations=4)


@pytest.fixture(scope="module")
def report(compact: Comparison, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "new"
    paths = write_report(compact, folder)
    assert {path.name for path in paths} == FILES == {path.name for path in folder.iterdir()}
    return folder


def test_writing_again_gives_the_same_bytes(compact: Comparison, report: Path) -> None:
    before = {path.name: path.read_bytes() for path in report.iterdir()}
    write_report(compact, report)
    assert {path.name: path.read_bytes() for path in report.iterdir()} == before


def test_json_is_strict_and_carries_provenance_and_every_seed(compact: Comparison, report: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    content = json.loads((report / "leaderboard.json").read_text(), parse_constant=refuse)
    assert content["schema_version"] == SCHEMA_VERSION
    assert content["provenance"] == json.loads(json.dumps(compact.provenance))
    assert [row["searcher"] for row in content["leaderboard"]][-1] == "float"
    reliability = ranking_reliability(compact)
    assert content["reliability"]["images"] == reliability.images
    assert content["reliability"]["over_seeds"] == asdict(reliability.over_seeds)
    assert content["reliability"]["agreements"] == {}
    assert len(content["rows"]) == len(compact.entries) + 1
    assert content["rows"][-1]["seed"] is None
    assert type(content["rows"][0]["seed"]) is int


def test_tables_read_back(report: Path) -> None:
    board, rows = pd.read_csv(report / "leaderboard.csv"), pd.read_csv(report / "rows.csv")
    assert board["searcher"].iloc[-1] == "float"
    assert board["score"].iloc[:-1].is_monotonic_decreasing
    assert board["rank"].iloc[:-1].tolist() == [
        1 + sum(board["score"].iloc[:-1] > score) for score in board["score"].iloc[:-1]
    ]
    means = rows.groupby("searcher")["exam_acr"].mean()
    for _, row in board.iterrows():
        assert row["score"] == pytest.approx(means[row["searcher"]])
    with (report / "leaderboard.csv").open(newline="") as stream:
        assert not [name for name in next(csv.reader(stream)) if name.startswith("search_")]


def test_page_is_self_contained_and_well_formed(report: Path) -> None:
    text = (report / "index.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert page.open == []
    assert page.sources.pop(0) == "#main"
    assert len(page.sources) == 4
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert not re.search(r"https?://", re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL))
    assert "default-src 'none'" in text  # whatever a script asks for is refused
    assert "underpowered" in text
    assert "0" * 40 in text


def test_page_escapes_what_it_shows(report: Path) -> None:
    frame = pd.read_csv(report / "leaderboard.csv").assign(problem="<script>alert(1)</script>")
    text = render_page(leaderboard_table(frame), {}, {"note": "<b>bold</b>"})
    assert text.count("<script>") == text.count("</script>") == 2  # its own
    assert "alert(1)</script>" not in text
    assert "<b>" not in text


def test_unknown_values_become_null() -> None:
    frame = pd.DataFrame({"a": pd.array([1, None], dtype="Int64"), "b": [float("nan"), 0.5], "c": [None, "x"]})
    assert json.loads(to_json({"rows": frame}))["rows"] == [
        {"a": 1, "b": None, "c": None},
        {"a": None, "b": 0.5, "c": "x"},
    ]


def test_unknown_numbers_become_null_at_any_depth() -> None:
    content = {"a": {"b": float("nan"), "c": (1.5, float("nan")), "d": [{"e": float("nan")}]}}
    assert json.loads(to_json(content))["a"] == {"b": None, "c": [1.5, None], "d": [{"e": None}]}


def test_unsound_comparison_writes_nothing(compact: Comparison, tmp_path: Path) -> None:
    with pytest.raises(BitcertError):
        write_report(replace(compact, limits={"bops": 1}), tmp_path / "report")
    assert not (tmp_path / "report").exists()
