"""Exported models: they are what they say, and a changed one is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from suite.cli import main
from suite.contract.space import Policy
from suite.errors import BitcertError
from suite.files import write_bytes
from suite.problems import load_problem
from suite.quantize.integer import IntegerNetwork, pack, unpack
from suite.run.deployed import bits_of, read_deployed, write_deployed
from suite.workbench import workbench_of

SHAPE = (1, 8, 8)
BITS = [8, *[3] * 8, 8]
POLICY = Policy.from_bits(BITS, BITS)
GIVEN = ["--problem", "digits", "--budget", "w3a3"]
EXAM = ["--exam-images", "20", "--exam-n0", "10", "--exam-n", "50"]


@pytest.fixture(scope="module")
def network() -> IntegerNetwork:
    bench = workbench_of(load_problem("digits", budget="w3a3"), "test")
    return bench.integer(bench.quantized(POLICY))


@pytest.fixture
def model(network: IntegerNetwork, tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    write_deployed(path, network, SHAPE, {"policy": POLICY.to_dict()})
    return path


@given(
    st.integers(1, 9).flatmap(lambda bits: st.lists(st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1), min_size=1))
)
def test_packed_integers_come_back(values: list[int]) -> None:
    integers = np.array(values, dtype=np.int64).reshape(-1, 1)
    bits = bits_of(integers)
    assert -(2 ** (bits - 1)) <= min(values)
    assert max(values) < 2 ** (bits - 1)
    assert bits == 1 or min(values) < -(2 ** (bits - 2)) or max(values) >= 2 ** (bits - 2)
    packed = pack(integers, bits)
    assert len(packed) == -(-len(values) * bits // 8)
    np.testing.assert_array_equal(unpack(packed, bits, integers.shape), integers)


def test_a_model_comes_back_with_its_description(network: IntegerNetwork, model: Path) -> None:
    found, about = read_deployed(model)
    images = torch.rand(50, *SHAPE)
    assert torch.equal(found(images), network(images))
    assert about["policy"] == POLICY.to_dict()
    beside = json.loads(model.with_suffix(".json").read_text())
    assert beside["file_sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert beside["policy"] == about["policy"]
    assert beside["bytes"]["model"] == model.stat().st_size
    assert beside["bytes"]["packed"] == model.with_suffix(".safetensors").stat().st_size


def test_packed_weights_are_those_of_the_network(network: IntegerNetwork, model: Path) -> None:
    names = [layer.name for layer in load_problem("digits", budget="w3a3").space.layers]
    with safe_open(model.with_suffix(".safetensors"), "numpy") as file:
        assert {name.rpartition(".")[0] for name in list(file.keys())} == set(names)
        for layer in network.layers():
            about = json.loads(file.metadata()[f"{layer.name}.weight"])
            integers = unpack(file.get_tensor(f"{layer.name}.weight"), about["bits"], tuple(about["shape"]))
            np.testing.assert_array_equal(integers, layer.weight.numpy())
            np.testing.assert_array_equal(file.get_tensor(f"{layer.name}.bias"), layer.bias.numpy())
            assert about["bits"] <= BITS[names.index(layer.name)]


def change_weight(content: bytes) -> bytes:
    model = onnx.load_model_from_string(content)
    largest = max(model.graph.initializer, key=lambda tensor: len(tensor.int32_data) + len(tensor.raw_data))
    if largest.raw_data:
        largest.raw_data = bytes([largest.raw_data[0] ^ 1, *largest.raw_data[1:]])
    else:
        largest.int32_data[0] ^= 1
    return bytes(model.SerializeToString())


def change_description(content: bytes) -> bytes:
    model = onnx.load_model_from_string(content)
    for entry in model.metadata_props:
        entry.value = entry.value.replace('"weights": [8', '"weights": [2')
    return bytes(model.SerializeToString())


def forget(content: bytes) -> bytes:
    model = onnx.load_model_from_string(content)
    del model.metadata_props[:]
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_weight, "was changed after it was exported"),
        (change_description, "was changed after it was exported"),
        (forget, "does not say what it is"),
        (lambda _: b"no model", "no ONNX model can be read"),
    ],
)
def test_a_changed_file_is_refused_in_one_line(
    change: Callable[[bytes], bytes], message: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = model.read_bytes()
    after = change(before)
    assert after != before
    write_bytes(model, after)
    assert main(["examine", "--model", str(model), *EXAM]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.strip().splitlines()) == 1
    assert captured.out == ""


def test_the_certificate_of_the_file_is_that_of_the_engine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deployed" / "model.onnx"
    assert main(["export", POLICY.to_json(), *GIVEN, "--out", str(out), "--exam", *EXAM, "--json"]) == 0
    exported = json.loads(capsys.readouterr().out)
    assert (
        exported["bytes"]["weights"]
        <= exported["bytes"]["rule"]
        <= exported["bytes"]["packed"]
        <= exported["bytes"]["model"]
    )
    found = {}
    for name, options in {
        "file": ["--model", str(out)],
        "onnx": ["--policy", POLICY.to_json(), *GIVEN, "--engine", "onnx"],
        "integer": ["--policy", POLICY.to_json(), *GIVEN, "--engine", "integer"],
    }.items():
        rows = tmp_path / f"{name}.json"
        assert main(["examine", *options, *EXAM, "--json", "--out", str(rows)]) == 0
        found[name] = json.loads(capsys.readouterr().out)["metrics"]["acr"], json.loads(rows.read_text())["images"]
    assert found["file"] == found["onnx"] == found["integer"]
    assert exported["metrics"]["acr"] == found["file"][0] > 0
    assert read_deployed(out)[1]["exam"]["metrics"]["acr"] == found["file"][0]


def test_a_run_is_searched_exported_and_certified_with_one_engine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = str(tmp_path / "run"), str(tmp_path / "model.onnx")
    search = ["search", *GIVEN, "--searcher", "uniform", "--evaluations", "2", "--images", "10", "--noise", "4"]
    assert main([*search, "--engine", "onnx", "--directory", run, "--json"]) == 0
    best = json.loads(capsys.readouterr().out)["best"]["policy"]
    assert (
        main(["export", run, "--out", out, "--post-step", "sqwa:captures=1", "--post-step-steps", "2", "--json"]) == 0
    )
    assert json.loads(capsys.readouterr().out)["policy"] == best
    assert main(["examine", "--model", out, *EXAM, "--json"]) == 0
    examined = json.loads(capsys.readouterr().out)
    assert examined["post_step"] == "sqwa"
    assert examined["provenance"]["engine"] == "onnx"
    assert examined["provenance"]["post_step"]["captures"] == 1


def test_a_qonnx_file_says_what_it_is_and_is_certified_as_the_integer_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model.onnx"
    given = ["export", POLICY.to_json(), *GIVEN, "--out", str(out), *EXAM, "--json"]
    assert main([*given, "--format", "qonnx", "--exam"]) == 0
    exported = json.loads(capsys.readouterr().out)
    about, model = json.loads(out.with_suffix(".json").read_text()), onnx.load_model(out)
    inside = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(inside["bitcert"])["policy"] == about["policy"] == POLICY.to_dict()
    assert about["file_sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert (about["format"], about["opset"], about["rounds_sums_of"]) == ("qonnx", 13, [])
    assert about["exam"]["metrics"]["acr"] == exported["metrics"]["acr"] > 0
    assert main(["examine", "--model", str(out), *EXAM]) == 2
    told = capsys.readouterr().err
    assert "is a qonnx graph, which ONNX Runtime does not execute" in told
    assert len(told.strip().splitlines()) == 1
    assert main(["examine", "--policy", POLICY.to_json(), *GIVEN, "--engine", "integer", *EXAM, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["acr"] == exported["metrics"]["acr"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["nowhere.json"], "no policy can be read"),
        ([POLICY.to_json(), "--opset", "9"], "unknown operator set 9; known: 21, 25"),
        ([POLICY.to_json(), "--format", "qonnx", "--opset", "25"], "unknown operator set 25; known: 13"),
        ([POLICY.to_json(), "--format", "qon"], "unknown format 'qon'; known: qonnx, fixed-point, integer"),
        ([POLICY.to_json(), "--out", "model.pt"], "ends in .onnx"),
        ([Policy.from_bits([8] * 10, [8] * 10).to_json()], "budget"),
        ([Policy.from_bits([32] * 10, [32] * 10).to_json()], "space"),
        ([POLICY.to_json(), "--samples", "100000"], "100000 held-out images asked for"),
    ],
)
def test_wrong_uses_are_one_line_and_write_nothing(
    given: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", *given, *GIVEN]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_engines_are_checked_before_anything_is_read() -> None:
    with pytest.raises(BitcertError, match="unknown engine 'tpu'; known: torch, integer, onnx"):
        load_problem("digits", engine="tpu")


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        BitcertError, match=r"the engine onnx needs onnx and onnxruntime and onnxscript: pip install 'bitcert\[onnx\]'"
    ):
        load_problem("digits", engine="onnx")
