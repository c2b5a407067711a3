"""The notebook-style examples, run as they stand, and the example searcher against the conformance kit."""

import contextlib
import io
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from suite.certify import clopper_pearson_lower
from suite.contract.problem import Problem
from suite.contract.searcher import Searcher
from suite.testing.searchers import SearcherConformance

EXAMPLES = Path(__file__).parents[1] / "examples"
EXPECTED = {
    "ablation": "underpowered",
    "certificate": "abstains",
    "certify_model": "average certified radius of 20 images: 0.",
    "own_network": "float network:  ACR",
    "own_searcher": "hill climbing: ACR",
    "results": "trials, best search estimate",
    "search": "held-out ACR",
    "tree_tensor_circuit": "held-out images",
    "verify_spiking": "2 steps, radius 1/16: ",
}
PROGRAMS = {"tree_tensor_circuit": 300}
"""Lines of those that define a problem; the others are snippets."""


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, with the examples importable."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    for name in EXPECTED:
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    """What certify_model wrote, its variables, and what it printed."""
    place, printed = tmp_path_factory.mktemp("certify_model"), io.StringIO()
    with contextlib.chdir(place), contextlib.redirect_stdout(printed):
        found = run("certify_model")
    return place, found, printed.getvalue()


def run(name: str) -> dict[str, Any]:
    """Run an example as a script; its variables."""
    return runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")


def test_every_example_is_listed_and_short() -> None:
    files = sorted(EXAMPLES.glob("*.py"))
    assert [file.stem for file in files] == sorted(EXPECTED)
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert len(text.splitlines()) < PROGRAMS.get(file.stem, 60), file.name
        assert text.startswith("# %% [markdown]\n# # "), file.name


def test_a_changed_model_is_not_certified(workplace: Path, certified: tuple[Path, dict[str, Any], str]) -> None:
    shutil.copytree(certified[0], workplace, dirs_exist_ok=True)
    model = workplace / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"!")
    with pytest.raises(SystemExit, match="not the file"):
        run("certify_model")


@pytest.mark.parametrize("name", sorted(set(EXPECTED) - {"certify_model"}))
def test_example_runs(name: str, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(name)
    assert EXPECTED[name] in capsys.readouterr().out


def test_certificates_stay_below_the_true_distance(workplace: Path) -> None:
    found = run("certificate")
    certified = found["certificates"].radius
    assert (certified <= found["SIDE"] * abs(found["means"] - 0.5)).all()
    assert (certified[1:] > 0).all()


def test_figures_are_matplotlib_axes(workplace: Path) -> None:
    run("results")
    assert (workplace / "certified_accuracy.png").stat().st_size > 10_000


class TestHillClimbing(SearcherConformance):
    learns = False

    def make(self, problem: Problem, seed: int) -> Searcher:
        found = runpy.run_path(str(EXAMPLES / "own_searcher.py"))["HillClimbing"]
        searcher: Searcher = found(problem, seed)
        return searcher


def test_a_model_is_certified_without_bitcert(certified: tuple[Path, dict[str, Any], str]) -> None:
    assert EXPECTED["certify_model"] in certified[2]


def test_the_bound_without_bitcert_is_clopper_and_pearsons(certified: tuple[Path, dict[str, Any], str]) -> None:
    _, found, _ = certified
    for successes in (1, 500, 990, 1000):
        assert found["lower_bound"](successes) == pytest.approx(clopper_pearson_lower(successes, 1000, 0.001), rel=1e-9)
