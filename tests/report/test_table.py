"""Every format of a table, read back by something that did not write it, holds the same cells."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.console import Console

from suite.report.table import NOTHING, Column, Table, count, duration, integer, magnitude, number, span, to_records
from suite.report.write import to_json

HOSTILE = "|*_`~[](){}<>&#%$^\\\"'!:;+-=—±≥°†‡§Δ↓\n aB1_"
"""What means something in a format, or is escaped in one."""

texts = st.text(HOSTILE, min_size=1, max_size=12)

LATEX_SIGNS = {
    r"\textbackslash{}": "\\",
    r"\textasciicircum{}": "^",
    r"\textasciitilde{}": "~",
    r"\textless{}": "<",
    r"\textgreater{}": ">",
    r"\textbar{}": "|",
    r"\textdegree{}": "°",
    r"\textdagger{}": "†",
    r"\textdaggerdbl{}": "‡",
    r"\S{}": "§",
    r"\ldots{}": "…",
    r"$\pm$": "±",
    r"$\geq$": "≥",
    r"$\downarrow$": "↓",
    r"$\Delta$": "Δ",
    r"\textemdash{}": "—",
    "--": "\N{EN DASH}",
    "``": "“",
    "''": "”",
    "{}": "",
    **{f"\\{sign}": sign for sign in "{}$&#%_"},
}
LATEX_TOKEN = re.compile("|".join(map(re.escape, sorted(LATEX_SIGNS, key=len, reverse=True))))


class Cells(HTMLParser):
    """Collects the text of cells, their classes, and everything that is not a table's own tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.attributes: list[dict[str, str | None]] = []
        self.tags: set[str] = set()
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.attributes.append(dict(attrs))
            self.inside = True

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.rows[-1][-1] += data


def make_table(names: list[str], title: str = "", notes: tuple[str, ...] = ()) -> Table:
    frame = pd.DataFrame({"name": names, "score": np.arange(len(names)) / 7, "seeds": [None, *range(1, len(names))]})
    columns = [
        Column("name|of", lambda row: str(row["name"]), "left"),
        Column("score_1", lambda row: number(row["score"], ".3f")),
        Column("seeds", lambda row: integer(row["seeds"]), priority=1),
    ]
    return Table(frame, columns, title, notes, frozenset({len(names) - 1}))


def squeezed(table: Table) -> list[list[str]]:
    """What is to be read back; formats make one space of several, and none at the ends."""
    return [[" ".join(cell.split()) for cell in line] for line in (table.headers, *table.cells)]


def read_latex(text: str) -> list[list[str]]:
    """Split rows and cells at unescaped signs, then turn commands into characters."""
    body = text.split("\\toprule\n")[1].split("\n\\bottomrule")[0].replace("\\midrule\n", "")
    lines = [line.removesuffix(r" \\") for line in body.splitlines()]
    return [
        [
            " ".join(LATEX_TOKEN.sub(lambda found: LATEX_SIGNS[found[0]], cell).split())
            for cell in re.split(r"(?<!\\)&", line)
        ]
        for line in lines
    ]


@settings(max_examples=200, deadline=None)
@given(st.lists(texts, min_size=1, max_size=4))
def test_markdown_is_read_back_by_another_library(names: list[str]) -> None:
    table = make_table(names)
    page = Cells(MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(table.to_markdown()))
    assert [[" ".join(cell.split()) for cell in line] for line in page.rows] == squeezed(table)
    assert page.tags == {"table", "thead", "tbody", "tr", "th", "td"}


@settings(max_examples=200, deadline=None)
@given(st.lists(texts, min_size=1, max_size=4))
def test_html_is_read_back_by_another_library(names: list[str]) -> None:
    table = make_table(names)
    page = Cells(table.to_html())
    assert page.rows == [table.headers, *table.cells]
    assert page.tags == {"table", "thead", "tbody", "tr", "th", "td"}


@settings(max_examples=200, deadline=None)
@given(st.lists(texts, min_size=1, max_size=4))
def test_latex_is_read_back(names: list[str]) -> None:
    table = make_table(names)
    found = table.to_latex()
    assert read_latex(found) == squeezed(table)
    rows = found.split("\\toprule\n")[1].split("\n\\bottomrule")[0].splitlines()
    assert all(not row.startswith(("[", "*")) for row in rows), "options of the row before"
    assert found.count("{") - found.count("\\{") == found.count("}") - found.count("\\}")


def test_titles_and_notes_are_escaped_too() -> None:
    table = make_table(["a"], title="5 % of <b> & a_b", notes=("*first* [x](y)", "second"))
    assert r"\caption{5 \% of \textless{}b\textgreater{} \& a\_b}" in table.to_latex()
    assert "<caption>5 % of &lt;b&gt; &amp; a_b</caption>" in table.to_html()
    assert '<p class="note">*first* [x](y)</p>' in table.to_html()
    rendered = MarkdownIt("commonmark").enable("table").render(table.to_markdown())
    assert "<strong>5 % of &lt;b&gt; &amp; a_b</strong>" in rendered
    assert "<p>*first* [x](y)</p>" in rendered


def test_alignment_is_that_of_the_columns_in_every_format() -> None:
    table = make_table(["short", "a longer name"])
    assert table.to_markdown().splitlines()[1] == "| :--- | ---: | ---: |"
    assert r"\begin{tabular}{lrr}" in table.to_latex()
    assert [cell["class"] for cell in Cells(table.to_html()).attributes[:3]] == ["left", "right", "right"]
    stream = io.StringIO()
    table.print(Console(file=stream, width=60))
    _, _, first, _, second = (line.rstrip() for line in stream.getvalue().splitlines())
    assert first.startswith("short ")
    assert len(first) == len(second)
    assert first.endswith(NOTHING)


def test_emphasized_rows_stand_apart() -> None:
    table = make_table(["tpe", "float"])
    assert '<tr class="emphasized"><td class="left">float' in table.to_html()
    assert "\\midrule\nfloat" in table.to_latex()
    stream = io.StringIO()
    table.print(Console(file=stream, width=60, force_terminal=True))
    assert re.search(r"\x1b\[2m[^\n]*float", stream.getvalue())


def test_csv_and_json_hold_the_frame_bit_for_bit() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"a,b": ['x"y', "é\n2", "|"], "value": rng.random(3) / 3, "seed": pd.array([1, None, 3], "Int64")}
    )
    table = Table(frame, [Column("a", lambda row: str(row["a,b"]))])
    read = pd.read_csv(io.StringIO(table.to_csv())).astype({"seed": "Int64"})
    pd.testing.assert_frame_equal(read, frame, check_exact=True)
    records = json.loads(to_json({"rows": frame}))["rows"]
    assert records == to_records(frame)
    assert [record["value"] for record in records] == frame["value"].tolist()
    assert [record["seed"] for record in records] == [1, None, 3]


def test_missing_values_are_shown_as_such() -> None:
    for missing in (None, float("nan"), pd.NA):
        shown = {
            number(missing, ".3f"),
            integer(missing),
            magnitude(missing),
            duration(missing),
            span(missing, 1.0, ".1f"),
        }
        assert shown == {NOTHING}


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, "0"), (999, "999"), (999.6, "1k"), (12_345, "12.3k"), (999_499, "999k"), (999_600, "1M"), (2.5e9, "2.5G")],
)
def test_magnitudes_have_three_digits(value: float, expected: str) -> None:
    assert magnitude(value) == expected


def test_other_formats_of_numbers() -> None:
    assert [duration(seconds) for seconds in (0.5, 119, 120, 7200)] == ["0.5 s", "119 s", "2 min", "2 h"]
    assert span(-0.5, 1, "+.2f") == "[-0.50, +1.00]"
    assert [count(1, "seed"), count(2, "seed"), count(2, "policy", "policies")] == ["1 seed", "2 seeds", "2 policies"]


@pytest.mark.parametrize("width", [18, 24, 60])
def test_narrow_consoles_lose_unimportant_columns_before_names_are_broken(width: int) -> None:
    stream = io.StringIO()
    make_table(["sqwa:captures=2"]).print(Console(file=stream, width=width))
    text = stream.getvalue()
    assert ("seeds" in text) == (width == 60)
    assert ("sqwa:captures=2" in text) == (width >= 24)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text


def test_markup_in_cells_is_text_on_a_console() -> None:
    stream = io.StringIO()
    make_table(["[/bold] [red]x"], title="[b]t[/b]", notes=("[i]n[/i]",)).print(Console(file=stream, width=60))
    for text in ("[/bold] [red]x", "[b]t[/b]", "[i]n[/i]"):
        assert text in stream.getvalue()
