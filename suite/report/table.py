"""One table for every report: on a console, and as Markdown, CSV, LaTeX, HTML and JSON records."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

NOTHING = "—"
"""What a cell shows where there is no value."""

_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "{}$&#%_"},
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "—": r"\textemdash{}",
    "…": r"\ldots{}",
    "°": r"\textdegree{}",
    "†": r"\textdagger{}",
    "‡": r"\textdaggerdbl{}",
    "§": r"\S{}",
    **{sign: f"$\\{name}$" for sign, name in {"±": "pm", "≥": "geq", "↓": "downarrow", "Δ": "Delta"}.items()},
    "\n": " ",
}
_LATEX_LIGATURE = re.compile(r"([-`'])(?=\1)")
_MARKDOWN = {**{sign: f"\\{sign}" for sign in "\\`*~"}, "&": "&amp;", "<": "&lt;", "|": "&#124;", "\n": " "}
_MARKDOWN_IN_PLACE = re.compile(r"(?<![^\W_])_|_(?![^\W_])|\](?=[\[(:])")
"""Emphasis and links; snake_case and [a, b] are neither."""

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    """One column as people see it.

    Attributes:
        header: Its title, short.
        show: Turns a row of the frame into the text of a cell.
        align: Side on which the text stands.
        priority: Where space is short, columns of the highest number go first; 0 always stays.
    """

    header: str
    show: Callable[[Row], str]
    align: Literal["left", "right"] = "right"
    priority: float = 0


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """A data frame and how people see it.

    CSV and JSON hold the frame itself, at full precision; all other formats show the columns.

    Attributes:
        frame: One row per row of the table.
        columns: What is shown of it, from left to right.
        title: What the table is about, in one line; empty for none.
        notes: What a reader has to know about marks and numbers, one paragraph each.
        emphasized: Positions of rows that stand apart, such as that of the float network.
    """

    frame: pd.DataFrame
    columns: Sequence[Column]
    title: str = ""
    notes: Sequence[str] = ()
    emphasized: frozenset[int] = frozenset()

    @property
    def headers(self) -> list[str]:
        """The titles of the columns."""
        return [column.header for column in self.columns]

    @property
    def cells(self) -> list[list[str]]:
        """The text of every cell, one list per row."""
        return [[column.show(row) for column in self.columns] for row in self.frame.to_dict("records")]  # type: ignore[arg-type]

    def print(self, console: Console) -> None:
        """Print the table as :meth:`fit` lays it out."""
        console.print(self.fit(console), highlight=False)

    def fit(self, console: Console) -> RenderableType:
        """Lay the table out; columns that do not fit are left out, the least important first, then long names are broken."""
        shown = list(range(len(self.columns)))
        while not _fits(table := self._to_rich(shown), console):
            least = max(self.columns[index].priority for index in shown)
            if least == 0:
                table = self._to_rich(shown, broken=True)
                break
            shown.remove(max(index for index in shown if self.columns[index].priority == least))
        title = [Text(self.title, style="bold")] if self.title else []
        return Group(*title, table, *(Text(note, style="dim") for note in self.notes))

    def to_markdown(self) -> str:
        """Write a Markdown table, its title above and its notes beneath."""
        rule = ["---:" if column.align == "right" else ":---" for column in self.columns]
        head, *lines = ([_markdown(cell) for cell in line] for line in (self.headers, *self.cells))
        table = "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *lines))
        title = [f"**{_markdown(self.title)}**"] if self.title else []
        return "\n\n".join([*title, table, *map(_markdown, self.notes)]) + "\n"

    def to_csv(self) -> str:
        """Write the frame as CSV."""
        return self.frame.to_csv(index=False, lineterminator="\n")

    def to_latex(self) -> str:
        """Write a LaTeX ``table``; it needs the packages ``booktabs`` and ``textcomp``."""
        sides = "".join("r" if column.align == "right" else "l" for column in self.columns)
        head, *lines = (" & ".join(map(_latex, line)) + r" \\" for line in (self.headers, *self.cells))
        # A bracket or star at the start of a row would be an option of the row before.
        lines = [f"{{}}{line}" if line[0] in "[*" else line for line in lines]
        body = [f"\\midrule\n{line}" if row in self.emphasized else line for row, line in enumerate(lines)]
        caption = [rf"\caption{{{_latex(self.title)}}}"] if self.title else []
        notes = [rf"\par\smallskip\footnotesize {_latex(note)}" for note in self.notes]
        top, bottom = [rf"\begin{{tabular}}{{{sides}}}", r"\toprule", head, r"\midrule"], [r"\bottomrule"]
        tabular = [*top, *body, *bottom, r"\end{tabular}"]
        return "\n".join([r"\begin{table}", r"\centering", *caption, *tabular, *notes, r"\end{table}", ""])

    def to_html(self) -> str:
        """Write an HTML fragment: a ``table`` with its caption, and a paragraph per note."""
        head = "".join(f'<th class="{column.align}">{escape(column.header)}</th>' for column in self.columns)
        lines = []
        for row, cells in enumerate(self.cells):
            marked = ' class="emphasized"' if row in self.emphasized else ""
            written = zip(self.columns, cells, strict=True)
            filled = "".join(f'<td class="{column.align}">{escape(cell)}</td>' for column, cell in written)
            lines.append(f"<tr{marked}>{filled}</tr>")
        caption = f"<caption>{escape(self.title)}</caption>\n" if self.title else ""
        notes = "".join(f'<p class="note">{escape(note)}</p>\n' for note in self.notes)
        body = "\n".join(lines)
        return f"<table>\n{caption}<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n{notes}"

    _repr_html_ = to_html  # what notebooks show

    def _to_rich(self, shown: Sequence[int], broken: bool = False) -> RichTable:
        """A table for the console; ``broken`` puts the options of names on lines of their own."""
        table = RichTable(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
        for index in shown:
            column = self.columns[index]
            table.add_column(Text(column.header), justify=column.align, no_wrap=not broken, overflow="fold")
        for row, cells in enumerate(self.cells):
            if row in self.emphasized:
                table.add_section()
            texts = (Text(cells[index].replace(":", "\n  ") if broken else cells[index]) for index in shown)
            table.add_row(*texts, style="dim" if row in self.emphasized else None)
        return table


def to_records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Turn a frame into JSON-ready rows, numbers at full precision, missing values as None."""
    records = frame.to_dict("records")
    return [{str(column): None if pd.isna(value) else value for column, value in row.items()} for row in records]


def number(value: Any, form: str) -> str:
    """Write a number in a format of Python's, such as ``.4f``."""
    return NOTHING if pd.isna(value) else format(value, form)


def integer(value: Any) -> str:
    """Write an integer that a missing value may have turned into a float."""
    return NOTHING if pd.isna(value) else str(int(value))


def span(low: Any, high: Any, form: str) -> str:
    """Write an interval as ``[low, high]``."""
    return NOTHING if pd.isna(low) else f"[{low:{form}}, {high:{form}}]"


def magnitude(value: Any) -> str:
    """Write a count to three digits: 950, 12.3k, 4.56M, 7G."""
    if pd.isna(value):
        return NOTHING
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * size:
            return f"{value / size:.3g}{unit}"
    return str(int(value))


def duration(seconds: Any) -> str:
    """Write a time to three digits, in hours, minutes or seconds."""
    if pd.isna(seconds):
        return NOTHING
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def count(number: int, noun: str, plural: str | None = None) -> str:
    """Count things: ``1 seed``, ``2 seeds``, ``2 policies``."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


def _fits(table: RichTable, console: Console) -> bool:
    return Measurement.get(console, console.options.update(width=10_000), table).maximum <= console.width


def _markdown(text: str) -> str:
    return _MARKDOWN_IN_PLACE.sub(r"\\\g<0>", "".join(_MARKDOWN.get(sign, sign) for sign in text))


def _latex(text: str) -> str:
    return _LATEX_LIGATURE.sub(r"\1{}", "".join(_LATEX.get(sign, sign) for sign in text))
