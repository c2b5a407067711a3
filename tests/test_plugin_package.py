"""A package outside of this repository adds a searcher, a problem, a post-step, an objective and a cost, by entry points."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run_python(program: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    """Run a program in another process that finds bitcert and these folders."""
    path = os.pathsep.join(map(str, [*paths, ROOT]))
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env={**os.environ, "PYTHONPATH": path},
        cwd=paths[0],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example package, built from a copy and installed into a folder, without the network."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for file in (ROOT / "examples" / "plugin-package").rglob("*"):
        if file.suffix in (".py", ".toml"):
            copy = source / file.relative_to(ROOT / "examples" / "plugin-package")
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(file.read_bytes())
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target"]
    done = subprocess.run(
        [sys.executable, *install, str(target), str(source)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return target


def test_names_are_found_and_a_search_on_the_problem_with_the_searcher_runs(installed: Path) -> None:
    done = run_python(
        """
import suite
from suite.plugins import COSTS, OBJECTIVES, PROBLEMS, SEARCHERS
assert "hill-climbing" in suite.searcher_names() and suite.searcher_names()[0] == "random"
assert "quadratic" in PROBLEMS.names() and "worst" in OBJECTIVES.names() and "memory" in COSTS.names()
problem = PROBLEMS.load("quadratic")(budget="memory:rows=2<=350", objective="worst:weight=0.5+bops")
assert problem.budget.limits[0].cost == COSTS.load("memory")(rows=2) and problem.objective.pareto
try:
    suite.make_searcher("hill-climbing", problem)
except suite.BitcertError as error:
    assert "second objective" in str(error)
problem = PROBLEMS.load("quadratic")(budget="memory:rows=2<=350", objective="worst:weight=0.5")
searcher = suite.make_searcher("hill-climbing:changes=1", problem, seed=1)
assert searcher.options == {"changes": 1}
scores = []
for number in range(60):
    policy = searcher.ask()
    assert problem.is_feasible(policy)
    metrics = problem.evaluate(policy, problem.fidelity)
    scores.append(problem.objective.score(metrics))
    searcher.tell(suite.Trial(number, policy, problem.fidelity, 0, metrics=metrics))
assert max(scores) > scores[0]
run = suite.search(problem, suite.make_searcher("hill-climbing", problem), evaluations=6, directory="run")
assert len(run.trials) == 6 and run.best is not None
""",
        installed,
    )
    assert done.returncode == 0, done.stderr


def test_unknown_options_and_values_out_of_range_are_refused(installed: Path) -> None:
    done = run_python(
        """
import suite
from suite.contract.objective import parse_objective
from suite.plugins import PROBLEMS
problem = PROBLEMS.load("quadratic")()
for make, expected in [
    (lambda: suite.make_searcher("hill-climbing:change=1", problem), "known: changes"),
    (lambda: suite.make_searcher("hill-climbing:changes=0", problem), "changes must be an integer >= 1"),
    (lambda: suite.make_searcher("hill-climbin", problem), "known: hill-climbing"),
    (lambda: parse_objective("worst:weight=2"), "weight must lie in 0..1"),
    (lambda: PROBLEMS.load("quadratic")(budget="memory:row=1<=350"), "known: rows"),
]:
    try:
        make()
    except suite.BitcertError as error:
        assert expected in str(error), str(error)
    else:
        raise AssertionError(expected)
""",
        installed,
    )
    assert done.returncode == 0, done.stderr


def test_the_problem_is_made_by_name_and_the_post_step_prepares_a_network(installed: Path) -> None:
    done = run_python(
        """
import suite, torch
from suite.plugins import POST_STEPS, PROTOCOLS
from suite.protocols.protocol import Request
assert suite.load_problem("quadratic:layers=3", budget="w3a3").provenance()["layers"] == 3
problem = suite.load_problem("digits")
step = POST_STEPS.make("temperature:temperature=4.0")
policy, request = problem.space.uniform(4), Request(PROTOCOLS.make("ptq"))
images = torch.rand(4, 1, 8, 8)
scaled, plain = (part.prepare(problem.bench, policy, request).network(images) for part in (step, request.protocol))
assert (scaled * 4 - plain).abs().max() < 1e-5
""",
        installed,
    )
    assert done.returncode == 0, done.stderr


def test_conformance_kits_run_outside_of_this_repository(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(
        """
from bitcert_climb.hill_climbing import HillClimbing
from bitcert_climb.quadratic import QuadraticProblem
from bitcert_climb.rules import Memory, Worst
from suite.testing.costs import CostConformance
from suite.testing.objectives import ObjectiveConformance
from suite.testing.problems import ProblemConformance
from suite.testing.searchers import SearcherConformance

class TestHillClimbing(SearcherConformance):
    learns = False  # the simplest method that works is no better than random search within 64 evaluations

    def make(self, problem, seed):
        return HillClimbing(problem, seed)

class TestQuadratic(ProblemConformance):
    def make(self):
        return QuadraticProblem()

class TestMemory(CostConformance):
    def make(self):
        return Memory(rows=3)

class TestWorst(ObjectiveConformance):
    def make(self):
        return Worst(weight=0.5)
"""
    )
    program = "import sys, pytest; sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', 'test_mine.py']))"
    done = run_python(program, tmp_path, installed)
    assert done.returncode == 0, done.stdout


def test_a_name_registered_twice_is_refused(installed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "other-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[bitcert.searchers]\nhill-climbing = other:Climb\n")
    done = run_python("import suite; suite.searcher_names()", tmp_path, installed)
    assert "'hill-climbing' is registered twice" in done.stderr
    (folder / "entry_points.txt").write_text("[bitcert.searchers]\ntpe = other:TPE\n")
    done = run_python("import suite; suite.searcher_names()", tmp_path)
    assert "'tpe' is registered twice, as searchers.tpe:TPE and as other:TPE" in done.stderr
