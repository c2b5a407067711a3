"""Measure every policy of a table, in parts that are kept, and put them together."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from suite.certify import Task
from suite.contract.probes import Probes, ProbeSettings
from suite.contract.problem import Problem
from suite.contract.searcher import Searcher
from suite.contract.space import SearchSpace
from suite.contract.trial import Metrics
from suite.errors import BitcertError
from suite.files import read_sealed, write_sealed
from suite.problems.vision import VisionProblem, made_like, measure_constant_on
from suite.protocols import protocol_for
from suite.quantize.prefixes import PrefixNetwork
from suite.run.provenance import software
from suite.tables.probes import PROBES, Record, RecordingProbes
from suite.tables.series import Series
from suite.tables.table import columns_of, policy_text, space_sha256, write_table
from suite.workbench import Workbench

PART = 128
"""Policies measured together: neighbours, which share what their first layers compute."""
MOST_POLICIES = 1_000_000
"""Of a complete table."""


@dataclass(frozen=True, eq=False)
class Measurements:
    """What a table is to hold.

    Attributes:
        problems: Of the same network and space, by protocol.
        series: What is measured of every policy.
        vectors: The policies, each an index into the choices for every variable, ascending, shape ``(policies, variables)``.
        folder: Where the parts are kept.
    """

    problems: dict[str, VisionProblem]
    series: tuple[Series, ...]
    vectors: NDArray[np.int64]
    folder: Path

    @property
    def problem(self) -> VisionProblem:
        """The one of the first protocol."""
        return next(iter(self.problems.values()))

    @property
    def parts(self) -> list[tuple[int, int]]:
        """Series and first policy of every part."""
        return [(series, start) for series in range(len(self.series)) for start in range(0, len(self.vectors), PART)]

    def file(self, part: tuple[int, int]) -> Path:
        """Where a part is kept."""
        series, start = part
        return self.folder / "parts" / f"series-{series:03d}-policies-{start:06d}.json"

    def missing(self) -> list[tuple[int, int]]:
        """Parts that have not been measured."""
        return [part for part in self.parts if not self.file(part).exists()]

    def passes(self) -> int:
        """Forward passes of all parts, as if nothing were shared."""
        return len(self.vectors) * sum(
            self.problems[series.protocol].forward_passes(series.fidelity) for series in self.series
        )


def every_policy(space: SearchSpace) -> NDArray[np.int64]:
    """All policies of a space in lexicographic order; raises BitcertError if there are more than a table can hold."""
    if space.cardinality > MOST_POLICIES:
        raise BitcertError(
            f"the space has {space.cardinality:,} policies, more than the {MOST_POLICIES:,} of a complete table; give a number of "
            "policies to draw, or fewer --choices"
        )
    return np.array(list(itertools.product(range(len(space.choices)), repeat=len(space.variables))), dtype=np.int64)


def measure_part(measurements: Measurements, part: tuple[int, int]) -> None:
    """Measure a part and keep it."""
    number, start = part
    series = measurements.series[number]
    problem = measurements.problems[series.protocol]
    if problem.engine == "torch":
        share_prefixes(problem)
    task = problem.setup.task(series.fidelity, series.seed, series.split)
    rows = []
    for vector in measurements.vectors[start : start + PART]:
        found = problem.measure_on(task, problem.space.decode(vector), series.steps, series.seed)
        rows.append({"policy": policy_text(vector), **columns_of(found)})
    write_sealed(measurements.file(part), {"rows": rows})


def share_prefixes(problem: VisionProblem) -> None:
    """Let the networks of a problem keep what their first layers compute; see :class:`.PrefixNetwork`."""
    bench, protocol = problem.bench, protocol_for(problem.protocol, 0)
    start = protocol.starting_point(bench)
    if isinstance(start.executed, PrefixNetwork):
        return
    if start is bench:
        problem.bench = _with_prefixes(bench)
    for key, other in bench.inherited.items():
        if other is start:
            bench.inherited[key] = _with_prefixes(other)


def _with_prefixes(bench: Workbench) -> Workbench:
    return replace(bench, executed=PrefixNetwork(bench.network, bench.space.layers, bench.calibration))


def assemble(
    measurements: Measurements, path: Path, experiment: dict[str, Any], probes: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Put all parts together, with the float network's metrics and how exact entries are; returns the record.

    Raises:
        BitcertError: If a part is missing or damaged.
    """
    if missing := measurements.missing():
        raise BitcertError(f"{len(missing)} of {len(measurements.parts)} parts are not measured yet")
    frames = []
    for number, start in measurements.parts:
        content = read_sealed(measurements.file((number, start)), "a part of a table")
        frames.append(pd.DataFrame(content["rows"]).assign(series=np.int16(number)))
    frame = pd.concat(frames, ignore_index=True).sort_values(["policy", "series"], kind="stable")
    problem, space = measurements.problem, measurements.problem.space
    provenance = problem.provenance()
    record = {
        "problem": problem.name,
        "budget": problem.budget.text,
        "sigma": problem.sigma,
        "problem_seed": problem.seed,
        "space_sha256": space_sha256(space),
        "choices": list(space.choices),
        "policies": len(measurements.vectors),
        "complete": len(measurements.vectors) == space.cardinality,
        "series": [series.to_dict() for series in measurements.series],
        "float": [_reference(measurements, series, _measure_float) for series in measurements.series],
        "constant": [_reference(measurements, series, measure_constant_on) for series in measurements.series],
        "alpha": 1.0 if problem.estimates else problem.alpha if problem.certifier.samples else 0.0,
        "method": problem.certify,
        "norm": problem.norm,
        "exactness": exactness(frame, measurements.series),
        "network_sha256": provenance["network_sha256"],
        "data_sha256": provenance["data_sha256"],
        "provenance": {protocol: each.provenance() for protocol, each in measurements.problems.items()},
        "software": software(),
        "experiment": experiment,
    }
    if probes is not None:
        write_sealed(path.with_name(path.stem + PROBES), probes)
    return write_table(path, record, frame)


def _reference(
    measurements: Measurements, series: Series, measure: Callable[[VisionProblem, Task], Metrics]
) -> dict[str, Any]:
    """What policies of a series are compared with, measured on its images."""
    problem = measurements.problems[series.protocol]
    return measure(problem, problem.setup.task(series.fidelity, series.seed, series.split)).to_dict()


def _measure_float(problem: VisionProblem, task: Task) -> Metrics:
    return problem.measure_on(task, None)


def exactness(frame: pd.DataFrame, series: Sequence[Series]) -> list[dict[str, Any]]:
    """How far policies differ, and how exact one entry is: for each set of series that differ in their noise alone.

    Args:
        frame: As :func:`.write_table` takes it.
        series: By the numbers in the frame.

    Returns:
        ``protocol``, ``split``, ``images``, ``noise``, ``steps``, ``seeds``, the standard deviation of the policies' mean ACR
        (``spread``, the noise's share taken off), that of one entry around it (``error``; None with one seed), and their ratio.
        What a noise moves all policies by together counts neither way: they are compared under the same noise.
    """
    groups: dict[Series, list[int]] = {}
    for number, each in enumerate(series):
        groups.setdefault(replace(each, seed=0), []).append(number)
    found = []
    for group, numbers in groups.items():
        scores = np.stack([frame.loc[frame["series"] == number, "acr"].to_numpy() for number in numbers])
        scores -= scores.mean(axis=1, keepdims=True)
        within = float(scores.var(axis=0, ddof=1).mean()) if len(numbers) > 1 else None
        between = float(scores.mean(axis=0).var(ddof=1)) if scores.shape[1] > 1 else 0.0
        spread = max(0.0, between - (within or 0.0) / len(numbers)) ** 0.5
        error = None if within is None else within**0.5
        content = group.to_dict()
        del content["seed"]
        found.append(
            {
                **content,
                "seeds": len(numbers),
                "spread": spread,
                "error": error,
                "ratio": spread / error if error else None,
            }
        )
    return found


class RecordingProblem(VisionProblem):
    """A problem whose probes are recorded.

    Attributes:
        record: What they answered.
    """

    record: Record

    def probes(self, settings: ProbeSettings) -> Probes:
        """Measurements on training images, recorded."""
        return RecordingProbes(super().probes(settings), settings, self.meter, self.record)


def record_probes(
    problem: VisionProblem, make: Callable[[Problem, int], Searcher], seeds: Sequence[int], record: Record
) -> None:
    """Let a method ask for its first policy, with every seed, and record what it probes; known answers are not measured again.

    Args:
        problem: At the budget of the record.
        make: Makes the method for a problem and a seed.
        seeds: Of the method.
        record: What is known, which grows.
    """
    recording = made_like(problem, RecordingProblem)
    recording.record = record
    for seed in seeds:
        make(recording, seed).ask()
