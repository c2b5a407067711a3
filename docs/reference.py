"""Reference pages that are generated while the site is built, so that they cannot go stale.

Everything is read from the code: help texts from the real parsers, options from the registered plug-ins, keys of experiment
files from the pydantic models, theorems from the files that prove them, and the output of the examples by running them.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

import suite
from suite import plugins, testing

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
DOCUMENTED_MODULES = re.findall(r"automodule:: (\S+)", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"))


def write(folder: Path) -> None:
    """Write all generated pages; what an earlier build left is removed first."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "examples").mkdir(parents=True)
    pages = {
        "command-line.md": command_line(),
        "settings.md": settings_reference(),
        "certifiers.md": certifiers(),
        "problems.md": options_of(plugins.PROBLEMS, with_options=False),
        "searchers.md": options_of(plugins.SEARCHERS),
        "protocols.md": options_of(plugins.PROTOCOLS),
        "post-steps.md": options_of(plugins.POST_STEPS),
        "objectives.md": options_of(plugins.OBJECTIVES),
        "costs.md": options_of(plugins.COSTS),
        "plugins.md": kinds(),
        "kits.md": kits(),
        "facade.md": facade(),
    }
    pages |= {f"contract-{name}.md": contract(base) for name, base in _bases().items()}
    for name, text in pages.items():
        (folder / name).write_text(text, encoding="utf-8")
    outputs = {example: run_example(example) for example in EXAMPLES}
    for example, done in outputs.items():
        (folder / "examples" / f"{example.stem}.txt").write_text(done.stdout, encoding="utf-8")
    failed = [f"{example.name}:\n{done.stderr}" for example, done in outputs.items() if done.returncode]
    if failed:
        raise RuntimeError("examples failed:\n" + "\n".join(failed))


def command_line() -> str:
    """The full help of every verb, as its parser prints it."""
    helps = {"": ("--help",), " run": ("run", "--help")}  # the options of `run` are those of the file's study
    helps |= {f" {verb}": (verb, "--help-all") for verb in plugins.STUDIES.names()}
    return "\n".join(f"## bitcert{verb}\n\n```text\n{_bitcert(*given)}```\n" for verb, given in helps.items())


def _bitcert(*arguments: str) -> str:
    environment = {**os.environ, "COLUMNS": "100", "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    command = [sys.executable, "-m", "suite.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
    if done.returncode:
        raise RuntimeError(f"bitcert {' '.join(arguments)} failed with status {done.returncode}: {done.stderr}")
    return done.stdout


def settings_reference() -> str:
    """Every key of an experiment file, with type, default and meaning: the keys of each study, then those of the groups."""
    groups: dict[type[BaseModel], str] = {}
    studies = []
    for name in plugins.STUDIES.names():
        study = plugins.STUDIES.load(name)
        studies.append(f"### study: {name}\n\n{_summary(study)}\n\n{_keys(study.Settings, groups)}")
    sections = [f"### group: {_group(model)}\n\n{_summary(model)}\n\n{text}" for model, text in groups.items()]
    return "\n".join(["## Keys of each study\n", *studies, "## Keys of each group\n", *sections])


def _keys(model: type[BaseModel], groups: dict[type[BaseModel], str]) -> str:
    """A table of a model's keys; the groups found on the way are added to ``groups``."""
    rows = []
    for name, field in model.model_fields.items():
        group = field.annotation
        if isinstance(group, type) and issubclass(group, BaseModel):
            if group not in groups:
                groups[group] = ""
                groups[group] = _keys(group, groups)
            rows.append((f"`{name}`", f"[{_group(group)}](#group-{_group(group)})", "", _summary(group)))
            continue
        if not field.description:
            raise RuntimeError(f"{name} of {model.__module__}.{model.__name__} has no description")
        default = "required" if field.is_required() else _value(field.get_default(call_default_factory=True))
        rows.append((f"`{name}`", f"`{_type(field.annotation)}`", default, field.description))
    return _table(("key", "type", "default", "meaning"), rows)


def _group(model: type[BaseModel]) -> str:
    """Name of a group in headings: ``spend`` of ``SpendSettings``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", model.__name__.removesuffix("Settings")).lower()


def certifiers() -> str:
    """Each certifier with its options and the theorem it rests on, as its file states it."""
    parts = []
    for name in plugins.CERTIFIERS.names():
        found = plugins.CERTIFIERS.load(name)
        theorem = inspect.getdoc(sys.modules[found.__module__]) or ""
        parts.append(f"### {name}\n\n{_summary(found)}\n\n{_options_table(found)}\n```text\n{theorem}\n```\n")
    return "\n".join(parts)


def options_of(kind: plugins.Kind, *, with_options: bool = True) -> str:
    """One section for each registered plug-in of a kind: what it is, its options, its references."""
    if not with_options:
        rows = [(f"`{name}`", _one_line(kind.load(name))) for name in kind.names()]
        return _table((kind.noun, "what it is"), rows)
    return "\n".join(
        f"### {name}\n\n{_body(kind.load(name))}\n\n{_options_table(kind.load(name))}" for name in kind.names()
    )


def kinds() -> str:
    """Where each kind of plug-in is registered."""
    rows = [
        (
            kind.noun,
            f"`suite.plugins.{name}`",
            f"`{kind.group}`",
            f"`{kind.base.replace(':', '.')}`" if kind.base else "",
        )
        for name, kind in vars(plugins).items()
        if isinstance(kind, plugins.Kind)
    ]
    return _table(("kind", "registry", "entry-point group", "inherits from"), rows)


def kits() -> str:
    """The conformance kits of ``suite.testing``, one for each kind that has one."""
    rows = []
    for module in sorted(found.name for found in pkgutil.iter_modules(testing.__path__, f"{testing.__name__}.")):
        for name, found in vars(importlib.import_module(module)).items():
            if name.endswith("Conformance") and found.__module__ == module:
                rows.append((f"`{module}.{name}`", _summary(found)))
    if not rows:
        raise RuntimeError("suite.testing has no conformance kit")
    return _table(("kit", "what it checks"), rows)


def _bases() -> dict[str, str]:
    """The base class of each kind that has one."""
    bases = {name: kind.base for name, kind in plugins.KINDS.items() if kind.base}
    return {"problems": "suite.contract.problem:Problem"} | bases


def contract(base: str) -> str:
    """What a subclass of a kind's base class implements."""
    module, _, name = base.partition(":")
    found = getattr(importlib.import_module(module), name)
    parts = [f"Base class `{module}.{name}`. {_summary(found)} A subclass defines:\n"]
    for member in vars(found):
        if member in found.__abstractmethods__:
            given = vars(found)[member]
            signature = "" if isinstance(given, property) else str(inspect.signature(given)).replace("'", "")
            parts.append(f"`{member}{signature}`\n: {_summary(given)}\n")
    return "\n".join(parts)


def facade() -> str:
    """The names of ``suite``: a table, then the documentation of those that are not on the page already."""
    rows, sections = [], []
    for name in suite.__all__:
        found: Any = getattr(suite, name)
        home = f"{found.__module__}.{found.__qualname__}"
        rows.append((f"{{py:obj}}`suite.{name} <{home}>`", _summary(found)))
        if found.__module__ not in DOCUMENTED_MODULES:
            directive = "autoclass" if isinstance(found, type) else "autofunction"
            sections.append(f".. {directive}:: {home}\n")
    return _table(("name", "what it is"), rows) + "```{eval-rst}\n" + "\n".join(sections) + "```\n"


def run_example(example: Path) -> subprocess.CompletedProcess[str]:
    """Run an example in an empty folder."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(example.parent)]),
        "COLUMNS": "120",
        "NO_COLOR": "1",
        "OMP_NUM_THREADS": "1",
    }
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(example)]
        return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)


def _options_table(found: Any) -> str:
    options = getattr(found, "Options", found)
    if not dataclasses.is_dataclass(options):
        return "No options.\n"
    described = _documented(found)
    for base in reversed(options.__mro__):
        described |= _documented(base)
    rows = [
        (f"`{field.name}`", f"`{_type(field.type)}`", _default(field), described.get(field.name, ""))
        for field in dataclasses.fields(options)
        if field.init
    ]
    return _table(("option", "type", "default", "meaning"), rows)


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return _value(field.default_factory())
    return "required" if field.default is dataclasses.MISSING else _value(field.default)


def _value(value: Any) -> str:
    return "" if value is PydanticUndefined else f"`{value}`" if isinstance(value, (str, BaseModel)) else f"`{value!r}`"


def _type(annotation: Any) -> str:
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return re.sub(r"\b(?:\w+\.)+(?=[A-Z])", "", text).replace("NoneType", "None")


def _doc(found: Any) -> str:
    """A docstring with its reStructuredText marks as Markdown."""
    return re.sub(r":\w+:`[~.]?([^`]+)`", r"`\1`", (inspect.getdoc(found) or "").replace("``", "`"))


def _summary(found: Any) -> str:
    return _doc(found).split("\n\n")[0].replace("\n", " ")


def _one_line(found: Any) -> str:
    return getattr(found, "summary", None) or _summary(found)


def _body(found: Any) -> str:
    """A docstring as prose: its paragraphs and its references; arguments have a table of their own."""
    paragraphs, references, section = [], [], ""
    for block in _doc(found).split("\n\n"):
        first = block.split("\n")[0].rstrip(":")
        if first in _SECTIONS:
            section = first
            if section == "References":
                references += [line.strip() for line in block.split("\n")[1:]]
        elif not block.startswith(" "):
            section = ""
            paragraphs.append(block.replace("\n", " "))
    told = "\n\n".join(paragraphs)
    return told + (f"\n\n*{' '.join(references)}*" if references else "")


_SECTIONS = ("Args", "Attributes", "Raises", "Returns", "References", "Example", "Examples", "Note", "Yields")


def _documented(found: Any) -> dict[str, str]:
    """What the ``Args`` or ``Attributes`` section of a docstring says of each name."""
    meanings: dict[str, str] = {}
    names: list[str] = []
    inside = False
    for line in _doc(found).split("\n"):
        if not line.startswith(" ") and line.strip():
            inside = line.rstrip(":") in ("Args", "Attributes")
        elif inside and line.startswith("    ") and not line.startswith("     ") and ":" in line:
            given, _, meaning = line.strip().partition(":")
            names = [name.strip().split(" ")[0] for name in given.split(",")]
            meanings |= dict.fromkeys(names, meaning.strip())
        elif inside and line.strip():
            for name in names:
                meanings[name] += f" {line.strip()}"
    return meanings


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    text = "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)
    return f"{text}\n" if len(lines) > 2 else "No options.\n"
