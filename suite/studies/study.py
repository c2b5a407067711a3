"""What a verb is: settings, the work, and its answer on the console or as JSON."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from suite import plugins
from suite.errors import BitcertError, unknown_name
from suite.files import write_text
from suite.studies.settings import Group, ProblemSettings, SearchedProblem, SettingError, keyed, setting, with_network

if TYPE_CHECKING:
    from rich.console import Console

    from suite.contract.problem import Problem
    from suite.run.records import Run
    from suite.studies.plan import Plan
    from suite.workbench import BenchProblem

EXPERIMENT_FILE = "experiment.yaml"

SettingsT = TypeVar("SettingsT", bound=Group)
ResultT = TypeVar("ResultT")
Heard = ParamSpec("Heard")


class Study(ABC, Generic[SettingsT, ResultT]):
    """A verb. Adding one takes a file with a subclass, and a line in ``plugins.STUDIES`` or an entry point.

    The first line of its docstring is its summary in ``bitcert --help``, the rest its description.

    Args:
        settings: What was asked for.

    Attributes:
        Settings: Model of the settings; the command line and experiment files are read with it.
        positional: Settings given by position on the command line, as dotted keys.
    """

    Settings: type[SettingsT]
    positional: Sequence[str] = ()

    def __init__(self, settings: SettingsT) -> None:
        self.settings = settings

    @abstractmethod
    def run(self, *, quiet: bool = True) -> ResultT:
        """Do it and return what came out; progress goes to standard error unless ``quiet``.

        Raises:
            BitcertError: On a mistake in the settings.
        """

    @abstractmethod
    def answer(self, result: ResultT, *, as_json: bool) -> int:
        """Print the result and return the exit status."""

    @abstractmethod
    def plan(self) -> Plan:
        """What it will cost at most; reads no more than needed and writes nothing."""


class ReportedSettings(Group):
    """Settings of a study that keeps a directory with journals and a report."""

    directory: str | None = setting(
        None, "where everything goes (default: a folder in runs/ named after the study)", metavar="DIR"
    )
    report: str | None = setting(None, "where the report goes (default: DIRECTORY/report)", metavar="DIR")


ReportedT = TypeVar("ReportedT", bound=ReportedSettings)


class ReportedStudy(Study[ReportedT, ResultT]):
    """A study of a network that keeps a directory, which is resumed, and writes a report.

    Attributes:
        name: Its registered name.
        needs: What a problem must have for it, such as ``"network to probe"``.
        json: The file of its report that ``--json`` prints.
    """

    name: str
    needs: str
    json: str

    @abstractmethod
    def load(self) -> Any:
        """Make the problem."""

    @abstractmethod
    def default_directory(self) -> Path:
        """Where everything goes unless the settings say."""

    @abstractmethod
    def show(self, result: ResultT, console: Console) -> None:
        """Print the result for people."""

    @cached_property
    def problem(self) -> BenchProblem:
        """Whose network it is."""
        return with_network(self.load(), self.needs)

    @cached_property
    def directory(self) -> Path:
        """Where everything goes."""
        given = self.settings.directory
        return self.default_directory() if given is None else Path(given)

    @property
    def report(self) -> Path:
        """Where the report goes."""
        return self.directory / "report" if self.settings.report is None else Path(self.settings.report)

    @cached_property
    def recorder(self) -> Recorder:
        """Writes the settings into the directory."""
        return Recorder(self.name, self.settings, self.directory)

    def answer(self, result: ResultT, *, as_json: bool) -> int:
        """Print the JSON of the report, or else the result and where the report is."""
        from rich.console import Console

        if as_json:
            print((self.report / self.json).read_text(encoding="utf-8"))
            return 0
        self.show(result, Console())
        print(f"report in {self.report}")
        return 0


class Recorder:
    """Writes the resolved settings beside a study's journals, as a file that ``bitcert run`` takes.

    It does so at the first news of the study: the directory is then known to be the study's own.

    Args:
        study: Registered name of the study.
        settings: Its settings.
        directory: Where its journals are.
    """

    def __init__(self, study: str, settings: Group, directory: Path) -> None:
        self._content = {"study": study, **settings.model_dump(mode="json", exclude_none=True)}
        self._content["directory"] = str(directory)
        self._path = directory / EXPERIMENT_FILE
        self._written = False

    def write(self) -> None:
        """Write the file, once."""
        if not self._written:
            import yaml

            write_text(self._path, yaml.safe_dump(self._content, sort_keys=False, allow_unicode=True, width=120))
            self._written = True

    def before(self, callback: Callable[Heard, object] | None) -> Callable[Heard, None]:
        """A callback that writes the file first."""

        def heard(*given: Heard.args, **named: Heard.kwargs) -> None:
            self.write()
            if callback is not None:
                callback(*given, **named)

        return heard


def load_study(name: str) -> type[Study[Any, Any]]:
    """The study registered under a name; raises BitcertError listing the known ones if there is none of that name."""
    study: type[Study[Any, Any]] = plugins.STUDIES.load(name)
    return study


def check_against(asked: str | None, names: Sequence[str]) -> str:
    """The method that all others are tested against; random need not be there unless it is asked for."""
    if asked is not None and asked not in names:
        raise SettingError(("against",), str(unknown_name("searcher of this comparison", asked, names)))
    return asked or "random"


def load_recorded(directory: str, problem: ProblemSettings) -> tuple[Run, ProblemSettings]:
    """A run with a best policy, and the settings of its problem, filled in from its record where they are not given.

    Raises:
        BitcertError: If the folder holds no such run, or a budget other than the run's was given.
    """
    from suite.run.state import load_run

    with keyed("run"):
        run = load_run(directory)
        if run.best is None:
            raise BitcertError(f"the run in {directory} has no successful trial")
    recorded = dict(run.provenance)
    if "based_on" in recorded and problem.name is None:
        recorded["problem"] = recorded["based_on"]
    else:
        recorded |= {"network": None, "image_size": None}
    keys = {"name": "problem", "network": "network", "image_size": "image_size", "budget": "budget", "sigma": "sigma"}
    filled = {name: recorded.get(key) for name, key in keys.items() if getattr(problem, name) is None}
    if problem.budget not in (None, recorded["budget"]):
        raise SettingError(
            ("problem", "budget"),
            f"the budget of the run is {recorded['budget']}, {problem.budget} given; leave --budget out",
        )
    filled |= {
        "objective": recorded["objective"],
        "seed": recorded.get("problem_seed", 0),
        "recalibrate": recorded.get("recalibrate", False),
    }
    searched = SearchedProblem(**problem.model_dump(exclude={"protocol"}), protocol=recorded.get("protocol"))
    return run, searched.model_copy(update=filled)


def check_same_network(run: Run, problem: Problem) -> None:
    """Raise BitcertError if the network or the images are not those of the run whose policy is examined."""
    found = problem.provenance()
    for key, what in (("network_sha256", "network"), ("data_sha256", "images")):
        if run.provenance[key] != found[key]:
            raise BitcertError(
                f"the run was made with another {what}; give the options of the search again (--checkpoint, --data, --sigma)"
            )
