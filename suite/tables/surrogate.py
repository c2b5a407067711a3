"""Surrogates: what unmeasured policies would score, with uncertainty, by a Gaussian process fitted to a table."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.linalg import cho_solve

from suite.errors import BitcertError

FOLDS = 5
FEWEST_FITTED = 10
MOST_FITTED = 1_500
"""Policies to which a process is fitted at most: its time grows with their cube."""


@dataclass(frozen=True, eq=False)
class Fit:
    """A Gaussian process over the vectors of policies.

    Attributes:
        process: scikit-learn's, fitted.
        noise: Standard deviation of one measurement around the process.
        kendall, spearman: Rank correlations of predictions with the measurements of policies left out, by cross-validation.
        error: Root mean square error of these predictions.
    """

    process: Any
    noise: float
    kendall: float
    spearman: float
    error: float

    def predict(self, vectors: NDArray[np.integer]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Means and standard deviations of the true values of policies, shape ``(policies,)`` each; noise not included."""
        mean, total = predict(self.process, vectors)
        return mean, np.sqrt(np.maximum(total**2 - self.noise**2, 0.0))


def fit(vectors: NDArray[np.integer], values: NDArray[np.float64], noise: float | None) -> Fit:
    """Fit a process: a linear part, and smooth deviations from it, in the scaled bits of all variables.

    Args:
        vectors: Policies, each an index into the choices for every variable, shape ``(policies, variables)``.
        values: Measurements, shape ``(policies,)``.
        noise: Standard deviation of a measurement's noise; None to estimate it with everything else.

    Raises:
        BitcertError: With fewer than 10 policies, more than :data:`MOST_FITTED`, or values that are all equal.
    """
    count = len(vectors)
    if not FEWEST_FITTED <= count <= MOST_FITTED:
        raise BitcertError(f"a surrogate is fitted to {FEWEST_FITTED} to {MOST_FITTED:,} policies, got {count:,}")
    if np.ptp(values) == 0:
        raise BitcertError("all policies have the same score; a surrogate of them says nothing")
    process = fit_process(vectors, values, noise)
    kernel = process.kernel_
    folds = np.arange(count) % FOLDS
    np.random.default_rng(0).shuffle(folds)
    predicted = np.empty(count)
    for fold in range(FOLDS):
        left = folds == fold
        predicted[left] = refit_process(process, vectors[~left], values[~left]).predict(_features(vectors[left]))
    return Fit(
        process,
        float(np.sqrt(kernel.k2.noise_level) * values.std()) if noise is None else noise,
        float(stats.kendalltau(predicted, values).statistic),
        float(stats.spearmanr(predicted, values).statistic),
        float(np.sqrt(np.mean((predicted - values) ** 2))),
    )


def fit_process(vectors: NDArray[np.integer], values: NDArray[np.float64], noise: float | None) -> Any:
    """scikit-learn's process of :func:`fit`, with arguments like it."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, Matern, WhiteKernel

    scale = np.sqrt(vectors.shape[1])
    known = None if noise is None else max((noise / values.std()) ** 2, 1e-6)
    white = WhiteKernel(0.1) if known is None else WhiteKernel(known, "fixed")
    smooth = ConstantKernel(1.0) * DotProduct(1.0) + ConstantKernel(0.5) * Matern(
        scale, (0.1 * scale, 100 * scale), nu=2.5
    )
    process = GaussianProcessRegressor(smooth + white, normalize_y=True, random_state=0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The optimal value found for")  # a part of the kernel that plays no part
        return process.fit(_features(vectors), values)


def refit_process(process: Any, vectors: NDArray[np.integer], values: NDArray[np.float64]) -> Any:
    """The same kernel on other policies: cross-validation leaves policies out, not the four numbers of the kernel."""
    from sklearn.gaussian_process import GaussianProcessRegressor

    again = GaussianProcessRegressor(process.kernel_, optimizer=None, normalize_y=True)
    return again.fit(_features(vectors), values)


def predict(process: Any, vectors: NDArray[np.integer]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Means and standard deviations of measurements, noise included, shape ``(policies,)`` each."""
    mean, deviation = process.predict(_features(vectors), return_std=True)
    return np.asarray(mean), np.asarray(deviation)


def leave_one_out(process: Any) -> NDArray[np.float64]:
    """What a process would predict of each of its policies without having seen it, its kernel kept, up to scale and shift.

    References:
        Rasmussen and Williams, Gaussian processes for machine learning, 2006, equation 5.12.
    """
    inverse = cho_solve((process.L_, True), np.eye(len(process.L_)))
    return np.asarray(process.y_train_ - process.alpha_ / np.diag(inverse))


def _features(vectors: NDArray[np.integer]) -> NDArray[np.float64]:
    """For every variable the position of its bits among the choices, and an error that halves with each."""
    positions = np.asarray(vectors, dtype=np.float64)
    return np.hstack([positions, 2.0**-positions])
