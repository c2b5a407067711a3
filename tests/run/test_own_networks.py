"""Networks that others wrote: exported, run and certified from the command line, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from suite.cli import main
from suite.networks import build_own
from suite.problems import load_problem
from suite.run.deployed import read_deployed
from suite.workbench import workbench_of

EXAM = ["--exam-n0", "4", "--exam-n", "16", "--exam-images", "3"]
pytestmark = pytest.mark.filterwarnings("ignore::suite.certify.CertificationWarning")


def weights(folder: Path, name: str) -> str:
    """A file with weights from a seed."""
    torch.manual_seed(0)
    network = build_own(f"tests.run.third_party:{name}")
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            module.running_mean.normal_(0, 0.2)
    save_file(network.state_dict(), folder / "w.safetensors")
    return str(folder / "w.safetensors")


@pytest.mark.parametrize("name", ["resnet8", "narrow_mobilenet"])
def test_a_third_partys_network_is_exported_run_and_certified(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, network = weights(tmp_path, name), f"tests.run.third_party:{name}"
    problem = load_problem("digits", network=network, checkpoint=checkpoint, budget="w4a4", engine="integer")
    policy, out = problem.space.uniform(4), tmp_path / "model.onnx"
    own = ["--problem", "digits", "--network", network, "--checkpoint", checkpoint, "--budget", "w4a4"]
    assert main(["export", policy.to_json(), *own, "--out", str(out), "--exam", *EXAM, "--json"]) == 0
    exported = json.loads(capsys.readouterr().out)["metrics"]
    bench = workbench_of(problem, "test")
    with bench.fixed_threads():
        integer, (deployed, _) = bench.integer(bench.quantized(policy)), read_deployed(out)
    images = torch.rand(100, 1, 8, 8) + 0.25 * torch.randn(100, 1, 8, 8)
    images[::10] *= 1e6
    assert len(integer(images).unique(dim=0)) > 50
    assert torch.equal(deployed(images), integer(images))
    assert main(["examine", "--model", str(out), "--checkpoint", checkpoint, *EXAM, "--json"]) == 0
    certified = json.loads(capsys.readouterr().out)
    assert certified["provenance"]["network"] == network
    for metric in ("acr", "clean_accuracy", "certified_accuracy", "bops"):
        assert certified["metrics"][metric] == exported[metric]


def test_a_network_without_integer_form_is_one_line_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["--problem", "digits", "--network", "tests.run.third_party:attentive"]
    own += ["--checkpoint", weights(tmp_path, "attentive")]
    policy = '{"weights":[8,8],"activations":[8,8]}'
    for command in (
        ["export", policy, *own, "--budget", "w8a8", "--out", str(tmp_path / "model.onnx")],
        ["examine", "--policy", policy, *own, "--budget", "w8a8", "--engine", "onnx", *EXAM],
    ):
        assert main(command) == 2
        told = capsys.readouterr().err
        assert "softmax (softmax) cannot be executed in integers" in told
        assert len(told.strip().splitlines()) == 1
    assert not list(tmp_path.glob("model*"))
