"""Estimated and measured peak memory of an evaluation, and of one with a finetuning step, each in a process of its own; Linux only.

``python -m benchmarks.bench_memory [PROBLEM ...]``. Images are generated and weights drawn from a seed: neither changes what is
taken. Problems on ImageNet read a small folder, whose file names take nothing.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from suite.contract.trial import Fidelity
from suite.networks import build_network, save_checkpoint
from suite.problems import definitions
from suite.problems.vision import VisionProblem
from suite.studies.memory import GIB, estimate_memory

CASES = ("digits", "cifar10-resnet20", "cifar10-mobilenetv2", "imagenet-mobilenetv2")
STEPS = {"digits": (0, 1), "cifar10-resnet20": (0, 1), "cifar10-mobilenetv2": (0, 1)}
IMAGES = 800  # an eighth of them calibrates


def generate(dataset: str, folder: Path) -> None:
    """Images in the form of a dataset."""
    rng = np.random.default_rng(0)
    if dataset == "cifar10":
        x_train, x_test = (rng.integers(0, 256, (count, 32, 32, 3), np.uint8) for count in (50_000, 10_000))
        y_train, y_test = (rng.integers(0, 10, (count, 1), np.uint8) for count in (50_000, 10_000))
        np.savez(folder / "cifar10.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    if dataset == "imagenet":
        for part in ("train", "val"):
            (folder / part / "n00000000").mkdir(parents=True)
        first = folder / "train" / "n00000000" / "0.png"
        Image.fromarray(rng.integers(0, 256, (224, 224, 3), np.uint8)).save(first)
        for number in range(1, IMAGES):
            first.with_name(f"{number}.png").hardlink_to(first)
        (folder / "val" / "n00000000" / "0.png").hardlink_to(first)


def compare(name: str, steps: int) -> tuple[int, int]:
    """Estimated and measured bytes of a problem's evaluation with so many finetuning steps."""
    with tempfile.TemporaryDirectory() as folder:
        generate(definitions()[name].dataset, Path(folder))
        command = [sys.executable, "-m", __spec__.name, "--measure", name, str(steps), folder]
        root = Path(__file__).parents[1]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    estimated, measured = json.loads(done.stdout)
    return estimated, measured


def measure(name: str, steps: int, folder: Path) -> tuple[int, int]:
    """The same in this process, whose peak it is."""
    definition = definitions()[name]
    definition = replace(definition, dataset="folder" if definition.dataset == "imagenet" else definition.dataset)
    weights = folder / "weights.safetensors"
    save_checkpoint(build_network(definition.network, definition.classes, definition.shape[0]), weights, {})
    problem = VisionProblem(definition, data=folder, checkpoint=weights, budget="w4a4")
    rows = Fidelity(images=2 * definition.batch // 8, noise=8, finetune_steps=steps)  # two full batches
    estimated = estimate_memory(problem, rows, training=int(steps > 0)).total
    for bits in (4, 2):
        problem.evaluate(problem.space.uniform(bits), rows)
    peak = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert peak is not None
    return estimated, 1024 * int(peak[1])


def main() -> None:
    """Print one line per problem and number of finetuning steps."""
    if sys.argv[1:2] == ["--measure"]:
        warnings.simplefilter("ignore")  # the network has more outputs than the folder has classes
        print(json.dumps(measure(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))))
        return
    print("| problem | finetuning steps | estimated GiB | measured GiB | ratio |\n|---|---:|---:|---:|---:|")
    for name in sys.argv[1:] or CASES:
        for steps in STEPS.get(name, (0,)):
            estimated, measured = compare(name, steps)
            figures = f"{estimated / GIB:.2f} | {measured / GIB:.2f} | {estimated / measured:.2f}"
            print(f"| {name} | {steps} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
