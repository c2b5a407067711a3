"""The verb ``doctor``: what works is said to, what does not is named with a remedy, and no check ends the others."""

from __future__ import annotations

import json
import math
import shutil
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from suite.cli import main
from suite.errors import BitcertError
from suite.networks import check_checkpoint, shipped_checkpoints
from suite.run.machine import core_limit
from suite.studies.doctor import software
from suite.studies.doctor.checks import Check, MissingError, find
from suite.studies.doctor.files import check_disk, check_images, check_memory, check_runs


def test_everything_required_works_here_and_the_folder_is_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BITCERT_DATA", raising=False)
    assert main(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    checks = {each["check"]: each for each in told["checks"]}
    assert told["works"]
    assert told["bitcert"] == metadata.version("bitcert")
    for name in ("Python", "packages", "PyTorch", "Optuna", "Ray", "ONNX Runtime", "OR-Tools", "included networks"):
        assert checks[name]["status"] == "ok", checks[name]
        assert checks[name]["remedy"] == ""
    assert torch.__version__ in checks["PyTorch"]["found"]
    assert checks["images digits"]["found"].startswith("1797 images")
    assert (checks["images mnist"]["status"], checks["images mnist"]["required"]) == ("missing", False)
    assert "--data" in checks["images mnist"]["remedy"]
    assert not list(tmp_path.iterdir())


def test_a_check_that_raises_is_a_finding_and_the_others_go_on() -> None:
    def fail() -> str:
        raise RuntimeError("first line\nsecond line")

    def lack() -> str:
        raise MissingError("nothing there")

    def load() -> str:
        raise ModuleNotFoundError("No module named 'ray'")

    found = find(
        [Check("a", fail, "repair", required=True), Check("b", lack), Check("c", load, required=True), Check("d", str)]
    )
    assert [(each.status, each.fails) for each in found] == [
        ("broken", True),
        ("missing", False),
        ("missing", True),
        ("ok", False),
    ]
    assert (found[0].found, found[0].remedy) == ("RuntimeError: first line", "repair")


def test_people_see_remedies_and_the_exit_status_is_1_if_something_required_does_not_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    assert main(["doctor", "--directory", "/proc/nowhere"]) == 1
    shown = capsys.readouterr().out
    assert "missing  Ray: " in shown
    assert "to do: see the message" in shown
    assert "broken   folder of runs: " in shown
    assert shown.splitlines()[-1].startswith("required, and does not work: Ray, folder of runs")


def test_versions_are_compared_with_the_bounds_of_the_installed_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = ["numpy>=2.1", "ray[tune]>=2.55", 'onnx>=1.20; extra == "onnx"', 'absent>=1; python_version < "3"']
    versions = {"numpy": "2.0.2", "ray": "2.55.0", "bitcert": "0.1.0"}

    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    fake = SimpleNamespace(
        requires=lambda name: needed, version=version, PackageNotFoundError=metadata.PackageNotFoundError
    )
    monkeypatch.setattr(software, "metadata", fake)
    with pytest.raises(BitcertError, match=r"^numpy 2.0.2 is not >=2.1$"):
        software.check_packages()
    with pytest.raises(MissingError, match=r"^not installed: onnx>=1.20$"):
        software.check_packages("onnx")
    versions |= {"numpy": "2.5.0rc1", "onnx": "1.20"}
    assert software.check_packages().startswith("2 installed")
    assert software.check_packages("onnx").startswith("1 installed")


def test_images_are_missing_or_damaged(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no cifar10"):
        check_images("cifar10", str(tmp_path))
    (tmp_path / "cifar10.npz").write_bytes(b"no archive")
    with pytest.raises(BitcertError, match="cannot read"):
        check_images("cifar10", str(tmp_path))


def test_a_checkpoint_is_compared_with_its_record(tmp_path: Path) -> None:
    (shipped, *_) = shipped_checkpoints("digits-linf", 0.25)
    for file in (shipped, shipped.with_suffix(".json")):
        shutil.copy(file, tmp_path)
    copy = tmp_path / shipped.name
    check_checkpoint(copy)
    content = bytearray(copy.read_bytes())
    content[-1] ^= 1
    copy.write_bytes(content)
    with pytest.raises(BitcertError, match="not the one its record describes"):
        check_checkpoint(copy)


def test_where_runs_go_need_not_exist_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "can be written to" in check_runs(tmp_path / "new" / "runs")
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=2**29))
    with pytest.raises(BitcertError, match=r"^0.5 GiB free, less than 1$"):
        check_disk(tmp_path / "runs")
    monkeypatch.setattr("suite.studies.doctor.files.available_memory", lambda: 2**30)
    with pytest.raises(BitcertError, match=r"^1.0 GiB available"):
        check_memory()


def test_the_tightest_control_group_counts(tmp_path: Path) -> None:
    inner = tmp_path / "slurm" / "job"
    inner.mkdir(parents=True)
    (inner / "cpu.max").write_text("max 100000\n")
    (tmp_path / "slurm" / "cpu.max").write_text("150000 100000\n")
    membership = tmp_path / "membership"
    membership.write_text("0::/slurm/job\n")
    assert core_limit(tmp_path, membership) == 1.5
    assert core_limit(tmp_path, tmp_path / "none") == math.inf


@pytest.mark.slow
def test_ray_runs_a_task() -> None:
    assert "a task ran" in software.check_ray(start=True)
