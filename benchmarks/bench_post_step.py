"""An epoch of the post-steps against an epoch of plain float training, batch 64, one thread; images of noise."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.timing import measure, ratio
from suite.contract.space import FLOAT_BITS, Policy, SearchSpace
from suite.data import ImageSplit
from suite.data.images import PixelArray
from suite.networks import build_network, trace_layers
from suite.quantize import TrainableNetwork, calibrate
from suite.train import TrainSettings, train_base
from suite.train.finetune import FinetuneSettings, finetune
from suite.train.sqwa import SQWASettings, Training, sqwa

BATCH, CAPTURES = 64, 5
NETWORKS = {"resnet8": ((1, 8, 8), 16, 4, 1024, 5), "resnet20": ((3, 32, 32), 2, 1, 16, 5)}
"""Shape, steps of an epoch, epochs of a cycle, images that losses are measured on, rounds: in proportion to ``digits`` at the
default 400 steps, and to CIFAR-10 where 1,000 of 45,000 images measure losses."""


def main() -> None:
    torch.set_num_threads(1)
    for name, sizes in NETWORKS.items():
        compare(name, *sizes)


def compare(name: str, shape: tuple[int, int, int], steps: int, epochs: int, measured: int, rounds: int) -> None:
    """Time epochs of one network; SQWA is divided by the number of its epochs, those of the finish included."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, size=(steps * BATCH, *shape)).astype(np.uint8)
    split = ImageSplit(np.arange(len(pixels)), rng.integers(0, 10, len(pixels)), PixelArray(pixels, 255))
    network = build_network(name, 10, shape[0]).eval().requires_grad_(False)
    space = SearchSpace(trace_layers(network, shape))
    calibration = calibrate(network, [layer.name for layer in space.layers], [split.images(0, 50)])
    policy = space.uniform(2)
    settings = FinetuneSettings(batch=BATCH)
    labels = torch.from_numpy(split.labels)
    batches = list(zip(split.images()[:measured].split(250), labels[:measured].split(250), strict=True))
    training = Training(split, 0.25, settings, 0, batches)
    plan = SQWASettings(captures=CAPTURES, cycle_steps=epochs * steps, finish_steps=epochs * steps)
    plain = build_network(name, 10, shape[0])
    unquantized = Policy.from_bits([FLOAT_BITS] * len(space.layers), [FLOAT_BITS] * len(space.layers))

    def tune(which: Policy) -> None:
        trainable = TrainableNetwork(network, space.layers, which, calibration)
        finetune(trainable, split, steps=steps, sigma=0.25, settings=settings, seed=0)

    seconds = measure(
        {
            "float, SGD": lambda: train_base(
                plain, split, sigma=0.25, settings=TrainSettings(epochs=1, batch=BATCH), seed=0
            ),
            "float, Adam": lambda: tune(unquantized),
            "qat": lambda: tune(policy),
            "sqwa": lambda: sqwa(TrainableNetwork(network, space.layers, policy, calibration), training, plan),
        },
        rounds=rounds,
        warmup=1,
    )
    seconds["sqwa"] = [taken / (CAPTURES * epochs + epochs) for taken in seconds["sqwa"]]
    for alternative in ("float, Adam", "qat", "sqwa"):
        print(f"{name}: an epoch of {alternative} / of float, SGD: {ratio(seconds, alternative, to='float, SGD')}")


if __name__ == "__main__":
    main()
