"""Experiment files: YAML that says everything about a study, so that one command runs it.

The keys are the settings of the study, in groups, and three more: ``study`` names it, ``include`` names a file that this one
extends, and ``matrix`` lists values of settings (by dotted keys), of which every combination is a run of its own.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from suite import plugins
from suite.errors import BitcertError, unknown_name
from suite.studies.model import Key, SettingError, validate
from suite.studies.study import Study

_MOST_BYTES, _MOST_NODES, _MOST_LEVELS = 1 << 20, 10_000, 20
_LONGEST_NUMBER = 40
_NAMED_GROUPS = ("problem", "executor")
"""Groups that may be given by their name alone."""
_PATHS = ("directory", "report", "out")
"""Where results go: each run of a matrix has its own."""


@dataclass(frozen=True, slots=True)
class Document:
    """Settings as they were written.

    Attributes:
        content: JSON values.
        places: Where each was given: a file and line, or an option.
    """

    content: dict[str, Any]
    places: Mapping[Key, str]

    @classmethod
    def at(cls, key: Key, value: Any, place: str) -> Document:
        """One setting alone; without a place if that is empty."""
        content = value
        for part in reversed(key):
            content = {part: content}
        return cls(content, {key: place} if place else {})

    def over(self, base: Document) -> Document:
        """These settings merged over others, group by group; these win."""
        return Document(_merge(base.content, self.content), {**base.places, **self.places})

    def error(self, key: Key, message: str) -> BitcertError:
        """A mistake at a setting, with the place that comes nearest to it."""
        named = [(*key, word) for word in re.findall(r"\w+", message) if (*key, word) in self.places]
        at = next(iter(named), key)
        nearest = next((at[:length] for length in range(len(at), -1, -1) if at[:length] in self.places), None)
        if nearest is None:
            return BitcertError(message)
        place = self.places[nearest]
        dotted = "" if place.startswith("--") else ".".join(map(str, at))
        return BitcertError(": ".join(filter(None, (place, dotted, message))))


@dataclass(frozen=True, slots=True)
class Experiment:
    """One run of an experiment file.

    Attributes:
        label: Its values of the matrix; empty without one.
        study: What is run, its settings validated.
        document: Where the settings were given.
    """

    label: str
    study: Study[Any, Any]
    document: Document

    @contextlib.contextmanager
    def located(self) -> Iterator[None]:
        """Report where the setting of a mistake was given."""
        try:
            yield
        except SettingError as error:
            raise self.document.error(error.key, str(error)) from None


def run_experiment(experiment: str | Path | Mapping[str, Any], **overrides: Any) -> Any:
    """Run an experiment file, or the same as a dictionary.

    Args:
        experiment: Path of a YAML file, or its content.
        **overrides: Settings that replace those of the file, group by group: ``problem={"budget": "w2.5a2.5"}``.

    Returns:
        What the study returns, such as a :class:`suite.run.records.Comparison`; with a matrix, such results by label.

    Raises:
        BitcertError: If something in the file is wrong; the message says where.
    """
    results = {}
    for run in read_experiments(experiment, Document(_as_json(overrides), {})):
        with run.located():
            results[run.label] = run.study.start()
    return results[""] if list(results) == [""] else results


def read_experiments(experiment: str | Path | Mapping[str, Any], overrides: Document) -> list[Experiment]:
    """Read and validate all runs of an experiment.

    Raises:
        BitcertError: If something in the file is wrong; the message says where.
    """
    document = read_document(experiment)
    study: type[Study[Any, Any]] = plugins.STUDIES.load(study_of(document))
    overrides = _name_groups(overrides)
    runs = []
    for label, cell in _cells(overrides.over(document), overrides):
        settings = {key: value for key, value in cell.content.items() if key not in ("study", "matrix")}
        try:
            runs.append(Experiment(label, study(validate(study.Settings, settings)), cell))
        except SettingError as error:
            raise cell.error(error.key, str(error)) from None
    return runs


def read_document(experiment: str | Path | Mapping[str, Any]) -> Document:
    """Read an experiment with everything it includes, nothing but its syntax checked."""
    if isinstance(experiment, Mapping):
        return _included(_as_json(experiment), {}, Path(), ())
    return _read(Path(experiment), ())


def study_of(document: Document) -> str:
    """Name of the study that a document is about."""
    name = document.content.get("study")
    if name is None:
        raise document.error((), f"study is missing; known: {', '.join(plugins.STUDIES.names())}")
    if not isinstance(name, str) or (name not in plugins.STUDIES.names() and ":" not in name):
        raise document.error(("study",), str(unknown_name("study", str(name), plugins.STUDIES.names())))
    return name


def run_all(runs: list[Experiment], *, as_json: bool) -> int:
    """Run one after the other and print the results; returns the highest exit status."""
    status, printed = 0, {}
    for run in runs:
        shown = io.StringIO()
        with run.located():
            result = run.study.start(quiet=as_json)
        if len(runs) == 1:
            return run.study.answer(result, as_json=as_json)
        with contextlib.redirect_stdout(shown):
            status = max(status, run.study.answer(result, as_json=as_json))
        if as_json:
            printed[run.label] = json.loads(shown.getvalue() or "null")
        else:
            print(f"{run.label}:\n{shown.getvalue()}")
    if as_json:
        print(json.dumps(printed))
    return status


def print_plan(runs: list[Experiment], *, as_json: bool) -> int:
    """Print what the runs will cost, and run nothing."""
    from suite.studies.plan import print_plans, summarize_plans

    plans = {}
    for run in runs:
        with run.located():
            for part, plan in run.study.plans().items():
                plans["-".join(filter(None, (run.label, part))) or plugins.STUDIES.name_of(type(run.study))] = plan
    summary = summarize_plans(plans)
    if as_json:
        print(json.dumps(summary, indent=2))
    else:
        print_plans(summary)
    return 0


def _cells(document: Document, overrides: Document) -> Iterator[tuple[str, Document]]:
    """The runs of a matrix, by label; an axis that is overridden has only that value."""
    matrix = document.content.get("matrix", {})
    if not isinstance(matrix, dict):
        raise document.error(("matrix",), "a matrix is a mapping from dotted keys to lists of values")
    axes = {}
    for name, values in matrix.items():
        key = tuple(name.split("."))
        if not isinstance(values, list) or not values or any(isinstance(value, list | dict) for value in values):
            raise document.error(("matrix", name), "values of a matrix are a list of numbers or text")
        if len(set(map(str, values))) < len(values):
            raise document.error(("matrix", name), f"values of a matrix differ, got {', '.join(map(str, values))}")
        if not _has(overrides.content, key):
            axes[key] = values
    if axes and not {"directory", "out"} & document.content.keys():
        raise document.error(("matrix",), "with a matrix, give a directory (or out); every run adds its values to it")
    for values in itertools.product(*axes.values()):
        label = "-".join(re.sub(r"[^\w.+=-]", "_", str(value)) for value in values)
        cell = document
        for key, value in zip(axes, values, strict=True):
            place = document.places.get(("matrix", ".".join(key)), "")
            cell = _name_groups(Document.at(key, value, place)).over(cell)
        for name in _PATHS if label else ():
            if isinstance(path := document.content.get(name), str):
                stem, suffix = re.fullmatch(r"(.*?)(\.[a-z]+)?", path, re.DOTALL).groups("")  # type: ignore[union-attr]
                cell = Document({name: f"{stem}-{label}{suffix}"}, {}).over(cell)
        yield label, cell


def _read(path: Path, chain: tuple[Path, ...]) -> Document:
    """Read a file and what it includes; ``chain`` are the files that led here."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BitcertError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > _MOST_BYTES:
        raise BitcertError(f"{path} has {len(data):,} bytes; an experiment file has {_MOST_BYTES:,} at most")
    try:
        node = yaml.compose(data.decode("utf-8"), Loader=_CoreLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark is not None else 1
        raise BitcertError(f"{path}:{line}: this is not YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BitcertError(f"{path}:1: this is not YAML: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise BitcertError(f"{path}:1: this is nested too deeply for an experiment file") from None
    if not isinstance(node, yaml.MappingNode):
        what = "empty" if node is None else "not a mapping"
        raise BitcertError(
            f"{path}:1: the file is {what}; an experiment file begins with study: compare, or another study"
        )
    places: dict[Key, str] = {}
    content = _value(node, (), path, places)
    return _included(content, places, path, (*chain, path))


def _included(content: dict[str, Any], places: dict[Key, str], path: Path, chain: tuple[Path, ...]) -> Document:
    base = content.pop("include", None)
    document = _name_groups(Document(content, places))
    if base is None:
        return document
    if not isinstance(base, str):
        raise document.error(("include",), f"include must be the path of one file, got {json.dumps(base)}")
    file = path.parent / base
    if file.resolve() in [before.resolve() for before in chain]:
        circle = " includes ".join(str(before) for before in (*chain, file))
        raise document.error(("include",), f"files include each other: {circle}")
    if not file.is_file():
        raise document.error(("include",), f"there is no file {file}; paths are relative to the including file")
    return document.over(_read(file, chain))


class _CoreLoader(yaml.SafeLoader):
    """YAML's core schema: no dates, no octal or sexagesimal numbers, no yes and no."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (yaml fills it)


for _tag, _pattern, _first in (
    ("null", r"(~|null|)", ["~", "n", ""]),
    ("bool", r"(true|false)", list("tf")),
    ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    ("float", r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    _CoreLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^{_pattern}$"), _first)


_SCALARS: Mapping[str, Callable[[str], Any]] = {
    "str": str,
    "null": lambda _: None,
    "bool": {"true": True, "false": False}.__getitem__,
    "int": int,
    "float": float,
}


def _value(node: yaml.Node, key: Key, path: Path, places: dict[Key, str]) -> Any:
    """The JSON value of a YAML node; the lines of its parts are added to ``places``.

    Raises:
        BitcertError: On repeated keys, tags, and what aliases blow up.
    """

    def refused(part: yaml.Node, message: str) -> BitcertError:
        return BitcertError(f"{path}:{part.start_mark.line + 1}: {message}")

    places.setdefault(key, f"{path}:{node.start_mark.line + 1}")
    if len(places) > _MOST_NODES or len(key) > _MOST_LEVELS:
        raise refused(node, f"too large: more than {_MOST_NODES:,} values or {_MOST_LEVELS} levels")
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*key, place), path, places) for place, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        content: dict[str, Any] = {}
        for name, value in node.value:
            if not isinstance(name, yaml.ScalarNode) or not name.tag.endswith(":str"):
                raise refused(name, "keys are text; quote this one")
            if name.value in content:
                raise refused(name, f"{name.value} is given twice")
            places[*key, name.value] = f"{path}:{name.start_mark.line + 1}"
            content[name.value] = _value(value, (*key, name.value), path, places)
        return content
    text, kind = str(node.value), node.tag.removeprefix("tag:yaml.org,2002:")
    with contextlib.suppress(KeyError, ValueError):
        scalar = _SCALARS[kind](text)
        if not isinstance(scalar, int | float) or (len(text) <= _LONGEST_NUMBER and math.isfinite(scalar)):
            return scalar
    raise refused(node, f"{node.tag} {text[:_LONGEST_NUMBER]!r} is not read; give text, a number, true, false or null")


def _name_groups(document: Document) -> Document:
    """Write groups that are given by their name alone as mappings."""
    content, places = dict(document.content), dict(document.places)
    for group in _NAMED_GROUPS:
        if isinstance(content.get(group), str):
            content[group] = {"name": content[group]}
            if (group,) in places:
                places[group, "name"] = places[group,]
    return Document(content, places)


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in over.items():
        old = merged.get(name)
        merged[name] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _has(content: Any, key: Key) -> bool:
    for part in key:
        if not isinstance(content, dict) or part not in content:
            return False
        content = content[part]
    return True


def _as_json(given: Mapping[str, Any]) -> dict[str, Any]:
    try:
        read: dict[str, Any] = json.loads(json.dumps(dict(given), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise BitcertError(f"an experiment consists of JSON values: {error}") from None
    return read
