"""Time and memory of one evaluation, one finetuning step and set-up, for a named problem.

``python -m benchmarks.bench_evaluation imagenet-resnet50 [cpu|cuda [BATCH]]``, where BATCH is the images of a finetuning
step. The images of ImageNet problems are generated, the weights drawn from a seed: neither changes what an evaluation
costs. Other problems read their images from BITCERT_DATA.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from suite.contract.trial import Fidelity
from suite.networks import build_network
from suite.problems import definitions, load_problem
from suite.problems.vision import VisionProblem
from suite.protocols import Request
from suite.protocols.finetune import Finetune
from suite.train.finetune import FinetuneSettings

FIDELITY = Fidelity(images=4, noise=25)
TRAINING_IMAGES = 64


def timed(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def memory(device: str) -> float:
    """Peak memory so far, in GiB, of the process or the GPU."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def generate(folder: Path) -> None:
    """An ImageNet-style folder, large enough for a batch of training images."""
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        (folder / part / "n00000000").mkdir(parents=True)
        for number in range(2 * TRAINING_IMAGES if part == "train" else 4):
            pixels = rng.integers(0, 256, (224, 224, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / part / "n00000000" / f"{number}.JPEG")


def main() -> None:
    name, device = sys.argv[1], (sys.argv[2:] or ["cpu"])[0]
    finetuning = FinetuneSettings(batch=int(sys.argv[3])) if sys.argv[3:] else FinetuneSettings()
    definition = definitions()[name]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        given: dict[str, Any] = {}
        if definition.dataset == "imagenet":
            generate(folder)
            network = build_network(definition.network, definition.classes)
            save_file(network.state_dict(), folder / "weights.safetensors")
            given = {"data": folder, "checkpoint": folder / "weights.safetensors"}
        problem = load_problem(name, device=device, finetuning=finetuning, **given)
        assert isinstance(problem, VisionProblem)
        macs = sum(layer.macs for layer in problem.space.layers)
        print(f"{name}: {len(problem.space.layers)} layers, {macs / 1e6:,.0f} million MACs per image, on {device}")
        print(
            f"set-up (images, weights, calibration): {timed(lambda: problem.network):.1f} s, {memory(device):.1f} GiB"
        )
        problem.evaluate(problem.space.uniform(3), FIDELITY)
        seconds = timed(lambda: problem.evaluate(problem.space.uniform(2), FIDELITY))
        passes = FIDELITY.images * (FIDELITY.noise + 1)
        print(f"evaluation: {passes / seconds:.1f} forward passes per second, {memory(device):.1f} GiB")
        with problem.bench.fixed_threads():
            protocol = Finetune()
            seconds = timed(
                lambda: protocol.prepare(problem.bench, problem.space.uniform(3), Request(protocol, steps=1))
            )
        print(f"finetuning step of {finetuning.batch} images: {seconds:.1f} s, {memory(device):.1f} GiB")


if __name__ == "__main__":
    main()
