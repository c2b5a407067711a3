"""Reference pages that are generated while the site is built, so that they cannot go stale.

Everything is read from the code: help texts from the real parsers, options from the registered plug-ins, keys of experiment
files from the pydantic models, theorems from the files that prove them, and the output of the examples by running them.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from suite import plugins

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SETTINGS_MODULE = "suite.studies.settings"


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
        "facade.md": facade(),
    }
    for name, text in pages.items():
        (folder / name).write_text(text, encoding="utf-8")
    for example in EXAMPLES:
        (folder / "examples" / f"{example.stem}.txt").write_text(run_example(example), encoding="utf-8")


def command_line() -> str:
    """The full help of every verb, as its parser prints it."""
    verbs = dict.fromkeys(["run", *plugins.STUDIES.names()])
    parts = [f"```text\n{_bitcert('--help')}```\n"]
    parts += [f"## bitcert {verb}\n\n```text\n{_bitcert(verb, '--help-all')}```\n" for verb in verbs]
    return "\n".join(parts)


def _bitcert(*arguments: str) -> str:
    environment = {**os.environ, "COLUMNS": "100", "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    command = [sys.executable, "-m", "suite.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
    if done.returncode:
        raise RuntimeError(f"bitcert {' '.join(arguments)} failed with status {done.returncode}: {done.stderr}")
    return done.stdout


def settings_reference() -> str:
    """Every key of an experiment file, with type, default and meaning, from the pydantic models."""
    module = importlib.import_module(SETTINGS_MODULE)
    models = [found for found in vars(module).values() if _is_model(found) and found.__module__ == module.__name__]
    if not models:
        raise RuntimeError(f"{SETTINGS_MODULE} defines no pydantic model: there is nothing to document")
    return "\n".join(_model_section(model) for model in models)


def _is_model(found: object) -> bool:
    return isinstance(found, type) and issubclass(found, BaseModel)


def _model_section(model: type[BaseModel]) -> str:
    documented = _documented(model)
    rows = []
    for name, field in model.model_fields.items():
        meaning = field.description or documented.get(name)
        if not meaning:
            raise RuntimeError(f"{model.__name__}.{name} of {SETTINGS_MODULE} has no description")
        default = "required" if field.is_required() else _value(field.get_default(call_default_factory=True))
        rows.append((f"`{field.alias or name}`", f"`{_type(field.annotation)}`", default, meaning))
    summary = (inspect.getdoc(model) or "").split("\n\n")[0].replace("\n", " ")
    return f"### {model.__name__}\n\n{summary}\n\n" + _table(("key", "type", "default", "meaning"), rows)


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
    return "\n".join(f"### {name}\n\n{_body(kind.load(name))}\n\n{_options_table(kind.load(name))}" for name in kind.names())


def kinds() -> str:
    """Where each kind of plug-in is registered."""
    rows = [
        (kind.noun, f"`suite.plugins.{name}`", f"`{kind.group}`", f"`{kind.base.replace(':', '.')}`" if kind.base else "")
        for name, kind in vars(plugins).items()
        if isinstance(kind, plugins.Kind)
    ]
    return _table(("kind", "registry", "entry-point group", "inherits from"), rows)


def facade() -> str:
    """The names of ``suite``, each linked to where it is documented."""
    import suite

    rows = []
    for name in suite.__all__:
        found = getattr(suite, name)
        summary = (inspect.getdoc(found) or "").split("\n")[0]
        rows.append((f"{{py:obj}}`suite.{name} <{found.__module__}.{found.__qualname__}>`", summary))
    return _table(("name", "what it is"), rows)


def run_example(example: Path) -> str:
    """What an example prints."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(example.parent)]),
        "COLUMNS": "120",
        "NO_COLOR": "1",
        "OMP_NUM_THREADS": "1",
    }
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, str(example)], capture_output=True, text=True, cwd=folder, env=environment, check=False
        )
    if done.returncode:
        raise RuntimeError(f"{example.name} failed with status {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def _options_table(found: Any) -> str:
    options = getattr(found, "Options", found)
    if not dataclasses.is_dataclass(options):
        return "No options.\n"
    chosen = [field for field in dataclasses.fields(options) if field.init]
    if not chosen:
        return "No options.\n"
    described = _documented(found) | _documented(options)
    rows = [
        (f"`{field.name}`", f"`{_type(field.type)}`", _default(field), described.get(field.name, ""))
        for field in chosen
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
    for prefix in ("typing.", "collections.abc.", f"{SETTINGS_MODULE}."):
        text = text.replace(prefix, "")
    return text


def _summary(found: Any) -> str:
    return (inspect.getdoc(found) or "").split("\n\n")[0].replace("\n", " ")


def _one_line(found: Any) -> str:
    return getattr(found, "summary", None) or _summary(found)


def _body(found: Any) -> str:
    """A docstring as prose: its paragraphs and its references; arguments have a table of their own."""
    paragraphs, references, section = [], [], ""
    for block in (inspect.getdoc(found) or "").split("\n\n"):
        first = block.split("\n")[0].rstrip(":")
        if first in _SECTIONS:
            section = first
            if section == "References":
                references += [line.strip() for line in block.split("\n")[1:]]
        elif not block.startswith(" "):
            section = ""
            paragraphs.append(block.replace("``", "`").replace("\n", " "))
    told = "\n\n".join(paragraphs)
    return told + (f"\n\n*{' '.join(references)}*" if references else "")


_SECTIONS = ("Args", "Attributes", "Raises", "Returns", "References", "Example", "Examples", "Note", "Yields")


def _documented(found: Any) -> dict[str, str]:
    """What the ``Args`` or ``Attributes`` section of a docstring says of each name."""
    meanings: dict[str, str] = {}
    names: list[str] = []
    inside = False
    for line in (inspect.getdoc(found) or "").split("\n"):
        if not line.startswith(" ") and line.strip():
            inside = line.rstrip(":") in ("Args", "Attributes")
        elif inside and line.startswith("    ") and not line.startswith("     ") and ":" in line:
            given, _, meaning = line.strip().partition(":")
            names = [name.strip().split(" ")[0] for name in given.split(",")]
            meanings |= dict.fromkeys(names, meaning.strip())
        elif inside and line.strip():
            for name in names:
                meanings[name] += f" {line.strip()}"
    return {name: meaning.replace("``", "`") for name, meaning in meanings.items()}


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    text = "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)
    return f":::{{rst-class}} prose-table\n:::\n\n{text}\n"
