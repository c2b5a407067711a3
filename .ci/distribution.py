"""Build sdist and wheel, check what is in them, and use the wheel in clean environments; called by ``make dist``.

``python .ci/distribution.py build/dist 3.11 3.12`` installs into an environment for each of these Pythons with the versions of
``constraints.txt``; those that this machine does not have are named and left out. With ``--lowest``, one more environment, for the
first of them, has the oldest versions that ``pyproject.toml`` allows, and the smaller tests run in it. Needs uv.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
CUDA = ("nvidia", "triton", "cuda")
"""Folders that only CUDA builds of PyTorch bring."""

PACKAGES = ("suite", "searchers", "baselines")
DATA = ("suite/py.typed", "suite/networks/checkpoints/", "suite/networks/supernets/", "suite/tables/shipped/")
SMOKE = (
    ("list",),
    ("doctor", "--json"),
    ("search", "--problem", "digits", "--budget", "w3a3", "--searcher", "tpe", "--evaluations", "5", "--json"),
)
LOWEST_TESTS = ("tests/contract", "tests/certify/test_bounds.py")


def main() -> int:
    """Build, check and use the distributions; the exit status is 1 if something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("pythons", nargs="*")
    parser.add_argument("--lowest", action="store_true")
    given = parser.parse_args()
    shutil.rmtree(given.out, ignore_errors=True)
    run("uv", "build", "--quiet", "--out-dir", given.out.resolve(), cwd=ROOT)  # the sdist, and the wheel from the sdist
    (wheel,) = given.out.resolve().glob("*.whl")
    check_contents(wheel)
    used = [python for python in given.pythons if available(python)]
    print("not on this machine:", ", ".join(sorted(set(given.pythons) - set(used))) or "none")
    for python in used:
        with tempfile.TemporaryDirectory() as folder:
            binaries = environment(Path(folder), python)
            run("uv", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wheel, python=binaries)
            use(binaries, python)
    if given.lowest and used:
        with tempfile.TemporaryDirectory() as folder:
            use_lowest(Path(folder), used[0], wheel)
    return 0 if used else 1


def check_contents(wheel: Path) -> None:
    """The wheel, which was built from the sdist, has the packages as they are here, a license, and nothing else."""
    with zipfile.ZipFile(wheel) as archive:
        content = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    about = {name for name in content if name.partition("/")[0].endswith(".dist-info")}
    tracked = run("git", "ls-files", *PACKAGES, cwd=ROOT).splitlines()
    differing = set(tracked) ^ (content.keys() - about)
    differing |= {name for name in tracked if name in content and content[name] != (ROOT / name).read_bytes()}
    expect(not differing, f"wheel and working tree differ in {', '.join(sorted(differing)[:5])}")
    for place in DATA:
        expect(any(name.startswith(place) for name in content), f"there is no {place} in the wheel")
    expect(any(name.endswith("licenses/LICENSE") for name in about), "there is no license in the wheel")
    print(f"{wheel.name}: {len(content)} files, {wheel.stat().st_size / 1e6:.0f} MB")


def use(binaries: Path, python: str) -> None:
    """Run the command as a user would, in an empty folder, and say what was installed."""
    environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "BITCERT_DATA")}
    with tempfile.TemporaryDirectory() as empty:
        for arguments in SMOKE:
            command = [str(binaries / "bitcert"), *arguments]
            done = subprocess.run(command, cwd=empty, env=environ, capture_output=True, text=True, check=False)
            told = (done.stderr or done.stdout)[-2000:]
            expect(
                done.returncode == 0,
                f"Python {python}: bitcert {' '.join(arguments)} exits with {done.returncode}\n{told}",
            )
            if "--json" in arguments:
                json.loads(done.stdout)
    version = run(binaries / "python", "--version").strip()
    print(f"{version}: bitcert list, doctor and search work; {installed_size(binaries)}")


def use_lowest(folder: Path, python: str, wheel: Path) -> None:
    """Use the wheel, and run smaller tests, with the oldest versions of everything that bitcert names itself."""
    options = ("--resolution", "lowest-direct", "--python-version", python, "--extra", "onnx", "--extra", "exact")
    bounds = run("uv", "pip", "compile", "--quiet", "--only-binary", ":all:", *options, "pyproject.toml", cwd=ROOT)
    (folder / "lowest.txt").write_text(bounds)
    binaries = environment(folder, python)
    run("uv", "pip", "install", "--quiet", "-r", folder / "lowest.txt", python=binaries)
    run("uv", "pip", "install", "--quiet", "--no-deps", wheel, python=binaries)
    use(binaries, f"{python} with the lowest versions")
    run(
        "uv",
        "pip",
        "install",
        "--quiet",
        "-c",
        folder / "lowest.txt",
        "pytest",
        "pytest-timeout",
        "hypothesis",
        python=binaries,
    )
    told = run(binaries / "python", "-m", "pytest", "-q", "-m", "not slow", "-W", "default", *LOWEST_TESTS, cwd=ROOT)
    print(told.splitlines()[-1])


def available(python: str) -> bool:
    """Whether there is such a Python, without fetching it."""
    find = ["uv", "python", "find", "--no-python-downloads", "--quiet", python]
    return subprocess.run(find, capture_output=True, check=False).returncode == 0


def environment(folder: Path, python: str) -> Path:
    """Make an environment; where its programs are."""
    run("uv", "venv", "--quiet", "--no-python-downloads", "--python", python, folder / "environment")
    return folder / "environment" / "bin"


def installed_size(binaries: Path) -> str:
    """Megabytes of an environment's packages, in all and without CUDA."""
    (packages,) = (binaries.parent / "lib").glob("python*/site-packages")
    sizes = {
        entry.name: sum(file.lstat().st_size for file in [entry, *entry.rglob("*")]) for entry in packages.iterdir()
    }
    cuda = sum(size for name, size in sizes.items() if name.startswith(CUDA))
    return f"{sum(sizes.values()) / 1e6:,.0f} MB installed, {cuda / 1e6:,.0f} of them {', '.join(CUDA)}"


def run(*command: object, cwd: Path | None = None, python: Path | None = None) -> str:
    """Run a command, into an environment if it is one of uv's, and return what it prints; exit if it fails."""
    words = [*map(str, command), *(("--python", str(python / "python")) if python else ())]
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)
    expect(done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return done.stdout


def expect(holds: bool, otherwise: str) -> None:
    """Exit with a message unless something holds."""
    if not holds:
        sys.exit(f"distribution: {otherwise}")


if __name__ == "__main__":
    sys.exit(main())
