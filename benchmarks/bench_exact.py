"""Exact arithmetic against floating point: CPU time to draw noise, and to certify the digits with one integer network.

``python -m benchmarks.bench_exact [IMAGES] [N]``; alternatives are interleaved in one run, printed are medians.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

import suite
from suite.certify import Certificates, NoiseStream, certify
from suite.certify.noise import BLOCK
from suite.certify.rounded_gaussian import rounded_gaussian
from suite.problems.vision import VisionProblem

SIGMA, N0, ALPHA = 0.25, 100, 1e-3
SHAPES = {"8 x 8, 16 levels": ((1, 8, 8), 16, 100), "3 x 32 x 32, 255 levels": ((3, 32, 32), 255, 10)}


def compare(floating: Callable[[], object], exact: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Median CPU seconds of both, after a first round that does not count."""
    seconds: list[tuple[float, ...]] = []
    for _ in range(1 + rounds):
        marks = [time.process_time()]
        for run in (floating, exact):
            run()
            marks.append(time.process_time())
        seconds.append(tuple(np.diff(marks)))
    first, second = (statistics.median(column) for column in zip(*seconds[1:], strict=True))
    return first, second


def compare_noise() -> None:
    stream = NoiseStream(0, "count")
    for name, (shape, levels, blocks) in SHAPES.items():
        noise, kept = rounded_gaussian(SIGMA, levels), range(blocks)

        def floating(shape: tuple[int, ...] = shape, kept: range = kept) -> None:
            for block in kept:
                stream.block(0, block, shape)

        def exact(shape: tuple[int, ...] = shape, kept: range = kept, levels: int = levels) -> None:
            for block in kept:
                rounded_gaussian(SIGMA, levels).draw(stream, 0, block, shape)

        each = [seconds / (blocks * BLOCK * np.prod(shape)) * 1e9 for seconds in compare(floating, exact, rounds=15)]
        print(
            f"noise of {name}: float {each[0]:.1f} ns a value, exact {each[1]:.1f}; {len(noise.thresholds)} thresholds, ",
            end="",
        )
        print(f"total variation at most {float(noise.total_variation):.1e} a value")


def compare_certificates(images: int, n: int) -> None:
    problem = suite.load_problem("digits", budget="w3a3", sigma=SIGMA, engine="onnx")
    assert isinstance(problem, VisionProblem)
    bench = problem.bench
    split = bench.dataset.splits["exam"].subset(range(images))
    network = bench.executed_by_engine(bench.quantized(problem.space.uniform(3)))
    found: dict[str, Certificates] = {}

    def run(arithmetic: str) -> None:
        found[arithmetic] = certify(
            network,
            split.images(),
            split.labels,
            sigma=SIGMA,
            n0=N0,
            n=n,
            alpha=ALPHA,
            ids=split.ids,
            batch=bench.batch,
            arithmetic=arithmetic,
            levels=bench.dataset.levels or 0,
        )

    seconds = compare(lambda: run("float"), lambda: run("exact"), rounds=3)
    for spent, (kind, certificates) in zip(seconds, found.items(), strict=True):
        speed, acr = images * (N0 + n) / spent, certificates.acr(split.labels)
        print(f"certificates of {images} digits, n = {n}, {kind}: ACR {acr:.4f}, {speed:,.0f} passes a second")
    difference = found["exact"].scores(split.labels) - found["float"].scores(split.labels)
    error, largest = difference.std(ddof=1) / np.sqrt(images), abs(difference).max()
    print(f"difference of ACR {difference.mean():+.4f}, standard error {error:.4f}, largest of an image {largest:.3f}")


def main() -> None:
    torch.set_num_threads(1)
    images, n = (int(given) for given in [*sys.argv[1:3], *["100", "1000"][len(sys.argv) - 1 :]])
    compare_noise()
    compare_certificates(images, n)


if __name__ == "__main__":
    main()
