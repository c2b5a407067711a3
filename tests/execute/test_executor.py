"""Executors are registered like every other kind of plug-in, and know searches by a small protocol only."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from suite.errors import BitcertError
from suite.execute.evaluation import evaluate_trial
from suite.execute.executor import Loop, Resources, make_executor
from suite.execute.inline import InlineExecutor
from suite.problems.separable import SeparableProblem
from suite.run.registry import make_searcher
from suite.studies.search.run import search


class Backwards(InlineExecutor):
    """An executor of another package: what is under way is finished last in, first out."""

    made_with: Resources | None = None

    def __init__(self, resources: Resources | None = None) -> None:
        super().__init__(resources)
        type(self).made_with = resources

    def run(self, loops: Sequence[Loop]) -> None:
        for loop in loops:
            under_way = []
            while not loop.finished:
                while (trial := loop.propose()) is not None:
                    under_way.append(trial)
                if under_way:
                    loop.complete(evaluate_trial(loop.problem, under_way.pop()))


def test_an_executor_is_made_by_name_and_told_its_resources() -> None:
    assert isinstance(make_executor("inline"), InlineExecutor)
    with pytest.raises(BitcertError, match=r"unknown executor 'inlin'; known: inline, ray"):
        make_executor("inlin")


def test_an_executor_of_another_module_gives_the_same_trials(tmp_path: Path) -> None:
    def go(executor: str, resources: Resources | None = None) -> object:
        problem, directory = SeparableProblem(), tmp_path / executor.replace(":", "-")
        searcher = make_searcher("tpe", problem, 0)
        return search(
            problem, searcher, evaluations=12, directory=directory, executor=executor, resources=resources, parallel=1
        )

    resources = Resources(workers=3)
    assert go(f"{__name__}:Backwards", resources) == go("inline")
    assert Backwards.made_with is resources


def test_a_failure_that_is_not_text_can_be_recorded(tmp_path: Path) -> None:
    class Unreadable(SeparableProblem):
        def evaluate(self, *_: object, **__: object) -> object:  # type: ignore[override]
            raise OSError("no file \udcff.png")

    problem = Unreadable()
    run = search(problem, make_searcher("random", problem, 0), evaluations=1, retries=0, directory=tmp_path)
    assert run.trials[0].failure == "OSError: no file \\udcff.png"


def test_executors_do_not_need_the_loop() -> None:
    code = "import sys, suite.execute.inline; sys.exit(any(name.startswith('suite.run') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
