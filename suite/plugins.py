"""Plug-ins: one registry for each kind; their options are read by ``suite.options``.

A plug-in is found in three ways: by a line in the tables below, by an entry point of another package (group
``bitcert.searchers`` and so on), or as ``my_module:Thing``. Nothing is imported before it is used.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import json
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields, is_dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from suite.errors import BitcertError, unknown_name
from suite.options import parse_options, read_options

_registered_alone: ContextVar[bool] = ContextVar("registered_alone", default=False)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of plug-in.

    Attributes:
        noun: What messages call it.
        group: Entry-point group of other packages' plug-ins.
        base: ``module:Class`` that all of them inherit from; empty for none.
        builtin: Name -> ``module:attribute`` of bitcert's own.
    """

    noun: str
    group: str
    base: str
    builtin: Mapping[str, str]

    def names(self) -> tuple[str, ...]:
        """All registered names: bitcert's own first, then those of other packages."""
        return tuple(self._targets())

    def name_of(self, thing: type) -> str:
        """The name a class is registered under, else ``module:Class``: :meth:`load` finds it by either."""
        target = f"{thing.__module__}:{thing.__qualname__}"
        return next((name for name, known in self._targets().items() if known == target), target)

    def load(self, name: str) -> Any:
        """Import what is registered under a name, or found at ``module:Thing``.

        Raises:
            BitcertError: If there is none, it cannot be imported, or it is of another kind; inside of :func:`registered_alone` also
                if it is not registered.
        """
        targets = self._targets()
        if name not in targets and (":" not in name or _registered_alone.get()):
            raise unknown_name(self.noun, name, targets)
        found = _import(targets.get(name, name), f"{self.noun} {name!r}")
        if self.base and not (isinstance(found, type) and issubclass(found, _import(self.base, self.noun))):
            raise BitcertError(
                f"{name!r} cannot be used as {self.noun}: it does not inherit from {self.base.replace(':', '.')}"
            )
        return found

    def parse(self, text: str) -> tuple[str, dict[str, Any]]:
        """Read a name with options, such as ``arq:episodes=64`` or ``my_module:Thing:rate=0.1``; see :func:`parse_options`.

        Raises:
            BitcertError: If a part after the name is not ``option=value``, or an option is given twice.
        """
        name, *given = text.split(":")
        if given and "=" not in given[0] and name not in self._targets():
            name, given = f"{name}:{given[0]}", given[1:]
        return name, parse_options(given, self.noun)

    def options(self, name: str, given: Mapping[str, Any]) -> Any:
        """Read the options of a plug-in into the dataclass that declares them; see :func:`read_options`."""
        found = self.load(name)
        return read_options(f"{self.noun} {name}", getattr(found, "Options", found), given)

    def make(self, text: str, **defaults: Any) -> Any:
        """Make a plug-in that is itself the dataclass of its options from its name, with options after it.

        ``defaults`` apply to options that the plug-in has and the text leaves out.

        Raises:
            BitcertError: As :meth:`load`, :meth:`parse` and :meth:`options`, or if it is no dataclass.
        """
        name, given = self.parse(text)
        found = self.load(name)
        if not is_dataclass(found):
            raise BitcertError(f"{self.noun} {name!r} must be a dataclass, whose fields are its options")
        known = {field.name for field in fields(found)}
        return self.options(name, {key: value for key, value in defaults.items() if key in known} | given)

    def summary(self, name: str) -> str:
        """First docstring line of a registered class, read from its source without importing it; empty if there is none."""
        module, _, attribute = self._targets()[name].partition(":")
        try:
            spec = importlib.util.find_spec(module)
            source = Path(spec.origin).read_bytes() if spec is not None and spec.origin is not None else b""
        except (ImportError, OSError):
            return ""
        classes = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
        found = next((ast.get_docstring(node) for node in classes if node.name == attribute), None)
        return (found or "").partition("\n")[0].replace("``", "")

    def _targets(self) -> dict[str, str]:
        targets = dict(self.builtin)
        for point in _entry_points(self.group):
            if targets.setdefault(point.name, point.value) != point.value:
                raise BitcertError(
                    f"the {self.noun} {point.name!r} is registered twice, as {targets[point.name]} and as {point.value}; "
                    "uninstall one of the two packages"
                )
        return targets


def with_options(name: str, given: Mapping[str, Any]) -> str:
    """Name and options as :meth:`Kind.parse` reads them, from a record; what is None or empty is left out."""
    texts = {option: json.dumps(value).strip('"') for option, value in given.items() if value not in (None, "")}
    return ":".join([name, *(f"{option}={text}" for option, text in texts.items())])


@contextmanager
def registered_alone() -> Iterator[None]:
    """Refuse ``module:Thing`` in a block: for texts of strangers, who are to choose among plug-ins and not to bring code."""
    before = _registered_alone.set(True)
    try:
        yield
    finally:
        _registered_alone.reset(before)


def split_names(text: str) -> tuple[str, ...]:
    """Split a list of names with options at its commas, except before a digit: no name begins with one, values may."""
    return tuple(re.split(r",(?!\d)", text))


def import_target(target: str) -> Any:
    """Import ``module:attribute``; the module may be in the current folder."""
    module, _, attribute = target.partition(":")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    return functools.reduce(getattr, attribute.split("."), importlib.import_module(module))


def _import(target: str, what: str) -> Any:
    try:
        return import_target(target)
    except Exception as error:  # whatever the code of another package raises when it is imported
        raise BitcertError(f"{what} cannot be loaded from {target}: {type(error).__name__}: {error}") from error


@functools.cache
def _entry_points(group: str) -> tuple[metadata.EntryPoint, ...]:
    return tuple(sorted(metadata.entry_points(group=group), key=lambda point: point.name))


SEARCHERS = Kind(
    "searcher",
    "bitcert.searchers",
    "suite.contract.searcher:Searcher",
    {
        "random": "searchers.random_search:RandomSearch",
        "random-filled": "searchers.random_search:RandomFilled",
        "tpe": "searchers.tpe:TPE",
        "nsga2": "searchers.nsga2:NSGA2",
        "arq": "searchers.arq:ARQ",
        "arq+": "searchers.arq:ARQPlus",
        "evolution": "searchers.evolution:Evolution",
        "portfolio": "searchers.portfolio:Portfolio",
        "ranking-ensemble": "searchers.ranking_ensemble:RankingEnsemble",
        "uniform": "baselines.uniform:Uniform",
        "cheapest": "baselines.cheapest:Cheapest",
        "haq": "baselines.haq:HAQ",
        "hawq-v1": "baselines.hawq:HAWQ1",
        "hawq-v2": "baselines.hawq:HAWQ2",
        "hawq-v3": "baselines.hawq:HAWQ3",
        "limpq": "baselines.limpq:LIMPQ",
        "sensitivity-greedy": "baselines.sensitivity:SensitivityGreedy",
        "sensitivity-ilp": "baselines.sensitivity:SensitivityILP",
        "certified-ilp": "baselines.sensitivity:CertifiedILP",
        "interval-ilp": "baselines.sensitivity:IntervalILP",
        "delta-loss": "baselines.delta_loss:DeltaLoss",
        "output-fisher": "baselines.output_fisher:OutputFisher",
        "fit": "baselines.fit:FIT",
        "clado": "baselines.clado:CLADO",
        "adaqat": "baselines.adaqat:AdaQAT",
        "fracbits": "baselines.fracbits:FracBits",
        "nipq": "baselines.nipq:NIPQ",
        "amq": "baselines.amq:AMQ",
    },
)

OBJECTIVES = Kind(
    "objective",
    "bitcert.objectives",
    "suite.contract.objective:Objective",
    {
        "acr": "suite.contract.objective:ACR",
        "clean": "suite.contract.objective:CleanAccuracy",
        "certified": "suite.contract.objective:CertifiedAccuracy",
    },
)

COSTS = Kind(
    "cost",
    "bitcert.costs",
    "suite.contract.cost:Cost",
    {
        "bops": "suite.contract.cost:BOPs",
        "bytes": "suite.contract.cost:ModelSize",
        "state-bytes": "suite.contract.state_memory:StateMemory",
        "latency": "suite.contract.latency:Latency",
    },
)

CERTIFIERS = Kind(
    "certifier",
    "bitcert.certifiers",
    "suite.certify.certifier:Certifier",
    {
        "ranking": "suite.certify.ranking:Ranking",
        "fixed": "suite.certify.fixed:Fixed",
        "irs": "suite.certify.incremental:IRS",
        "incremental": "suite.certify.incremental:Incremental",
        "sequential": "suite.certify.sequential:Sequential",
        "aggregate": "suite.certify.aggregate:Aggregate",
        "interval": "suite.certify.linf.certifiers:Interval",
        "verify": "suite.certify.linf.certifiers:Verify",
    },
)

PROTOCOLS = Kind(
    "protocol",
    "bitcert.protocols",
    "suite.protocols.protocol:Protocol",
    {
        "ptq": "suite.protocols.ptq:PTQ",
        "finetune": "suite.protocols.finetune:Finetune",
        "supernet": "suite.protocols.supernet:Supernet",
    },
)

POST_STEPS = Kind(
    "post-step",
    "bitcert.post_steps",
    "suite.protocols.protocol:PostStep",
    {
        "none": "suite.protocols.protocol:NoPostStep",
        "plain": "suite.protocols.ptq:Plain",
        "recalibrate": "suite.protocols.ptq:Recalibrate",
        "inherited": "suite.protocols.supernet:Inherited",
        "qat": "suite.protocols.qat:QAT",
        "qat-low-lr": "suite.protocols.qat:QATLowRate",
        "swa": "suite.protocols.swa:SWA",
        "swa-masked": "suite.protocols.swa_masked:SWAMasked",
        "sqwa": "suite.protocols.sqwa:SQWA",
        "speq": "suite.protocols.speq:SPEQ",
        "soft": "suite.protocols.soft:Soft",
        "radius": "suite.protocols.radius:Radius",
        "qa-ibp": "suite.protocols.qa_ibp:QAIBP",
    },
)

PROBLEMS = Kind(
    "problem",
    "bitcert.problems",
    "",
    {
        "digits": "suite.problems.catalog:DIGITS",
        "digits-blocks": "suite.problems.catalog:DIGITS_BLOCKS",
        "digits-low": "suite.problems.catalog:DIGITS_LOW",
        "digits-low-four": "suite.problems.catalog:DIGITS_LOW_FOUR",
        "digits-low-ternary": "suite.problems.catalog:DIGITS_LOW_TERNARY",
        "digits-wide2": "suite.problems.catalog:DIGITS_WIDE2",
        "digits-linf": "suite.problems.catalog:DIGITS_LINF",
        "digits-permuted-rnn": "suite.problems.catalog:DIGITS_PERMUTED_RNN",
        "digits-permuted-hadamard": "suite.problems.catalog:DIGITS_PERMUTED_HADAMARD",
        "mnist": "suite.problems.catalog:MNIST",
        "mnist-linf": "suite.problems.catalog:MNIST_LINF",
        "mnist-rows-rnn": "suite.problems.catalog:MNIST_ROWS_RNN",
        "spiking-digits": "suite.problems.catalog:SPIKING_DIGITS",
        "spiking-digits-uniform": "suite.problems.catalog:SPIKING_DIGITS_UNIFORM",
        "spiking-digits-centred": "suite.problems.catalog:SPIKING_DIGITS_CENTRED",
        "spiking-digits-traces": "suite.problems.catalog:SPIKING_DIGITS_TRACES",
        "spiking-mnist": "suite.problems.catalog:SPIKING_MNIST",
        "cifar10-resnet20": "suite.problems.catalog:CIFAR10_RESNET20",
        "cifar10-resnet20-tied": "suite.problems.catalog:CIFAR10_RESNET20_TIED",
        "cifar10-resnet20-wide2": "suite.problems.catalog:CIFAR10_RESNET20_WIDE2",
        "cifar10-resnet32": "suite.problems.catalog:CIFAR10_RESNET32",
        "cifar10-resnet56": "suite.problems.catalog:CIFAR10_RESNET56",
        "cifar10-mobilenetv2": "suite.problems.catalog:CIFAR10_MOBILENETV2",
        "imagenet-resnet18": "suite.problems.catalog:IMAGENET_RESNET18",
        "imagenet-resnet50": "suite.problems.catalog:IMAGENET_RESNET50",
        "imagenet-mobilenetv2": "suite.problems.catalog:IMAGENET_MOBILENETV2",
        "folder": "suite.problems.catalog:FOLDER",
        "digits-table": "suite.problems.tabular:DigitsTable",
        "digits-table-low": "suite.problems.tabular:DigitsTableLow",
        "digits-linf-table": "suite.problems.tabular:DigitsLinfTable",
        "table": "suite.problems.tabular:TabularProblem",
        "surrogate": "suite.problems.surrogate:SurrogateProblem",
        "separable": "suite.problems.separable:SeparableProblem",
    },
)

EXECUTORS = Kind(
    "executor",
    "bitcert.executors",
    "",
    {"inline": "suite.execute.inline:InlineExecutor", "ray": "suite.execute.ray:RayExecutor"},
)

STUDIES = Kind(
    "command",
    "bitcert.studies",
    "",
    {
        "list": "suite.studies.list:ListPlugins",
        "doctor": "suite.studies.doctor:Doctor",
        "train": "suite.studies.train:Train",
        "supernet": "suite.studies.supernet:TrainSupernet",
        "search": "suite.studies.search:Search",
        "compare": "suite.studies.compare:Compare",
        "ablate": "suite.studies.ablate:Ablate",
        "sensitivity": "suite.studies.sensitivity:Sensitivity",
        "examine": "suite.studies.examine:Examine",
        "export": "suite.studies.export:Export",
        "latency": "suite.studies.latency:Latency",
        "post-steps": "suite.studies.post_steps:PostSteps",
        "predictors": "suite.studies.predictors:PredictorStudy",
        "plane": "suite.studies.plane:Plane",
        "watch": "suite.studies.watch:Watch",
        "report": "suite.studies.report:Report",
        "table": "suite.studies.table:Table",
        "noninferiority": "suite.studies.noninferiority:Noninferiority",
        "landscape": "suite.studies.landscape:LandscapeStudy",
        "replay": "suite.studies.replay:ReplayStudy",
        "benchmark": "suite.studies.benchmark:BenchmarkStudy",
        "build-table": "suite.studies.build_table:BuildTable",
        "campaign": "suite.studies.campaign:Campaign",
        "verify-network": "suite.studies.verify_network:VerifyNetwork",
        "submit": "suite.studies.submit:Submit",
        "verify": "suite.studies.verify:Verify",
        "site": "suite.studies.site:Site",
    },
)

KINDS: Mapping[str, Kind] = {
    kind.group.removeprefix("bitcert."): kind
    for kind in (PROBLEMS, SEARCHERS, CERTIFIERS, PROTOCOLS, POST_STEPS, OBJECTIVES, COSTS, EXECUTORS, STUDIES)
}
