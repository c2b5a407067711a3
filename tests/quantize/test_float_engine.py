"""The float network in ONNX Runtime: the same function, and what its certificates are then about."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from suite.cli import main
from suite.errors import BitcertError
from suite.networks import build_network
from suite.problems import load_problem
from suite.quantize import execute_float
from suite.quantize.integer import OnnxNetwork
from suite.workbench import workbench_of

pytest.importorskip("onnxscript")

EXAM = ["--exam-images", "30", "--exam-n0", "10", "--exam-n", "100"]


class Attention(nn.Module):
    """What has no integer form is still converted."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm = nn.Conv2d(1, 8, 2, 2), nn.LayerNorm(8)
        self.mix, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.norm(self.patches(images).flatten(2).transpose(1, 2))
        logits: Tensor = self.head((tokens + self.mix(tokens, tokens, tokens)[0]).mean(dim=1))
        return logits


class Undecided(nn.Module):
    """Its program depends on its data."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) if float(images.sum()) > 0 else -images.flatten(1)


def networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {"resnet8": build_network("resnet8", 10, 1), "attention": Attention().eval()}


@pytest.mark.parametrize("name", ["resnet8", "attention"])
def test_it_computes_what_torch_computes_for_every_batch_size(name: str) -> None:
    network = networks()[name].requires_grad_(False)
    executed = execute_float(network, "onnx", [torch.rand(2, 1, 8, 8)], 1, None)
    assert isinstance(executed, OnnxNetwork)
    for count in (1, 2, 37):
        images = torch.rand(count, 1, 8, 8) + 0.25 * torch.randn(count, 1, 8, 8)
        torch.testing.assert_close(executed(images), network(images), rtol=1e-4, atol=1e-5)
        copied = pickle.loads(pickle.dumps(executed))  # noqa: S301
        assert torch.equal(copied(images), executed(images))


@pytest.mark.parametrize("engine", ["torch", "integer"])
def test_other_engines_leave_it_to_torch(engine: str) -> None:
    bench = workbench_of(load_problem("digits", engine=engine), "test")
    assert bench.executed_by_engine(None) is bench.network


def test_a_network_that_cannot_be_converted_is_one_error() -> None:
    with pytest.raises(
        BitcertError, match=r"cannot convert the float network to ONNX \(.*\); use the engine torch"
    ) as told:
        execute_float(Undecided(), "onnx", [torch.rand(2, 1, 8, 8)], 1, None)
    assert "\n" not in str(told.value)


def test_certificates_are_about_the_graph_that_is_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = {}
    for engine in ("torch", "onnx"):
        rows = tmp_path / f"{engine}.json"
        assert (
            main(["examine", "--problem", "digits", "--float", "--engine", engine, *EXAM, "--json", "--out", str(rows)])
            == 0
        )
        found[engine] = json.loads(capsys.readouterr().out), json.loads(rows.read_text())["images"]
    assert found["onnx"][0]["provenance"]["engine"] == "onnx"
    assert "engine" not in found["torch"][0]["provenance"]
    predictions = [rows["prediction"] for _, rows in found.values()]
    same = sum(left == right for left, right in zip(*predictions, strict=True))
    assert same >= 29, "rounding changes votes, hardly ever a prediction"
    assert found["onnx"][0]["metrics"]["acr"] == pytest.approx(found["torch"][0]["metrics"]["acr"], abs=0.02)
