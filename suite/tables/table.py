"""A table of measured policies as a Parquet file, with a sealed record beside it."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from suite.contract.space import Policy, SearchSpace
from suite.contract.trial import Metrics, radius_text
from suite.errors import BitcertError, unknown_name
from suite.files import json_sha256, read_sealed, write_bytes, write_sealed
from suite.tables.series import Series

SCHEMA = 2
_SHIPPED = Path(__file__).parent / "shipped"
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_CERTIFIED = "certified@"
_PLAIN = ("clean_accuracy", "acr", "forward_passes", "seconds")


@dataclass(frozen=True, eq=False)
class PolicyTable:
    """Policies of a space with what was measured of them.

    Attributes:
        record: Where it comes from, JSON-ready: ``problem``, ``space_sha256``, ``series``, ``alpha``, ``method``, ``norm``,
            hashes, versions.
        space: The policies.
        vectors: Those measured, each an index into the choices for every variable, shape ``(policies, variables)``.
        values: Metric -> shape ``(policies, series)``.
    """

    record: Mapping[str, Any]
    space: SearchSpace
    vectors: NDArray[np.int8]
    values: Mapping[str, NDArray[np.float64]]

    @cached_property
    def series(self) -> tuple[Series, ...]:
        """What was measured of every policy."""
        return tuple(Series.from_dict(content) for content in self.record["series"])

    @property
    def is_complete(self) -> bool:
        """Whether every policy of the space is there."""
        return len(self.vectors) == self.space.cardinality

    @cached_property
    def radii(self) -> tuple[float, ...]:
        """Those of certified accuracies."""
        return tuple(float(name.removeprefix(_CERTIFIED)) for name in self.values if name.startswith(_CERTIFIED))

    @cached_property
    def policies(self) -> list[Policy]:
        """Those measured, in the order of the rows."""
        return [self.space.decode(vector) for vector in self.vectors]

    def row(self, policy: Policy) -> int:
        """The row of a policy; raises BitcertError if it was not measured."""
        try:
            return self._rows[policy]
        except KeyError:
            raise BitcertError(f"the table has no measurement of the policy {policy.to_json()}") from None

    @cached_property
    def _rows(self) -> dict[Policy, int]:
        return {policy: row for row, policy in enumerate(self.policies)}

    def column(self, series: Series) -> int:
        """The column of a series; raises BitcertError if it was not measured."""
        try:
            return self.series.index(series)
        except ValueError:
            known = "; ".join(each.text for each in self.series)
            raise BitcertError(f"the table has no measurement of {series.text}; it has {known}") from None

    def metrics(self, row: int, column: int, bops: int) -> Metrics:
        """What was measured of a policy, as :meth:`suite.contract.problem.Problem.evaluate` returned it."""
        values = {name: value[row, column].item() for name, value in self.values.items()}
        return Metrics(
            clean_accuracy=values["clean_accuracy"],
            acr=values["acr"],
            certified_accuracy={radius: values[_CERTIFIED + radius_text(radius)] for radius in self.radii},
            bops=bops,
            forward_passes=int(values["forward_passes"]),
            seconds=values["seconds"],
            alpha=self.record["alpha"],
            method=self.record["method"],
            norm=self.record.get("norm", "l2"),
        )


def columns_of(metrics: Metrics) -> dict[str, float]:
    """The columns that a table keeps of metrics.

    Raises:
        BitcertError: If they have others, which a table would lose.
    """
    if metrics.acr is None or metrics.certified_accuracy is None or metrics.clean_accuracy is None or metrics.values:
        raise BitcertError(f"tables keep clean accuracy and certified radii, not what {metrics.method} measures")
    plain = {name: float(getattr(metrics, name)) for name in _PLAIN}
    return plain | {_CERTIFIED + radius_text(radius): share for radius, share in metrics.certified_accuracy.items()}


def write_table(path: Path, record: Mapping[str, Any], frame: pd.DataFrame) -> dict[str, Any]:
    """Write a table and its record, the record last: without it there is no table.

    Args:
        path: A name that ends in ``.parquet``; the record has the same with ``.json``.
        record: See :class:`PolicyTable`; schema and hash of the file are added.
        frame: Columns ``policy`` (see :func:`policy_text`), ``series`` (its position in the record), and metrics.

    Returns:
        The record as written, its own checksum left out.

    Raises:
        BitcertError: If the name has another ending.
    """
    if path.suffix != ".parquet":
        raise BitcertError(f"tables are written as .parquet, not as {path.name}")
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False, compression="zstd")
    content = buffer.getvalue()
    write_bytes(path, content)
    sealed = {"schema": SCHEMA, **record, "table_sha256": hashlib.sha256(content).hexdigest()}
    write_sealed(path.with_suffix(".json"), sealed, indent=2)
    return sealed


def read_table(path: Path, space: SearchSpace) -> PolicyTable:
    """Read a table; nothing in it is executed.

    Args:
        path: The Parquet file.
        space: The policies that it is about.

    Raises:
        BitcertError: If a file is missing or damaged, has another schema, is about another space, or lacks a measurement.
    """
    record, content = check_table(path)
    if record["space_sha256"] != space_sha256(space):
        raise BitcertError(f"{path} is about other policies: its layers, choices, pins or ties are not those of today")
    frame = pd.read_parquet(io.BytesIO(content))
    count = len(record["series"])
    names = [name for name in frame.columns if name not in ("policy", "series")]
    frame = frame.sort_values(["policy", "series"], kind="stable")
    texts = frame["policy"].to_numpy()[::count]
    whole = (
        len(frame) == count * len(set(texts))
        and (frame["series"].to_numpy() == np.tile(np.arange(count), len(texts))).all()
    )
    if not whole or len(texts) != record["policies"] or frame[names].isna().any(axis=None):
        raise BitcertError(f"{path} lacks measurements: {record['policies']:,} policies with {count} each are recorded")
    values = {name: frame[name].to_numpy(dtype=np.float64).reshape(-1, count) for name in names}
    return PolicyTable(record, space, np.array([_vector(text) for text in texts], dtype=np.int8), values)


def check_table(path: Path) -> tuple[dict[str, Any], bytes]:
    """The record of a table and the content of its file, which must be the one that the record describes.

    Raises:
        BitcertError: If a file is missing or damaged, or has another schema.
    """
    record = table_record(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BitcertError(f"there is no table at {path}: {error.strerror}") from None
    if hashlib.sha256(content).hexdigest() != record["table_sha256"]:
        raise BitcertError(f"{path} is damaged: its content does not match its record; restore it, or build it again")
    return record, content


def find_table(name: str) -> Path:
    """The Parquet file of a table: a path, or without ``.parquet`` the name of one that comes with bitcert.

    Raises:
        BitcertError: If no table of this name comes with bitcert; those that do are listed.
    """
    if name.endswith(".parquet"):
        return Path(name)
    path = _SHIPPED / f"{name}.parquet"
    if not path.is_file():
        known = (file.stem for file in _SHIPPED.glob("*.parquet"))
        raise BitcertError(f"{unknown_name('table', name, known)}; or name a file that ends in .parquet")
    return path


def table_record(path: Path) -> dict[str, Any]:
    """The record of a table; raises BitcertError if there is none of this schema."""
    record = read_sealed(path.with_suffix(".json"), "a table's record")
    if record.get("schema") != SCHEMA:
        raise BitcertError(
            f"{path} has schema {record.get('schema')}, this bitcert reads {SCHEMA}; build it again by `bitcert build-table`"
        )
    return record


def table_sha256(path: Path) -> str:
    """Hash of a table's content."""
    return str(table_record(path)["table_sha256"])


def space_sha256(space: SearchSpace) -> str:
    """Hash of a space: equal for spaces with the same policies, layer by layer."""
    layers = [[layer.name, layer.kind, layer.macs, layer.parameters] for layer in space.layers]
    variables = [list(slots) for slots in space.flat_variables]
    return json_sha256(
        [layers, list(space.choices), {name: list(pin) for name, pin in space.pinned.items()}, variables]
    )


def policy_text(vector: Sequence[int] | NDArray[np.integer]) -> str:
    """A policy in a table: a character for each variable, ``0`` for the fewest bits."""
    return "".join(_DIGITS[index] for index in vector)


def _vector(text: str) -> list[int]:
    return [_DIGITS.index(character) for character in text]
