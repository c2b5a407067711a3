"""The command ``supernet``: what it writes, its plan, and that nothing is overwritten."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from suite.cli import main
from suite.inheritance import inherited
from suite.networks import network_sha256
from suite.problems import load_problem
from suite.studies.supernet import SupernetTraining, TrainSupernet
from suite.workbench import workbench_of

_SHORT = ["supernet", "digits", "--steps", "2", "--batch", "8", "--inheritance", "none"]
_SHORT += ["--variant", "private", "--choices", "2,4"]


def test_a_supernet_is_written_with_its_record_and_read_by_the_protocol(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "own.safetensors"
    assert main([*_SHORT, "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    record = json.loads(out.with_suffix(".json").read_text())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own.json", "own.safetensors"], "no state is left"
    assert told["supernet"] == str(out)
    assert record["forward_passes"] == told["forward_passes"] == 2 * 8 * 3 * 3
    assert record["command"] == (
        "bitcert supernet digits --sigma 0.25 --choices 2,4 --variant private --steps 2 --batch 8 --inheritance none"
    )
    bench = workbench_of(load_problem("digits", choices=(2, 4), protocol=f"supernet:file={out}"), "a test")
    assert record["float_sha256"] == network_sha256(bench.network)
    assert inherited(bench, str(out)).origin["supernet_sha256"] == record["network_sha256"]

    before = out.stat().st_mtime_ns
    assert main([*_SHORT, "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == told
    assert out.stat().st_mtime_ns == before, "the same training is not repeated"
    assert main([*_SHORT, "--seed", "1", "--out", str(out)]) == 2
    assert "exists and is another training's (other seed)" in capsys.readouterr().err


def test_the_plan_counts_three_passes_for_each_image_and_policy() -> None:
    asked = {"problem": {"name": "digits", "choices": [2, 4]}, "steps": 2, "batch": 8, "inheritance": "none"}
    assert TrainSupernet(SupernetTraining.model_validate(asked)).plan().passes == {"training": 144}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "-1"], "steps of a supernet must be at least 0"),
        (["--out", "net.pt"], "written as .safetensors"),
        (["--variant", "public"], "private"),
        (["--distillation", "2"], "share within"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(
    options: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["supernet", "digits", *options]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
