"""Binomial confidence bounds and the certified radius of a smoothed classifier."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from suite.contract.problem import check_sigma
from suite.errors import BitcertError


def clopper_pearson_lower(successes: ArrayLike, trials: ArrayLike, alpha: float) -> NDArray[np.float64]:
    """One-sided lower confidence bound of a binomial probability, at confidence ``1 - alpha``.

    Args:
        successes: Integer counts, any shape that broadcasts with ``trials``.
        trials: Integer numbers of draws, at least 1.
        alpha: Probability that the bound exceeds the true probability, at most; within (0, 1).

    Returns:
        The ``alpha`` quantile of Beta(successes, trials - successes + 1); 0 where there are no successes.

    Raises:
        BitcertError: On counts that are no integers or out of range, or ``alpha`` outside (0, 1).

    References:
        Clopper and Pearson, Biometrika 26 (1934); Cohen, Rosenfeld, Kolter, ICML 2019, section 3.2.2.
    """
    k, n = _check_counts(successes, trials, alpha)
    with np.errstate(invalid="ignore"):
        bound = special.betaincinv(k, n - k + 1.0, alpha)
    return np.where(k == 0, 0.0, bound)


def clopper_pearson_upper(successes: ArrayLike, trials: ArrayLike, alpha: float) -> NDArray[np.float64]:
    """One-sided upper confidence bound of a binomial probability; arguments as for the lower one.

    Returns:
        The ``1 - alpha`` quantile of Beta(successes + 1, trials - successes); 1 where all draws are successes.
    """
    k, n = _check_counts(successes, trials, alpha)
    with np.errstate(invalid="ignore"):
        bound = special.betainccinv(k + 1.0, n - k, alpha)
    return np.where(k == n, 1.0, bound)


def certified_radius(p_lower: ArrayLike, sigma: float) -> NDArray[np.float64]:
    """L2 radius within which the prediction cannot change: ``sigma * Phi^-1(p_lower)``, 0 where ``p_lower <= 1/2``.

    Args:
        p_lower: Lower bounds of the predicted class's probability under Gaussian noise, within [0, 1], any shape.
        sigma: Standard deviation of the noise, in the units of the images.

    Returns:
        Radii in the units of the images; infinite where ``p_lower`` is 1.

    Raises:
        BitcertError: If ``sigma`` is not positive and finite, or a probability lies outside [0, 1].

    References:
        Cohen, Rosenfeld, Kolter, ICML 2019, theorem 1 with the runner-up bounded by ``1 - p_lower``.
    """
    check_sigma(sigma)
    p = np.asarray(p_lower, dtype=np.float64)
    if not np.all((p >= 0) & (p <= 1)):
        raise BitcertError("p_lower must lie within [0, 1]")
    return np.where(p > 0.5, sigma * special.ndtri(np.maximum(p, 0.5)), 0.0)


def largest_radius(n: int, alpha: float, sigma: float) -> float:
    """The radius certified when all ``n`` noise samples agree; no certificate from n samples exceeds it."""
    return float(certified_radius(clopper_pearson_lower(n, n, alpha), sigma))


class CertificationWarning(UserWarning):
    """The sample size cannot certify what is wanted."""


def check_alpha(alpha: float) -> None:
    """Raise BitcertError unless ``alpha`` lies in (0, 1)."""
    if not 0 < alpha < 1:
        raise BitcertError(f"alpha must lie strictly between 0 and 1, got {alpha}; 0.001 is usual")


def check_positive(**numbers: int) -> None:
    """Raise BitcertError, naming it, if one of the numbers is below 1."""
    for name, number in numbers.items():
        if number < 1:
            raise BitcertError(f"{name} must be at least 1, got {number}")


def _check_counts(successes: ArrayLike, trials: ArrayLike, alpha: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    check_alpha(alpha)
    k, n = np.broadcast_arrays(np.asarray(successes), np.asarray(trials))
    if k.dtype.kind not in "iu" or n.dtype.kind not in "iu":
        raise BitcertError(f"successes and trials must be integers, got {k.dtype} and {n.dtype}")
    if np.any(n < 1) or np.any(k < 0) or np.any(k > n):
        raise BitcertError("successes must lie within 0..trials, and trials be at least 1")
    return k.astype(np.int64), n.astype(np.int64)
