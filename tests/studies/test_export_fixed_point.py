"""A policy's fixed-point network in a file: the network that was certified, and what other programs verify."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from suite.cli import main
from suite.files import read_sealed
from suite.problems import load_problem
from suite.problems.vision import VisionProblem
from suite.quantize.fixed_point import FixedPointNetwork, read_fixed_point

EXPORT = ["export", "w3a3", "--problem", "digits-linf", "--format", "fixed-point"]


@pytest.mark.parametrize("ending", [".json", ".safetensors"])
def test_the_file_is_the_network_that_searches_certify(
    ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / f"network{ending}"
    assert (
        main([*EXPORT, "--out", str(out), "--exam", "--exam-images", "40", "--exam-certify", "interval", "--json"]) == 0
    )
    told = json.loads(capsys.readouterr().out)
    problem = load_problem("digits-linf", budget="w3a3")
    assert isinstance(problem, VisionProblem)
    made = problem.bench.executed_by_engine(problem.bench.quantized(problem.space.uniform(3)))
    assert isinstance(made, FixedPointNetwork)
    codes = np.random.default_rng(0).integers(0, 17, (50, 1, 8, 8))
    assert np.array_equal(read_fixed_point(out).outputs(codes), made.outputs(codes))
    record = read_sealed(tmp_path / "network.record.json", "a record")
    assert record["policy"] == problem.space.uniform(3).to_dict()
    assert record["exam"]["metrics"] == told["metrics"]
    assert told["metrics"]["norm"] == "linf"
    assert told["bytes"]["model"] == out.stat().st_size


def test_it_is_verified_by_the_other_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "network.json"
    assert main([*EXPORT, "--out", str(out)]) == 0
    assert f"bitcert verify-network {out}" in capsys.readouterr().out
    command = ["verify-network", str(out), "--dataset", "digits", "--images", "8", "--radii", "1", "--solver", "branch"]
    assert main([*command, "--seconds", "0.2", "--directory", str(tmp_path / "verdicts"), "--json"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*EXPORT, "--out", "network.onnx"], "is written as .json or .safetensors"),
        ([*EXPORT, "--out", "network.json", "--opset", "25"], "has no operator set"),
        (["export", "w3a3", "--problem", "digits", "--format", "fixed-point", "--out", "n.json"], "layers, ReLUs and"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) in (1, 2)
    told = capsys.readouterr().err.strip().splitlines()
    assert message in told[-1]
