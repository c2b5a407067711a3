"""The wheel works away from the source tree: the main job, smaller, from an installed copy in an empty folder."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's content, built from a copy so that the source tree stays as it is."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in ("suite", "searchers", "baselines"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    install = ["install", "--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", *install, "--target", str(target), str(source)], check=True)
    return target


def test_the_main_job_runs_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    shutil.copy(ROOT / "experiments" / "digits.yaml", tmp_path)
    smaller = [
        "--searchers",
        "random-filled,evolution,fit",
        "--table-seeds",
        "2",
        "--table-evaluations",
        "5",
        "--best",
        "1",
    ]
    smaller += ["--budgets", "w3a3"]  # of three; the files that the wheel has to bring are the same
    smaller += ["--trivial", "random,cheapest", "--seeds", "0,1", "--evaluations", "3", "--finalists", "0"]
    smaller += ["--post-step-steps", "2"]
    smaller += ["--images", "20", "--noise", "16", "--exam-images", "20", "--exam-n", "20", "--exam-n0", "10"]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "suite.cli",
            "run",
            "digits.yaml",
            *smaller,
            "--directory",
            "out",
            "--executor",
            "inline",
            "--json",
        ],
        env={**os.environ, "PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {row["searcher"] for row in found["real"]} == {"random", "cheapest", "float", found["winner"]["searcher"]}
    assert found["winner"]["searcher"] in ("evolution", "fit")
    where = subprocess.run(
        [sys.executable, "-c", "import suite; print(suite.__file__)"],
        env={**os.environ, "PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(where.stdout.strip()).is_relative_to(installed)
