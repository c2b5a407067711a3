"""What can be named: every built-in target resolves, and what is wrong with a plug-in is said in one line."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from suite.errors import BitcertError
from suite.options import NoOptions, read_options
from suite.plugins import COSTS, KINDS, OBJECTIVES, SEARCHERS, Kind, split_names

BUILT_IN = [(kind, name) for kind in KINDS.values() for name in kind.builtin]


@pytest.mark.parametrize(("kind", "name"), BUILT_IN, ids=[f"{kind.group}-{name}" for kind, name in BUILT_IN])
def test_every_built_in_name_leads_to_a_thing_of_its_kind(kind: Kind, name: str) -> None:
    found = kind.load(name)
    module, _, attribute = kind.builtin[name].partition(":")
    assert found is getattr(importlib.import_module(module), attribute)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with modules of the user's in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_thing_of_the_current_folder_is_found_by_module_and_name(here: Path) -> None:
    (here / "of_this_folder.py").write_text(
        "from searchers.random_search import RandomSearch\nclass Mine(RandomSearch): ...\nnumber = 3\n"
    )
    assert SEARCHERS.load("of_this_folder:Mine").__name__ == "Mine"
    assert SEARCHERS.parse("of_this_folder:Mine:rate=0.1") == ("of_this_folder:Mine", {"rate": 0.1})
    for wrong in ("of_this_folder:number", "suite.contract.cost:BOPs"):
        with pytest.raises(BitcertError, match=r"does not inherit from suite\.contract\.searcher\.Searcher"):
            SEARCHERS.load(wrong)
    for missing in ("of_this_folder:Yours", "not_in_this_folder:Mine", ":Mine", "of_this_folder:"):
        with pytest.raises(BitcertError, match="cannot be loaded from"):
            SEARCHERS.load(missing)


@pytest.mark.parametrize(
    ("number", "code"),
    list(enumerate(["import nothing_of_that_name", "1 / 0", "def (", "raise RuntimeError('no licence')"])),
)
def test_a_module_that_fails_to_import_is_one_clear_error(number: int, code: str, here: Path) -> None:
    (here / f"failing{number}.py").write_text(code)
    with pytest.raises(
        BitcertError, match=rf"searcher 'failing{number}:Mine' cannot be loaded from failing{number}:Mine"
    ):
        SEARCHERS.load(f"failing{number}:Mine")


def test_unknown_names_list_the_known_ones_nearest_first() -> None:
    with pytest.raises(BitcertError, match="unknown searcher 'arg'; known: arq"):
        SEARCHERS.load("arg")
    with pytest.raises(BitcertError, match="unknown objective 'ACR'"):
        OBJECTIVES.load("ACR")


def test_a_thing_that_is_made_has_to_be_a_dataclass() -> None:
    kind = Kind("gadget", "bitcert.gadgets", "", {"plain": "pathlib:Path"})
    with pytest.raises(BitcertError, match="gadget 'plain' must be a dataclass"):
        kind.make("plain")
    assert COSTS.make("bytes", rate=3) == COSTS.load("bytes")(), "defaults that a thing does not take are left out"


@dataclass(frozen=True)
class Settings:
    count: int
    rate: float = 0.5
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.count < 0:
            raise BitcertError(f"count must not be negative, got {self.count}")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "thing needs the option 'count'; give count=VALUE"),
        ({"count": 1, "speed": 2}, "unknown option of thing 'speed'; known: "),
        ({"count": 1.0}, "count of thing must be a valid integer, got 1.0"),
        ({"count": True}, "count of thing must be a valid integer, got True"),
        ({"count": "1"}, "count of thing"),
        ({"count": 1, "rate": "fast"}, "rate of thing must be a valid number, got 'fast'"),
        ({"count": 1, "names": [1]}, r"names.0 of thing"),
        ({"count": -1}, "^count must not be negative, got -1$"),
        ({"count": object()}, "options of thing must be JSON values"),
    ],
)
def test_options_are_checked_by_name_type_and_range(given: dict[str, Any], message: str) -> None:
    with pytest.raises(BitcertError, match=message):
        read_options("thing", Settings, given)


def test_options_are_read_into_their_dataclass() -> None:
    assert read_options("thing", Settings, {"count": 2, "rate": 1, "names": ["a"]}) == Settings(2, 1.0, ("a",))
    assert read_options("thing", NoOptions, {}) == NoOptions()


def test_lists_are_split_between_names_not_within_values() -> None:
    assert split_names("random,arq:reward=certified@0.25,0.5,haq") == ("random", "arq:reward=certified@0.25,0.5", "haq")


def test_everything_loads_without_the_extras_and_what_needs_them_says_so(tmp_path: Path) -> None:
    code = """
import sys
for package in ("ortools", "onnx", "onnxruntime", "onnxscript"):
    sys.modules[package] = None  # as if it were not installed
from suite.cli import main
from suite.plugins import KINDS
for kind in KINDS.values():
    for name in kind.names():
        kind.load(name)
small = ["--exam-images", "5", "--evaluations", "2", "--executor", "inline"]
sys.exit(main(["compare", "--problem", "digits-linf", "--searchers", "random", *small]))
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "the solver cp-sat needs ortools: pip install 'bitcert[exact]'" in done.stderr
    assert not list(tmp_path.rglob("*.jsonl")), "refused before a search starts"
