"""Sequential and aggregate certificates on a published table of per-image certificates, by simulation.

Reads a table as the code of Cohen et al. writes it (columns idx, label, predict, radius, correct), takes the probability that each
radius implies for the truth, and draws predictions with it: the same arithmetic on 10,000 images that would take a
network days. An image whose table abstains is taken to be predicted with probability 0.45.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from suite.certify import certified_radius, certify_fixed, certify_sequential, design_scores

ALPHA, N0 = 1e-3, 100
RADII = (0.0, 0.25, 0.5, 0.75, 1.0)


class Simulated:
    """A sampler with two classes: 1 for the class in the table, 0 for all others."""

    def __init__(self, probability: NDArray[np.float64], sigma: float, seed: int) -> None:
        self._probability = probability
        self._sigma = sigma
        self._rng = np.random.default_rng(seed)

    @property
    def sigma(self) -> float:
        return self._sigma

    def __len__(self) -> int:
        return len(self._probability)

    def counts(self, purpose: str, start: int, stop: int, rows: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        probability = self._probability if rows is None else self._probability[rows]
        successes = self._rng.binomial(stop - start, probability)
        return np.stack([stop - start - successes, successes], axis=1)

    def predictions(
        self, purpose: str, start: int, stop: int, rows: NDArray[np.int64] | None = None
    ) -> NDArray[np.int16]:
        raise NotImplementedError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("table", type=Path, nargs="?", help="per-image certificates, tab-separated")
    parser.add_argument("--sigma", type=float, default=0.5)
    arguments = parser.parse_args()
    if arguments.table is None:
        print("no table given; see https://github.com/locuslab/smoothing for some")
        return
    table = pd.read_csv(arguments.table, sep="\t")
    sigma = arguments.sigma
    likeliest = np.where(table.radius > 0, special.ndtr(table.radius / sigma), 0.45)
    right = table.correct.to_numpy() == 1
    print(f"{arguments.table.name}: {len(table)} images, sigma = {sigma:g}, simulated")
    for n in (10_000, 100_000):
        fixed = certify_fixed(Simulated(likeliest, sigma, 0), n0=N0, n=n, alpha=ALPHA)
        found = certify_sequential(Simulated(likeliest, sigma, 1), radii=RADII, n0=N0, n=n, alpha=ALPHA)
        fewer = fixed.forward_passes.sum() / found.forward_passes.sum()
        shares = [
            [float((right & (one.prediction == 1) & (one.radius >= radius)).mean()) for radius in RADII]
            for one in (fixed, found)
        ]
        print(f"n = {n:,}: sequential takes {found.forward_passes.mean():,.0f} per image, {fewer:.1f} times fewer")
        print("  fixed      " + "  ".join(f"{share:.4f} at {r:g}" for r, share in zip(RADII, shares[0], strict=True)))
        print("  sequential " + "  ".join(f"{share:.4f} at {r:g}" for r, share in zip(RADII, shares[1], strict=True)))
    label = np.where(right, likeliest, np.minimum(1 - likeliest, 0.45))
    rng = np.random.default_rng(2)
    calibration, exam = rng.permutation(len(label))[:500], rng.permutation(len(label))[500:1000]
    truth = certified_radius(label[exam], sigma).mean()
    print(f"ACR of {len(exam)} images: {truth:.4f} in truth")
    for n in (1_000, 10_000, 100_000):
        found = certify_fixed(Simulated(likeliest[exam], sigma, 3), n0=N0, n=n, alpha=ALPHA)
        acr = float(np.where(right[exam] & (found.prediction == 1), found.radius, 0.0).mean())
        print(f"  fixed, n = {n:,}: {acr:.4f}")
    for n in (50, 100, 200, 400):
        scores = design_scores(label[calibration], n=n, images=len(exam), sigma=sigma, alpha=ALPHA)
        bounds = [scores.bound(rng.binomial(n, label[exam])).acr for _ in range(1000)]
        over = int((np.array(bounds) > truth).sum())
        print(
            f"  aggregate, n = {n}: {np.mean(bounds):.4f} on average over 1,000 draws, {over} of them above the truth"
        )


if __name__ == "__main__":
    main()
