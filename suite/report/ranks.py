"""Tests and effect sizes by ranks: Wilcoxon's test of pairs, Friedman's of many searchers, and which ranks differ.

They complement the sign-flip test of means, on which verdicts rest: ranks do not weigh how large the large differences are.

References:
    Wilcoxon, Biometrics Bull. 1 (1945); Kerby, The simple difference formula, Compr. Psychol. 3 (2014), rank-biserial correlation.
    Cliff, Dominance statistics, Psychol. Bull. 114 (1993).
    Demsar, Statistical comparisons of classifiers over multiple data sets, J. Mach. Learn. Res. 7 (2006), with Nemenyi's test.
    Iman and Davenport, Approximations of the critical region of the Friedman statistic, Commun. Stat. 9 (1980).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from suite.errors import BitcertError, unknown_name
from suite.report.statistics import SIGNIFICANCE, correct_p_values


@dataclass(frozen=True, slots=True)
class SignedRanks:
    """A searcher against another, paired by seed, by ranks.

    Attributes:
        searcher, against: The names; positive effects are in favour of ``searcher``.
        pairs: How many seeds there are.
        p_value: Two-sided, of Wilcoxon's signed-rank test.
        p_adjusted: The same after Holm's correction for all searchers compared with ``against``.
        rank_biserial: See :func:`rank_biserial`.
        cliffs_delta: See :func:`cliffs_delta`.
    """

    searcher: str
    against: str
    pairs: int
    p_value: float
    p_adjusted: float
    rank_biserial: float
    cliffs_delta: float


def compare_by_ranks(scores: Mapping[str, ArrayLike], against: str) -> list[SignedRanks]:
    """Test every other searcher against one by signed ranks, corrected for the number of tests.

    Args:
        scores: For each searcher its scores, shape ``(pairs,)``, all by the same seeds in the same order.
        against: The searcher that the others are measured by.

    Raises:
        BitcertError: If there is no such searcher, the numbers of scores differ, or a score is not finite.
    """
    tables = _check(scores)
    if against not in tables:
        raise unknown_name("searcher", against, tables)
    others = [name for name in tables if name != against]
    p_values = [signed_rank_p_value(tables[name] - tables[against]) for name in others]
    return [
        SignedRanks(
            searcher=name,
            against=against,
            pairs=len(tables[name]),
            p_value=p_value,
            p_adjusted=p_adjusted,
            rank_biserial=rank_biserial(tables[name] - tables[against]),
            cliffs_delta=cliffs_delta(tables[name], tables[against]),
        )
        for name, p_value, p_adjusted in zip(others, p_values, correct_p_values(p_values), strict=True)
    ]


def signed_rank_p_value(differences: ArrayLike) -> float:
    """Wilcoxon's signed-rank test of paired differences, two-sided; differences of zero are left out.

    It is scipy's: exact up to 50 pairs where no two sizes are equal, and up to 13 where some share their mean rank; beyond, by the
    normal approximation.

    Args:
        differences: Shape ``(pairs,)``.

    Returns:
        1 where no difference is left.
    """
    ranks = _signed_ranks(differences)
    return float(stats.wilcoxon(ranks).pvalue) if len(ranks) else 1.0


def rank_biserial(differences: ArrayLike) -> float:
    """Matched-pairs rank-biserial correlation: the share of the ranks of positive differences less that of negative ones.

    Args:
        differences: Shape ``(pairs,)``; those of zero are left out, as in the test.

    Returns:
        A number in -1..1: 1 where all are positive; 0 where no difference is left.
    """
    ranks = _signed_ranks(differences)
    return float(ranks.sum() / np.abs(ranks).sum()) if len(ranks) else 0.0


def cliffs_delta(x: ArrayLike, y: ArrayLike) -> float:
    """How much more often a score of ``x`` exceeds one of ``y`` than the other way round, over all pairs, paired or not.

    It is twice the probability of improvement, less one. Beware of reading it as a size: it says how often, not how much.

    Args:
        x: Shape ``(n,)``.
        y: Shape ``(m,)``.

    Returns:
        A number in -1..1.
    """
    first, second = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    return float(np.sign(first[:, None] - second[None]).mean())


@dataclass(frozen=True, slots=True)
class Friedman:
    """Whether several searchers have the same ranks, over blocks.

    Attributes:
        mean_ranks: Mean rank of each searcher, from the best; 1 is the best possible.
        blocks: How many blocks ranked them.
        chi_square, p_chi_square: Friedman's statistic, corrected for ties, and its p-value by the chi-square distribution.
        f, p_value: Iman and Davenport's F, less conservative, and its p-value.
    """

    mean_ranks: Mapping[str, float]
    blocks: int
    chi_square: float
    p_chi_square: float
    f: float
    p_value: float

    @property
    def critical_difference(self) -> float:
        """By how much two mean ranks must differ to be told apart; see :func:`nemenyi_difference`."""
        return nemenyi_difference(len(self.mean_ranks), self.blocks)


def rank_searchers(scores: Mapping[str, ArrayLike]) -> Friedman:
    """Rank the searchers within each block, the highest score first, and test whether all are alike.

    Args:
        scores: For each searcher its scores, shape ``(blocks,)``. Blocks are independent of each other: the tasks, each with the
            mean over its seeds, where the claim is about tasks; the seeds of one task where it is about that.

    Raises:
        BitcertError: With fewer than three searchers or two blocks, different numbers of scores, or scores that are not finite.
    """
    tables = _check(scores)
    table = np.array(list(tables.values()))
    searchers, blocks = table.shape
    if searchers < 3 or blocks < 2:
        raise BitcertError(
            f"ranks of {searchers} searchers over {blocks} blocks say nothing; give three over two or more"
        )
    ranks = stats.rankdata(-table, axis=0).mean(axis=1)
    order = np.argsort(ranks, kind="stable")
    mean_ranks = {list(tables)[place]: float(ranks[place]) for place in order}
    if np.ptp(table, axis=0).max() == 0:
        return Friedman(mean_ranks, blocks, 0.0, 1.0, 0.0, 1.0)
    chi_square, p_chi_square = stats.friedmanchisquare(*table)
    rest = blocks * (searchers - 1) - float(chi_square)
    f = (blocks - 1) * float(chi_square) / rest if rest > 1e-9 else math.inf
    p_value = float(stats.f.sf(f, searchers - 1, (searchers - 1) * (blocks - 1)))
    return Friedman(mean_ranks, blocks, float(chi_square), float(p_chi_square), f, p_value)


def nemenyi_difference(searchers: int, blocks: int, significance: float = SIGNIFICANCE) -> float:
    """Nemenyi's critical difference: if all are alike, no two mean ranks differ by more, with probability 1 - significance.

    ``q / sqrt(2) * sqrt(k (k + 1) / (6 N))`` with the quantile q of the studentized range of k searchers, over N blocks.
    """
    quantile = float(stats.studentized_range.ppf(1 - significance, searchers, np.inf))
    return quantile / math.sqrt(2) * math.sqrt(searchers * (searchers + 1) / (6 * blocks))


def alike_groups(mean_ranks: Mapping[str, float], critical_difference: float) -> list[tuple[str, ...]]:
    """Find the largest groups of neighbours by rank whose mean ranks all differ by less than the critical difference.

    Returns:
        Each group from the best; a searcher that is told apart from all others is in none. Groups may overlap.
    """
    ordered = sorted(mean_ranks.items(), key=lambda item: item[1])
    groups: list[tuple[str, ...]] = []
    reached = 0
    for start, (_, best) in enumerate(ordered):
        end = sum(rank - best < critical_difference for _, rank in ordered)
        if end > max(reached, start + 1):
            groups.append(tuple(name for name, _ in ordered[start:end]))
            reached = end
    return groups


def _signed_ranks(differences: ArrayLike) -> NDArray[np.float64]:
    """Ranks of the sizes of all differences but zeros, with the signs of the differences."""
    values = np.asarray(differences, dtype=np.float64)
    values = values[values != 0]
    ranks: NDArray[np.float64] = np.sign(values) * stats.rankdata(np.abs(values))
    return ranks


def _check(scores: Mapping[str, ArrayLike]) -> dict[str, NDArray[np.float64]]:
    tables = {name: np.asarray(values, dtype=np.float64) for name, values in scores.items()}
    counts: Sequence[int] = sorted({len(values) for values in tables.values()})
    if len(counts) != 1:
        listed = ", ".join(map(str, counts)) or "no"
        raise BitcertError(f"searchers have {listed} scores; give all of them the same seeds or tasks")
    if not all(np.isfinite(values).all() for values in tables.values()):
        raise BitcertError(
            "a score is not finite; give a search that found nothing the score that this is worth, such as 0"
        )
    return tables
