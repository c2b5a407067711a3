"""What a verb is: settings, the work, and its answer on the console or as JSON."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from suite import plugins
from suite.contract.problem import Problem
from suite.errors import BitcertError, unknown_name
from suite.files import write_text
from suite.studies.model import Group, SettingError, keyed, setting
from suite.studies.settings import ProblemSettings, in_runs

if TYPE_CHECKING:
    from suite.report.table import Table
    from suite.run.records import Run
    from suite.studies.plan import Plan
    from suite.workbench import BenchProblem

EXPERIMENT_FILE = "experiment.yaml"

SettingsT = TypeVar("SettingsT", bound=Group)
ResultT = TypeVar("ResultT")


class Study(ABC, Generic[SettingsT, ResultT]):
    """A verb. Adding one takes a file with a subclass, and a line in ``plugins.STUDIES`` or an entry point.

    The first line of its docstring is its summary in ``bitcert --help``, the rest its description.

    Args:
        settings: What was asked for.

    Attributes:
        Settings: Model of the settings; the command line and experiment files are read with it.
        positional: Settings given by position on the command line, as dotted keys.
        checked: Whether its plan must fit the machine before it runs.
    """

    Settings: type[SettingsT]
    positional: Sequence[str] = ()
    checked: bool = False

    def __init__(self, settings: SettingsT) -> None:
        self.settings = settings

    @abstractmethod
    def run(self, *, quiet: bool = True) -> ResultT:
        """Do it and return what came out; progress goes to standard error unless ``quiet``.

        Raises:
            BitcertError: On a mistake in the settings.
        """

    @abstractmethod
    def to_json(self, result: ResultT) -> str:
        """What ``--json`` prints."""

    @abstractmethod
    def show(self, result: ResultT) -> None:
        """Print the result for people."""

    def failure(self, result: ResultT) -> str | None:
        """Why there is nothing to show although the study ran; None if there is."""

    def status(self, result: ResultT) -> int:
        """The exit status of a result that was shown: 1 if it says that something failed."""
        return 0

    def answer(self, result: ResultT, *, as_json: bool) -> int:
        """Print the result and return the exit status."""
        if reason := self.failure(result):
            print(f"bitcert: {reason}", file=sys.stderr)
            return 1
        if as_json:
            print(self.to_json(result))
        else:
            self.show(result)
        return self.status(result)

    def check(self) -> None:
        """Raise BitcertError if its plan needs more memory than there is, or more hours than its settings allow."""
        if self.checked:
            from suite.studies.plan import check_plan

            check_plan(self.plan())

    def start(self, *, quiet: bool = True) -> ResultT:
        """Run it if it fits the machine."""
        self.check()
        return self.run(quiet=quiet)

    def plan(self) -> Plan:
        """What it will cost at most, by default no forward passes; reads no more than needed and writes nothing."""
        from suite.studies.plan import Plan

        return Plan()

    def plans(self) -> Mapping[str, Plan]:
        """The same by part; one without a name unless the study consists of several."""
        return {"": self.plan()}


class KeptSettings(Group):
    """Settings of a study of a problem that keeps a directory."""

    problem: ProblemSettings = ProblemSettings()
    directory: str | None = setting(
        None, "where everything goes (default: a folder in runs/ named after the study)", metavar="DIR"
    )


KeptT = TypeVar("KeptT", bound=KeptSettings)


class KeptStudy(Study[KeptT, ResultT]):
    """A study of a problem that keeps a directory with journals, from which it is resumed.

    Attributes:
        needs: What the problem must have, such as ``"network to probe"``; nothing if empty.
    """

    needs: str = ""
    checked = True

    def load(self) -> Problem:
        """Make the problem."""
        return self.settings.problem.load()

    def default_directory(self) -> Path:
        """Where everything goes unless the settings say."""
        return in_runs(self.problem, self._name)

    @cached_property
    def problem(self) -> Problem:
        """What is studied."""
        return with_network(self.load(), self.needs) if self.needs else self.load()

    @cached_property
    def directory(self) -> Path:
        """Where everything goes."""
        given = self.settings.directory
        return self.default_directory() if given is None else Path(given)

    def record(self) -> None:
        """Write the resolved settings into the directory, which must be the study's own, as a file for ``bitcert run``."""
        import yaml

        settings = self.settings.model_dump(mode="json", exclude_none=True)
        content = {"study": self._name, **settings, "directory": str(self.directory)}
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)
        write_text(self.directory / EXPERIMENT_FILE, text)

    @property
    def _name(self) -> str:
        return plugins.STUDIES.name_of(type(self))


class ReportedSettings(KeptSettings):
    """Settings of a study that also writes a report."""

    report: str | None = setting(None, "where the report goes (default: DIRECTORY/report)", metavar="DIR")


ReportedT = TypeVar("ReportedT", bound=ReportedSettings)


class ReportedStudy(KeptStudy[ReportedT, ResultT]):
    """A study of a network that also writes a report.

    Attributes:
        json: The file of its report that ``--json`` prints.
    """

    json: str

    @abstractmethod
    def table(self, result: ResultT) -> Table:
        """The result for people."""

    @property
    def report(self) -> Path:
        """Where the report goes."""
        return self.directory / "report" if self.settings.report is None else Path(self.settings.report)

    def to_json(self, result: ResultT) -> str:
        """The JSON of the report."""
        return (self.report / self.json).read_text(encoding="utf-8")

    def show(self, result: ResultT) -> None:
        """Print the table, and where the report is."""
        print_table(self.table(result))
        print(f"report in {self.report}")


def print_table(table: Table) -> None:
    """Print a table on standard output."""
    from rich.console import Console

    table.print(Console())


def check_against(asked: str | None, names: Sequence[str]) -> str:
    """The method that all others are tested against; random need not be there unless it is asked for."""
    if asked is not None and asked not in names:
        raise SettingError(("against",), str(unknown_name("searcher of this comparison", asked, names)))
    return asked or "random"


@keyed("problem")
def with_network(problem: Problem, purpose: str) -> BenchProblem:
    """The problem, which must have a network and images for this purpose, such as ``"network to probe"``."""
    from suite.workbench import bench_problem

    return bench_problem(problem, purpose)


def load_recorded(directory: str, problem: ProblemSettings) -> tuple[Run, Problem]:
    """A run with a best policy, and its problem, made from its record where settings are not given.

    Raises:
        BitcertError: If the folder holds no such run, or a budget other than the run's was given.
    """
    from suite.run.state import load_run

    with keyed("run"):
        run = load_run(directory)
        if run.best is None:
            raise BitcertError(f"the run in {directory} has no successful trial")
    return run, recorded_problem(run.provenance, problem)


def recorded_problem(provenance: Mapping[str, Any], problem: ProblemSettings) -> Problem:
    """The problem of a record, with the given settings where there are any.

    Raises:
        BitcertError: If it cannot be made, or a budget other than the recorded one was given.
    """
    from suite.problems import takes

    recorded = dict(provenance)
    if "based_on" in recorded and problem.name is None:
        recorded["problem"] = recorded["based_on"]
    else:
        recorded |= {"network": None, "image_size": None}
    keys = {"name": "problem", "network": "network", "image_size": "image_size", "budget": "budget", "sigma": "sigma"}
    filled = {name: recorded.get(key) for name, key in keys.items() if getattr(problem, name) is None}
    if problem.budget not in (None, recorded["budget"]):
        raise SettingError(
            ("problem", "budget"),
            f"the recorded budget is {recorded['budget']}, {problem.budget} given; leave --budget out",
        )
    filled |= {
        "objective": recorded["objective"],
        "certify": problem.certify or recorded.get("certify"),
        "seed": recorded.get("problem_seed", 0),
        "protocol": recorded.get("protocol"),
        "replicate": recorded.get("replicate"),
        "engine": recorded.get("engine", "torch"),
        "choices": recorded.get("choices") if takes(problem.name or recorded["problem"], "choices") else None,
    }
    return ProblemSettings.model_construct(**{**dict(problem), **filled}).load()


def check_same_network(provenance: Mapping[str, Any], problem: Problem) -> None:
    """Raise BitcertError if the network or the images are not those of the record whose policy is examined."""
    found = problem.provenance()
    for key, what in (("network_sha256", "network"), ("data_sha256", "images")):
        if provenance[key] != found[key]:
            raise BitcertError(
                f"the run was made with another {what}; give the options of the search again (--checkpoint, --data, --sigma)"
            )
