"""Measured latency as a cost: a table of nanoseconds for each layer and precision, made monotone, read from a file."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from suite.contract.cost import Cost
from suite.contract.space import Layer, Precision, SearchSpace
from suite.errors import BitcertError
from suite.files import json_sha256, read_sealed, write_sealed

SCHEMA = 1
RULE = (
    "the time of a precision is the longest that was measured at no more weight bits and no more input bits: no time falls when "
    "bits are raised, and none is below what was measured"
)
_KIND = "bitcert latency table"
_WHAT = "a latency table"


class Entry(NamedTuple):
    """Time of one layer at one precision: nanoseconds per image as measured, and after :func:`monotone`.

    ``kernel`` numbers what is executed for it, counted from 0 for each layer; equal ones are measured once.
    """

    weight: int
    activation: int
    kernel: int
    measured: int
    nanoseconds: int


@dataclass(frozen=True, slots=True)
class LayerLatency:
    """A layer and its times."""

    layer: Layer
    entries: tuple[Entry, ...]

    def measured(self) -> dict[Precision, int]:
        """Nanoseconds per image of each precision, as measured."""
        return {Precision(entry.weight, entry.activation): entry.measured for entry in self.entries}

    def prices(self) -> dict[Precision, int]:
        """Nanoseconds per image of each precision."""
        return {Precision(entry.weight, entry.activation): entry.nanoseconds for entry in self.entries}


@dataclass(frozen=True, slots=True)
class LatencyTable:
    """What was measured of a network.

    Attributes:
        layers: All its layers in execution order.
        constant: Nanoseconds per image of everything else.
    """

    layers: tuple[LayerLatency, ...]
    constant: int

    def changes(self) -> dict[str, float | int | str]:
        """How far :func:`monotone` changed what was measured: entries, changed ones, and relative increases."""
        pairs = [(entry.measured, entry.nanoseconds) for layer in self.layers for entry in layer.entries]
        rises = [(made - measured) / measured for measured, made in pairs if measured]
        return {
            "rule": RULE,
            "entries": len(pairs),
            "changed": sum(measured != made for measured, made in pairs),
            "mean_increase": sum(rises) / len(rises) if rises else 0.0,
            "largest_increase": max(rises, default=0.0),
        }


def monotone(measured: Mapping[Precision, int]) -> dict[Precision, int]:
    """Times that never fall when bits are raised: of each precision the longest among those with no more bits in either part.

    It is the smallest such table that is nowhere below the measured one, so a budget is not met by a mistake in its favour.
    """
    return {
        precision: max(
            time
            for other, time in measured.items()
            if other.weight <= precision.weight and other.activation <= precision.activation
        )
        for precision in measured
    }


def layer_latency(layer: Layer, kernels: Mapping[Precision, int], times: Mapping[int, int]) -> LayerLatency:
    """The entries of a layer from the kernel of each precision and the time of each kernel, in nanoseconds per image."""
    measured = {precision: times[kernel] for precision, kernel in kernels.items()}
    made = monotone(measured)
    return LayerLatency(
        layer, tuple(Entry(*bits, kernels[bits], measured[bits], made[bits]) for bits in sorted(kernels))
    )


def write_latency(path: Path, table: LatencyTable, about: Mapping[str, Any]) -> None:
    """Write a table with a checksum, and beside it what it was measured on, how, and how well it adds up (JSON-ready)."""
    from dataclasses import asdict

    content = {"kind": _KIND, "schema": SCHEMA, **about, "monotone": table.changes()}
    write_sealed(path, {**content, "table": asdict(table)}, indent=1)


def read_latency(path: Path) -> tuple[LatencyTable, dict[str, Any]]:
    """Read what :func:`write_latency` wrote: the table, and the rest of the file.

    Raises:
        BitcertError: If the file is missing, damaged, of another kind or of another version, or its times fall when bits rise.
    """
    from pydantic import TypeAdapter, ValidationError

    content = read_sealed(path, _WHAT)
    if content.get("kind") != _KIND:
        raise BitcertError(f"{path} is not {_WHAT}; make one with: bitcert latency PROBLEM --out FILE")
    if content.get("schema") != SCHEMA:
        raise BitcertError(
            f"{path} is {_WHAT} of schema {content.get('schema')!r}, this version reads {SCHEMA}; measure it again"
        )
    try:
        table = TypeAdapter(LatencyTable).validate_json(json.dumps(content.pop("table", None)), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BitcertError(
            f"{path} is not {_WHAT} that can be used: {where}: {first['msg']}; measure it again"
        ) from None
    for layer in table.layers:
        prices = layer.prices()
        if monotone(prices) != prices or min(prices.values(), default=0) < 0 or table.constant < 0:
            raise BitcertError(
                f"{path} is not {_WHAT} that can be used: times of layer {layer.layer.name} fall or are negative"
            )
    return table, content


@dataclass(frozen=True, slots=True)
class Latency(Cost):
    """Time of one image as measured by ``bitcert latency``: the sum over layers of a table's entries, and a constant.

    Attributes:
        table: File with the table. It is for one network, one machine and one batch size.
        sha256: Of the content: costs are equal only if their tables are.
    """

    name: ClassVar[str] = "latency"
    unit: ClassVar[str] = "microseconds per image"
    per_unit: ClassVar[int] = 1000
    table: str
    sha256: str = field(init=False, repr=False)
    _constant: int = field(init=False, repr=False, compare=False)
    _prices: dict[str, tuple[Layer, dict[Precision, int]]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        found, _ = read_latency(Path(self.table))
        prices = {each.layer.name: (each.layer, each.prices()) for each in found.layers}
        content = [[name, repr(layer), sorted(times.items())] for name, (layer, times) in prices.items()]
        object.__setattr__(self, "sha256", json_sha256([found.constant, content]))
        object.__setattr__(self, "_constant", found.constant)
        object.__setattr__(self, "_prices", prices)

    def of_layer(self, layer: Layer, precision: Precision) -> int:
        """Nanoseconds per image of the layer at the precision.

        Raises:
            BitcertError: If the table is of another network, or has no such entry.
        """
        known, prices = self._prices.get(layer.name, (None, {}))
        if known != layer:
            what = "has no such layer" if known is None else "was measured for another one of this name"
            raise BitcertError(
                f"the latency table {self.table} is for another network: layer {layer.name!r}: it {what}; measure this network"
            )
        if precision not in prices:
            weights, activations = (sorted({bits[part] for bits in prices}) for part in (0, 1))
            raise BitcertError(
                f"the latency table {self.table} has no entry for layer {layer.name!r} at {precision[0]}/{precision[1]} bits, "
                f"only for {weights} by {activations}; measure it again with --precisions"
            )
        return prices[Precision(*precision)]

    def constant(self, space: SearchSpace) -> int:
        """Nanoseconds per image of what belongs to no layer.

        Raises:
            BitcertError: If the table is of another network, or lacks an entry that the space needs.
        """
        _check(self, space)
        return self._constant

    def layer_names(self) -> tuple[str, ...]:
        """The layers of the table's network."""
        return tuple(self._prices)


@functools.lru_cache(maxsize=64)
def _check(cost: Latency, space: SearchSpace) -> None:
    """Raise BitcertError unless a table is for the network of a space and has all entries that its policies need."""
    names = {layer.name for layer in space.layers}
    if more := [name for name in cost.layer_names() if name not in names]:
        raise BitcertError(
            f"the latency table {cost.table} is for another network: it has a layer {more[0]!r}; measure this network"
        )
    tied, choices = space.tie_weight_activation, space.choices
    pairs = [Precision(w, a) for w in choices for a in choices if w == a or not tied]
    for position, layer in enumerate(space.layers):
        for precision in dict.fromkeys(space.fill(position, pair) for pair in pairs):
            cost.of_layer(layer, precision)
