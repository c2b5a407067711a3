"""How often the intervals of reports hold the true value, and how often their test is a false alarm: simulated, in percent.

``python -m benchmarks.coverage [REPETITIONS]`` takes about two minutes at the default of 1,000. Sizes are those of recorded
results: 100 to 1,000 exam images, 2 to 10 seeds, 5 policies of 5 training seeds. A coverage counts the samples that give an
interval at all.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from suite.report.intervals import Interval, crossed_interval, mean_interval
from suite.report.reliability import anova_reliability, spearman
from suite.report.statistics import sign_flip_p_value
from suite.studies.post_steps.report import training_interval

Array = NDArray[np.float64]
Draw = Callable[..., Array]

IMAGES = (100, 250, 400, 1000)
SEEDS = (2, 5, 10)
TESTED_SEEDS = (6, 8, 10)
ITEMS = (6, 12, 48)
POST_STEPS = (1, 6)
POLICIES, TRAINING_SEEDS = 5, 5


def radii(rng: np.random.Generator, images: int) -> Array:
    """Certified radii: a third are 0, the others spread out; the mean is 4/15."""
    return np.where(rng.random(images) < 1 / 3, 0.0, rng.beta(2.0, 3.0, images))


def certified(rng: np.random.Generator, images: int, share: float) -> Array:
    """Whether images are certified at a radius; the mean is ``share``."""
    return (rng.random(images) < share).astype(float)


def sparse(rng: np.random.Generator, images: int, share: float, better: float, kind: str = "unit") -> Array:
    """Paired differences that are 0 on most images: not so on ``share`` of them, and positive on ``better`` of these.

    ``kind`` says how large they are: 1 each (certified or not), multiples of a step (``grid``), any radius (``radius``), or
    mostly tiny (``tiny``); the mean is ``share * (2 * better - 1)`` times that of :data:`SIZES`.
    """
    size = {
        "unit": np.ones(images),
        "grid": 0.25 * rng.integers(1, 5, images),
        "radius": rng.beta(2.0, 3.0, images),
        "tiny": rng.beta(0.5, 2.0, images),
    }[kind]
    return (rng.random(images) < share) * np.where(rng.random(images) < better, 1.0, -1.0) * size


SIZES = {"unit": 1.0, "grid": 0.625, "radius": 0.4, "tiny": 0.2}


def seeds_by_images(
    rng: np.random.Generator, seeds: int, images: int, by_seed: float, by_image: float, by_both: float
) -> Array:
    """A table of scores with mean 0: a normal part for every seed, one for every image (skewed), and one for both."""
    difficulty = by_image * (rng.exponential(size=images) - 1)
    return by_seed * rng.normal(size=(seeds, 1)) + difficulty + by_both * rng.normal(size=(seeds, images))


def paired_by_seed(rng: np.random.Generator, spreads: Array, post_steps: int) -> Array:
    """Paired differences of post-steps, shape ``(post_steps, policies, seeds)``, with mean 0 and a spread for every policy."""
    return np.asarray(spreads)[:, None] * rng.normal(size=(post_steps, len(spreads), TRAINING_SEEDS))


def items_by_replicate(rng: np.random.Generator, items: int, replicates: int, reliability: float) -> Array:
    """Scores whose means over replicates have that reliability; a replicate adds something to all items alike."""
    spread = math.sqrt(reliability / (1 - reliability) / replicates)
    noise = rng.normal(size=(items, replicates)) + rng.normal(size=replicates)
    return spread * rng.normal(size=(items, 1)) + noise


def correlated(rng: np.random.Generator, items: int, rho: float) -> Array:
    """Two normal scores of rank correlation ``rho``, shape ``(2, items)``."""
    x, y, pearson = rng.normal(size=items), rng.normal(size=items), 2 * np.sin(np.pi * rho / 6)
    return np.stack([x, pearson * x + np.sqrt(1 - pearson**2) * y])


def joint_interval(differences: Array) -> Interval:
    """The intersection of the intervals of several post-steps, which holds 0 where all of them do."""
    found = [training_interval(table, len(differences)) for table in differences]
    return Interval(max(interval.low for interval in found), min(interval.high for interval in found))


def reliability_interval(scores: Array) -> Interval:
    found = anova_reliability(scores)
    return Interval(found.low, found.high)


def correlation_interval(scores: Array) -> Interval:
    return Interval(*spearman(*scores)[1:])


def coverage(
    interval: Callable[[Array], Interval],
    draw: Callable[[np.random.Generator], Array],
    truth: float,
    repetitions: int,
    rng: np.random.Generator,
) -> tuple[int, int]:
    """How many of the intervals hold ``truth``, and how many there are."""
    found = np.array([(drawn.low, drawn.high) for drawn in (interval(draw(rng)) for _ in range(repetitions))])
    found = found[~np.isnan(found).any(axis=1)]
    return int(((found[:, 0] <= truth) & (truth <= found[:, 1])).sum()), len(found)


def false_alarms(
    test: Callable[[Array], float],
    draw: Callable[[np.random.Generator], Array],
    repetitions: int,
    rng: np.random.Generator,
) -> tuple[int, int]:
    """How many samples of mean 0 are called different from it at the 5 % level, and how many there are."""
    return sum(test(draw(rng)) <= 0.05 for _ in range(repetitions)), repetitions


FIXED_IMAGES: Mapping[str, tuple[Draw, float, bool]] = {
    "certified radii": (radii, 4 / 15, False),
    **{
        f"certified or not, {share:.0%}": (partial(certified, share=share), share, False)
        for share in (0.01, 0.03, 0.1, 0.5, 0.97)
    },
    **{
        f"differences: {share:.0%} {kind}, {better:.0%} better": (
            partial(sparse, share=share, better=better, kind=kind),
            share * (2 * better - 1) * mean,
            True,
        )
        for kind, mean in SIZES.items()
        for share in (0.01, 0.02, 0.05)
        for better in (0.5, 0.8, 1.0)
    },
}

SPREADS = {
    "equal": np.ones(POLICIES),
    "tenfold": np.geomspace(0.1, 1.0, POLICIES),
    "one policy tenfold": np.array([0.1, 0.1, 0.1, 0.1, 1.0]),
}
"""Standard deviations of paired differences, policy by policy."""

CROSSED = {
    "images only": (0.0, 0.25, 0.0),
    "images, and both": (0.0, 0.25, 0.1),
    "seeds and images alike": (0.04, 0.25, 0.1),
    "seeds most": (0.2, 0.25, 0.1),
    "both only": (0.0, 0.0, 0.1),
}
"""Standard deviations by seed, by image, and by both."""

SKEWED: Mapping[str, Draw] = {
    "normal": lambda rng, seeds: rng.normal(size=seeds),
    "exponential": lambda rng, seeds: rng.exponential(size=seeds) - 1,
    "beta(8, 1)": lambda rng, seeds: rng.beta(8, 1, size=seeds) - 8 / 9,
    "maximum of many": lambda rng, seeds: rng.gumbel(size=seeds) - np.euler_gamma,
}
"""Differences of mean 0, such as those to a method that always finds the same policy."""

TESTS: Mapping[str, Callable[[Array], float]] = {
    "sign-flip": sign_flip_p_value,
    "Wilcoxon": lambda values: float(stats.wilcoxon(values, method="exact").pvalue),
    "Student's t": lambda values: float(stats.ttest_1samp(values, 0).pvalue),
}


def main() -> None:
    repetitions, rng = int(sys.argv[1]) if len(sys.argv) > 1 else 1000, np.random.default_rng(0)
    head("mean over images; images", IMAGES)
    for name, (draw, truth, paired) in FIXED_IMAGES.items():
        interval = partial(mean_interval, paired=paired)
        show(name, [coverage(interval, partial(draw, images=count), truth, repetitions, rng) for count in IMAGES])
    head("mean over seeds and 400 images; seeds", SEEDS)
    for name, (by_seed, by_image, by_both) in CROSSED.items():
        table = partial(seeds_by_images, images=400, by_seed=by_seed, by_image=by_image, by_both=by_both)
        difference = partial(crossed_interval, paired=True)
        show(name, [coverage(difference, partial(table, seeds=count), 0.0, repetitions, rng) for count in SEEDS])
    head("mean over policies, over training; post-steps jointly", POST_STEPS)
    for name, spreads in SPREADS.items():
        drawn = partial(paired_by_seed, spreads=spreads)
        show(
            name,
            [coverage(joint_interval, partial(drawn, post_steps=count), 0.0, repetitions, rng) for count in POST_STEPS],
        )
    head("reliability of 8 items; replicates", SEEDS)
    for value in (0.2, 0.5, 0.8):
        scores = partial(items_by_replicate, items=8, reliability=value)
        found = [
            coverage(reliability_interval, partial(scores, replicates=count), value, repetitions, rng)
            for count in SEEDS
        ]
        show(f"{value}", found)
    head("rank correlation; items", ITEMS)
    for rho in (0.0, 0.4, 0.8):
        pair = partial(correlated, rho=rho)
        show(
            f"{rho}",
            [coverage(correlation_interval, partial(pair, items=count), rho, repetitions, rng) for count in ITEMS],
        )
    head("false alarms at 5 %; seeds", TESTED_SEEDS)
    for name, sample in SKEWED.items():
        for called, test in TESTS.items():
            cells = [false_alarms(test, partial(sample, seeds=count), repetitions, rng) for count in TESTED_SEEDS]
            show(f"{name}: {called}", cells)


def head(what: str, sizes: tuple[int, ...]) -> None:
    print(f"\n{what:<56}", *(f"{size:7}" for size in sizes))


def show(what: str, cells: list[tuple[int, int]]) -> None:
    print(f"{what:<56}", *(f"{100 * hits / max(1, total):7.1f}" for hits, total in cells))


if __name__ == "__main__":
    main()
