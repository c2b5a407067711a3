"""What all evaluations of a search share: images and noise, base records, and scores of set bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from suite.certify import (
    BaseRecord,
    BaseStore,
    NoisyClassifier,
    NoisyImages,
    SetScores,
    Setup,
    Task,
    design_scores,
    estimate,
    record_base,
)
from suite.contract.space import Policy
from suite.contract.trial import Fidelity
from suite.data import ImageDataset, ImageSplit
from suite.errors import BitcertError
from suite.networks import network_sha256
from suite.seeds import derive_seed
from suite.workbench import Workbench

BASE_FACTOR = 10
"""Samples of a base of incremental certificates, relative to those of the classifiers certified with its help."""

NOISE_MEMORY = 2**28
"""Bytes of noisy images kept, so that policies share them."""


class SearchSetup(Setup):
    """Computed once per problem and not charged to any searcher; a function of the workbench alone.

    Args:
        bench: Network and data.
        alpha: Failure probability of each certificate of the search.
        bases: Networks that incremental certificates may build on; None is the float network.
        calibration_images: Calibration images that scores are designed on.
    """

    def __init__(
        self, bench: Workbench, *, alpha: float, bases: Sequence[Policy | None], calibration_images: int
    ) -> None:
        self._bench, self._alpha, self._policies = bench, alpha, tuple(bases)
        self._calibration_images = calibration_images
        self._images: dict[tuple[str, int, int], NoisyImages] = {}
        self._bases: dict[tuple[Policy | None, int, int, int], BaseRecord] = {}
        self._scores: dict[tuple[int, int, float], SetScores] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Without the noisy images, which the receiver draws again."""
        return {**self.__dict__, "_images": {}}

    def task(self, fidelity: Fidelity, seed: int, split: str = "search") -> Task:
        """The first images of a split with their noise; raises BitcertError if there are too few.

        The most recent images are kept.
        """
        bench, count = self._bench, fidelity.images
        images = bench.dataset.splits[split]
        if count > len(images):
            raise BitcertError(
                f"{count} images asked for, but the {split} split of {bench.dataset.name} has {len(images)}"
            )
        images, key = images.subset(np.arange(count)), (split, count, seed)
        if key not in self._images:
            noise_seed = derive_seed(bench.seed, split, seed)
            self._images = {key: bench.noisy(images, noise_seed, NOISE_MEMORY)}
        return Task(
            noisy=self._images[key],
            labels=images.labels,
            radii=bench.radii,
            n0=select_samples(fidelity.noise),
            n=fidelity.noise,
            alpha=self._alpha,
        )

    def float_base(self, task: Task) -> BaseRecord:
        """Predictions of the float network on the task's images and noise."""
        return self._base(None, task)

    def bases(self, task: Task) -> list[BaseRecord]:
        """Predictions of all base networks, the float network first."""
        return [self._base(policy, task) for policy in self._policies]

    def _base(self, policy: Policy | None, task: Task) -> BaseRecord:
        """Look a record up in memory, then on disk by a hash of everything its predictions depend on, or make it."""
        noisy = task.noisy
        key = policy, len(noisy), noisy.seed, task.n
        if key not in self._bases:
            bench, n0, n = self._bench, BASE_FACTOR * task.n0, BASE_FACTOR * task.n
            network = bench.network if policy is None else bench.separate(policy)
            depends_on = {
                "float_sha256": bench.network_sha256,
                "executed_sha256": network_sha256(network),
                "policy": None if policy is None else policy.to_dict(),
                "data_sha256": bench.dataset.sha256,
                "image_ids": noisy.ids.tolist(),
                "sigma": bench.sigma,
                "noise_seed": noisy.seed,
                "n0": n0,
                "n": n,
                "batch": noisy.batch,
                "threads": bench.threads,
                "device": str(bench.device),
                "torch": torch.__version__,
            }
            self._bases[key] = BaseStore().get(
                depends_on, lambda: record_base(NoisyClassifier(network, noisy), n0=n0, n=n)
            )
        return self._bases[key]

    def scores(self, images: int, n: int, alpha: float) -> SetScores:
        """Scores for bounds on ``images`` images, designed on the float network: ``n`` passes per calibration image."""
        key = images, n, alpha
        if key not in self._scores:
            bench = self._bench
            split = calibration_split(bench.dataset, self._calibration_images)
            noisy = bench.noisy(split, derive_seed(bench.seed, "scores"))
            with bench.fixed_threads():
                found = estimate(NoisyClassifier(bench.network, noisy), split.labels, n=n)
            self._scores[key] = design_scores(
                found.probability, n=n, images=images, sigma=bench.sigma, radii=bench.radii, alpha=alpha
            )
        return self._scores[key]


def select_samples(noise: int) -> int:
    """Noise samples that choose the class (n0) when ``noise`` samples count it: a tenth, at least 8 and at most 100."""
    return min(100, max(8, noise // 10))


def calibration_split(dataset: ImageDataset, images: int) -> ImageSplit:
    """The first ``images`` calibration images, or all if there are fewer."""
    split = dataset.splits["calibration"]
    return split.subset(np.arange(min(images, len(split))))


def draw_images(split: ImageSplit, images: int, seed: int) -> ImageSplit:
    """``images`` images of a split without replacement, or all if there are fewer, in random order."""
    return split.subset(np.random.default_rng(seed).permutation(len(split))[:images])


def replicated(dataset: ImageDataset, replicate: int) -> ImageDataset:
    """The dataset with other calibration images, drawn from the training images too, and search images in another order."""
    splits = dict(dataset.splits)
    calibration, train = splits["calibration"], splits["train"]
    pool = replace(
        calibration,
        ids=np.concatenate([calibration.ids, train.ids]),
        labels=np.concatenate([calibration.labels, train.labels]),
    )
    splits["calibration"] = draw_images(pool, len(calibration), derive_seed(replicate, "calibration images"))
    splits["search"] = draw_images(splits["search"], len(splits["search"]), derive_seed(replicate, "search images"))
    return replace(dataset, splits=splits)
