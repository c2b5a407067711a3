"""The verb ``build-table``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from suite.contract.per_mac import MAX_BITS
from suite.errors import BitcertError
from suite.studies.model import BudgetTexts, Group, ProtocolNames, Searchers, SettingError, keyed, setting
from suite.studies.settings import ExecutorSettings, NetworkSettings
from suite.studies.study import Study

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from suite.problems.vision import VisionProblem
    from suite.studies.build_table.build import Measurements
    from suite.studies.plan import Plan
    from suite.tables.series import Series


class TableSettings(Group):
    """Settings of a table."""

    problem: NetworkSettings = NetworkSettings()
    protocols: ProtocolNames = setting(("ptq",), "how policies become networks; each is measured", metavar="A,B,...")
    fidelities: str = setting(
        "120x64",
        "search images x noise samples of the evaluations to replay, several separated by commas",
        metavar="AxB",
    )
    noise_seeds: int = setting(2, "noises with which each is measured", ge=1)
    finetune_steps: int | None = setting(
        None, "optimizer steps before each measurement, for protocols that finetune (default: the protocol's)", ge=1
    )
    trainings: int = setting(
        1,
        "trainings, each with a noise of its own, with which protocols that finetune are measured in their place",
        ge=1,
    )
    exam: str | None = setting(
        None,
        "exam images x noise samples: the truth that searches are judged by (default: that of search images)",
        metavar="AxB",
    )
    exam_seeds: int = setting(1, "noises with which exam images are measured; the truth is their mean", ge=1)
    budgets: BudgetTexts = setting(
        (), "budgets just below which policies are drawn, and at which methods probe", metavar="A,B,..."
    )
    policies: int | None = setting(
        None,
        "how many to draw below each budget, spread over the bits of weights and inputs (default: all of the space)",
        ge=1,
    )
    probes: Searchers = setting(
        (), "methods that probe the network, whose probes are recorded at every budget", metavar="A,B,..."
    )
    probe_seeds: int = setting(4, "seeds of these methods", ge=1)
    batch: str = setting(
        "1/1", "which part of the measurements this run makes, such as 1/4; the last one to end puts them together"
    )
    executor: ExecutorSettings = ExecutorSettings()
    directory: str | None = setting(None, "where parts are kept (default: runs/ and the table's name)", metavar="DIR")
    out: str | None = setting(None, "file to write (default: PROBLEM-sigmaS.parquet here)", metavar="FILE")


class BuildTable(Study[TableSettings, "dict[str, Any]"]):
    """Measure every policy of a problem's space, for searches that cost nothing and are judged by the truth.

    The table goes to a Parquet file with a record beside it; search it as the problem table:file=FILE. Measurements are kept part
    by part: rerun an interrupted command to resume it, or split it by --batch over machines that share the directory. The problem
    should have a small space: few --choices, tied layers, or a number of --policies to draw.
    """

    Settings = TableSettings
    positional = ("problem.name",)
    checked = True

    @cached_property
    def out(self) -> Path:
        """The table."""
        given = self.settings.out or f"{self.settings.problem.name or 'folder'}-sigma{self._sigma:g}.parquet"
        if not given.endswith(".parquet"):
            raise SettingError(("out",), f"a table is written as .parquet, not as {given}")
        return Path(given)

    @cached_property
    def directory(self) -> Path:
        """Where parts are kept."""
        given = self.settings.directory
        return Path("runs") / self.out.stem if given is None else Path(given)

    @property
    def _sigma(self) -> float:
        return self._make(self.settings.protocols[0]).sigma

    def _make(self, protocol: str, budget: str = f"w{MAX_BITS}a{MAX_BITS}") -> VisionProblem:
        """The problem under a protocol, with the budget that allows everything unless another one is given."""
        from suite.problems import load_problem
        from suite.problems.vision import VisionProblem

        given = dict(self.settings.problem)
        with keyed("problem"):
            problem = load_problem(given.pop("name") or "folder", budget=budget, protocol=protocol, **given)
            if type(problem) is not VisionProblem:
                raise BitcertError(f"{problem.name} has no network to measure")
        return problem

    @cached_property
    def measurements(self) -> Measurements:
        """What the table is to hold."""
        from suite.studies.build_table.build import Measurements

        problems = {protocol: self._make(protocol) for protocol in self.settings.protocols}
        return Measurements(problems, tuple(self._series), self._vectors(next(iter(problems.values()))), self.directory)

    @property
    def _series(self) -> Iterator[Series]:
        from suite.protocols import protocol_for
        from suite.tables.series import Series, parse_sizes

        settings = self.settings
        with keyed("fidelities"):
            searched = parse_sizes(settings.fidelities)
        with keyed("exam"):
            examined = [] if settings.exam is None else parse_sizes(settings.exam)
        for name in settings.protocols:
            protocol = protocol_for(name, 0)
            trains = protocol.default_steps > 0
            steps = protocol.choose_steps(settings.finetune_steps if trains else None)
            seeds = settings.trainings if trains else settings.noise_seeds
            first = seeds if trains else 0  # another training is examined
            for images, noise in searched:
                for seed in range(seeds):
                    yield Series(name, "search", images, noise, seed, steps)
            for images, noise in examined:
                for seed in range(1 if trains else settings.exam_seeds):
                    yield Series(name, "exam", images, noise, first + seed, steps)

    def _vectors(self, problem: VisionProblem) -> NDArray[np.int64]:
        import numpy as np

        from suite.studies.build_table.build import every_policy
        from suite.studies.predictors.design import design_policies

        settings = self.settings
        with keyed("policies"):
            if settings.policies is None:
                return every_policy(problem.space)
            if not settings.budgets:
                raise BitcertError("policies are drawn just below budgets; name them")
            drawn = [
                design_policies(self._make(settings.protocols[0], budget), settings.policies)
                for budget in settings.budgets
            ]
        return np.unique([problem.space.encode(policy) for policies in drawn for policy in policies], axis=0)

    def run(self, *, quiet: bool = True) -> dict[str, Any]:
        """Measure what is missing, and put the table together once nothing is."""
        from suite.execute.executor import make_executor
        from suite.report.progress import Progress
        from suite.run.folder import SettingsFile
        from suite.studies.build_table.build import assemble, measure_part
        from suite.studies.compare.run import Batch

        settings, measurements = self.settings, self.measurements
        if self.out.exists():
            raise SettingError(("out",), f"{self.out} exists; choose another --out, or remove it to build it again")
        with keyed("batch"):
            batch = Batch.parse(settings.batch)
        problem = measurements.problem
        with keyed("problem"):
            provenance = problem.provenance()
        wanted = {
            "series": [series.to_dict() for series in measurements.series],
            "policies": measurements.vectors.tolist(),
        }
        content = SettingsFile("table.json", "table")
        content.claim(self.directory, {"problem": provenance, "settings": wanted})
        missing = [
            part for part in measurements.parts[batch.number - 1 :: batch.count] if part in set(measurements.missing())
        ]
        executor = make_executor(settings.executor.name, settings.executor.resources(self.directory))
        with Progress(quiet=quiet) as progress:
            progress.add("measurements", len(missing))
            progress.add("probes", len(settings.probes))
            if missing:
                progress.show()
            for _ in executor.map(measure_part, measurements, missing):
                progress.advance("measurements")
            left = len(measurements.missing())
            if left:
                return {"table": None, "missing": left}
            probes = self._probes(lambda: progress.advance("probes"))
            record = assemble(measurements, self.out, self.experiment, probes)
        return {
            "table": str(self.out),
            **{name: record[name] for name in ("policies", "complete", "exactness", "table_sha256")},
        }

    def _probes(self, on_method: Callable[[], None]) -> dict[str, Any] | None:
        """What methods probe, kept after each method at each budget, so that nothing is probed twice."""
        from suite.files import read_sealed, write_sealed
        from suite.run.registry import make_searcher
        from suite.studies.build_table.build import record_probes

        settings, kept = self.settings, self.directory / "probes.json"
        if not settings.probes:
            return None
        seeds = list(range(settings.probe_seeds))
        record: dict[str, Any] = read_sealed(kept, "a table's probes") if kept.exists() else {}
        for name in settings.probes:
            with keyed("probes"):
                for protocol in settings.protocols:
                    for budget in settings.budgets:
                        answers = record.setdefault(protocol, {})
                        record_probes(self._make(protocol, budget), partial(make_searcher, name), seeds, answers)
                        write_sealed(kept, record)
            on_method()
        return {"seeds": seeds, "methods": list(settings.probes), "budgets": list(settings.budgets), **record}

    @property
    def experiment(self) -> dict[str, Any]:
        """What reproduces it as an experiment file, paths left out."""
        left_out = {"out", "directory", "batch", "executor"}
        own = self.settings.model_dump(mode="json", exclude_defaults=True, exclude=left_out)
        return {"study": "build-table", **own}

    def to_json(self, result: dict[str, Any]) -> str:
        """The table and its record's main figures."""
        return json.dumps(result)

    def show(self, result: dict[str, Any]) -> None:
        """Say where the table is, and how exact its entries are."""
        if result["table"] is None:
            print(f"{result['missing']} parts are left to other batches; parts are in {self.directory}")
            return
        print(f"wrote {self.out}: {result['policies']:,} policies; search it as --problem table:file={self.out}")
        for found in result["exactness"]:
            ratio = "" if found["ratio"] is None else f", {found['ratio']:.1f} times the error of one entry"
            size = f"{found['images']}x{found['noise']} {found['split']} images"
            print(f"  {found['protocol']}, {size}: policies differ by {found['spread']:.4f} in ACR{ratio}")

    def plan(self) -> Plan:
        """Passes as if nothing were shared; neighbours share about two thirds."""
        from suite.studies.plan import plan_for

        measurements = self.measurements
        return replace(
            plan_for(measurements.problem, self.settings.executor, len(measurements.vectors)),
            evaluations=len(measurements.vectors) * len(measurements.series),
            passes={"table": measurements.passes()},
            notes=("neighbouring policies share what their first layers compute: expect about a third of the time",),
        )
