"""The verb ``table``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from suite.errors import BitcertError
from suite.studies.model import Group, keyed, setting
from suite.studies.study import Study, print_table

if TYPE_CHECKING:
    import pandas as pd


class PublishedTables(Group):
    """How tables that papers published are read."""

    first: int | None = setting(
        None,
        "of published tables, keep the images whose idx is below this, such as 1000 for those that exams have",
        metavar="N",
        ge=1,
    )


class TableSettings(PublishedTables):
    """Settings of a table of certificates."""

    files: tuple[str, ...] = setting(
        ...,
        "an exam (JSON, from 'bitcert examine --out' or exams/ of a comparison), or a table of Cohen's certify.py (TSV); "
        "NAME=FILE gives it a name, and those of one name are averaged",
        metavar="FILE",
        min_length=1,
    )
    radii: str | None = setting(None, "radii of the columns (default: 0,0.25,0.5,0.75,1,1.5)", metavar="A,B,...")
    against: str | None = setting(
        None, "name whose ACR is subtracted from that of the others, image by image", metavar="NAME"
    )
    out: str | None = setting(None, "also write certificates.csv, .json, .md, .png and .svg there", metavar="DIR")


class Table(Study[TableSettings, "dict[str, pd.DataFrame]"]):
    """Put certificates of several classifiers side by side.

    Put exams, and the per-image tables of certificates that papers publish, into one table and one figure of certified
    accuracy by radius. Certificates in different norms get a table and a panel each: they answer different questions.
    """

    Settings = TableSettings
    positional = ("files",)

    def run(self, *, quiet: bool = True) -> dict[str, pd.DataFrame]:
        """Read the files, and write table and figure if asked to; returns the rows by norm."""
        from suite.contract.objective import parse_radii
        from suite.studies.table.report import by_norm, read_named, summary, together, write_tables

        settings = self.settings
        with keyed("radii"):
            radii = None if settings.radii is None else parse_radii(settings.radii)
        with keyed("out"):
            if settings.out is not None and Path(settings.out).exists() and not Path(settings.out).is_dir():
                raise BitcertError(f"--out {settings.out} is a file; give a folder")
        with keyed("files"):
            tables = together([read_named(given, settings.first) for given in settings.files])
        with keyed("against"):
            frames = {norm: summary(group, radii, settings.against) for norm, group in by_norm(tables).items()}
        if settings.out is not None:
            write_tables(tables, Path(settings.out), radii, settings.against)
        return frames

    def to_json(self, result: dict[str, pd.DataFrame]) -> str:
        """One record per table and norm."""
        import pandas as pd

        rows = pd.concat(result.values(), ignore_index=True)
        return str(rows.to_json(orient="records", indent=2, double_precision=15))

    def show(self, result: dict[str, pd.DataFrame]) -> None:
        """Print a table for each norm."""
        from suite.studies.table.report import certificate_table

        for frame in result.values():
            print_table(certificate_table(frame))
        if self.settings.out is not None:
            print(f"table and figure in {self.settings.out}")
