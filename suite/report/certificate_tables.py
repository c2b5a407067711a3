"""Tables of certificates side by side: exams of bitcert, and the per-image tables that papers publish."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from suite.errors import BitcertError
from suite.files import write_text
from suite.report.appearance import assign_looks, figure_style, place_legend, save_figure
from suite.report.curves import certified_shares
from suite.report.intervals import Interval, mean_interval
from suite.report.provenance import find
from suite.run.exam import read_outcome

SCHEMA_VERSION = 1
RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)
_COLUMNS = {"predict", "label", "radius", "correct"}
_POINTS, _MARKS = 1001, 12
_NAME_WIDTH = 12


@dataclass(frozen=True, slots=True, eq=False)
class CertificateTable:
    """What one classifier certifies, image by image.

    Attributes:
        name: Shown in table and figure.
        source: The file it was read from.
        radius: Certified radius, 0 where the classifier abstains, shape ``(images,)``.
        correct: Whether the prediction is right, shape ``(images,)``.
        settings: method, sigma, n0, n, alpha and data_sha256 of an exam; empty for published tables, which do not say.
    """

    name: str
    source: Path
    radius: NDArray[np.float64]
    correct: NDArray[np.bool_]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def acr(self) -> float:
        """Average certified radius."""
        return float(self._scores.mean())

    @property
    def at_radii_only(self) -> bool:
        """Whether images were certified at some radii only, as sequential exams do."""
        return self.settings.get("method") == "sequential"

    @property
    def acr_interval(self) -> Interval:
        """95 % interval of the ACR over images."""
        return mean_interval(self._scores)

    @property
    def _scores(self) -> NDArray[np.float64]:
        return np.where(self.correct, self.radius, 0.0)


def read_table(path: Path, name: str | None = None) -> CertificateTable:
    """Read an exam of bitcert, or a published table of certificates.

    Exams are JSON as ``bitcert examine --out`` and ``bitcert compare`` write it; tables are as Cohen's ``certify.py`` writes
    them: tab-separated columns idx, label, predict, radius, correct and time, -1 where it abstains.

    Args:
        path: The file.
        name: What to call it; the name of the file if None.

    Raises:
        BitcertError: If the file is missing, damaged or of neither kind.
    """
    called = name or path.stem
    if path.suffix == ".json":
        outcome = read_outcome(path)
        certificates = outcome.certificates
        exam = {name: find(outcome.provenance, f"exam.{name}") for name in ("n0", "n", "alpha")}
        shared = {name: find(outcome.provenance, name) for name in ("sigma", "data_sha256")}
        settings = {"method": outcome.metrics.method, **exam, **shared}
        return CertificateTable(called, path, certificates.radius, certificates.prediction == outcome.labels, settings)
    try:
        rows = pd.read_csv(path, sep="\t")
    except (OSError, ValueError) as error:
        raise BitcertError(f"{path} cannot be read as a table: {str(error).splitlines()[0]}") from error
    if not set(rows.columns) >= _COLUMNS or rows.empty:
        raise BitcertError(
            f"{path} is no table of certificates: it needs tab-separated columns {', '.join(sorted(_COLUMNS))}"
        )
    numbers = rows[sorted(_COLUMNS)].apply(pd.to_numeric, errors="coerce")
    if not np.isfinite(numbers.to_numpy(dtype=np.float64)).all() or (numbers["radius"] < 0).any():
        raise BitcertError(f"{path} holds values that are no numbers, or radii below 0")
    right = (numbers["predict"] == numbers["label"]).to_numpy()
    if (right != (numbers["correct"] == 1)).any():
        raise BitcertError(f"{path}: the column 'correct' contradicts 'predict' and 'label'")
    return CertificateTable(called, path, numbers["radius"].to_numpy(dtype=np.float64), right)


def read_named(given: str) -> CertificateTable:
    """Read ``FILE`` or ``NAME=FILE``; names of files may hold equals signs, too."""
    if Path(given).exists() or "=" not in given:
        return read_table(Path(given))
    cuts = [place for place, character in enumerate(given) if character == "="]
    cut = next((place for place in cuts if Path(given[place + 1 :]).exists()), cuts[0])
    return read_table(Path(given[cut + 1 :]), given[:cut] or None)


def summary(tables: Sequence[CertificateTable], radii: Sequence[float] = RADII) -> pd.DataFrame:
    """One row a table: name, images, acr with its 95 % interval over images, ``certified@r``; then source and settings."""
    rows = []
    for table in tables:
        interval = table.acr_interval
        shares = certified_shares(table.radius, table.correct, radii)
        rows.append(
            {
                "name": table.name,
                "images": len(table.correct),
                "acr": table.acr,
                "acr_low": interval.low,
                "acr_high": interval.high,
                **{f"certified@{radius:g}": share for radius, share in zip(radii, shares, strict=True)},
                "source": table.source.name,
                **table.settings,
            }
        )
    return pd.DataFrame(rows)


@figure_style()
def plot_tables(tables: Sequence[CertificateTable]) -> Figure:
    """Certified accuracy against radius, one step curve a table; points where only some radii were certified."""
    figure = Figure(figsize=(7.2, 3.8), layout="constrained")
    axes = figure.subplots()
    largest = max(float(table.radius[table.correct].max(initial=0.0)) for table in tables) or 1.0
    radii, looks = np.linspace(0.0, 1.02 * largest, _POINTS), assign_looks(table.name for table in tables)
    step = _POINTS // _MARKS
    for place, table in enumerate(tables):
        look = looks[table.name]
        known = np.unique(np.append(table.radius[table.correct], 0.0)) if table.at_radii_only else radii
        axes.plot(
            known,
            certified_shares(table.radius, table.correct, known),
            color=look.color,
            linestyle=":" if table.at_radii_only else look.dashes,
            marker=look.marker,
            markevery=1 if table.at_radii_only else (place * step // len(tables), step),
            label=f"{table.name} ({len(table.correct):,} images)",
        )
    axes.set(xlabel="certified L2 radius r", ylabel="certified accuracy", ylim=(0, None), xlim=(0, radii[-1]))
    place_legend(figure, axes)
    return figure


def print_tables(frame: pd.DataFrame, console: Console) -> None:
    """The summary on a console."""
    shown = Table(box=None, padding=(0, 1, 0, 0))
    for number, heading in enumerate(_headings(frame)):
        shown.add_column(heading, justify="right" if number else "left", min_width=None if number else _NAME_WIDTH)
    for cells in _cells(frame):
        shown.add_row(*map(escape, cells))
    console.print(shown)
    for _, row in frame.iterrows():
        said = [
            f"{name} {row[name] if name == 'method' else format(row[name], 'g')}"
            for name in ("method", "n0", "n", "alpha", "sigma")
            if pd.notna(row.get(name))
        ]
        if said:
            console.print(escape(f"{row['name']}: {', '.join(said)}"), highlight=False)


def write_tables(tables: Sequence[CertificateTable], directory: Path, radii: Sequence[float] = RADII) -> list[Path]:
    """Write summary and figure; each file replaces its predecessor in one step.

    Returns:
        The files: ``certificates.csv``, ``.json``, ``.md``, ``.png`` and ``.svg``.
    """
    frame = summary(tables, radii)
    content = {
        "schema_version": SCHEMA_VERSION,
        "radii": list(radii),
        "tables": json.loads(frame.to_json(orient="records", double_precision=15)),
    }
    lines = [_headings(frame), ["---", *["---:"] * (len(_headings(frame)) - 1)], *_cells(frame)]
    texts = {
        "certificates.csv": frame.to_csv(index=False),
        "certificates.json": json.dumps(content, indent=2, allow_nan=False) + "\n",
        "certificates.md": "".join(f"| {' | '.join(line)} |\n" for line in lines),
    }
    for name, text in texts.items():
        write_text(directory / name, text)
    return [directory / name for name in texts] + save_figure(plot_tables(tables), directory / "certificates")


def _headings(frame: pd.DataFrame) -> list[str]:
    radii = [column.removeprefix("certified@") for column in frame.columns if column.startswith("certified@")]
    return ["classifier", "images", "ACR", "95 %", *(f"r={radius}" for radius in radii)]


def _cells(frame: pd.DataFrame) -> list[list[str]]:
    shares = [column for column in frame.columns if column.startswith("certified@")]
    return [
        [
            str(row["name"]),
            f"{row['images']:,}",
            f"{row['acr']:.3f}",
            f"[{row['acr_low']:.3f}, {row['acr_high']:.3f}]",
            *(f"{row[share]:.3f}" for share in shares),
        ]
        for row in frame.to_dict("records")
    ]
