"""What all evaluations of a search share: its images and noise, records of base networks, and scores of aggregate bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from suite.certify import (
    BaseRecord,
    BaseStore,
    NoisyClassifier,
    NoisyImages,
    SetScores,
    design_scores,
    estimate,
    record_base,
)
from suite.contract.space import Policy
from suite.contract.trial import Fidelity
from suite.data import ImageDataset, ImageSplit
from suite.networks import network_sha256
from suite.problems.definition import Definition
from suite.problems.methods import BASE_FACTOR, Setting, select_samples
from suite.seeds import derive_seed

if TYPE_CHECKING:
    from suite.problems.vision import SmoothedProblem

_NOISE_MEMORY = 2**28
"""Bytes of noisy images kept, so that policies share them."""


class SearchSetup:
    """Made once for a problem and not charged to any searcher; everything in it is a function of the problem alone.

    Args:
        problem: Whose search it serves.
    """

    def __init__(self, problem: SmoothedProblem) -> None:
        self._problem = problem
        self._images: dict[tuple[int, int], NoisyImages] = {}
        self._bases: dict[tuple[Policy | None, Fidelity, int], BaseRecord] = {}
        self._scores: dict[tuple[int, int, float], SetScores] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Without the noisy images: whoever receives the problem makes them anew."""
        return {**self.__dict__, "_images": {}}

    def images(self, count: int, seed: int) -> tuple[NoisyImages, NDArray[np.int64]]:
        """The first search images with their noise, and their labels; those last asked for are kept."""
        split = self._problem.dataset.splits["search"].subset(np.arange(count))
        if (count, seed) not in self._images:
            self._images = {(count, seed): self._problem.noisy(split, self._noise_seed(seed), _NOISE_MEMORY)}
        return self._images[count, seed], split.labels

    def setting(self, fidelity: Fidelity, seed: int) -> Setting:
        """What a certification method may draw on in the search."""
        problem = self._problem
        return Setting(
            labels=problem.dataset.splits["search"].labels[: fidelity.images],
            radii=problem.radii,
            n0=select_samples(fidelity.noise),
            n=fidelity.noise,
            alpha=problem.alpha,
            float_base=lambda: self.base(None, fidelity, seed),
            bases=lambda: [self.base(policy, fidelity, seed) for policy in self._base_policies()],
            scores=lambda: self.scores(fidelity.images, fidelity.noise, problem.alpha),
        )

    def base(self, policy: Policy | None, fidelity: Fidelity, seed: int) -> BaseRecord:
        """What a base (None: the float network) predicts on the search images; from memory, from disk, or made.

        The record on disk is found by a hash of everything that the predictions depend on.
        """
        key = policy, fidelity, seed
        if key not in self._bases:
            problem = self._problem
            n0, n = BASE_FACTOR * select_samples(fidelity.noise), BASE_FACTOR * fidelity.noise
            network = problem.network if policy is None else problem.quantized(policy)
            noisy, _ = self.images(fidelity.images, seed)
            depends_on = {
                "float_sha256": problem.network_sha256,
                "executed_sha256": network_sha256(network),
                "policy": None if policy is None else policy.to_dict(),
                "data_sha256": problem.dataset.sha256,
                "image_ids": noisy.ids.tolist(),
                "sigma": problem.sigma,
                "noise_seed": self._noise_seed(seed),
                "n0": n0,
                "n": n,
                "batch": noisy.batch,
                "threads": problem.definition.threads,
                "device": str(problem.device),
                "torch": torch.__version__,
            }
            self._bases[key] = BaseStore().get(
                depends_on, lambda: record_base(NoisyClassifier(network, noisy), n0=n0, n=n)
            )
        return self._bases[key]

    def scores(self, images: int, n: int, alpha: float) -> SetScores:
        """Scores of aggregate bounds for as many images and samples.

        They are designed on the calibration images as the float network sees them.
        """
        key = images, n, alpha
        if key not in self._scores:
            problem = self._problem
            split = calibration_split(problem.dataset, problem.definition)
            noisy = problem.noisy(split, derive_seed(problem.seed, "scores"))
            with problem.fixed_threads():
                found = estimate(NoisyClassifier(problem.network, noisy), split.labels, n=n)
            self._scores[key] = design_scores(
                found.probability,
                n=n,
                images=images,
                sigma=problem.sigma,
                radii=problem.radii,
                alpha=alpha,
            )
        return self._scores[key]

    def _noise_seed(self, seed: int) -> int:
        return derive_seed(self._problem.seed, "search", seed)

    def _base_policies(self) -> list[Policy | None]:
        """The float network, the uniform policy with the most bits within the budget, and what was asked for."""
        return list(dict.fromkeys([None, self._problem.largest_uniform(), *self._problem.bases]))


def calibration_split(dataset: ImageDataset, definition: Definition) -> ImageSplit:
    """The calibration images that a definition asks for."""
    split = dataset.splits["calibration"]
    return split.subset(np.arange(min(definition.calibration_images, len(split))))
