"""Power of a comparison paired by seed: how many seeds a verdict needs, and the smallest difference that so many can show.

Everything here plans; nothing judges. Differences are taken as normal. Power of Student's t test is known in closed form; the
sign-flip test, on which verdicts rest, has it nearly from 13 seeds on (they agree in the limit). With fewer seeds it is coarser,
and is simulated on a fixed stream. With several comparisons every p-value has to pass Holm's first and strictest step, so power is
that of a comparison whose fellows show nothing.

References:
    Cohen, Statistical Power Analysis for the Behavioral Sciences (1988), chapter 2.
    Hoeffding, The large-sample power of tests based on permutations of observations, Ann. Math. Stat. 23 (1952).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

from suite.errors import BitcertError
from suite.report.statistics import SIGNIFICANCE, seeds_needed, sign_flip_p_values

POWER = 0.8
MOST_SEEDS = 1_000
_REPETITIONS = 1_000
_MOST_SIMULATED = 12
_EXACT_ENOUGH = 0.004  # standard deviations; the simulation is no more exact
_CERTAIN = 1e3
_LEAST_POWER = 0.5


def paired_t_power(effect: float, seeds: int, comparisons: int = 1) -> float:
    """Power of Student's two-sided paired t test, in closed form by the noncentral t distribution.

    Args:
        effect: Mean difference in standard deviations of the differences, of either sign.
        seeds: How many pairs.
        comparisons: By how many 0.05 is divided.

    Returns:
        The probability of a significant difference, of either sign; 0 for a single seed.
    """
    if seeds < 2:
        return 0.0
    if abs(effect) > _CERTAIN:
        return 1.0
    limit = float(stats.t.isf(SIGNIFICANCE / comparisons / 2, seeds - 1))
    shift = abs(effect) * math.sqrt(seeds)
    return float(stats.nct.sf(limit, seeds - 1, shift) + stats.nct.sf(limit, seeds - 1, -shift))


def sign_flip_power(effect: float, seeds: int, comparisons: int = 1) -> float:
    """Power of the two-sided sign-flip test; arguments and result are those of :func:`paired_t_power`.

    Up to 12 seeds it is simulated 1,000 times, with a standard error of at most 0.016; beyond, it is taken to be Student's.
    """
    if seeds < seeds_needed(comparisons):
        return 0.0
    if abs(effect) > _CERTAIN:
        return 1.0
    if seeds > _MOST_SIMULATED:
        return paired_t_power(effect, seeds, comparisons)
    samples = np.random.default_rng(0).normal(abs(effect), 1.0, size=(_REPETITIONS, seeds))
    return float(np.mean(comparisons * sign_flip_p_values(samples) <= SIGNIFICANCE))


def seeds_for_power(differences: ArrayLike, power: float = POWER, comparisons: int = 1) -> int | None:
    """Find how many seeds it takes to tell two searchers apart, if they differ as much as in a pilot.

    The mean and spread of a pilot are uncertain, the mean the more so if the pilot was made because of a large difference; where a
    smallest difference of interest is known, ask :func:`detectable_effect` instead. Seeds of the pilot must not be tested again
    with the new ones as if they were all new.

    Args:
        differences: Paired differences of the pilot, shape ``(seeds,)``.
        power: Probability of a verdict that is wanted.
        comparisons: With how many searchers the reference is compared.

    Returns:
        The fewest seeds; None if 1,000 are not enough.

    Raises:
        BitcertError: With fewer than two differences, one that is not finite, or a power below 0.5 or not below 1.
    """
    values = np.asarray(differences, dtype=np.float64)
    if len(values) < 2 or not np.isfinite(values).all():
        raise BitcertError(f"a pilot needs two or more finite differences to know their spread, got {len(values)}")
    _check_power(power)
    mean, spread = float(values.mean()), float(values.std(ddof=1))
    if mean == 0:
        return None
    effect = mean / spread if spread > 0 else math.inf
    # Student's test needs the fewest seeds, so the search for those of the sign-flip test starts there.
    for seeds in range(seeds_needed(comparisons), MOST_SEEDS + 1):
        if paired_t_power(effect, seeds, comparisons) >= power and sign_flip_power(effect, seeds, comparisons) >= power:
            return seeds
    return None


def detectable_effect(seeds: int, spread: float = 1.0, power: float = POWER, comparisons: int = 1) -> float:
    """Find the smallest mean difference that so many seeds show with the given power.

    Args:
        seeds: How many pairs.
        spread: Standard deviation of the paired differences, in units of the score.
        power: Probability of a verdict that is wanted.
        comparisons: With how many searchers the reference is compared.

    Returns:
        In units of ``spread``'s; infinite if no difference can be significant with so few seeds.

    Raises:
        BitcertError: If the power is below 0.5 or not below 1.
    """
    _check_power(power)
    if seeds < seeds_needed(comparisons):
        return math.inf
    most = 1.0
    while sign_flip_power(most, seeds, comparisons) < power:
        most *= 2

    def surplus(effect: float) -> float:
        return sign_flip_power(effect, seeds, comparisons) - power

    return spread * float(optimize.bisect(surplus, 0.0, most, xtol=_EXACT_ENOUGH))


def _check_power(power: float) -> None:
    if not _LEAST_POWER <= power < 1:
        raise BitcertError(f"the power wanted is at least {_LEAST_POWER:g} and below 1, got {power:g}")
