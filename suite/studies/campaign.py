"""The verb ``campaign``."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from suite import plugins
from suite.errors import BitcertError
from suite.files import read_sealed, write_sealed
from suite.run.provenance import hardware
from suite.studies.model import Group, keyed, setting, validate
from suite.studies.study import Study, print_table

if TYPE_CHECKING:
    from suite.report.table import Table
    from suite.studies.experiment import Experiment
    from suite.studies.plan import Plan


class CampaignSettings(Group):
    """Settings of a campaign."""

    files: tuple[str, ...] = setting(
        ...,
        "experiment files, run one after the other; each may use what those before it wrote",
        metavar="FILE",
        min_length=1,
    )
    device: str | None = setting(None, "where everything runs, such as cuda (default: as the files say)")
    directory: str = setting("runs/campaign", "where it is recorded which of them are done", metavar="DIR")


@dataclass(frozen=True, slots=True)
class Stage:
    """One run of one of the files.

    Attributes:
        name: The file's, and the values of its matrix if it has one.
        experiment: What is run.
        path: Its record.
    """

    name: str
    experiment: Experiment
    path: Path

    @property
    def study(self) -> str:
        """Name of the verb."""
        return plugins.STUDIES.name_of(type(self.experiment.study))

    def read(self) -> dict[str, Any]:
        """Its record; of a stage that was never started if there is none, or it was made with other settings."""
        settings = self.experiment.study.settings.model_dump(mode="json")
        fresh = {"study": self.study, "settings": settings, "done": False, "slices": []}
        if not self.path.exists():
            return fresh
        found = read_sealed(self.path, "the record of a stage")
        return found if (found["study"], found["settings"]) == (self.study, settings) else fresh


class Campaign(Study[CampaignSettings, "list[dict[str, Any]]"]):
    """Run experiment files one after the other.

    Run several experiments in order: networks are trained, searched, finetuned and examined by one command. A stage that is done
    is not run again; one that was interrupted is resumed. `bitcert run FILE --slice 10m` stops after ten minutes and goes on when
    it is run again, on another machine too if the folders that the stages write are taken there.
    """

    Settings = CampaignSettings
    positional = ("files",)

    @cached_property
    def stages(self) -> list[Stage]:
        """All stages, their settings validated."""
        from suite.studies.experiment import Document, read_document, read_experiments, study_of

        stages: list[Stage] = []
        for file in self.settings.files:
            with keyed("files"):
                kind = plugins.STUDIES.load(study_of(read_document(file)))
                moved = "problem" in kind.Settings.model_fields and self.settings.device is not None
                override = Document.at(("problem", "device"), self.settings.device, "") if moved else Document({}, {})
                runs = read_experiments(file, override)
            for run in runs:
                if isinstance(run.study, Campaign):
                    raise BitcertError(f"{file} is a campaign itself; list its files instead")
                name = "-".join(filter(None, (Path(file).stem, run.label)))
                if name in [stage.name for stage in stages]:
                    raise BitcertError(f"two stages are called {name}; rename one of the files")
                stages.append(Stage(name, run, Path(self.settings.directory) / f"{name}.json"))
        return stages

    def run(self, *, quiet: bool = True) -> list[dict[str, Any]]:
        """Run what is not done; returns the record of every stage, its results included."""
        records = []
        for number, stage in enumerate(self.stages, 1):
            record = stage.read()
            if not record["done"]:
                if not quiet:
                    print(f"stage {number} of {len(self.stages)}: {stage.name} ({stage.study})", file=sys.stderr)
                record = self._run(stage, record, quiet)
            records.append({"stage": stage.name, **record})
        return records

    def _run(self, stage: Stage, record: dict[str, Any], quiet: bool) -> dict[str, Any]:
        """Run one stage, or resume it."""
        study = stage.experiment.study
        with _timed(stage.path, record), stage.experiment.located():
            result = study.start(quiet=quiet)
            if reason := study.failure(result):
                raise BitcertError(f"stage {stage.name}: {reason}")
            record |= {"result": json.loads(study.to_json(result)), "done": True}
        return record

    def to_json(self, result: list[dict[str, Any]]) -> str:
        """The records."""
        return json.dumps(result, indent=2)

    def show(self, result: list[dict[str, Any]]) -> None:
        """Print what took how long, and where."""
        print_table(stage_table(result))
        print(f"results of every stage in {self.settings.directory}")

    def plans(self) -> Mapping[str, Plan]:
        """One for every stage; of those that are done, one with nothing in it."""
        return {stage.name: _plan(stage) for stage in self.stages}


def _plan(stage: Stage) -> Plan:
    """What a stage will cost; where earlier stages still have to make its network, with the one that comes with bitcert."""
    from suite.studies.plan import Plan

    if stage.read()["done"]:
        return Plan(notes=("done",))
    study, notes = stage.experiment.study, list[str]()
    settings = study.settings.model_dump(mode="json")
    checkpoint = settings.get("problem", {}).get("checkpoint")
    if checkpoint is not None and not Path(checkpoint).exists():
        settings["problem"] |= dict.fromkeys(settings["problem"].keys() & {"checkpoint", "protocol"})
        study = type(study)(validate(type(study.settings), settings))
        notes.append(f"counted with the network that comes with bitcert, while there is no {checkpoint}")
    try:
        plan = study.plan()
    except BitcertError as error:
        return Plan(notes=(f"cannot be planned before the stages above have run: {error}",))
    return replace(plan, notes=(*plan.notes, *notes))


def stage_table(records: list[dict[str, Any]]) -> Table:
    """One row per stage: its study, its seconds, in how many slices, on which hardware."""
    import pandas as pd

    from suite.report.table import Column, Table

    rows = [
        {
            "stage": record["stage"],
            "study": record["study"],
            "seconds": sum(one["seconds"] for one in record["slices"]),
            "slices": len(record["slices"]),
            "hardware": " / ".join(dict.fromkeys(one["hardware"] for one in record["slices"])),
        }
        for record in records
    ]
    columns = [
        Column("stage", lambda row: str(row["stage"]), "left"),
        Column("study", lambda row: str(row["study"]), "left"),
        Column("seconds", lambda row: f"{row['seconds']:,.1f}"),
        Column("slices", lambda row: str(row["slices"])),
        Column("hardware", lambda row: str(row["hardware"]), "left"),
    ]
    return Table(pd.DataFrame(rows), columns)


@contextmanager
def _timed(path: Path, record: dict[str, Any]) -> Iterator[None]:
    """Write the record with a slice more after the block, unless a mistake ended it."""
    started, mistaken = time.monotonic(), False
    try:
        yield
    except BitcertError:
        mistaken = True
        raise
    finally:
        if not mistaken:
            used = {"seconds": time.monotonic() - started, "hardware": hardware()}
            record["slices"] = [*record["slices"], used]
            write_sealed(path, record)
