"""Networks that users bring: the documented example as it stands, and what of a network is not quantized."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from suite.cli import main
from suite.errors import BitcertError
from suite.networks import build_own, find_unquantized, trace_layers
from suite.problem import Fidelity
from suite.problems import UnquantizedWarning, load_problem
from suite.quantize import QuantizedNetwork, calibrate
from suite.space import SearchSpace

PAGE = (Path(__file__).parents[2] / "docs" / "own-network.md").read_text(encoding="utf-8")


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the documented module, weights from a seed and a folder of small images."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "my_module.py").write_text(blocks[0])
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_module", raising=False)
    torch.manual_seed(0)
    network = build_own("my_module:build")
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    rng = np.random.default_rng(0)
    for part, count in (("train", 24), ("val", 4)):
        for name in ("apple", "pear", "plum"):
            folder = tmp_path / "data" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path


@pytest.mark.slow
def test_the_documented_command_runs_on_ray_as_it_stands(workplace: Path) -> None:
    command = re.search(r"```bash\nbitcert (.*?)\n```", PAGE, re.DOTALL)
    assert command is not None
    arguments = shlex.split(command[1].replace("\\\n", " "))
    arguments += ["--images", "6", "--noise", "8", "--exam-n0", "8", "--exam-n", "16", "--workers", "1", "--json"]
    arguments += ["--post-step", "sqwa:captures=1", "--post-step-steps", "2"]
    arguments[arguments.index("uniform,random,sensitivity-ilp")] = "uniform,random,sensitivity-ilp:images=4"
    done = subprocess.run(
        [sys.executable, "-m", "suite.cli", *arguments], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    board = json.loads(done.stdout)
    assert {row["searcher"] for row in board["rows"]} == {"uniform", "random", "sensitivity-ilp:images=4", "float"}
    shown = re.sub(r"\s+", " ", done.stderr)
    warned = re.search(r"```\n(bitcert: warning: .*?)```", PAGE, re.DOTALL)
    assert warned is not None
    assert re.sub(r"\s+", " ", warned[1]).strip() in shown
    assert json.loads((workplace / "runs/folder-my_module.build-w4a4/comparison.json").read_text())["problem"][
        "unquantized"
    ].startswith("not quantized")


def test_the_linear_layers_of_attention_are_quantized_with_exact_costs(workplace: Path) -> None:
    with pytest.warns(UnquantizedWarning, match="position"):
        problem = load_problem(
            network="my_module:build", checkpoint="w.safetensors", data="data", image_size=32, budget="w4a4"
        )
    names = [layer.name for layer in problem.space.layers]
    inside = [f"blocks.{block}.{name}" for block in (0, 1) for name in ("qkv", "projection", "mlp.0", "mlp.2")]
    assert names == ["patches", *inside, "head"]
    assert problem.space.layers[1].macs == 16 * 24 * 72
    metrics = problem.evaluate(problem.space.uniform(4), Fidelity(images=4, noise=8))
    assert metrics.bops == problem.budget.limit
    assert problem.provenance()["based_on"] == "folder"
    other = problem.evaluate(problem.space.uniform(2), Fidelity(images=18, noise=8))
    assert other.bops < metrics.bops


@pytest.mark.filterwarnings("ignore::suite.problems.UnquantizedWarning")
def test_a_run_knows_its_network(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--checkpoint", "w.safetensors", "--data", "data"]
    command = ["search", "--network", "my_module:build", *given, "--image-size", "32", "--searcher", "uniform"]
    assert main([*command, "--directory", "run", "--images", "4", "--noise", "8", "--json"]) == 0
    capsys.readouterr()
    assert main(["examine", "--run", "run", *given, "--exam-n0", "8", "--exam-n", "16", "--json"]) == 0
    outcome = json.loads(capsys.readouterr().out)
    assert outcome["provenance"]["network"] == "my_module:build"


def test_a_network_of_ones_own_on_the_images_of_a_problem(workplace: Path) -> None:
    (workplace / "gray.py").write_text(
        "from torch import nn\n\ndef build():\n    return nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.ReLU(True), nn.Flatten(), "
        "nn.Linear(36, 10))\n"
    )
    save_file(build_own("gray:build").state_dict(), "gray.safetensors")
    problem = load_problem("digits", network="gray:build", checkpoint="gray.safetensors", budget="w8a8")
    assert problem.name == "digits-gray.build"
    assert problem.evaluate(problem.space.uniform(8), Fidelity(images=4, noise=8)).forward_passes == 36


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--network", "my_module:build"], "--checkpoint"),
        (["--network", "my_module:bild", "--checkpoint", "w.safetensors"], "MODULE:FUNCTION"),
        (["--network", "nowhere:build", "--checkpoint", "w.safetensors"], "No module named 'nowhere'"),
        (["--network", "my_module:MEAN", "--checkpoint", "w.safetensors"], "cannot be built"),
        (["--network", "builtins:dict", "--checkpoint", "w.safetensors"], "instead of a torch.nn.Module"),
        (
            ["--network", "my_module:build", "--checkpoint", "w.safetensors", "--image-size", "64"],
            "cannot take an image",
        ),
        (["--network", "my_module:build", "--checkpoint", "w.safetensors", "--image-size", "0"], "image size"),
        (["--problem", "digits", "--image-size", "32"], "--network"),
        (["--problem", "folder"], "--network"),
        ([], "name a problem"),
    ],
)
def test_mistakes_about_own_networks(
    arguments: list[str], expected: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(workplace.iterdir())
    assert main(["search", "--searcher", "random", *arguments]) == 2
    shown = capsys.readouterr().err
    assert expected in shown
    assert "Traceback" not in shown
    assert [path for path in sorted(workplace.iterdir()) if path.name != "__pycache__"] == before


class _Attention(nn.Module):
    """PyTorch's own transformer layer, which keeps its projections from being called as modules."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 4, 4)
        self.transformer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.transformer(self.embed(images).flatten(2).transpose(1, 2)).mean(1))
        return logits


def test_what_is_not_quantized_is_named_and_what_is_named_is_not_quantized() -> None:
    torch.manual_seed(0)
    network, shape = _Attention().eval().requires_grad_(False), (3, 16, 16)
    layers = trace_layers(network, shape)
    assert [layer.name for layer in layers] == ["embed", "transformer.linear1", "transformer.linear2", "head"]
    found = find_unquantized(network, layers, shape)
    assert found.layers == ("transformer.self_attn.out_proj",)
    assert found.parameters == ("transformer.self_attn.in_proj_weight", "transformer.self_attn.in_proj_bias")
    tokens, width = 16, 8
    assert found.macs == tokens * width * 4 * width + 2 * tokens * tokens * width
    images = torch.rand(4, *shape)
    quantized = QuantizedNetwork(network, layers, calibrate(network, [layer.name for layer in layers], [images]))
    policies = [SearchSpace(layers, pins={}).uniform(bits) for bits in (2, 8)]
    outputs = []
    for policy in policies:
        quantized.set_policy(policy)
        outputs.append(quantized(images))
    assert not torch.equal(*outputs)
    torch.testing.assert_close(outputs[1], network(images), atol=0.05, rtol=0.05)


def test_functions_that_give_no_logits_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "maps.py").write_text("from torch import nn\n\ndef build():\n    return nn.Conv2d(1, 4, 3)\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BitcertError, match="logits of shape"):
        load_problem("digits", network="maps:build", checkpoint="x.safetensors")
