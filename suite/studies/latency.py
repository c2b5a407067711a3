"""The verb ``latency``."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from suite.contract.problem import Problem
from suite.contract.space import Precision, SearchSpace
from suite.errors import BitcertError
from suite.run.provenance import processor, processor_name
from suite.studies.model import Group, keyed, setting
from suite.studies.settings import ProblemSettings
from suite.studies.study import Study, print_table, with_network

if TYPE_CHECKING:
    from suite.contract.latency import LatencyTable
    from suite.quantize.latency import Check
    from suite.report.progress import Progress
    from suite.report.table import Table
    from suite.studies.plan import Plan

_PURPOSE = "network whose latency could be measured"
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
"""What decides how a processor multiplies bytes."""
_RANGE_IMAGES = 8
_TOLD_APART = 3 * 2**0.5  # standard deviations of one time, for a difference of two


class LatencySettings(Group):
    """Settings of a measurement of latency."""

    problem: ProblemSettings = ProblemSettings()
    out: str = setting("latency.json", "table to write", metavar="FILE")
    batch: int | None = setting(None, "images of one call (default: the problem's)", metavar="N", ge=1)
    repeats: int = setting(12, "rounds; of each time the shortest counts", metavar="N", ge=2)
    precisions: str | None = setting(
        None,
        "bits to measure, such as 2,4,8: all pairs of weights and inputs (default: the problem's)",
        metavar="B,...",
    )
    networks: int = setting(
        12, "random networks, beside uniform ones, that check the sum over layers", metavar="N", expert=True, ge=4
    )


@dataclass(frozen=True, slots=True)
class Measured:
    """A table of latencies.

    Attributes:
        table: The table.
        check: How well it adds up.
        about: The rest of the file.
    """

    table: LatencyTable
    check: Check
    about: Mapping[str, Any]


class Latency(Study[LatencySettings, Measured]):
    """Measure the latency of every layer and precision.

    Time every layer of a problem's integer network at every precision in ONNX Runtime, on one thread of this machine, and whole
    networks beside them. The table is a cost: --budget 'latency:table=FILE<=MICROSECONDS'.
    """

    Settings = LatencySettings
    positional = ("problem.name",)

    @cached_property
    def problem(self) -> Problem:
        """Whose network is timed."""
        return with_network(self.settings.problem.load(), _PURPOSE)

    @cached_property
    def space(self) -> SearchSpace:
        """The problem's space, with the choices that are measured."""
        asked = self.settings.precisions
        if asked is None:
            return self.problem.space
        with keyed("precisions"):
            if not re.fullmatch(r"\d{1,2}(,\d{1,2})*", asked, re.ASCII):
                raise BitcertError(f"precisions are bits separated by commas, such as 2,4,8, got {asked!r}")
            return replace(self.problem.space, choices=tuple(sorted({int(bits) for bits in asked.split(",")})))

    def run(self, *, quiet: bool = True) -> Measured:
        """Measure and write the table."""
        from suite.contract.latency import write_latency
        from suite.quantize import missing_packages
        from suite.report.progress import Progress

        if missing_packages():
            raise BitcertError(f"latency needs {' and '.join(missing_packages())}: pip install 'bitcert[onnx]'")
        space = self.space
        with Progress(quiet=quiet) as progress:
            for stage in ("precisions", "networks", "rounds"):
                progress.add(stage)
            found = self._measure(space, progress)
        write_latency(Path(self.settings.out), found.table, found.about)
        return found

    def _measure(self, space: SearchSpace, progress: Progress) -> Measured:
        from suite.quantize.latency import Exporter, check, check_policies, find_kernels, measure
        from suite.workbench import workbench_of

        settings, bench = self.settings, workbench_of(self.problem, _PURPOSE)
        batch = settings.batch or bench.batch
        with bench.fixed_threads():
            exporter = Exporter(bench.executed, bench.statistics_batches[0][:_RANGE_IMAGES])
            kernels = find_kernels(space, exporter, progress.update)
            policies = check_policies(space, settings.networks, settings.problem.seed)
            table, timed = measure(kernels, policies, exporter, batch, settings.repeats, progress=progress.update)
        checked = check(table, timed)
        uniform = {bits: each.measured for bits, each in zip(space.choices, timed, strict=False)}
        about = {
            "machine": {**describe_machine(), "threads": 1},
            "problem": self.problem.provenance(),
            "batch": batch,
            "repeats": settings.repeats,
            "choices": list(space.choices),
            "finding": describe_finding(uniform, checked.repeatability),
            "check": {
                **{name: value for name, value in asdict(checked).items() if name != "predicted"},
                "reliability": checked.reliability,
                "networks": [
                    {**asdict(each), "policy": each.policy.to_dict(), "predicted": predicted}
                    for each, predicted in zip(timed, checked.predicted, strict=True)
                ],
            },
        }
        return Measured(table, checked, about)

    def to_json(self, result: Measured) -> str:
        """Where the table is, the table itself, and everything about it."""
        return json.dumps({"out": self.settings.out, **result.about, "table": asdict(result.table)})

    def show(self, result: Measured) -> None:
        """Print the layers at the corners of the table, how it adds up, and what it says."""
        print_table(latency_table(result, self.space))
        check, changes = result.check, result.table.changes()
        ranks = "-" if check.rank_correlation is None else f"{check.rank_correlation:.2f}"
        print(
            f"sums over layers against whole networks: mean error {check.mean_error:.1%}, rank correlation {ranks} (at best "
            f"{check.reliability**0.5:.2f}: networks differ by {check.spread:.1%}, repeated measurements by "
            f"{check.repeatability:.1%}); uniform networks {check.uniform_error:+.1%}"
        )
        print(
            f"made monotone: {changes['changed']} of {changes['entries']} entries raised, by {changes['mean_increase']:.1%} on "
            f"average over all and {changes['largest_increase']:.1%} at most"
        )
        print(result.about["finding"])
        print(f"{self.settings.out}: use it with --budget 'latency:table={self.settings.out}<=MICROSECONDS'")

    def plan(self) -> Plan:
        """No forward passes that a search would count."""
        from suite.studies.plan import Plan

        return Plan(notes=("a measurement of latency takes a minute or two for small networks",))


def latency_table(result: Measured, space: SearchSpace) -> Table:
    """One row per layer: microseconds per image at the corners of its precisions, and how many kernels execute them."""
    import pandas as pd

    from suite.report.table import NOTHING, Column, Table

    low, high = space.choices[0], space.choices[-1]
    corners = list(dict.fromkeys(Precision(*bits) for bits in ((low, low), (low, high), (high, low), (high, high))))
    rows = []
    for layer in result.table.layers:
        measured, kernels = layer.measured(), len({entry.kernel for entry in layer.entries})
        corner = {f"{bits[0]}/{bits[1]}": measured.get(bits) for bits in corners}
        rows.append({"layer": layer.layer.name, "MACs": layer.layer.macs, "kernels": kernels, **corner})
    frame = pd.DataFrame(rows, dtype=object)

    def microseconds(key: str) -> Column:
        return Column(key, lambda row: NOTHING if row[key] is None else f"{row[key] / 1000:.2f}")

    columns = [
        Column("layer", lambda row: str(row["layer"]), "left"),
        Column("MACs", lambda row: f"{row['MACs']:,}", priority=1),
        Column("kernels", lambda row: str(row["kernels"])),
        *(microseconds(f"{bits[0]}/{bits[1]}") for bits in corners),
    ]
    about = result.about
    note = (
        f"Microseconds per image at weight/input bits, as measured; {result.table.constant / 1000:.2f} more are spent outside of "
        "layers. Kernels: how many different graphs execute all precisions of a layer."
    )
    machine = about["machine"]
    title = f"{about['problem']['problem']}, batch {about['batch']}, ONNX Runtime {machine['onnxruntime']}, {machine['cpu']}"
    return Table(frame, columns, title, [note])


def describe_finding(uniform: Mapping[int, float], repeatability: float) -> str:
    """What fewer bits bring, in one sentence; differences that repetition explains are none.

    Args:
        uniform: Measured time of the uniform network by its bits, in nanoseconds per image.
        repeatability: Standard deviation of one time over repeated measurements, relative to it.
    """
    bits = sorted(uniform, reverse=True)
    text = f"a uniform network takes {uniform[bits[0]] / 1000:.1f} us per image at {bits[0]}/{bits[0]} bits"
    for high, fewer in zip(bits[:2], (bits[1:2], bits[2:]), strict=False):
        if not fewer:
            continue
        best = min(fewer, key=uniform.__getitem__)
        change, which = uniform[best] / uniform[high] - 1, f"{best}/{best}"
        if change < -_TOLD_APART * repeatability:
            text += f"; {which} bits take {-change:.1%} less time than {high}/{high}"
        else:
            which = f"{which} bits bring" if len(fewer) == 1 else f"fewer bits than {high}/{high} bring"
            text += f"; {which} nothing (at best {change:+.1%}, repeated measurements vary by {repeatability:.1%})"
    return text


def describe_machine() -> dict[str, Any]:
    """Processor, what it multiplies bytes with, and versions."""
    from importlib import metadata

    found = processor()
    present = found.get("flags", found.get("Features", "")).split()
    return {
        "cpu": processor_name(found),
        "flags": [flag for flag in _FLAGS if flag in present],
        "system": platform.platform(),
        "onnxruntime": metadata.version("onnxruntime"),
        "onnx": metadata.version("onnx"),
    }
