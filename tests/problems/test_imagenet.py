"""The way of ImageNet, end to end on a generated folder: torchvision's state dict, search, resume, post-step, exam."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from suite.problems import load_problem
from suite.problems.loading import DataWarning
from suite.workbench import bench_problem

RECALIBRATED = 5
"""Images that recompute the batch norms of every policy: all but an eighth for calibration and a quarter for the search."""
NETWORKS = {"imagenet-resnet18": "resnet18", "imagenet-resnet50": "resnet50", "imagenet-mobilenetv2": "mobilenet_v2"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("imagenet")
    rng = np.random.default_rng(0)
    for part, count in (("train", 4), ("val", 2)):
        for wnid in ("n01440764", "n02102040"):
            (path / part / wnid).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).resize((300, 250)).save(path / part / wnid / f"{wnid}_{number}.JPEG")
    return path


def state_dict(network: str, path: Path) -> Path:
    """What torchvision's download would give, with weights from a seed."""
    torch.manual_seed(0)
    torch.save(torchvision.models.get_model(network, weights=None).state_dict(), path)
    return path


@pytest.mark.parametrize("name", NETWORKS)
def test_costs_are_those_of_torchvisions_network(name: str) -> None:
    problem = load_problem(name)
    network = torchvision.models.get_model(NETWORKS[name], weights=None).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, 224, 224))
    macs = [layer.macs for layer in problem.space.layers]
    assert 2 * sum(macs) == counter.get_total_flops()
    middle, ends = sum(macs[1:-1]), macs[0] + macs[-1]
    assert problem.bops(problem.space.uniform(4)) == 16 * middle + 64 * ends


PROGRAM = """
import json, sys
import suite.studies.memory
from suite.cli import main
suite.studies.memory.available_memory = lambda: 2**40  # estimates are for whole batches, the folder has fewer images
for command in json.loads(sys.argv[1]):
    if main([*command, "--json"]) != 0:
        sys.exit(1)
    print(flush=True)
"""


def bitcert(*commands: list[str]) -> list[dict[str, Any]]:
    """What commands answer one after the other; in another process, which gives gigabytes back when it ends."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(commands)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(answer) for answer in done.stdout.strip().split("\n\n")]


@pytest.mark.parametrize("name", NETWORKS)
def test_torchvisions_state_dict_is_the_base_network(name: str, folder: Path, tmp_path: Path) -> None:
    checkpoint = state_dict(NETWORKS[name], tmp_path / "weights.pth")
    problem = bench_problem(load_problem(name, data=folder, checkpoint=checkpoint), "network")
    with pytest.warns(DataWarning, match="1000 outputs but the images have 2 classes"):
        network = problem.bench.network
    expected = torchvision.models.get_model(NETWORKS[name], weights=None).eval()
    expected.load_state_dict(torch.load(checkpoint, weights_only=True))
    images = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    transforms = torchvision.models.get_model_weights(NETWORKS[name]).DEFAULT.transforms()
    normalized = torchvision.transforms.functional.normalize(images, transforms.mean, transforms.std)
    with torch.no_grad():
        assert torch.allclose(network(images), expected(normalized), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_search_resume_post_step_and_exam(folder: Path, tmp_path: Path) -> None:
    name = "imagenet-mobilenetv2"
    checkpoint = state_dict(NETWORKS[name], tmp_path / "weights.pth")
    given = ["--data", str(folder), "--checkpoint", str(checkpoint)]
    search = ["search", "--problem", name, *given, "--searcher", "uniform", "--images", "2", "--noise", "2"]
    search += ["--finalists", "0", "--directory", str(tmp_path / "run")]
    examine = [
        "examine",
        "--run",
        str(tmp_path / "run"),
        *given,
        "--exam-images",
        "2",
        "--exam-n0",
        "2",
        "--exam-n",
        "8",
        "--post-step",
        "sqwa:captures=1",
        "--post-step-steps",
        "2",
    ]
    (first,) = bitcert([*search, "--evaluations", "1"])
    assert first["best"]["metrics"]["forward_passes"] == 2 * 2 + 2 + RECALIBRATED
    journal = (tmp_path / "run" / "journal.jsonl").read_text().splitlines()
    second, outcome = bitcert([*search, "--evaluations", "2"], examine)
    assert (tmp_path / "run" / "journal.jsonl").read_text().splitlines()[:3] == journal[:3]
    assert (second["trials"], second["forward_passes"]) == (2, 2 * (2 * 2 + 2 + RECALIBRATED))
    assert outcome["post_step"] == "sqwa"
    assert outcome["metrics"]["bops"] <= load_problem(name).budget.limits[0].most
    assert len(outcome["provenance"]["post_step_record"]["captures"]) == 1
