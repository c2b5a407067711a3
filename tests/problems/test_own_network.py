"""Networks that users bring: the documented example as it stands, and what of a network is not quantized."""

import json
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

import suite
from suite.cli import main
from suite.contract.space import SearchSpace
from suite.contract.trial import Fidelity
from suite.errors import BitcertError
from suite.networks import build_own, find_unquantized, trace_layers
from suite.problems import UnquantizedWarning, load_problem
from suite.problems.vision import VisionProblem
from suite.quantize import QuantizedNetwork, calibrate

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
    arguments += ["--seeds", "0", "--post-step", "sqwa:captures=1", "--post-step-steps", "2"]
    arguments[arguments.index("uniform,random,sensitivity-ilp")] = "uniform,random,sensitivity-ilp:images=4"
    done = subprocess.run([sys.executable, "-m", "suite.cli", *arguments], capture_output=True, text=True, check=False)
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
    assert metrics.bops == problem.budget.limits[0].most
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


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--network", "my_module:build"], "--checkpoint"),
        (["--network", "my_module:bild", "--checkpoint", "w.safetensors"], "MODULE:FUNCTION"),
        (["--network", "nowhere:build", "--checkpoint", "w.safetensors"], "No module named 'nowhere'"),
        (["--network", "my_module:MEAN", "--checkpoint", "w.safetensors"], "cannot be built"),
        (["--network", "builtins:dict", "--checkpoint", "w.safetensors"], "not a torch.nn.Module"),
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
    def files() -> list[Path]:
        return [path for path in sorted(workplace.iterdir()) if path.name != "__pycache__"]

    before = files()
    assert main(["search", "--searcher", "random", *arguments]) == 2
    shown = capsys.readouterr().err
    assert expected in shown
    assert "Traceback" not in shown
    assert files() == before


def bring(folder: Path, name: str, body: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write a module with a network for the digits; the weights of the first one of a folder serve all."""
    (folder / f"{name}.py").write_text(f"import torch\nfrom torch import nn\n\n{textwrap.dedent(body)}")
    monkeypatch.chdir(folder)
    if not (folder / "weights.safetensors").exists():
        torch.manual_seed(0)
        save_file(build_own(f"{name}:build").state_dict(), folder / "weights.safetensors")
    return f"{name}:build"


_PLAIN = """
    def build():
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, 2), nn.ReLU(True), nn.Conv2d(4, 4, 1), nn.Hardtanh(-2, {highest}), nn.Flatten(), nn.Linear(36, 10)
        )
"""


def own_digits(network: str, **more: Any) -> VisionProblem:
    problem = load_problem("digits", network=network, checkpoint="weights.safetensors", budget="w8a8", **more)
    assert isinstance(problem, VisionProblem)
    return problem


def test_its_code_is_part_of_what_a_network_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problems = [
        own_digits(bring(tmp_path, f"code{number}", _PLAIN.format(highest=highest), monkeypatch))
        for number, highest in enumerate((2, 2, 0.01))
    ]
    hashes = [problem.provenance()["network_sha256"] for problem in problems]
    assert hashes[0] == hashes[1] != hashes[2]
    low, high = (problems[0].space.uniform(bits) for bits in (2, 8))
    scores = [problems[0].evaluate(policy, Fidelity(images=40, noise=16)).acr for policy in (low, high)]
    assert scores[0] != scores[1]


def test_layers_that_compute_something_else_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    standardized = """
        class Standardized(nn.Conv2d):
            def forward(self, x):
                return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)

        def build():
            return nn.Sequential(Standardized(1, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 10))
    """
    with pytest.raises(
        BitcertError, match=r"cannot quantize layers that are not plain Conv2d or Linear: 0 \(Standardized\)"
    ):
        own_digits(bring(tmp_path, "standardized", standardized, monkeypatch))
    hooked = """
        def build():
            network = nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 10))
            network[0].register_forward_hook(lambda module, inputs, output: 3 * output)
            return network
    """
    with pytest.raises(BitcertError, match="other logits than as a whole"):
        own_digits(bring(tmp_path, "hooked", hooked, monkeypatch)).network  # noqa: B018


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).double()", "not 32-bit floats"),
        ("return Asserting()", "cannot take an image of shape .*: wrong height"),
        ("return Keyword()", "as a keyword"),
    ],
)
def test_networks_that_cannot_be_run_are_refused_in_one_line(
    body: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classes = """
        class Asserting(nn.Linear):
            def __init__(self):
                super().__init__(64, 10)

            def forward(self, x):
                assert x.shape[-1] == 9, "wrong height"

        class Keyword(nn.Module):
            def __init__(self):
                super().__init__()
                self.head = nn.Linear(64, 10)

            def forward(self, x):
                return self.head(input=x.flatten(1))

        def build():
    """
    (tmp_path / "weights.safetensors").touch()
    code = textwrap.dedent(classes).rstrip() + f"\n    {body}\n"
    with pytest.raises(BitcertError, match=expected):
        own_digits(bring(tmp_path, f"refused{len(body)}", code, monkeypatch))


def test_a_network_without_batch_norms_pays_for_no_statistics_unless_biases_are_corrected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = bring(tmp_path, "plain", _PLAIN.format(highest=3), monkeypatch)
    assert own_digits(network).bench.statistics_passes() == 0
    assert own_digits(network, protocol="ptq:bias_correction=true").bench.statistics_passes() == 250


@pytest.mark.filterwarnings("ignore::suite.problems.UnquantizedWarning")
@pytest.mark.parametrize(
    "method",
    [
        "hawq-v1:images=1",
        "hawq-v2:images=1:tolerance=0.5",
        "hawq-v3:images=1:tolerance=0.5",
        "certified-ilp:images=1",
        "limpq:epochs=1",
    ],
)
def test_methods_that_probe_go_through_attention(method: str, workplace: Path) -> None:
    problem = load_problem(
        network="my_module:build", checkpoint="w.safetensors", data="data", image_size=32, budget="w4a4"
    )
    assert problem.is_feasible(suite.make_searcher(method, problem, seed=0).ask())


@pytest.mark.filterwarnings("ignore::suite.problems.UnquantizedWarning")
def test_other_commands_take_the_network_and_small_folders(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = ["--network", "my_module:build", "--checkpoint", "w.safetensors", "--data", "data", "--image-size", "32"]
    certificates = ["--exam-n0", "8", "--exam-n", "16", "--json"]
    steps = ["--post-steps", "qat,none", "--steps", "2", "--policies", "1", "--seeds", "0", "--split", "search"]
    assert main(["post-steps", *own, *steps, *certificates]) == 0
    search = ["search", *own, "--searcher", "uniform", "--noise", "8", "--directory", "run", "--json"]
    assert main(search) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["best"]["metrics"]["forward_passes"] == 18 * 9  # all search images that there are
    torch.manual_seed(1)
    save_file(build_own("my_module:build").state_dict(), "other.safetensors")
    other = ["--checkpoint", "other.safetensors", "--data", "data"]
    assert main(["examine", "--run", "run", *other, *certificates]) == 2
    assert "made with another network" in capsys.readouterr().err


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
