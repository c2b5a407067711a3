"""Fronts of score and BOPs over seeds: hypervolume, and which trade-offs a share of the searches attains.

A front is an array of shape ``(points, 2)``: the score, which is maximized, and the BOPs, which are minimized. Points that others
beat may be among them; they change nothing. The geometry is moocore's.

References:
    Zitzler and Thiele, Multiobjective optimization using evolutionary algorithms, PPSN 1998, hypervolume.
    Grunert da Fonseca, Fonseca and Hall, Inferential performance assessment of stochastic optimisers and the attainment function,
    EMO 2001; Fonseca, Guerreiro, Lopez-Ibanez and Paquete, On the computation of the empirical attainment function, EMO 2011.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray

from suite.contract.space import Policy
from suite.errors import BitcertError
from suite.run.records import Run

Array = NDArray[np.float64]

QUARTILES = (0.25, 0.5, 0.75)
_MAXIMISE = (True, False)


def front_of(run: Run, truths: Mapping[Policy, float] | None = None) -> Array:
    """The front that a search found, by its own estimates.

    Args:
        run: The search.
        truths: True scores to show in place of the estimates; the policies are those of the estimated front all the same, so some
            may turn out to be beaten.

    Returns:
        Shape ``(points, 2)``, scores and BOPs, by ascending BOPs.

    Raises:
        BitcertError: If a policy of the front has no true score.
    """
    points = []
    for trial in run.front:
        if truths is not None and trial.policy not in truths:
            raise BitcertError(
                f"trial {trial.number} on the front of {run.searcher}, seed {run.seed}, has no true score"
            )
        score = run.score(trial) if truths is None else truths[trial.policy]
        points.append((score, 0 if trial.metrics is None else trial.metrics.bops))
    return np.array(sorted(points, key=lambda point: point[1]), dtype=np.float64).reshape(-1, 2)


def hypervolume(front: ArrayLike, reference: tuple[float, float]) -> float:
    """Area between a front and a reference point that is worse in both.

    Args:
        front: Shape ``(points, 2)``; points that are not better than the reference in both count nothing.
        reference: The lowest score and the most BOPs that count, such as that of a constant classifier and the budget.

    Returns:
        In units of score times BOPs; 0 for an empty front.
    """
    points = _points(front)
    return float(moocore.hypervolume(points, ref=reference, maximise=_MAXIMISE)) if len(points) else 0.0


def relative_hypervolume(front: ArrayLike, optimum: ArrayLike, reference: tuple[float, float]) -> float:
    """The :func:`hypervolume` as a share of that of the true front, 0..1.

    Raises:
        BitcertError: If the true front has none above the reference.
    """
    whole = hypervolume(optimum, reference)
    if whole == 0:
        raise BitcertError(
            f"no point of the true front is better than the reference {reference}; lower its score or raise its BOPs"
        )
    return hypervolume(front, reference) / whole


def attainment_surfaces(fronts: Sequence[ArrayLike], shares: Sequence[float] = QUARTILES) -> dict[float, Array]:
    """The trade-offs that given shares of the searches attain: that have a point at least as good in both.

    Args:
        fronts: One per seed, each of shape ``(points, 2)``; a search that found nothing has no points, and counts.
        shares: In 0..1, above 0; the best that half of the searches attain is ``0.5``, the median surface. A share that is no
            multiple of one search is rounded up.

    Returns:
        For each share the corners of its surface, shape ``(corners, 2)``, by ascending BOPs; no corners where fewer searches than
        that found anything.

    Raises:
        BitcertError: Without fronts, or if a share is not in 0..1 or 0.
    """
    if not fronts:
        raise BitcertError("there is no front to tell a surface from")
    if wrong := [share for share in shares if not 0 < share <= 1]:
        raise BitcertError(f"a share of searches lies above 0 and at most at 1, got {wrong[0]:g}")
    points = [_points(front) for front in fronts]
    found = [front for front in points if len(front)]
    surfaces = {}
    for share in shares:
        needed = int(np.ceil(share * len(points) - 1e-9))
        surfaces[share] = _surface(found, needed) if needed <= len(found) else np.empty((0, 2))
    return surfaces


def attained_share(fronts: Sequence[ArrayLike], targets: ArrayLike) -> Array:
    """Share of the searches that attain each target: the empirical attainment function.

    Args:
        fronts: One per seed.
        targets: Scores and BOPs, shape ``(targets, 2)``.

    Returns:
        Shape ``(targets,)``.
    """
    wanted = _points(targets)
    attained = [
        ((front[:, None, 0] >= wanted[:, 0]) & (front[:, None, 1] <= wanted[:, 1])).any(axis=0)
        for front in map(_points, fronts)
    ]
    shares: Array = np.mean(attained, axis=0)
    return shares


def _surface(fronts: Sequence[Array], needed: int) -> Array:
    """Corners of what ``needed`` of the fronts attain; moocore minimizes both, so scores change their sign."""
    sets = np.repeat(np.arange(len(fronts)), [len(front) for front in fronts])
    minimized = np.concatenate(fronts) * (-1, 1)
    corners = moocore.eaf(minimized, sets, percentiles=[100 * needed / len(fronts)])[:, :2] * (-1, 1)
    ascending: Array = corners[np.argsort(corners[:, 1], kind="stable")]
    return ascending


def _points(front: ArrayLike) -> Array:
    return np.asarray(front, dtype=np.float64).reshape(-1, 2)
