"""Certification against a straightforward loop after Cohen et al.: same network, images, noise and n; same counts.

The loop goes image by image in batches of 1,000, keeps batch norms as modules, and counts in Python, as the code that
accompanies the paper does. ``suite`` executes the network as a problem does: folded, in place, channels last.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import norm
from statsmodels.stats.proportion import proportion_confint
from torch import Tensor, nn

import suite
from benchmarks.timing import measure, ratio
from suite.certify import NoiseStream, NoisyClassifier, NoisyImages, certify, certify_fixed
from suite.problems.vision import VisionProblem
from suite.quantize import QuantizedNetwork, Statistics

SIGMA, IMAGES, N0, N, ALPHA = 0.25, 10, 100, 1000, 0.001


def count(network: nn.Module, image: Tensor, position: int, samples: int, stream: NoiseStream) -> NDArray[np.int64]:
    counts = np.zeros(10, dtype=np.int64)
    for start in range(0, samples, 1000):
        stop = min(start + 1000, samples)
        noise = torch.from_numpy(stream.draw(position, start, stop, tuple(image.shape)))
        with torch.no_grad():
            predictions = network(image.repeat((stop - start, 1, 1, 1)) + noise * SIGMA).argmax(1)
        for prediction in predictions.cpu().numpy():
            counts[prediction] += 1
    return counts


def straightforward(network: nn.Module, images: Tensor) -> list[tuple[int, float]]:
    certified = []
    for position, image in enumerate(images):
        chosen = int(count(network, image, position, N0, NoiseStream(0, "select")).argmax())
        successes = int(count(network, image, position, N, NoiseStream(0, "count"))[chosen])
        p_lower = float(proportion_confint(successes, N, alpha=2 * ALPHA, method="beta")[0])
        certified.append((chosen, SIGMA * float(norm.ppf(p_lower))) if p_lower > 0.5 else (-1, 0.0))
    return certified


def main() -> None:
    torch.set_num_threads(1)
    problem = suite.load_problem("digits", sigma=SIGMA)
    assert isinstance(problem, VisionProblem)
    split = problem.bench.dataset.splits["search"].subset(range(IMAGES))
    images, policy = split.images(), problem.space.uniform(3)
    executed = problem.bench.separate(policy, Statistics(recalibrate=False))
    plain = QuantizedNetwork(problem.network, problem.space.layers, executed.calibration, fold=False, fast=False)
    plain.set_policy(policy)

    def ours(network: nn.Module) -> list[tuple[int, float]]:
        result = certify(network, images, split.labels, sigma=SIGMA, n0=N0, n=N, alpha=ALPHA, seed=0)
        return list(zip(result.prediction.tolist(), result.radius.tolist(), strict=True))

    kept = NoisyImages(images, sigma=SIGMA, memory=2**30)
    reference = straightforward(plain, images)
    for found in (ours(executed), ours(plain)):
        assert [prediction for prediction, _ in found] == [prediction for prediction, _ in reference]
        np.testing.assert_allclose([radius for _, radius in found], [radius for _, radius in reference], atol=1e-12)
    seconds = measure(
        {
            "straightforward": lambda: straightforward(plain, images),
            "suite": lambda: ours(executed),
            "suite, same module": lambda: ours(plain),
            "suite, noise kept": lambda: certify_fixed(NoisyClassifier(executed, kept), n0=N0, n=N, alpha=ALPHA),
        },
        rounds=7,
        warmup=1,
    )
    print(f"digits at w3a3, {IMAGES} images, n0 = {N0}, n = {N}: equal predictions and counts")
    print(f"  straightforward / suite: {ratio(seconds, 'straightforward', 'suite')}   target >= 1.5")
    print(f"  noisy images kept across policies / regenerated: {ratio(seconds, 'suite, noise kept', 'suite')}")
    print(
        f"  straightforward / suite with the very same module: {ratio(seconds, 'straightforward', 'suite, same module')}"
    )


if __name__ == "__main__":
    main()
