"""The report of a test for non-inferiority: a table, and certified accuracy by BOPs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from suite.contract.trial import radius_text
from suite.report.figures import Sheet, assign_looks, figure_style
from suite.report.table import Column, Row, Table, span, to_records
from suite.report.write import write_files
from suite.studies.noninferiority.measure import Claims, Judged
from suite.studies.table.report import CertificateTable

_BESIDE = "beside: "


def claim_rows(claims: Claims) -> pd.DataFrame:
    """One row per point.

    Columns:
        series, network, networks: What it is, and how many networks it averages over.
        bops, share: BOPs, and their share of the float network's.
        ``certified@r``, ``float@r``: Certified accuracy, and the float network's.
        ``difference@r``, ``low@r``, ``high@r``: Their difference with its 95 % interval.
        images: Of the exam.
        images_needed: Images for a power of 80 % where there is no difference, at all radii.
        verdict: ``not worse``, ``worse`` or ``undecided``.
        claimed: Whether this point and all of its series with more BOPs are not worse.
    """
    rows = []
    for one in claims.judged:
        point = one.point
        row: dict[str, Any] = {
            "series": point.series,
            "network": point.name,
            "networks": len(point.outcomes),
            "bops": point.bops,
            "share": point.share,
        }
        for radius, found in one.differences.items():
            at = radius_text(radius)
            row |= {f"certified@{at}": found.accuracy, f"float@{at}": found.reference, f"difference@{at}": found.mean}
            row |= {f"low@{at}": found.interval.low, f"high@{at}": found.interval.high}
        row["images"] = len(point.outcomes[0].labels)
        row["images_needed"] = max(found.needed for found in one.differences.values())
        rows.append(row | {"verdict": one.verdict, "claimed": one.claimed})
    return pd.DataFrame(rows)


def claim_table(claims: Claims) -> Table:
    """Lay out the rows for people, with what every series may claim below."""

    def difference(radius: str) -> Column:
        return Column(
            f"r={radius}, less float",
            lambda row: (
                f"{row[f'difference@{radius}']:+.3f} {span(row[f'low@{radius}'], row[f'high@{radius}'], '+.3f')}"
            ),
        )

    def accuracy(radius: str) -> Column:
        return Column(f"r={radius}", lambda row: f"{row[f'certified@{radius}']:.3f}")

    named = [radius_text(radius) for radius in claims.radii]
    columns = [
        Column("series", lambda row: str(row["series"]), "left"),
        Column("network", lambda row: str(row["network"]), "left"),
        Column("share of float BOPs", lambda row: f"{row['share']:.2%}"),
        *(column for radius in named for column in (accuracy(radius), difference(radius))),
        Column("verdict", lambda row: str(row["verdict"]), "left"),
        Column("images needed", _needed),
    ]
    title = f"Not worse than float by more than {claims.margin:g} of certified accuracy at r = {', '.join(named)}"
    return Table(claim_rows(claims), columns, title, notes=_notes(claims))


def claims_content(claims: Claims) -> dict[str, Any]:
    """Margin, radii, rows, and the smallest share of BOPs that each series may claim."""
    smallest = {name: claims.smallest(name) for name in claims.series}
    return {
        "margin": claims.margin,
        "radii": list(claims.radii),
        "rows": to_records(claim_rows(claims)),
        "smallest_share": {name: None if found is None else found.point.share for name, found in smallest.items()},
    }


def write_claims(claims: Claims, beside: Sequence[CertificateTable], directory: Path) -> list[Path]:
    """Write table, JSON and figure, all called ``noninferiority``."""
    return write_files(
        directory,
        ("noninferiority", claim_table(claims)),
        ("noninferiority", claims_content(claims)),
        ("noninferiority", plot_claims(claims, beside)),
    )


@figure_style()
def plot_claims(claims: Claims, beside: Sequence[CertificateTable] = (), ax: Axes | None = None) -> Axes:
    """Certified accuracy against BOPs, a panel for each radius; the float network as a line, with the margin below it.

    Bars are 95 % intervals of the difference from float; hollow points are not claimed. Published classifiers are lines.
    ``ax`` takes the first radius alone.
    """
    count = 1 if ax is not None else len(claims.radii)
    sheet = Sheet.on(ax, (1.6 + 3.1 * count, 3.6), 1, count, sharex=True)
    looks = assign_looks([*claims.series, *(_BESIDE + table.name for table in beside)])
    for axes, radius in zip(sheet.panels, claims.radii, strict=False):
        for series in claims.series:
            points = [one for one in claims.judged if one.point.series == series]
            _plot_series(axes, points, radius, looks[series], series)
        level = claims.judged[0].differences[radius].reference
        axes.axhline(level, color="black", linewidth=1, label="float")
        axes.axhspan(level - claims.margin, level, color="black", alpha=0.12, linewidth=0, label="margin")
        for table in beside:
            look = looks[_BESIDE + table.name]
            share = float(table.certified([radius])[0])
            axes.axhline(share, color=look.color, linestyle=look.dashes, linewidth=0.9, label=table.name)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.3g} %"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set(title=f"r = {radius_text(radius)}", xlabel="share of the float network's BOPs")
    sheet.panels[0].set_ylabel("certified accuracy")
    sheet.legend()
    return sheet.panels[0]


def _plot_series(axes: Axes, points: Sequence[Judged], radius: float, look: Any, name: str) -> None:
    found = [one.differences[radius] for one in points]
    shares = np.array([100 * one.point.share for one in points])
    means = np.array([one.accuracy for one in found])
    low, high = (
        np.abs(np.nan_to_num([getattr(one.interval, end) - one.mean for one in found])) for end in ("low", "high")
    )
    style = {"color": look.color, "marker": look.marker}
    axes.errorbar(
        shares, means, yerr=(low, high), linestyle=look.dashes, elinewidth=0.8, capsize=2, label=name, **style
    )
    hollow = np.array([not one.claimed for one in points])
    axes.plot(shares[hollow], means[hollow], linestyle="none", markerfacecolor="white", zorder=3, **style)


def _needed(row: Row) -> str:
    return f"{row['images_needed']:,}" if row["images_needed"] > row["images"] else "—"


def _notes(claims: Claims) -> list[str]:
    notes = []
    for name in claims.series:
        found = claims.smallest(name)
        if found is None:
            notes.append(f"{name}: no network is shown to be not worse.")
        else:
            notes.append(f"{name}: not worse from {found.point.share:.2%} of the float network's BOPs on.")
    notes.append(
        "Brackets: 95 % interval over images, and over seeds where there are several. Each series is tested from the most BOPs "
        "down and ends at the first network that is not shown to be not worse. Images needed: for 80 % power at all radii where "
        "networks are as good as float; — where the exam had as many. Hollow points of the figure are not claimed."
    )
    return notes
