"""Classifiers under noise whose probabilities are known, and what it means for a certificate of theirs to be wrong."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from torch import Tensor, nn

from suite.certify import Certificates, Sampler

FALSE_ALARM = 1e-6
"""Probability that a statistical test fails on correct code; the seeds are fixed."""
REPETITIONS = 10_000
SHAPE = (1, 2, 2)
_TOGETHER = 32


class Known:
    """A :class:`Sampler` whose sample falls into cell ``j`` of image ``i`` with probability ``cells[i, j]``.

    A draw is a pure function of (seed, purpose, image, sample index). Classifiers with the same seed and cells see the same
    noise; what they predict in a cell is their own business, so that any joint distribution can be had.

    Args:
        cells: Rows that sum to 1, shape ``(images, cells)``.
        classes: Class predicted in each cell; its number by default.
        sigma: Standard deviation of the noise.
        seed: Root of all draws.
    """

    def __init__(self, cells: ArrayLike, classes: ArrayLike | None = None, *, sigma: float, seed: int = 0) -> None:
        self.cells = np.asarray(cells, dtype=np.float64)
        self.classes = np.arange(self.cells.shape[1]) if classes is None else np.asarray(classes)
        self.sigma = sigma
        self.seed = seed
        self._belongs = np.eye(self.classes.max() + 1, dtype=np.int64)[self.classes]
        self.calls: list[tuple[str, int, int, int]] = []
        self._upper = np.cumsum(self.cells, axis=1)[:, :-1]
        self._drawn: dict[tuple[str, int], NDArray[np.int8]] = {}

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """Of each class, shape ``(images, classes)``."""
        return np.asarray(self.cells @ self._belongs)

    def __len__(self) -> int:
        return len(self.cells)

    def counts(self, purpose: str, start: int, stop: int, rows: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        drawn = self._draw(purpose, start, stop, rows)
        of_cell = np.stack([np.count_nonzero(drawn == j, axis=1) for j in range(self.cells.shape[1])], axis=1)
        return np.asarray(of_cell @ self._belongs)

    def predictions(
        self, purpose: str, start: int, stop: int, rows: NDArray[np.int64] | None = None
    ) -> NDArray[np.int16]:
        return self.classes.astype(np.int16)[self._draw(purpose, start, stop, rows)]

    def _draw(self, purpose: str, start: int, stop: int, rows: NDArray[np.int64] | None) -> NDArray[np.int8]:
        self.calls.append((purpose, start, stop, len(self) if rows is None else len(rows)))
        first = start // _TOGETHER
        blocks = [self._block(purpose, block) for block in range(first, -(-stop // _TOGETHER))]
        parts = [
            block[slice(None) if rows is None else rows, max(start - low, 0) : stop - low]
            for block, low in zip(blocks, range(first * _TOGETHER, stop, _TOGETHER), strict=True)
        ]
        return np.concatenate(parts, axis=1)

    def _block(self, purpose: str, block: int) -> NDArray[np.int8]:
        if (purpose, block) not in self._drawn:
            generator = np.random.default_rng([self.seed, zlib.crc32(purpose.encode()), block])
            uniform = generator.random((len(self), _TOGETHER))  # in [0, 1): below 1 always, and never below 0
            cells = np.zeros(uniform.shape, dtype=np.int8)
            for upper in self._upper.T:
                cells += uniform >= upper[:, None]
            self._drawn[purpose, block] = cells
        return self._drawn[purpose, block]


class OneStream(Known):
    """A broken sampler: the noise is the same whatever its purpose."""

    def _block(self, purpose: str, block: int) -> NDArray[np.int8]:
        return super()._block("one for all", block)


def coins(p: ArrayLike, *, sigma: float, seed: int = 0, sampler: type[Known] = Known) -> Known:
    """Two classes; class 1 has probability ``p``, an array with one entry for each image."""
    p = np.asarray(p, dtype=np.float64)
    return sampler(np.stack([1 - p, p], axis=1), sigma=sigma, seed=seed)


def pair(
    right: ArrayLike, away: ArrayLike, towards: ArrayLike, *, sigma: float, seed: int = 0, sampler: type[Known] = Known
) -> tuple[Known, Known]:
    """A base and a changed classifier on the same noise, three classes.

    Args:
        right: Probability that both predict class 1.
        away: That the base does and the changed one predicts class 2.
        towards: That the changed one does and the base predicts class 2.
        sigma: Standard deviation of the noise.
        seed: Root of all draws.
        sampler: What to make.

    Returns:
        Base and changed classifier; what is left, both predict as class 0.
    """
    parts = np.stack(np.broadcast_arrays(right, away, towards), axis=1).astype(np.float64)
    cells = np.concatenate([parts, 1 - parts.sum(axis=1, keepdims=True)], axis=1)
    base, changed = [1, 1, 2, 0], [1, 2, 1, 0]
    return sampler(cells, base, sigma=sigma, seed=seed), sampler(cells, changed, sigma=sigma, seed=seed)


def wrong(found: Certificates, truth: NDArray[np.float64], sigma: float) -> NDArray[np.bool_]:
    """Which images are certified though they must not be, given every class's probability, shape ``(images, classes)``."""
    p = truth[np.arange(len(truth)), found.prediction]
    return (found.prediction >= 0) & ((p < 0.5) | (found.radius > sigma * stats.norm.ppf(p)))


def most(alpha: float, repetitions: int = REPETITIONS) -> int:
    """The most failures that a method with error probability ``alpha`` may show."""
    return int(stats.binom.isf(FALSE_ALARM, repetitions, alpha))


def as_samplers(*samplers: Sampler) -> tuple[Sampler, ...]:
    """Checked by mypy: what is given follows the protocol."""
    return samplers


class HalfSpace(nn.Module):
    """Class 1 where ``<w, x> > b``: distance and probability under noise have closed forms."""

    weight = torch.tensor([3.0, -1.0, 2.0, 0.5])

    def forward(self, images: Tensor) -> Tensor:
        side: Tensor = images.flatten(1) @ self.weight - 1
        return torch.stack([-side, side], dim=1)

    def at_distance(self, distances: NDArray[np.float64]) -> Tensor:
        """Images on the side of class 1 at these distances from the border."""
        unit = self.weight / self.weight.norm()
        feet = unit / self.weight.norm()
        points: Tensor = feet + torch.from_numpy(distances).float()[:, None] * unit
        return points.reshape(-1, *SHAPE)


class Shifted(HalfSpace):
    """The same with the border moved towards class 1 by a distance: it differs between the two borders only."""

    def __init__(self, distance: float) -> None:
        super().__init__()
        self.distance = distance

    def forward(self, images: Tensor) -> Tensor:
        side: Tensor = images.flatten(1) @ self.weight - 1 - self.distance * self.weight.norm()
        return torch.stack([-side, side], dim=1)
