"""Tables of certificates side by side: exams of bitcert, and the per-image tables that papers publish."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray
from scipy import stats

from suite.errors import BitcertError, unknown_name
from suite.report.curves import certified_shares
from suite.report.exams import find, is_stepped, norm_text
from suite.report.figures import Look, Sheet, assign_looks, figure_style
from suite.report.intervals import subtract, table_interval
from suite.report.table import Column, Row, Table, number, span
from suite.report.write import write_files
from suite.run.outcomes import read_outcome

RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)
_COLUMNS = {"predict", "label", "radius", "correct"}
_POINTS, _MARKS = 1001, 12
_APART = 0.012


@dataclass(frozen=True, slots=True, eq=False)
class CertificateTable:
    """What a classifier certifies, image by image; or several classifiers, such as trainings of one network.

    Attributes:
        name: Shown in table and figure.
        source: The file it was read from; the first of several.
        ids: What the images are called, shape ``(images,)``.
        radius: Certified radius, 0 where a classifier abstains, shape ``(classifiers, images)``.
        correct: Whether the prediction is right, shape ``(classifiers, images)``.
        settings: method, norm, sigma, n0, n, alpha and data_sha256 of an exam; empty for published tables, which do not say and are
            taken as certificates in the L2 norm.
        tried: The radii, ascending, that images were certified at, where an exam tried no others (``sequential``); else None.
    """

    name: str
    source: Path
    ids: NDArray[np.int64]
    radius: NDArray[np.float64]
    correct: NDArray[np.bool_]
    settings: Mapping[str, Any] = field(default_factory=dict)
    tried: tuple[float, ...] | None = None

    @property
    def images(self) -> int:
        """How many there are."""
        return len(self.ids)

    def scores(self, grid: Sequence[float] | None = None) -> NDArray[np.float64]:
        """Certified radius where the prediction is right, else 0; rounded down to the radii of a grid if one is given."""
        radii = np.where(self.correct, self.radius, 0.0)
        if grid is None:
            return radii
        steps = np.array([0.0, *grid])
        return steps[np.searchsorted(steps, radii, side="right") - 1]

    def certified(self, radii: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
        """Certified accuracy at each radius; NaN above the largest one tried."""
        shares = certified_shares(self.radius, self.correct, radii)
        return shares if self.tried is None else np.where(np.asarray(radii) <= self.tried[-1], shares, np.nan)


def read_table(path: Path, name: str | None = None, first: int | None = None) -> CertificateTable:
    """Read an exam of bitcert, or a published table of certificates.

    Exams are JSON as ``bitcert examine --out`` and ``bitcert compare`` write it; tables are as Cohen's ``certify.py`` writes
    them: tab-separated columns idx, label, predict, radius, correct and time, -1 where it abstains.

    Args:
        path: The file.
        name: What to call it; the name of the file if None.
        first: Of a published table, keep the images whose ``idx`` is below this.

    Raises:
        BitcertError: If the file is missing, damaged or of neither kind, or no image is left.
    """
    called = name or path.stem
    if not path.is_file():
        raise BitcertError(f"there is no file {path}")
    if path.suffix == ".json":
        outcome = read_outcome(path)
        certificates = outcome.certificates
        exam = {name: find(outcome.provenance, f"exam.{name}") for name in ("n0", "n", "alpha")}
        shared = {name: find(outcome.provenance, name) for name in ("sigma", "data_sha256")}
        method, correct = outcome.metrics.method, certificates.prediction == outcome.labels
        tried = tuple(sorted(outcome.metrics.certified)) if is_stepped(method) else None
        settings = {"method": method, "norm": outcome.metrics.norm, **exam, **shared}
        return CertificateTable(
            called, path, outcome.image_ids, certificates.radius[None], correct[None], settings, tried
        )
    try:
        rows = pd.read_csv(path, sep="\t")
    except (OSError, ValueError) as error:
        raise BitcertError(f"{path} cannot be read as a table: {str(error).splitlines()[0]}") from error
    if not set(rows.columns) >= _COLUMNS or rows.empty:
        raise BitcertError(
            f"{path} is no table of certificates: it needs tab-separated columns {', '.join(sorted(_COLUMNS))}"
        )
    if first is not None:
        if "idx" not in rows or not (rows["idx"] < first).any():
            raise BitcertError(f"{path} has no images whose idx is below {first}")
        rows = rows[rows["idx"] < first]
    numbers = rows[sorted(_COLUMNS)].apply(pd.to_numeric, errors="coerce")
    if not np.isfinite(numbers.to_numpy(dtype=np.float64)).all() or (numbers["radius"] < 0).any():
        raise BitcertError(f"{path} holds values that are no numbers, or radii below 0")
    right = (numbers["predict"] == numbers["label"]).to_numpy()
    if (right != (numbers["correct"] == 1)).any():
        raise BitcertError(f"{path}: the column 'correct' contradicts 'predict' and 'label'")
    ids = rows.get("idx", rows.index).to_numpy(dtype=np.int64)
    return CertificateTable(called, path, ids, numbers["radius"].to_numpy(dtype=np.float64)[None], right[None])


def read_named(given: str, first: int | None = None) -> CertificateTable:
    """Read ``FILE`` or ``NAME=FILE`` as :func:`read_table` does; names of files may hold equals signs, too."""
    if Path(given).exists() or "=" not in given:
        return read_table(Path(given), first=first)
    cuts = [place for place, character in enumerate(given) if character == "="]
    cut = next((place for place in cuts if Path(given[place + 1 :]).exists()), cuts[0])
    return read_table(Path(given[cut + 1 :]), given[:cut] or None, first)


def together(tables: Sequence[CertificateTable]) -> list[CertificateTable]:
    """Put tables of one name and norm into one, in the order of the first of each.

    Raises:
        BitcertError: If a file comes twice under a name, or tables of one name are of other images or were made
            otherwise, or their images were tried at some radii only.
    """
    made = []
    for name, norm in dict.fromkeys((table.name, norm_of(table)) for table in tables):
        first, *others = [table for table in tables if (table.name, norm_of(table)) == (name, norm)]
        if len({table.source for table in (first, *others)}) <= len(others):
            raise BitcertError(f"a file is given twice under the name {name!r}")
        for other in others:
            if not np.array_equal(first.ids, other.ids) or first.settings != other.settings or first.tried is not None:
                raise BitcertError(
                    f"tables of the name {name!r} are averaged, so they have the same images and settings, and radii that are not "
                    "those of sequential exams; give other tables a name of their own, NAME=FILE"
                )
        radius, correct = (
            np.concatenate([getattr(table, part) for table in (first, *others)]) for part in ("radius", "correct")
        )
        made.append(replace(first, radius=radius, correct=correct))
    return made


def by_norm(tables: Sequence[CertificateTable]) -> dict[str, list[CertificateTable]]:
    """The tables of each norm: radii in different norms answer different questions, and share no column."""
    norms = dict.fromkeys(norm_of(table) for table in tables)
    return {norm: [table for table in tables if norm_of(table) == norm] for norm in norms}


def norm_of(table: CertificateTable) -> str:
    """The norm of a table's radii."""
    return str(table.settings.get("norm", "l2"))


def summary(
    tables: Sequence[CertificateTable], radii: Sequence[float] | None = None, against: str | None = None
) -> pd.DataFrame:
    """One row per table.

    Args:
        tables: With names of their own, in one norm.
        radii: Of the columns; by default those that the tables tried, else :data:`RADII`.
        against: Name of the table whose ACR is subtracted from that of the others, image by image.

    Columns:
        name, images, classifiers: What it is called; how many images it has, and how many classifiers were averaged.
        acr: Average certified radius; missing where images were certified at some radii only.
        acr_down: The same with all radii rounded down to those that every such table tried, so that all can be compared; if
            there is such a table.
        acr_low, acr_high: 95 % interval over images, and over classifiers if there are several, of ``acr_down`` if there is one.
        difference, difference_low, difference_high: From ``against``, where the images are the same, with its interval.
        ``certified@r``: Certified accuracy; missing above the largest radius tried.
        source, method, norm, sigma, n0, n, alpha, data_sha256: Where it comes from.
    """
    grid = common_grid(tables)
    radii = _columns(tables) if radii is None else radii
    baseline = next((table for table in tables if table.name == against), None)
    if against is not None and baseline is None:
        raise unknown_name("table", against, [table.name for table in tables])
    rows = []
    for table in tables:
        interval = table_interval(table.scores(grid))
        rows.append(
            {
                "name": table.name,
                "images": table.images,
                "classifiers": len(table.correct),
                "acr": float(table.scores().mean()) if table.tried is None else None,
                **({} if grid is None else {"acr_down": float(table.scores(grid).mean())}),
                "acr_low": interval.low,
                "acr_high": interval.high,
                **_difference(table, baseline, grid),
                **{f"certified@{r:g}": share for r, share in zip(radii, table.certified(radii), strict=True)},
                "source": table.source.name,
                **table.settings,
            }
        )
    return pd.DataFrame(rows)


def _difference(
    table: CertificateTable, baseline: CertificateTable | None, grid: Sequence[float] | None
) -> dict[str, float]:
    """Mean difference from the baseline, classifier by classifier if there are as many, else from its mean."""
    if baseline is None or baseline is table or not np.array_equal(table.ids, baseline.ids):
        return {}
    differences = subtract(table.scores(grid), baseline.scores(grid))
    interval = table_interval(differences, paired=True)
    means = {"difference": float(differences.mean())}
    return means | {"difference_low": interval.low, "difference_high": interval.high}


def common_grid(tables: Sequence[CertificateTable]) -> list[float] | None:
    """Radii above 0 that all tables with tried radii have tried; None if no table has such."""
    tried = [set(table.tried) for table in tables if table.tried is not None]
    return sorted(set.intersection(*tried) - {0.0}) if tried else None


def _columns(tables: Sequence[CertificateTable]) -> Sequence[float]:
    """Radii to show: in the L2 norm the usual ones, else those that were tried by all."""
    grid = common_grid(tables)
    return RADII if norm_of(tables[0]) == "l2" or grid is None else [0.0, *grid]


@figure_style()
def plot_tables(tables: Sequence[CertificateTable], ax: Axes | None = None) -> Axes:
    """Certified accuracy against radius: one step curve per table, and a panel for each norm.

    Where only some radii were certified, points with their 95 % Clopper-Pearson intervals over images, a little apart.

    Args:
        tables: With names of their own, in each norm.
        ax: Where to draw, for tables of one norm.
    """
    norms, looks = by_norm(tables), assign_looks(dict.fromkeys(table.name for table in tables))
    sheet = Sheet.on(ax, (7.2, 3.8), 1, len(norms), sharey=True) if len(norms) > 1 else Sheet.on(ax, (7.2, 3.8))
    for axes, group in zip(sheet.panels, norms.values(), strict=True):
        _draw(axes, group, looks)
    for axes in sheet.panels[1:]:
        axes.set_ylabel("")
    sheet.legend()
    return sheet.panels[0]


def _draw(axes: Axes, tables: Sequence[CertificateTable], looks: Mapping[str, Look]) -> None:
    """Tables of one norm."""
    found = [float(table.radius[table.correct].max(initial=0.0)) for table in tables]
    largest = max(*found, *(table.tried[-1] for table in tables if table.tried is not None), 0.0) or 1.0
    radii = np.linspace(0.0, 1.02 * largest, _POINTS)
    step = _POINTS // _MARKS
    pointed = [table for table in tables if table.tried is not None]
    counts = {table.images for table in tables}
    for place, table in enumerate(tables):
        look = looks[table.name]
        label = table.name if len(counts) == 1 else f"{table.name} ({table.images:,} images)"
        if table.tried is None:
            shares = table.certified(radii)
            axes.plot(
                radii,
                shares,
                color=look.color,
                linestyle=look.dashes,
                drawstyle="steps-pre",
                marker=look.marker,
                markevery=[point for point in range(place * step // len(tables), _POINTS, step) if shares[point] > 0],
                label=label,
            )
            continue
        shares = table.certified(table.tried)
        low, high = np.transpose([_share_interval(share, table.images) for share in shares])
        axes.errorbar(
            np.add(table.tried, (pointed.index(table) - (len(pointed) - 1) / 2) * _APART * largest),
            shares,
            yerr=(shares - low, high - shares),
            color=look.color,
            linestyle="",
            marker=look.marker,
            elinewidth=0.8,
            capsize=2,
            clip_on=False,
            label=label,
        )
    sigmas = {table.settings.get("sigma") for table in tables} - {None}
    said = [f"$\\sigma$ = {sigma:g}" for sigma in sigmas if len(sigmas) == 1 and norm_of(tables[0]) == "l2"]
    axes.set_title(", ".join([*said, *(f"{images:,} images" for images in counts if len(counts) == 1)]))
    axes.set(
        xlabel=f"certified {norm_text(norm_of(tables[0]))} radius r",
        ylabel="certified accuracy",
        ylim=(0, None),
        xlim=(0, radii[-1]),
    )


def certificate_table(frame: pd.DataFrame) -> Table:
    """Lay out a :func:`summary` for people."""
    shares = [name for name in frame.columns if name.startswith("certified@")]
    columns = [
        Column("classifier", lambda row: str(row["name"]), "left"),
        Column("images", lambda row: f"{row['images']:,}"),
        *([Column("classifiers", lambda row: str(row["classifiers"]))] if (frame["classifiers"] > 1).any() else []),
        Column("ACR", _three_digits("acr")),
        *([Column("ACR↓", _three_digits("acr_down"))] if "acr_down" in frame else []),
        Column("95 %", lambda row: span(row["acr_low"], row["acr_high"], ".3f")),
        *([Column("difference", _signed)] if "difference" in frame else []),
        *(Column(f"r={name.removeprefix('certified@')}", _three_digits(name)) for name in shares),
    ]
    return Table(frame, columns, notes=_notes(frame))


def write_tables(
    tables: Sequence[CertificateTable],
    directory: Path,
    radii: Sequence[float] | None = None,
    against: str | None = None,
) -> list[Path]:
    """Write table, JSON and figure, all called ``certificates``; of several norms a table each, with the norm in its name."""
    norms, written = by_norm(tables), write_files(directory, ("certificates", plot_tables(tables)))
    for norm, group in norms.items():
        name = "certificates" if len(norms) == 1 else f"certificates-{norm}"
        frame = summary(group, radii, against)
        shown = list(_columns(group) if radii is None else radii)
        written += write_files(directory, (name, certificate_table(frame)), (name, {"radii": shown, "tables": frame}))
    return written


def _notes(frame: pd.DataFrame) -> list[str]:
    """What a reader has to know, a line each."""
    notes = [f"Radii are in the {norm_text(norm)} norm." for norm in frame.get("norm", pd.Series()).dropna().unique()]
    if "acr_down" in frame:
        notes.append(
            "ACR↓: radii rounded down to those that the exams tried, for all classifiers alike; 95 %: its interval over "
            "images. Where a radius above was not tried, nothing is known (—)."
        )
    for row in frame.to_dict("records"):
        said = [
            f"{name} {row[name] if name == 'method' else format(row[name], 'g')}"
            for name in ("method", *(("n0", "n", "alpha", "sigma") if row.get("norm") != "linf" else ()))
            if pd.notna(row.get(name))
        ]
        if said:
            notes.append(f"{row['name']}: {', '.join(said)}")
    return notes


def _share_interval(share: float, count: int) -> tuple[float, float]:
    found = stats.binomtest(round(share * count), count).proportion_ci(0.95, "exact")
    return float(found.low), float(found.high)


def _signed(row: Row) -> str:
    return (
        "—"
        if pd.isna(row["difference"])
        else f"{row['difference']:+.4f} {span(row['difference_low'], row['difference_high'], '+.4f')}"
    )


def _three_digits(column: str) -> Callable[[Row], str]:
    return lambda row: number(row[column], ".3f")
